/// The few calls of the CUDA runtime and of CUB that the library makes, behind functions that throw
/// laplex::Error; the tests have a second implementation of them on the host.
#pragma once

#include <laplex/cuda/device.hpp>
#include <laplex/cuda/plan.hpp>
#include <laplex/error.hpp>

#include <cstddef>
#include <cstdint>

#if !defined(LAPLEX_CUDA_EMULATION)
#include <cuda_runtime.h>
#endif

namespace laplex::cuda::detail {

#if !defined(LAPLEX_CUDA_EMULATION)
/// Throws with CUDA's message unless `status` is success.
void check(cudaError_t status);
#endif

/// Throws for more blocks than a grid has.
void check_grid(std::int64_t blocks);

/// Whether the stream is being captured into a graph, where nothing may wait for it.
[[nodiscard]] inline bool is_capturing(Stream stream) {
  return capture_id(stream).has_value();
}

/// Throws if the stream is being captured: what a part of a line needs of the others, the host
/// fetches when it is called.
void check_may_wait_for_others(Stream stream);

/// Throws unless an address can be one of numbers of `alignment` bytes.
void check_aligned(const void* address, std::size_t alignment, const char* name);
/// What memory that is lent begins on: the widest number, two doubles.
inline constexpr std::size_t kLentAlignment = 16;

/// Sorts keys with their indices, stably, within each of `segments` runs of `count`; -0 equals 0,
/// and NaN lies beyond infinity, on the side of its sign.
/// What comes in is only read: a copy to sort in place would be a tenth of the bytes that the sort
/// moves.
template <class T>
struct SortJob {
  const T* keys;
  T* sorted_keys;
  const std::uint32_t* indices;
  std::uint32_t* sorted_indices;
  std::int64_t segments;
  std::int64_t count;
};
template <class T>
void sort_pairs(const SortJob<T>& job, Memory scratch, Stream stream);
/// What that needs beside.
template <class T>
[[nodiscard]] std::size_t sort_bytes(std::int64_t segments, std::int64_t count);

/// Memory lent by the caller, or allocated for as long as this lives.
class Lent {
 public:
  Lent() = default;
  Lent(Memory memory, std::size_t bytes, Stream stream, const char* name);
  Lent(const Scratch& scratch, std::size_t bytes, Stream stream, const char* name);
  [[nodiscard]] void* data() const { return data_; }

 private:
  DeviceMemory owned_;
  void* data_ = nullptr;
};

/// Cuts memory into aligned pieces; with null memory it only counts.
class Cutter {
 public:
  explicit Cutter(void* memory = nullptr) : memory_(static_cast<unsigned char*>(memory)) {}
  template <class V>
  V* take(std::int64_t count) {
    constexpr std::size_t kAlignment = 256;
    unsigned char* const piece = memory_ == nullptr ? nullptr : memory_ + used_;
    used_ +=
        (static_cast<std::size_t>(count) * sizeof(V) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<V*>(piece);
  }
  [[nodiscard]] std::size_t used() const { return used_; }

 private:
  unsigned char* memory_;
  std::size_t used_ = 0;
};

}  // namespace laplex::cuda::detail
