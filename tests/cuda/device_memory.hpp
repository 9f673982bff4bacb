/// Arrays on the device, and the stream, for tests that run on a GPU and on the emulation alike.
#pragma once

#include "runtime.hpp"

#include <cstdint>
#include <cstring>
#include <vector>

namespace laplex::cuda::tests {

inline constexpr Stream kStream = nullptr;

inline void upload(void* device, const void* host, std::size_t bytes) {
  if (bytes > 0) {
    copy_to_device(device, host, bytes, kStream);
  }
}

/// A copy of host memory on the device; null for no entries, which a pointer test would take for
/// "not given", so there is always room for one.
template <class V>
class OnDevice {
 public:
  explicit OnDevice(const std::vector<V>& host)
      : size_(host.size()), memory_((host.size() + 1) * sizeof(V), kStream) {
    upload(data(), host.data(), size_ * sizeof(V));
  }
  OnDevice(std::size_t size, V value) : OnDevice(std::vector<V>(size, value)) {}

  [[nodiscard]] V* data() const { return static_cast<V*>(memory_.data()); }
  [[nodiscard]] std::vector<V> host() const {
    std::vector<V> copy(size_);
    copy_to_host(copy.data(), data(), size_ * sizeof(V), kStream);
    return copy;
  }

 private:
  std::size_t size_;
  DeviceMemory memory_;
};

}  // namespace laplex::cuda::tests
