/// The few calls of the CUDA runtime and of CUB that the library makes, behind functions that throw
/// laplex::Error; the tests have a second implementation of them on the host.
#pragma once

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

/// Device memory, ordered in the stream: from the device's pool, which keeps what is given back.
[[nodiscard]] void* allocate(std::size_t bytes, Stream stream);
void release(void* memory, Stream stream) noexcept;

/// Whether the stream is being captured into a graph, where nothing may wait for it.
[[nodiscard]] bool is_capturing(Stream stream);

void copy(void* to, const void* from, std::size_t bytes, Stream stream);
void fill_with_zeros(void* to, std::size_t bytes, Stream stream);
/// Copies to the host and waits for it.
void fetch(void* host, const void* device, std::size_t bytes, Stream stream);

/// Sorts keys with their indices, stably; -0 equals 0. `keys` and `indices` are sorted in place
/// with `spare_keys` and `spare_indices` of the same size.
template <class T>
void sort_pairs(T* keys, T* spare_keys, std::uint32_t* indices, std::uint32_t* spare_indices,
                std::int64_t count, Memory scratch, Stream stream);
/// The same within each of `segments` runs of `count` keys.
template <class T>
void sort_segments(T* keys, T* spare_keys, std::uint32_t* indices, std::uint32_t* spare_indices,
                   std::int64_t segments, std::int64_t count, Memory scratch, Stream stream);
/// What the sorts need beyond the spare arrays.
template <class T>
[[nodiscard]] std::size_t sort_bytes(std::int64_t segments, std::int64_t count);

/// Memory lent by the caller, or allocated for as long as this lives.
class Lent {
 public:
  Lent(Memory memory, std::size_t bytes, Stream stream, const char* name);
  ~Lent();
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;
  [[nodiscard]] void* data() const { return data_; }

 private:
  void* data_;
  Stream stream_;
  bool owned_;
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
