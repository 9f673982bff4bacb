// Kernels with one mistake each, which the emulator has to find, and instructions with known
// results.
//
//     self_test NAME
//
// self_test.py runs each of them, and compares what the emulator reports.
#include <cuda_pipeline.h>
#include <cuda_runtime.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace {

constexpr int kThreads = 64;

// --- mistakes ------------------------------------------------------------------------------------

__global__ void fault_missing_barrier(uint32_t* out) {
  __shared__ uint32_t numbers[kThreads];
  numbers[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = numbers[threadIdx.x ^ 32];
}
__global__ void fault_write_after_read(uint32_t* out) {
  __shared__ uint32_t numbers[kThreads];
  numbers[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[threadIdx.x] = numbers[threadIdx.x ^ 32];
  numbers[threadIdx.x] = 0;
  __syncthreads();
  out[threadIdx.x] += numbers[threadIdx.x];
}
__global__ void fault_missing_warp_barrier(uint32_t* out) {
  __shared__ uint32_t numbers[kThreads];
  numbers[threadIdx.x] = threadIdx.x;
  out[threadIdx.x] = numbers[threadIdx.x ^ 1];
}
__global__ void fault_out_of_bounds(uint32_t* out) {
  out[threadIdx.x + 1] = 1;
}
__global__ void fault_shared_out_of_bounds(uint32_t* out) {
  extern __shared__ uint32_t lent[];
  lent[threadIdx.x] = 1;
  out[threadIdx.x] = lent[threadIdx.x];
}
__global__ void fault_misaligned(uint32_t* out) {
  const auto* const bytes = reinterpret_cast<const char*>(out);
  out[threadIdx.x] = *reinterpret_cast<const uint32_t*>(bytes + out[0] % 2 + 1);
}
__global__ void fault_mask(uint32_t* out) {
  out[threadIdx.x] = __shfl_sync(0xFFFFU, threadIdx.x, 0);
}
__global__ void fault_lane_outside_the_mask(uint32_t* out) {
  if (threadIdx.x % 32 < 16)
    out[threadIdx.x] = __shfl_sync(0xFFFFU, threadIdx.x, 20);
}
__global__ void fault_deadlock(uint32_t* out) {
  if (threadIdx.x % 2 == 0)
    out[threadIdx.x] = __shfl_sync(0xFFFFFFFFU, threadIdx.x, 0);
  __syncthreads();
}
__global__ void fault_barrier_left_behind(uint32_t* out) {
  if (threadIdx.x == 3)
    return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void fault_uninitialised(uint32_t* out) {
  __shared__ uint32_t numbers[kThreads];
  if (threadIdx.x > 0)
    numbers[threadIdx.x] = 0;
  __syncthreads();
  out[numbers[threadIdx.x]] = 1;
}
__global__ void fault_copy_not_waited_for(uint32_t* out) {
  __shared__ uint32_t numbers[kThreads];
  __pipeline_memcpy_async(&numbers[threadIdx.x], &out[threadIdx.x], sizeof(uint32_t));
  __pipeline_commit();
  out[numbers[threadIdx.x]] = 1;
}

// --- no mistakes ---------------------------------------------------------------------------------

__global__ void right_barriers(uint32_t* out) {
  __shared__ uint32_t numbers[kThreads];
  const uint32_t at = threadIdx.x;
  numbers[at] = at;
  __syncwarp();
  uint32_t sum = numbers[at ^ 1];
  __syncthreads();
  sum += numbers[at ^ 33];
  __syncthreads();
  numbers[at] = sum;
  __syncthreads();
  atomicAdd(&numbers[0], 1);
  out[at] = sum == (at ^ 1) + (at ^ 33) ? 1 : 0;
}

struct Argument {
  uint32_t words[40];
  uint32_t* out;
};
// Reads an argument by its address.
__device__ __noinline__ uint32_t word_of(const Argument& argument, uint32_t k) {
  return argument.words[k];
}
__global__ void argument_by_address(const __grid_constant__ Argument argument) {
  argument.out[threadIdx.x] = word_of(argument, threadIdx.x % 40) == 7 * (threadIdx.x % 40) ? 1 : 0;
}

// An instruction's result in a register: a word, a float or a double.
#define RESULT(type, letter, text, ...)                          \
  [&] {                                                          \
    type d;                                                      \
    asm volatile(text : "=" letter(d) : __VA_ARGS__ : "memory"); \
    return d;                                                    \
  }()
#define WORD(text, ...) RESULT(uint32_t, "r", text, __VA_ARGS__)
#define HALF(text, ...) RESULT(uint16_t, "h", text, __VA_ARGS__)
#define FLOAT(text, ...) __float_as_uint(RESULT(float, "f", text, __VA_ARGS__))
#define DOUBLE(text, ...) \
  static_cast<uint32_t>(__double_as_longlong(RESULT(double, "d", text, __VA_ARGS__)) >> 32)

// Results beside what they have to be. Operands come from memory, so that the compiler computes
// nothing by itself.
struct Results {
  uint32_t* out;
  int count = 0;
  __device__ void operator()(uint32_t result, uint32_t wanted) {
    out[count++] = result;
    out[count++] = wanted;
  }
};
constexpr int kMostResults = 200;

__global__ void integers(const uint32_t* in, uint32_t* out) {
  constexpr uint32_t A = 0x12345678, B = 0x9ABCDEF0;
  constexpr uint64_t AB = 0x123456789ABCDEF0, BA = 0x9ABCDEF012345678, kProduct = uint64_t(A) * B;
  constexpr int64_t kSigned = int64_t(int32_t(B)) * A;
  const uint32_t a = in[0], b = in[1], ones = in[2], forty = in[3];  // A, B, ~0, 40
  Results is{out};
  uint32_t low, high;
  asm volatile("add.cc.u32 %0, %2, %4; addc.u32 %1, %3, %5;"
               : "=r"(low), "=r"(high)
               : "r"(b), "r"(a), "r"(b), "r"(a));
  is(low, uint32_t(2 * AB));
  is(high, uint32_t(2 * AB >> 32));
  asm volatile("sub.cc.u32 %0, %2, %4; subc.u32 %1, %3, %5;"
               : "=r"(low), "=r"(high)
               : "r"(a), "r"(b), "r"(b), "r"(a));
  is(low, uint32_t(BA - AB));
  is(high, uint32_t((BA - AB) >> 32));
  asm volatile("mad.lo.cc.u32 %0, %2, %3, %4; madc.hi.u32 %1, %2, %3, 0;"
               : "=r"(low), "=r"(high)
               : "r"(a), "r"(b), "r"(ones));
  is(low, uint32_t(kProduct + 0xFFFFFFFF));
  is(high, uint32_t((kProduct + 0xFFFFFFFF) >> 32));
  is(WORD("mul.hi.s32 %0, %1, %2;", "r"(a), "r"(b)), uint32_t(kSigned >> 32));
  is(WORD("mul.lo.u32 %0, %1, %2;", "r"(a), "r"(b)), uint32_t(kProduct));
  is(WORD("mad.hi.s32 %0, %1, %2, %3;", "r"(b), "r"(a), "r"(forty)),
     uint32_t((kSigned >> 32) + 40));
  is(WORD("mad.lo.s32 %0, %1, %2, %3;", "r"(b), "r"(a), "r"(forty)), uint32_t(kSigned + 40));
  const auto wide = static_cast<int64_t>(static_cast<int32_t>(b)) * static_cast<int32_t>(a) - 1;
  is(static_cast<uint32_t>(wide >> 32), uint32_t((kSigned - 1) >> 32));
  is(static_cast<uint32_t>(__mul64hi(wide, wide)), 0x90667690);
  is(static_cast<uint32_t>(static_cast<int32_t>(b) / static_cast<int32_t>(forty)),
     uint32_t(int32_t(B) / 40));
  is(static_cast<uint32_t>(static_cast<int32_t>(b) % static_cast<int32_t>(forty)),
     uint32_t(int32_t(B) % 40));
  is(WORD("shl.b32 %0, %1, %2;", "r"(a), "r"(forty)), 0);
  is(WORD("shr.s32 %0, %1, %2;", "r"(b), "r"(forty)), 0xFFFFFFFF);
  is(WORD("shr.u32 %0, %1, %2;", "r"(b), "r"(forty)), 0);
  is(WORD("shf.l.wrap.b32 %0, %1, %2, %3;", "r"(a), "r"(b), "r"(forty)), uint32_t(BA << 8 >> 32));
  is(WORD("shf.r.clamp.b32 %0, %1, %2, %3;", "r"(a), "r"(b), "r"(forty)), B);
  is(WORD("lop3.b32 %0, %1, %2, %3, 0xE8;", "r"(a), "r"(b), "r"(forty)),
     (A & B) | (A & 40) | (B & 40));
  // Bytes 5 and 1, then the signs of bytes 7 and 0.
  is(WORD("prmt.b32 %0, %1, %2, %3;", "r"(a), "r"(b), "r"(0x8F15U + forty - 40)), 0x00FF56DE);
  is(WORD("bfe.s32 %0, %1, %2, 8;", "r"(b), "r"(forty - 28)), 0xFFFFFFCD);
  is(WORD("bfe.u32 %0, %1, %2, 8;", "r"(b), "r"(forty - 28)), 0xCD);
  is(WORD("bfi.b32 %0, %1, %2, %3, 8;", "r"(a), "r"(b), "r"(forty - 36)), 0x9ABCD780);
  is(WORD("bmsk.clamp.b32 %0, %1, %2;", "r"(forty - 36), "r"(forty)), 0xFFFFFFF0);
  is(WORD("bfind.s32 %0, %1;", "r"(b)), 30);
  is(WORD("bfind.shiftamt.u32 %0, %1;", "r"(a)), 3);
  is(WORD("popc.b32 %0, %1;", "r"(a)), 13);
  is(WORD("clz.b32 %0, %1;", "r"(a)), 3);
  is(WORD("brev.b32 %0, %1;", "r"(a)), 0x1E6A2C48);
  is(WORD("slct.u32.s32 %0, %1, %2, %3;", "r"(a), "r"(b), "r"(ones)), B);
  is(WORD("slct.u32.s32 %0, %1, %2, %3;", "r"(a), "r"(b), "r"(forty)), A);
  is(WORD("{ .reg .pred p; setp.lo.u32 p, %1, %2; selp.u32 %0, %1, %2, p; }", "r"(b), "r"(a)), A);
}

__global__ void floats(const uint32_t* in, uint32_t* out) {
  const auto given = [&](int k) { return __uint_as_float(in[k]); };
  const float nan = given(0), two = given(1), huge = given(2), zero = given(3);  // 2.5, 1e20
  const float tiny = given(4), third = given(5), one = given(6);                 // 1e-40
  const double above = static_cast<double>(third) + 1e-12, vast = 1e300 * huge;
  constexpr uint32_t kOne = 0x3F800000, kTwo = 0x40200000, kTiny = 0x000116C2, kMinus = 0x80000000;
  Results is{out};
  // To integers.
  is(WORD("cvt.rzi.u32.f32 %0, %1;", "f"(-two)), 0);
  is(WORD("cvt.rzi.u32.f32 %0, %1;", "f"(huge)), 0xFFFFFFFF);
  is(WORD("cvt.rzi.u32.f32 %0, %1;", "f"(nan)), 0);
  is(WORD("cvt.rni.s32.f32 %0, %1;", "f"(two)), 2);
  is(WORD("cvt.rni.s32.f32 %0, %1;", "f"(two + 1)), 4);
  is(WORD("cvt.rni.s32.f32 %0, %1;", "f"(-huge)), 0x80000000);
  is(WORD("cvt.rni.s32.f64 %0, %1;", "d"(vast)), 0x7FFFFFFF);
  is(WORD("cvt.rmi.s32.f64 %0, %1;", "d"(-above)), 0xFFFFFFFF);
  is(WORD("cvt.rzi.s32.f16 %0, %1;", "h"(uint16_t(0xC100))), 0xFFFFFFFE);
  is(FLOAT("cvt.rpi.f32.f32 %0, %1;", "f"(two)), 0x40400000);
  // From integers, and between numbers of different precision.
  is(FLOAT("cvt.rn.f32.u32 %0, %1;", "r"(0xFFFFFFFFU)), 0x4F800000);
  is(FLOAT("cvt.rz.f32.u32 %0, %1;", "r"(0xFFFFFFFFU)), 0x4F7FFFFF);
  is(DOUBLE("cvt.rn.f64.s32 %0, %1;", "r"(-2)), 0xC0000000);
  is(HALF("cvt.rn.f16.s32 %0, %1;", "r"(-3)), 0xC200);
  is(FLOAT("cvt.rn.f32.f64 %0, %1;", "d"(above)), 0x3EAAAAAB);
  is(FLOAT("cvt.rp.f32.f64 %0, %1;", "d"(above)), 0x3EAAAAAC);
  is(DOUBLE("cvt.f64.f32 %0, %1;", "f"(two)), 0x40040000);
  is(HALF("cvt.rn.f16.f32 %0, %1;", "f"(two)), 0x4100);
  is(HALF("cvt.rn.f16.f64 %0, %1;", "d"(above)), 0x3555);
  is(HALF("cvt.rn.bf16.f32 %0, %1;", "f"(third)), 0x3EAB);
  is(HALF("cvt.rn.bf16.f64 %0, %1;", "d"(one + 0x1p-8 + 1e-12 * third)), 0x3F81);
  is(HALF("cvt.rn.bf16.f64 %0, %1;", "d"(one + 0x1p-8 - 1e-12 * third)), 0x3F80);
  is(HALF("cvt.rn.bf16.f32 %0, %1;", "f"(one + 0x1p-8F)), 0x3F80);
  is(WORD("cvt.rn.f16x2.f32 %0, %1, %2;", "f"(two), "f"(one)), 0x41003C00);
  is(WORD("cvt.rn.bf16x2.f32 %0, %1, %2;", "f"(two), "f"(one)), 0x40203F80);
  is(FLOAT("cvt.f32.f16 %0, %1;", "h"(uint16_t(0x4100))), kTwo);
  is(FLOAT("cvt.f32.bf16 %0, %1;", "h"(uint16_t(0x4020))), kTwo);
  is(DOUBLE("cvt.f64.f16 %0, %1;", "h"(uint16_t(0x4100))), 0x40040000);
  is(FLOAT("cvt.sat.f32.f32 %0, %1;", "f"(two)), kOne);
  is(FLOAT("cvt.sat.f32.f32 %0, %1;", "f"(nan)), 0);
  // Arithmetic, in all modes of rounding.
  is(FLOAT("add.f32 %0, %1, %2;", "f"(two), "f"(-one)), 0x3FC00000);
  is(FLOAT("add.rm.f32 %0, %1, %2;", "f"(one), "f"(tiny)), kOne);
  is(FLOAT("add.rp.f32 %0, %1, %2;", "f"(one), "f"(tiny)), kOne + 1);
  is(FLOAT("sub.rz.f32 %0, %1, %2;", "f"(one), "f"(tiny)), kOne - 1);
  is(FLOAT("sub.f32 %0, %1, %2;", "f"(two), "f"(one)), 0x3FC00000);
  is(FLOAT("mul.f32 %0, %1, %2;", "f"(two), "f"(two)), 0x40C80000);
  // 0x3EAAAAAB is 1/3 + 2^-25/3: the error of a product with 3, in one rounding.
  is(FLOAT("fma.rn.f32 %0, %1, %2, %3;", "f"(third), "f"(two + 0.5F), "f"(-one)), 0x33000000);
  is(FLOAT("fma.rm.f32 %0, %1, %2, %3;", "f"(third), "f"(tiny), "f"(one)), kOne);
  is(FLOAT("fma.rp.f32 %0, %1, %2, %3;", "f"(third), "f"(tiny), "f"(one)), kOne + 1);
  is(FLOAT("fma.rn.sat.f32 %0, %1, %2, %3;", "f"(-two), "f"(two), "f"(one)), 0);
  is(FLOAT("neg.f32 %0, %1;", "f"(zero)), kMinus);
  is(FLOAT("abs.f32 %0, %1;", "f"(-two)), kTwo);
  is(FLOAT("min.f32 %0, %1, %2;", "f"(nan), "f"(two)), kTwo);
  is(FLOAT("max.f32 %0, %1, %2;", "f"(-zero), "f"(zero)), 0);
  is(FLOAT("min.f32 %0, %1, %2;", "f"(-zero), "f"(zero)), kMinus);
  is(FLOAT("copysign.f32 %0, %1, %2;", "f"(-zero), "f"(two)), kMinus | kTwo);
  // Subnormal numbers, with and without .ftz.
  is(FLOAT("add.f32 %0, %1, %2;", "f"(tiny), "f"(zero)), kTiny);
  is(FLOAT("add.ftz.f32 %0, %1, %2;", "f"(tiny), "f"(zero)), 0);
  is(FLOAT("mul.ftz.f32 %0, %1, %2;", "f"(-tiny), "f"(huge)), kMinus);
  // Approximations.
  is(FLOAT("ex2.approx.ftz.f32 %0, %1;", "f"(two - 0.5F)), 0x40800000);
  is(FLOAT("lg2.approx.f32 %0, %1;", "f"(two + 1.5F)), 0x40000000);
  is(FLOAT("rcp.approx.f32 %0, %1;", "f"(two + 1.5F)), 0x3E800000);
  is(FLOAT("rcp.approx.ftz.f32 %0, %1;", "f"(tiny)), 0x7F800000);
  is(FLOAT("div.full.f32 %0, %1, %2;", "f"(two), "f"(-two)), kMinus | kOne);
  double approximation;
  asm volatile("rcp.approx.ftz.f64 %0, %1;" : "=d"(approximation) : "d"(two + 0.5));
  is(static_cast<uint32_t>(__double_as_longlong(approximation)), 0);
  is(static_cast<uint32_t>(__double_as_longlong(approximation) >> 32), 0x3FD55555);
  // Comparisons and choices: 1 if the first predicate holds, 2 if the second one does.
  const auto compare = [&](float a, float b, bool unordered, bool flush) {
#define COMPARE(how)                                                  \
  WORD("{ .reg .pred p, q; setp." how                                 \
       " p|q, %1, %2; selp.u32 %0, 1, 0, p; @q add.u32 %0, %0, 2; }", \
       "f"(a), "f"(b))
    return unordered ? COMPARE("ltu.f32") : flush ? COMPARE("lt.ftz.f32") : COMPARE("lt.f32");
  };
  is(compare(nan, two, true, false), 1);
  is(compare(nan, two, false, false), 2);
  is(compare(zero, tiny, false, false), 1);
  is(compare(zero, tiny, false, true), 2);
  is(FLOAT("{ .reg .pred p; testp.finite.f32 p, %1; selp.f32 %0, %1, %2, p; }", "f"(nan), "f"(two)),
     kTwo);
  is(FLOAT("slct.f32.f32 %0, %1, %2, %3;", "f"(one), "f"(two), "f"(-third)), kTwo);
}

__constant__ const uint32_t kTable[4] = {3, 1, 4, 1};
// Vectors of all widths, in and out; constants; copies in the background; a table of branches.
__global__ void __launch_bounds__(kThreads, 2) memory(uint32_t* out) {
  __shared__ alignas(16) uint32_t numbers[4 * kThreads];
  const uint32_t at = threadIdx.x;
  auto* const here = &out[kThreads + 4 * at];
  *reinterpret_cast<uint4*>(here) = {at, at + 1, at + 2, at + 3};
  __pipeline_memcpy_async(&numbers[4 * at], here, 16);
  __pipeline_commit();
  __pipeline_memcpy_async(&numbers[4 * at], here, 8, 4);
  __pipeline_commit();
  __pipeline_wait_prior(1);
  bool right = numbers[4 * at + 3] == at + 3;
  __pipeline_wait_prior(0);
  __syncthreads();
  right &= numbers[4 * (at ^ 40)] == (at ^ 40);
  right &= numbers[4 * at + 1] == 0;  // was not read the second time
  const float2 two = *reinterpret_cast<const float2*>(here + 2);
  const float4 four = *reinterpret_cast<const float4*>(&numbers[4 * at]);
  right &= __float_as_uint(two.y) == at + 3 && __float_as_uint(four.z) == at + 2;
  const ulonglong2 wide = *reinterpret_cast<const ulonglong2*>(here);
  right &= wide.y == (uint64_t(at + 3) << 32 | (at + 2));
  const ushort4 narrow = *reinterpret_cast<const ushort4*>(here + 2);
  right &= narrow.x == at + 2 && narrow.y == 0 && narrow.z == at + 3;
  right &= WORD("ld.global.nc.L1::no_allocate.b32 %0, [%1];", "l"(here + 1)) == at + 1;
  right &= kTable[at % 4] == (at % 4 == 0 ? 3 : at % 4 == 2 ? 4 : 1);
  right &=
      WORD(
          "{ .reg .u32 k; and.b32 k, %1, 1; mov.u32 %0, 7; T: .branchtargets A, B; brx.idx k, T; "
          "A: add.u32 %0, %0, 1; bra C; B: add.u32 %0, %0, 2; C: }",
          "r"(at)) == 8 + at % 2;
  out[at] = right ? 1 : 0;
}

template <class V>
__device__ V* counter(uint32_t* out, int k) {
  return reinterpret_cast<V*>(&out[kThreads + 2 * k]);
}
// Every atomic operation on global memory, by all threads, on numbers that start as 0.
__global__ void atomics(uint32_t* out) {
  const uint32_t at = threadIdx.x;
  atomicAdd(counter<uint32_t>(out, 0), at);
  atomicMax(counter<uint32_t>(out, 1), at);
  atomicMin(counter<int>(out, 2), -static_cast<int>(at));
  atomicOr(counter<uint32_t>(out, 3), 1U << at % 32);
  atomicAdd(counter<unsigned long long>(out, 4), 1ULL << 32);
  atomicMax(counter<unsigned long long>(out, 5), static_cast<unsigned long long>(at) << 40);
  atomicMin(counter<long long>(out, 6), -static_cast<long long>(at));
  atomicOr(counter<unsigned long long>(out, 7), 1ULL << at);
  atomicXor(counter<uint32_t>(out, 8), at);
  atomicAdd(counter<float>(out, 9), 0.5F);
  atomicAdd(counter<double>(out, 10), 0.5);
  asm volatile("red.relaxed.gpu.global.add.u32 [%0], %1;" ::"l"(counter<uint32_t>(out, 12)),
               "r"(at));
  const bool last = WORD("atom.add.acq_rel.gpu.u32 %0, [%1], 1;",
                         "l"(counter<uint32_t>(out, 11))) == kThreads - 1;
  bool right = true;
  if (last) {
    right = *counter<uint32_t>(out, 0) == 2016 && *counter<uint32_t>(out, 1) == 63 &&
            *counter<int>(out, 2) == -63 && *counter<uint32_t>(out, 3) == ~0U &&
            *counter<uint64_t>(out, 4) == 64ULL << 32 &&
            *counter<uint64_t>(out, 5) == 63ULL << 40 && *counter<int64_t>(out, 6) == -63 &&
            *counter<uint64_t>(out, 7) == ~0ULL && *counter<uint32_t>(out, 8) == 0 &&
            *counter<float>(out, 9) == 32.0F && *counter<double>(out, 10) == 32.0 &&
            *counter<uint32_t>(out, 12) == 2016;
  }
  out[at] = right ? 1 : 0;
}

__global__ void collectives(uint32_t* out) {
  __shared__ uint32_t counter;
  const uint32_t at = threadIdx.x, lane = at % 32;
  constexpr unsigned kAll = 0xFFFFFFFFU;
  bool right = __shfl_up_sync(kAll, at, 1) == (lane == 0 ? at : at - 1);
  right &= __shfl_down_sync(kAll, at, 2, 16) == (lane % 16 >= 14 ? at : at + 2);
  right &= __shfl_xor_sync(kAll, at, 5) == (at ^ 5);
  right &= __shfl_sync(kAll, at, 3, 8) == at / 8 * 8 + 3;
  right &= __ballot_sync(kAll, lane % 3 == 0) == 0x49249249U;
  right &=
      __any_sync(kAll, lane == 7) && !__any_sync(kAll, lane == 40) && __all_sync(kAll, lane < 32);
  right &= __reduce_add_sync(kAll, lane) == 496 && __reduce_min_sync(kAll, 3 - int(lane)) == -28 &&
           __reduce_xor_sync(kAll, lane + 1) == 32;
  right &= (__activemask() >> lane & 1) != 0;
  right &= __match_any_sync(kAll, lane % 4) == 0x11111111U << lane % 4;
  right &= __syncthreads_count(at < 40) == 40 && __syncthreads_or(at == 63) != 0 &&
           __syncthreads_and(at < 63) == 0;
  if (at == 0)
    counter = 5;
  __syncthreads();
  atomicAdd(&counter, 1);
  __syncthreads();
  right &= counter == 5 + kThreads;
  __syncthreads();
  atomicMax(&counter, at + 1000);
  __syncthreads();
  right &= counter == 1063;
  __syncthreads();
  if (at == 0)
    right &= atomicCAS(&counter, 1063, 7) == 1063 && atomicInc(&counter, 7) == 7 &&
             atomicDec(&counter, 9) == 0 && counter == 9;
  out[at] = right ? 1 : 0;
}

// --- the host's side -----------------------------------------------------------------------------

bool is(cudaError_t status, cudaError_t wanted) {
  if (status != wanted)
    std::printf("status %d, not %d\n", static_cast<int>(status), static_cast<int>(wanted));
  return status == wanted;
}
template <class V>
V* on_device(const std::vector<V>& host) {
  void* memory = nullptr;
  cudaMalloc(&memory, host.size() * sizeof(V));
  cudaMemcpy(memory, host.data(), host.size() * sizeof(V), cudaMemcpyHostToDevice);
  return static_cast<V*>(memory);
}
std::vector<uint32_t> on_host(const uint32_t* device, std::size_t count) {
  std::vector<uint32_t> host(count);
  cudaMemcpy(host.data(), device, count * sizeof(uint32_t), cudaMemcpyDeviceToHost);
  return host;
}
std::function<bool()> launch(void (*kernel)(uint32_t*), bool all_ones = false,
                             std::size_t shared = 0) {
  return [=] {
    // The results, and room for what the kernel writes besides them, if it makes no mistake.
    uint32_t* const out = on_device(std::vector<uint32_t>((all_ones ? 5 : 1) * kThreads, 0));
    kernel<<<1, kThreads, shared>>>(out);
    if (!is(cudaStreamSynchronize(nullptr), cudaSuccess))
      return false;
    return !all_ones || on_host(out, kThreads) == std::vector<uint32_t>(kThreads, 1);
  };
}
bool right_results(void (*kernel)(const uint32_t*, uint32_t*), const std::vector<uint32_t>& in) {
  uint32_t* const out = on_device(std::vector<uint32_t>(kMostResults, 0));
  kernel<<<1, 1>>>(on_device(in), out);
  const std::vector<uint32_t> results = on_host(out, kMostResults);
  bool right = true;
  for (int k = 0; k < kMostResults; k += 2) {
    if (results[k] != results[k + 1]) {
      std::printf("result %d is %08x, not %08x\n", k / 2, results[k], results[k + 1]);
      right = false;
    }
  }
  return right;
}
bool argument_is_read_by_address() {
  Argument argument{};
  for (uint32_t k = 0; k < 40; ++k)
    argument.words[k] = 7 * k;
  argument.out = on_device(std::vector<uint32_t>(kThreads, 0));
  argument_by_address<<<1, kThreads>>>(argument);
  return on_host(argument.out, kThreads) == std::vector<uint32_t>(kThreads, 1);
}
bool freed() {
  uint32_t* const out = on_device(std::vector<uint32_t>(kThreads, 0));
  cudaFree(out);
  right_barriers<<<1, kThreads>>>(out);
  return is(cudaStreamSynchronize(nullptr), cudaSuccess);
}
bool too_much_shared() {
  fault_shared_out_of_bounds<<<1, kThreads, 60000>>>(nullptr);
  return is(cudaGetLastError(), cudaSuccess);
}
bool empty_grid() {
  right_barriers<<<0, kThreads>>>(nullptr);
  return is(cudaGetLastError(), cudaSuccess);
}
bool waits_in_capture() {
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  return is(cudaStreamSynchronize(stream), cudaSuccess);
}
bool graph_runs_when_launched() {
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  uint32_t* const out = on_device(std::vector<uint32_t>(kThreads, 0));
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  right_barriers<<<1, kThreads, 0, stream>>>(out);
  cudaStreamEndCapture(stream, &graph);
  const bool nothing_yet = on_host(out, kThreads) == std::vector<uint32_t>(kThreads, 0);
  cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphLaunch(executable, stream);
  cudaStreamSynchronize(stream);
  return nothing_yet && on_host(out, kThreads) == std::vector<uint32_t>(kThreads, 1);
}

}  // namespace

int main(int argc, char** argv) {
  const std::map<std::string, std::function<bool()>> tests{
      {"missing_barrier", launch(fault_missing_barrier)},
      {"write_after_read", launch(fault_write_after_read)},
      {"missing_warp_barrier", launch(fault_missing_warp_barrier)},
      {"out_of_bounds", launch(fault_out_of_bounds)},
      {"shared_out_of_bounds", launch(fault_shared_out_of_bounds, false, 4 * kThreads - 4)},
      {"misaligned", launch(fault_misaligned)},
      {"mask", launch(fault_mask)},
      {"lane_outside_the_mask", launch(fault_lane_outside_the_mask)},
      {"copy_not_waited_for", launch(fault_copy_not_waited_for)},
      {"deadlock", launch(fault_deadlock)},
      {"barrier_left_behind", launch(fault_barrier_left_behind)},
      {"uninitialised", launch(fault_uninitialised)},
      {"freed", freed},
      {"too_much_shared", too_much_shared},
      {"empty_grid", empty_grid},
      {"waits_in_capture", waits_in_capture},
      {"right_barriers", launch(right_barriers, true)},
      {"collectives", launch(collectives, true)},
      {"memory", launch(memory, true)},
      {"atomics", launch(atomics, true)},
      {"graph", graph_runs_when_launched},
      {"argument", argument_is_read_by_address},
      {"integers",
       [] { return right_results(integers, {0x12345678, 0x9ABCDEF0, 0xFFFFFFFF, 40}); }},
      {"floats",
       [] {
         return right_results(
             floats, {0x7FC00000, 0x40200000, 0x60AD78EC, 0, 0x000116C2, 0x3EAAAAAB, 0x3F800000});
       }},
  };
  if (argc != 2 || tests.count(argv[1]) == 0) {
    for (const auto& [name, test] : tests)
      std::printf("%s\n", name.c_str());
    return 2;
  }
  return tests.at(argv[1])() ? 0 : 1;
}
