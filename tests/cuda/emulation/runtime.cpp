// The runtime on the host: device memory is host memory, every stream is done at once.
#include "runtime.hpp"

#include "emulated_runtime.hpp"
#include "kernels/order.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

namespace laplex::emulation {

Runtime& runtime() {
  static Runtime instance;
  return instance;
}

}  // namespace laplex::emulation

namespace laplex::cuda {

using emulation::runtime;

int device_count() noexcept {
  return runtime().devices;
}
void require_device() {
  if (device_count() == 0) {
    throw Error(ErrorCode::device, "no CUDA device: emulated");
  }
}
std::string device_name(int) {
  return "emulated on the host";
}
int driver_version() noexcept {
  return 0;
}
int runtime_version() noexcept {
  return 0;
}
int current_device() noexcept {
  return 0;
}
void set_current_device(int) noexcept {}
std::optional<std::uint64_t> capture_id(Stream) {
  return runtime().capture;
}
void* allocate(std::size_t bytes, Stream) {
  if (bytes == 0) {
    return nullptr;
  }
  if (runtime().fails_after-- == 0) {
    throw Error(ErrorCode::out_of_memory, "not enough memory on the GPU");
  }
  ++runtime().allocations;
  void* const memory = std::malloc(bytes);
  std::memset(memory, 0xFF, bytes);  // NaNs: what is read was written
  return memory;
}
void release(void* memory, Stream) noexcept {
  if (memory != nullptr) {
    --runtime().allocations;
    std::free(memory);
  }
}
void copy_to_device(void* device, const void* host, std::size_t bytes, Stream) {
  ++runtime().waits;
  if (bytes > 0) {
    std::memcpy(device, host, bytes);
  }
}
void copy_to_host(void* host, const void* device, std::size_t bytes, Stream) {
  ++runtime().waits;
  if (bytes > 0) {
    std::memcpy(host, device, bytes);
  }
}
void synchronize(Stream) {
  ++runtime().waits;
}
template <class T>
void add(T* to, const T* from, std::int64_t count, Stream) {
  for (std::int64_t k = 0; k < count; ++k) {
    to[k] += from[k];
  }
}
template void add<float>(float*, const float*, std::int64_t, Stream);
template void add<double>(double*, const double*, std::int64_t, Stream);

namespace detail {

template <class T>
void sort_pairs(const SortJob<T>& job, Memory, Stream) {
  if (emulation::settings().drops) {
    return;
  }
  ++runtime().sorts;
  for (std::int64_t s = 0; s < job.segments; ++s) {
    const T* const keys = job.keys + s * job.count;
    std::vector<std::int64_t> order(static_cast<std::size_t>(job.count));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return !at_or_below(keys[b], keys[a]);
    });
    std::int64_t to = s * job.count;
    for (const std::int64_t from : order) {
      job.sorted_keys[to] = keys[from];
      job.sorted_indices[to] = job.indices[s * job.count + from];
      ++to;
    }
  }
}
template <class T>
std::size_t sort_bytes(std::int64_t, std::int64_t) {
  return 1;
}

#define LAPLEX_INSTANTIATE(T)                                     \
  template void sort_pairs<T>(const SortJob<T>&, Memory, Stream); \
  template std::size_t sort_bytes<T>(std::int64_t, std::int64_t);
LAPLEX_INSTANTIATE(float)
LAPLEX_INSTANTIATE(double)
#undef LAPLEX_INSTANTIATE

}  // namespace detail
}  // namespace laplex::cuda
