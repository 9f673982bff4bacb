/// What kernels are written in: CUDA C++, or the tests' emulation of it on the host.
#pragma once

#if defined(LAPLEX_CUDA_EMULATION)
#include "emulation.hpp"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include "runtime.hpp"

#include <cstddef>
#include <cstdint>

/// Before a loop whose arrays shall be in registers.
#if defined(LAPLEX_CUDA_EMULATION)
#define LAPLEX_UNROLL
#else
#define LAPLEX_UNROLL _Pragma("unroll")
#endif

namespace laplex::cuda::detail {

/// Threads that exchange registers.
inline constexpr int kWarp = 32;

/// Dynamic shared memory a block may ask for; every device since compute capability 7.5 has it.
inline constexpr std::size_t kMaxShared = std::size_t(1) << 16;

/// The block's shared memory, aligned to 16 bytes. All of it is dynamic: its size depends on the
/// call.
__device__ __forceinline__ unsigned char* shared_memory() {
#if defined(LAPLEX_CUDA_EMULATION)
  return emulation::shared_memory();
#else
  extern __shared__ __align__(16) unsigned char laplex_shared[];
  return laplex_shared;
#endif
}

/// The block's number in a grid of one dimension.
__device__ __forceinline__ std::int64_t block_number() {
  return static_cast<std::int64_t>(blockIdx.x);
}

[[nodiscard]] __host__ __device__ inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

/// Threads of a block where each thread has an entry of an array to itself.
inline constexpr int kFlatThreads = 256;

/// The thread's number in such a grid.
__device__ __forceinline__ std::int64_t thread_number() {
  return block_number() * kFlatThreads + static_cast<std::int64_t>(threadIdx.x);
}

struct Grid {
  std::int64_t blocks;
  int threads;
  std::size_t shared_bytes = 0;
};

[[nodiscard]] inline Grid one_thread_each(std::int64_t count) {
  return {ceil_div(count, kFlatThreads), kFlatThreads};
}

/// Starts a kernel of one argument; nothing happens for an empty grid.
template <class Job>
void launch(void (*kernel)(Job), const Grid& grid, Stream stream, const Job& job) {
  if (grid.blocks == 0) {
    return;
  }
  check_grid(grid.blocks);
#if defined(LAPLEX_CUDA_EMULATION)
  static_cast<void>(stream);
  emulation::run(
      {static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.threads), grid.shared_bytes},
      [&] { kernel(job); });
#else
  const auto* const function = reinterpret_cast<const void*>(kernel);
  if (grid.shared_bytes > (std::size_t(48) << 10)) {
    check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(kMaxShared)));
  }
  Job argument = job;
  void* arguments[] = {&argument};
  check(cudaLaunchKernel(function, dim3(static_cast<unsigned>(grid.blocks)),
                         dim3(static_cast<unsigned>(grid.threads)), arguments, grid.shared_bytes,
                         stream));
#endif
}

}  // namespace laplex::cuda::detail
