/// A GPU on the host, small and slow: enough of CUDA C++ to run the library's own kernels as they
/// are.
///
/// A block is a set of fibers, one a thread, each with a stack of its own. A fiber runs until it
/// comes to a barrier or a shuffle, where it gives way; what it must not count on - the order of
/// the threads between two barriers, the order of the blocks - is drawn anew from a seed. Shared
/// and device memory are host memory, so that AddressSanitizer sees what strays from them, and
/// shared memory is filled with NaNs before each block. What a GPU would hang on (a barrier that
/// not all threads reach) throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __restrict__
#define __grid_constant__
#define __launch_bounds__(...)

namespace laplex::emulation {

struct Index {
  unsigned x = 0;
  unsigned y = 0;
  unsigned z = 0;
};

/// Order of the blocks of a grid, and of the threads between two barriers.
enum class Order { ascending, descending, shuffled };

struct Settings {
  Order blocks = Order::ascending;
  Order threads = Order::ascending;
  std::uint64_t seed = 0;
  bool drops = false;  ///< kernels and sorts do nothing, as in a graph that is never run
};
Settings& settings();

/// Kernels started, and atomics run, since the program began, for tests that count them.
std::int64_t& launches();
std::int64_t& atomics();

struct Launch {
  unsigned blocks = 1;
  unsigned threads = 1;
  std::size_t shared_bytes = 0;
};
void run(const Launch& launch, const std::function<void()>& kernel);

// What a fiber sees.
Index thread_index();
Index block_index();
Index block_size();
Index grid_size();
unsigned char* shared_memory();
void barrier();
/// A barrier that tells whether any thread of the block came with true.
bool barrier_or(bool mine);
/// Leaves `value` for the other lanes of the warp and gives back what `source` left.
std::uint64_t exchange(std::uint64_t value, unsigned source);

// Numbers of 16 bits, rounded to nearest even.
float half_to_float(std::uint16_t bits);
std::uint16_t half_from_float(float value);
float bfloat16_to_float(std::uint16_t bits);
std::uint16_t bfloat16_from_float(float value);

template <class V>
V shuffle(V value, unsigned source) {
  static_assert(sizeof(V) <= 8 && std::is_trivially_copyable_v<V>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(V));
  bits = exchange(bits, source);
  std::memcpy(&value, &bits, sizeof(V));
  return value;
}

}  // namespace laplex::emulation

#define threadIdx (::laplex::emulation::thread_index())
#define blockIdx (::laplex::emulation::block_index())
#define blockDim (::laplex::emulation::block_size())
#define gridDim (::laplex::emulation::grid_size())

inline void __syncthreads() {
  ::laplex::emulation::barrier();
}
inline int __syncthreads_or(int mine) {
  return ::laplex::emulation::barrier_or(mine != 0) ? 1 : 0;
}
template <class V>
V __shfl_up_sync(unsigned, V value, unsigned delta) {
  const unsigned lane = threadIdx.x % 32;
  return ::laplex::emulation::shuffle(value, lane >= delta ? lane - delta : lane);
}
template <class V>
V __shfl_down_sync(unsigned, V value, unsigned delta) {
  const unsigned lane = threadIdx.x % 32;
  return ::laplex::emulation::shuffle(value, lane + delta < 32 ? lane + delta : lane);
}
inline int __popc(unsigned bits) {
  return __builtin_popcount(bits);
}
template <class V>
V atomicMin(V* address, V value) {  // one fiber runs at a time
  ++::laplex::emulation::atomics();
  const V old = *address;
  *address = value < old ? value : old;
  return old;
}
template <class V>
V atomicOr(V* address, V value) {
  ++::laplex::emulation::atomics();
  const V old = *address;
  *address = old | value;
  return old;
}
