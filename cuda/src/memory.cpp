#include "runtime.hpp"

#include <string>
#include <utility>

namespace laplex::cuda {

DeviceMemory::DeviceMemory(std::size_t bytes, Stream stream)
    : data_(allocate(bytes, stream)), stream_(stream), device_(current_device()) {}

DeviceMemory::~DeviceMemory() {
  if (data_ == nullptr) {
    return;
  }
  const int current = current_device();
  set_current_device(device_);
  release(data_, stream_);
  set_current_device(current);
}

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), stream_(other.stream_), device_(other.device_) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(stream_, other.stream_);
  std::swap(device_, other.device_);
  return *this;
}

}  // namespace laplex::cuda

namespace laplex::cuda::detail {

void check_grid(std::int64_t blocks) {
  constexpr std::int64_t kMost = (std::int64_t(1) << 31) - 1;
  if (blocks < 0 || blocks > kMost) {
    throw Error(ErrorCode::invalid_argument,
                "this call would take " + std::to_string(blocks) +
                    " blocks of threads, more than a grid has: use fewer rows or heads at a time");
  }
}

void check_may_wait_for_others(Stream stream) {
  if (is_capturing(stream)) {
    throw Error(ErrorCode::device,
                "a plan of a part of a line cannot be used while its stream is being captured into "
                "a graph, because the host has to wait for the other processes: call it outside "
                "the capture");
  }
}

void check_aligned(const void* address, std::size_t alignment, const char* name) {
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0) {
    throw Error(ErrorCode::invalid_argument, std::string(name) + " must begin at a multiple of " +
                                                 std::to_string(alignment) + " bytes");
  }
}

Lent::Lent(Memory memory, std::size_t bytes, Stream stream, const char* name) : data_(memory.data) {
  check_aligned(memory.data, kLentAlignment, name);
  if (memory.data == nullptr) {
    owned_ = DeviceMemory(bytes, stream);
    data_ = owned_.data();
  } else if (memory.bytes < bytes) {
    throw Error(ErrorCode::invalid_argument,
                std::string(name) + " has " + std::to_string(memory.bytes) +
                    " bytes, but this call takes " + std::to_string(bytes) + ": see " + name +
                    "_bytes()");
  }
}

Lent::Lent(const Scratch& scratch, std::size_t bytes, Stream stream, const char* name)
    : Lent(scratch.lend ? scratch.lend(bytes) : scratch.memory, bytes, stream, name) {}

}  // namespace laplex::cuda::detail
