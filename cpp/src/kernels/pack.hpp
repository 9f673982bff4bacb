/// Eight numbers side by side: the unit of all vector code.
///
/// A Pack is as many registers as the instruction set needs for eight numbers, so the arithmetic,
/// and with it every bit of a result, is the same on every level. Only elementwise operations and
/// the few fixed permutations below exist; the compiler turns them into the instructions of the
/// level its file is compiled for (GCC's and Clang's vector extensions; one number a register
/// where LAPLEX_VECTORS is not defined).
///
/// Included by the files of one level each, into a namespace of that level: no function here may be
/// shared between levels, or the linker might pick the one that a processor cannot run.
#pragma once

#ifndef LAPLEX_LEVEL
#error "define LAPLEX_LEVEL (the namespace) and LAPLEX_VECTOR_BYTES before including pack.hpp"
#endif

#include "../inline.hpp"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

/// Whether this level has AVX2, and AVX-512. With -march=native the compiler may use them in the
/// files of lower levels too, but there packs are made of smaller registers.
#define LAPLEX_AVX2 (LAPLEX_VECTOR_BYTES >= 32)
#define LAPLEX_AVX512 (LAPLEX_VECTOR_BYTES >= 64)

namespace laplex::detail::LAPLEX_LEVEL {

#if defined(LAPLEX_VECTORS)
template <class T, int N>
struct NativeOf;
#define LAPLEX_NATIVE(T, N)                                       \
  template <>                                                     \
  struct NativeOf<T, N> {                                         \
    using type __attribute__((vector_size((N) * sizeof(T)))) = T; \
  };
LAPLEX_NATIVE(float, 2)
LAPLEX_NATIVE(float, 4)
LAPLEX_NATIVE(float, 8)
LAPLEX_NATIVE(double, 2)
LAPLEX_NATIVE(double, 4)
LAPLEX_NATIVE(double, 8)
LAPLEX_NATIVE(std::uint32_t, 4)
LAPLEX_NATIVE(std::uint32_t, 8)
LAPLEX_NATIVE(std::int64_t, 2)
LAPLEX_NATIVE(std::int64_t, 4)
LAPLEX_NATIVE(std::int64_t, 8)
#undef LAPLEX_NATIVE
inline constexpr int kVectorBytes = LAPLEX_VECTOR_BYTES;
#else
template <class T, int N>
struct NativeOf {
  struct type {
    T value;
    T& operator[](int) { return value; }
    const T& operator[](int) const { return value; }
    friend type operator+(type a, type b) { return {a.value + b.value}; }
    friend type operator-(type a, type b) { return {a.value - b.value}; }
    friend type operator*(type a, type b) { return {a.value * b.value}; }
    friend type operator/(type a, type b) { return {a.value / b.value}; }
  };
};
inline constexpr int kVectorBytes = 1;
#endif

template <class T>
inline constexpr int kLanes =
    kVectorBytes / static_cast<int>(sizeof(T)) < 1   ? 1
    : kVectorBytes / static_cast<int>(sizeof(T)) > 8 ? 8
                                                     : kVectorBytes / static_cast<int>(sizeof(T));

template <class T>
using Native = typename NativeOf<T, kLanes<T>>::type;

template <class T>
struct Pack {
  static constexpr int kParts = 8 / kLanes<T>;
  Native<T> part[kParts];

  [[nodiscard]] T get(int k) const { return part[k / kLanes<T>][k % kLanes<T>]; }
};

#define LAPLEX_ELEMENTWISE(op)                                            \
  template <class T>                                                      \
  LAPLEX_INLINE Pack<T> operator op(const Pack<T>& a, const Pack<T>& b) { \
    Pack<T> r;                                                            \
    for (int p = 0; p < Pack<T>::kParts; ++p) {                           \
      r.part[p] = a.part[p] op b.part[p];                                 \
    }                                                                     \
    return r;                                                             \
  }
LAPLEX_ELEMENTWISE(+)
LAPLEX_ELEMENTWISE(-)
LAPLEX_ELEMENTWISE(*)
LAPLEX_ELEMENTWISE(/)
#undef LAPLEX_ELEMENTWISE

template <class T>
LAPLEX_INLINE Native<T> splat_part(T v) {
  if constexpr (kLanes<T> == 8) {
    return Native<T>{v, v, v, v, v, v, v, v};
  } else if constexpr (kLanes<T> == 4) {
    return Native<T>{v, v, v, v};
  } else if constexpr (kLanes<T> == 2) {
    return Native<T>{v, v};
  } else {
    return Native<T>{v};
  }
}

template <class T>
LAPLEX_INLINE Pack<T> splat(T value) {
  Pack<T> r;
  const Native<T> part = splat_part(value);
  for (int p = 0; p < Pack<T>::kParts; ++p) {
    r.part[p] = part;
  }
  return r;
}

template <class T>
LAPLEX_INLINE Pack<T> load(const T* from) {
  Pack<T> r;
  for (int p = 0; p < Pack<T>::kParts; ++p) {  // as one piece it would be copied through memory
    std::memcpy(&r.part[p], from + std::ptrdiff_t(p) * kLanes<T>, sizeof(r.part[p]));
  }
  return r;
}

template <class T>
LAPLEX_INLINE void store(T* to, const Pack<T>& a) {
  for (int p = 0; p < Pack<T>::kParts; ++p) {
    std::memcpy(to + std::ptrdiff_t(p) * kLanes<T>, &a.part[p], sizeof(a.part[p]));
  }
}

template <class T, T Value>
struct Constant {
  static constexpr T value = Value;
};

#if LAPLEX_AVX2
/// Two halves of a register. GCC 12 copies the first before it permutes.
LAPLEX_INLINE NativeOf<float, 8>::type join(__m128 low, __m128 high) {
  return (NativeOf<float, 8>::type)_mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
}
#endif

template <class F, int... K>
LAPLEX_INLINE void repeat_each(const F& f, std::integer_sequence<int, K...>) {
  (f(Constant<int, K>{}), ...);
}

/// f(0) .. f(Count - 1), of constants. Packs in an array with a variable index go through memory:
/// GCC does not unroll loops over eight packs that are loaded or stored.
template <int Count, class F>
LAPLEX_INLINE void repeat(const F& f) {
  repeat_each(f, std::make_integer_sequence<int, Count>{});
}

// Halves are taken apart and put together by permutations: through memory, a wide load would wait
// for the narrow stores before it.
template <class T>
LAPLEX_INLINE Pack<double> widen(const Pack<T>& a) {
  if constexpr (sizeof(T) == sizeof(double)) {
    return a;
  } else {
    Pack<double> r;
#if LAPLEX_AVX512  // GCC 12 by itself converts each half
    r.part[0] = (Native<double>)_mm512_maskz_cvtps_pd(0xFF, (__m256)a.part[0]);
#elif LAPLEX_AVX2  // GCC 12 by itself converts two numbers at a time, through memory
    const __m256 v = (__m256)a.part[0];
    r.part[0] = (Native<double>)_mm256_cvtps_pd(_mm256_castps256_ps128(v));
    r.part[1] = (Native<double>)_mm256_cvtps_pd(_mm256_extractf128_ps(v, 1));
#elif defined(LAPLEX_VECTORS)
    if constexpr (kLanes<double> == kLanes<T>) {
      r.part[0] = __builtin_convertvector(a.part[0], Native<double>);
    } else {
      for (std::ptrdiff_t p = 0; p < Pack<T>::kParts; ++p) {
        const Native<T> v = a.part[p];
        if constexpr (kLanes<T> == 8) {
          r.part[2 * p] =
              __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1, 2, 3), Native<double>);
          r.part[2 * p + 1] =
              __builtin_convertvector(__builtin_shufflevector(v, v, 4, 5, 6, 7), Native<double>);
        } else {
          r.part[2 * p] =
              __builtin_convertvector(__builtin_shufflevector(v, v, 0, 1), Native<double>);
          r.part[2 * p + 1] =
              __builtin_convertvector(__builtin_shufflevector(v, v, 2, 3), Native<double>);
        }
      }
    }
#else
    for (int k = 0; k < 8; ++k) {
      r.part[k][0] = a.get(k);
    }
#endif
    return r;
  }
}

template <class T>
LAPLEX_INLINE Pack<T> narrow(const Pack<double>& a) {
  if constexpr (sizeof(T) == sizeof(double)) {
    return a;
  } else {
    Pack<T> r;
#if LAPLEX_AVX2 && !LAPLEX_AVX512
    r.part[0] = join(_mm256_cvtpd_ps((__m256d)a.part[0]), _mm256_cvtpd_ps((__m256d)a.part[1]));
#elif defined(LAPLEX_VECTORS)
    if constexpr (kLanes<double> == kLanes<T>) {
      r.part[0] = __builtin_convertvector(a.part[0], Native<T>);
    } else {
      using Half = typename NativeOf<T, kLanes<double>>::type;
      for (std::ptrdiff_t p = 0; p < Pack<T>::kParts; ++p) {
        const Half low = __builtin_convertvector(a.part[2 * p], Half);
        const Half high = __builtin_convertvector(a.part[2 * p + 1], Half);
        if constexpr (kLanes<T> == 8) {
          r.part[p] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
        } else {
          r.part[p] = __builtin_shufflevector(low, high, 0, 1, 2, 3);
        }
      }
    }
#else
    for (int k = 0; k < 8; ++k) {
      r.part[k][0] = static_cast<T>(a.get(k));
    }
#endif
    return r;
  }
}

/// The pack whose lane k is f(k).
template <class T, class F>
LAPLEX_INLINE Pack<T> make_pack(const F& f) {
  Pack<T> r;
  for (int p = 0; p < Pack<T>::kParts; ++p) {
    const int k = p * kLanes<T>;
#if defined(LAPLEX_VECTORS)
    if constexpr (kLanes<T> == 8) {
      r.part[p] =
          Native<T>{f(k), f(k + 1), f(k + 2), f(k + 3), f(k + 4), f(k + 5), f(k + 6), f(k + 7)};
    } else if constexpr (kLanes<T> == 4) {
      r.part[p] = Native<T>{f(k), f(k + 1), f(k + 2), f(k + 3)};
    } else if constexpr (kLanes<T> == 2) {
      r.part[p] = Native<T>{f(k), f(k + 1)};
    }
#endif
    if constexpr (kLanes<T> == 1) {
      r.part[p][0] = f(k);
    }
  }
  return r;
}

#if defined(LAPLEX_VECTORS)
/// Lanes moved up (Step > 0) or down by Step places within each run of four; zeros move in. What
/// compilers make of the general permutation is several times slower on x86.
template <int Step, class V>
LAPLEX_INLINE V shift_lanes(V v) {
#if defined(__SSE2__)
  if constexpr (std::is_same_v<V, NativeOf<float, 4>::type>) {
    const __m128i bits = _mm_castps_si128((__m128)v);
    return (V)_mm_castsi128_ps(Step > 0 ? _mm_slli_si128(bits, Step > 0 ? 4 * Step : 0)
                                        : _mm_srli_si128(bits, Step < 0 ? -4 * Step : 0));
  }
#endif
#if LAPLEX_AVX2
  if constexpr (std::is_same_v<V, NativeOf<float, 8>::type>) {
    const __m256i bits = _mm256_castps_si256((__m256)v);
    return (V)_mm256_castsi256_ps(Step > 0 ? _mm256_slli_si256(bits, Step > 0 ? 4 * Step : 0)
                                           : _mm256_srli_si256(bits, Step < 0 ? -4 * Step : 0));
  } else if constexpr (std::is_same_v<V, NativeOf<double, 4>::type>) {
    const __m256d a = (__m256d)v;
    if constexpr (Step == 1) {
      return (V)_mm256_blend_pd(_mm256_permute4x64_pd(a, 0x90), _mm256_setzero_pd(), 1);
    } else if constexpr (Step == 2) {
      return (V)_mm256_permute2f128_pd(a, a, 0x08);
    } else if constexpr (Step == -1) {
      return (V)_mm256_blend_pd(_mm256_permute4x64_pd(a, 0xF9), _mm256_setzero_pd(), 8);
    } else {
      return (V)_mm256_permute2f128_pd(a, a, 0x81);
    }
  }
#endif
#if LAPLEX_AVX512
  if constexpr (std::is_same_v<V, NativeOf<double, 8>::type>) {
    const __m512d a = (__m512d)v;
    if constexpr (Step == 1) {
      return (V)_mm512_maskz_permutex_pd(0xEE, a, 0x90);
    } else if constexpr (Step == 2) {
      return (V)_mm512_maskz_permutex_pd(0xCC, a, 0x40);
    } else if constexpr (Step == -1) {
      return (V)_mm512_maskz_permutex_pd(0x77, a, 0xF9);
    } else {
      return (V)_mm512_maskz_permutex_pd(0x33, a, 0x0E);
    }
  }
#endif
  const V zero = {};
  constexpr int kCount = static_cast<int>(sizeof(V) / sizeof(v[0]));
  if constexpr (kCount == 8) {
    return Step == 1    ? __builtin_shufflevector(v, zero, 8, 0, 1, 2, 8, 4, 5, 6)
           : Step == 2  ? __builtin_shufflevector(v, zero, 8, 8, 0, 1, 8, 8, 4, 5)
           : Step == -1 ? __builtin_shufflevector(v, zero, 1, 2, 3, 8, 5, 6, 7, 8)
                        : __builtin_shufflevector(v, zero, 2, 3, 8, 8, 6, 7, 8, 8);
  } else {
    return Step == 1    ? __builtin_shufflevector(v, zero, 4, 0, 1, 2)
           : Step == 2  ? __builtin_shufflevector(v, zero, 4, 4, 0, 1)
           : Step == -1 ? __builtin_shufflevector(v, zero, 1, 2, 3, 4)
                        : __builtin_shufflevector(v, zero, 2, 3, 4, 4);
  }
}
#endif

#if defined(LAPLEX_VECTORS)
/// The total of one half of a scanned pack in every lane of the other, zeros in its own.
template <bool Up, class V>
LAPLEX_INLINE V half_total(V v) {
#if LAPLEX_AVX2
  if constexpr (std::is_same_v<V, NativeOf<float, 8>::type>) {
    const __m256 a = (__m256)v;
    return Up ? (V)_mm256_permute_ps(_mm256_permute2f128_ps(a, a, 0x08), 0xFF)
              : (V)_mm256_permute_ps(_mm256_permute2f128_ps(a, a, 0x81), 0x00);
  }
#endif
#if LAPLEX_AVX512
  if constexpr (std::is_same_v<V, NativeOf<double, 8>::type>) {
    const __m512d a = (__m512d)v;
    return Up ? (V)_mm512_maskz_permutexvar_pd(0xF0, _mm512_set1_epi64(3), a)
              : (V)_mm512_maskz_permutexvar_pd(0x0F, _mm512_set1_epi64(4), a);
  }
#endif
  const V zero = {};
  return Up ? __builtin_shufflevector(v, zero, 8, 8, 8, 8, 3, 3, 3, 3)
            : __builtin_shufflevector(v, zero, 4, 4, 4, 4, 8, 8, 8, 8);
}
#endif

// The sums of a pack from its first lane to each: ((a), (b a), (c b a), (d c b a)) within each half
// by shifts of one and two lanes, then the first half's total into the second. Rounded three times
// at most, in an order that `prefix_group` of scans over rows repeats.
template <class T>
LAPLEX_INLINE Pack<T> prefix8(const Pack<T>& a) {
  Pack<T> r = a;
#if defined(LAPLEX_VECTORS)
  using V = Native<T>;
  const V zero = {};
  if constexpr (kLanes<T> == 8) {
    V v = a.part[0];
    v = v + shift_lanes<1>(v);
    v = v + shift_lanes<2>(v);
    v = v + half_total<true>(v);
    r.part[0] = v;
    return r;
  } else if constexpr (kLanes<T> == 4) {
    for (int p = 0; p < 2; ++p) {
      V v = a.part[p];
      v = v + shift_lanes<1>(v);
      v = v + shift_lanes<2>(v);
      r.part[p] = v;
    }
    r.part[1] = r.part[1] + __builtin_shufflevector(r.part[0], r.part[0], 3, 3, 3, 3);
    return r;
  } else if constexpr (kLanes<T> == 2) {
    for (int h = 0; h < 4; h += 2) {
      const V p0 = a.part[h] + __builtin_shufflevector(a.part[h], zero, 2, 0);
      const V p1 = a.part[h + 1] + __builtin_shufflevector(a.part[h], a.part[h + 1], 1, 2);
      r.part[h] = p0;
      r.part[h + 1] = p1 + p0;
    }
    const V total = __builtin_shufflevector(r.part[1], r.part[1], 1, 1);
    r.part[2] = r.part[2] + total;
    r.part[3] = r.part[3] + total;
    return r;
  }
#endif
  if constexpr (kLanes<T> == 1) {
    for (int h = 0; h < 8; h += 4) {
      const auto y1 = a.part[h + 1] + a.part[h];
      const auto y2 = a.part[h + 2] + a.part[h + 1];
      const auto y3 = a.part[h + 3] + a.part[h + 2];
      r.part[h + 1] = y1;
      r.part[h + 2] = y2 + a.part[h];
      r.part[h + 3] = y3 + y1;
    }
    for (int k = 4; k < 8; ++k) {
      r.part[k] = r.part[k] + r.part[3];
    }
  }
  return r;
}

// The same from the last lane.
template <class T>
LAPLEX_INLINE Pack<T> suffix8(const Pack<T>& a) {
  Pack<T> r = a;
#if defined(LAPLEX_VECTORS)
  using V = Native<T>;
  const V zero = {};
  if constexpr (kLanes<T> == 8) {
    V v = a.part[0];
    v = v + shift_lanes<-1>(v);
    v = v + shift_lanes<-2>(v);
    v = v + half_total<false>(v);
    r.part[0] = v;
    return r;
  } else if constexpr (kLanes<T> == 4) {
    for (int p = 0; p < 2; ++p) {
      V v = a.part[p];
      v = v + shift_lanes<-1>(v);
      v = v + shift_lanes<-2>(v);
      r.part[p] = v;
    }
    r.part[0] = r.part[0] + __builtin_shufflevector(r.part[1], r.part[1], 0, 0, 0, 0);
    return r;
  } else if constexpr (kLanes<T> == 2) {
    for (int h = 0; h < 4; h += 2) {
      const V p1 = a.part[h + 1] + __builtin_shufflevector(a.part[h + 1], zero, 1, 2);
      const V p0 = a.part[h] + __builtin_shufflevector(a.part[h], a.part[h + 1], 1, 2);
      r.part[h + 1] = p1;
      r.part[h] = p0 + p1;
    }
    const V total = __builtin_shufflevector(r.part[2], r.part[2], 0, 0);
    r.part[0] = r.part[0] + total;
    r.part[1] = r.part[1] + total;
    return r;
  }
#endif
  if constexpr (kLanes<T> == 1) {
    for (int h = 0; h < 8; h += 4) {
      const auto y2 = a.part[h + 2] + a.part[h + 3];
      const auto y1 = a.part[h + 1] + a.part[h + 2];
      const auto y0 = a.part[h] + a.part[h + 1];
      r.part[h + 2] = y2;
      r.part[h + 1] = y1 + a.part[h + 3];
      r.part[h] = y0 + y2;
    }
    for (int k = 0; k < 4; ++k) {
      r.part[k] = r.part[k] + r.part[4];
    }
  }
  return r;
}

/// prefix8 over eight packs, lane by lane: the same additions in the same order.
template <class T>
LAPLEX_INLINE void prefix_group(Pack<T>* x) {
  for (int h = 0; h < 8; h += 4) {
    const Pack<T> y1 = x[h + 1] + x[h];
    const Pack<T> y2 = x[h + 2] + x[h + 1];
    const Pack<T> y3 = x[h + 3] + x[h + 2];
    x[h + 2] = y2 + x[h];
    x[h + 1] = y1;
    x[h + 3] = y3 + y1;
  }
  for (int k = 4; k < 8; ++k) {
    x[k] = x[k] + x[3];
  }
}

template <class T>
LAPLEX_INLINE void suffix_group(Pack<T>* x) {
  for (int h = 0; h < 8; h += 4) {
    const Pack<T> y2 = x[h + 2] + x[h + 3];
    const Pack<T> y1 = x[h + 1] + x[h + 2];
    const Pack<T> y0 = x[h] + x[h + 1];
    x[h + 1] = y1 + x[h + 3];
    x[h + 2] = y2;
    x[h] = y0 + y2;
  }
  for (int k = 0; k < 4; ++k) {
    x[k] = x[k] + x[4];
  }
}

/// ((0+1)+(2+3)) + ((4+5)+(6+7)).
template <class T>
LAPLEX_INLINE T sum_lanes(const Pack<T>& a) {
#if defined(LAPLEX_VECTORS)
  if constexpr (kLanes<T> == 8) {
    using V = Native<T>;
    V v = a.part[0];
    v = v + __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
    v = v + __builtin_shufflevector(v, v, 2, 3, 0, 1, 6, 7, 4, 5);
    return v[0] + v[4];
  } else if constexpr (kLanes<T> == 4) {
    using V = Native<T>;
    const V even = __builtin_shufflevector(a.part[0], a.part[1], 0, 4, 2, 6);
    const V odd = __builtin_shufflevector(a.part[0], a.part[1], 1, 5, 3, 7);
    const V pairs = even + odd;
    return (pairs[0] + pairs[2]) + (pairs[1] + pairs[3]);
  }
#endif
  return ((a.get(0) + a.get(1)) + (a.get(2) + a.get(3))) +
         ((a.get(4) + a.get(5)) + (a.get(6) + a.get(7)));
}

/// Two packs as pairs: (a0, b0), (a1, b1), ... at `to`.
template <class T>
LAPLEX_INLINE void store_pairs(T* to, const Pack<T>& a, const Pack<T>& b) {
#if defined(LAPLEX_VECTORS)
  using V = Native<T>;
  for (std::ptrdiff_t p = 0; p < Pack<T>::kParts; ++p) {
    const V x = a.part[p];
    const V y = b.part[p];
    V low;
    V high;
    if constexpr (kLanes<T> == 8) {
      const V l = __builtin_shufflevector(x, y, 0, 8, 1, 9, 4, 12, 5, 13);
      const V h = __builtin_shufflevector(x, y, 2, 10, 3, 11, 6, 14, 7, 15);
      low = __builtin_shufflevector(l, h, 0, 1, 2, 3, 8, 9, 10, 11);
      high = __builtin_shufflevector(l, h, 4, 5, 6, 7, 12, 13, 14, 15);
    } else if constexpr (kLanes<T> == 4 && sizeof(V) == 32) {
      const V l = __builtin_shufflevector(x, y, 0, 4, 2, 6);
      const V h = __builtin_shufflevector(x, y, 1, 5, 3, 7);
      low = __builtin_shufflevector(l, h, 0, 1, 4, 5);
      high = __builtin_shufflevector(l, h, 2, 3, 6, 7);
    } else if constexpr (kLanes<T> == 4) {
      low = __builtin_shufflevector(x, y, 0, 4, 1, 5);
      high = __builtin_shufflevector(x, y, 2, 6, 3, 7);
    } else {
      low = __builtin_shufflevector(x, y, 0, 2);
      high = __builtin_shufflevector(x, y, 1, 3);
    }
    std::memcpy(to + 2 * p * kLanes<T>, &low, sizeof(low));
    std::memcpy(to + (2 * p + 1) * kLanes<T>, &high, sizeof(high));
  }
#else
  for (int k = 0; k < 8; ++k) {
    to[2 * k] = a.get(k);
    to[2 * k + 1] = b.get(k);
  }
#endif
}

/// The reverse: eight pairs as two packs.
template <class T>
LAPLEX_INLINE void load_pairs(const T* from, Pack<T>& a, Pack<T>& b) {
#if defined(LAPLEX_VECTORS)
  using V = Native<T>;
#if LAPLEX_AVX2
  if constexpr (sizeof(T) == 4) {  // lanes move within their half alone
    const auto part = [&](int k) { return _mm_loadu_ps(from + std::ptrdiff_t(4) * k); };
    const V x = join(part(0), part(2));
    const V y = join(part(1), part(3));
    a.part[0] = __builtin_shufflevector(x, y, 0, 2, 8, 10, 4, 6, 12, 14);
    b.part[0] = __builtin_shufflevector(x, y, 1, 3, 9, 11, 5, 7, 13, 15);
    return;
  }
#endif
  for (std::ptrdiff_t p = 0; p < Pack<T>::kParts; ++p) {
    V x;
    V y;
    std::memcpy(&x, from + 2 * p * kLanes<T>, sizeof(x));
    std::memcpy(&y, from + (2 * p + 1) * kLanes<T>, sizeof(y));
    if constexpr (kLanes<T> == 8) {
      a.part[p] = __builtin_shufflevector(x, y, 0, 2, 4, 6, 8, 10, 12, 14);
      b.part[p] = __builtin_shufflevector(x, y, 1, 3, 5, 7, 9, 11, 13, 15);
    } else if constexpr (kLanes<T> == 4) {
      a.part[p] = __builtin_shufflevector(x, y, 0, 2, 4, 6);
      b.part[p] = __builtin_shufflevector(x, y, 1, 3, 5, 7);
    } else {
      a.part[p] = __builtin_shufflevector(x, y, 0, 2);
      b.part[p] = __builtin_shufflevector(x, y, 1, 3);
    }
  }
#else
  a = make_pack<T>([&](int k) { return from[2 * k]; });
  b = make_pack<T>([&](int k) { return from[2 * k + 1]; });
#endif
}

/// Looks eight pairs up: lane k of `a` and `b` is pair where[k].
template <class T>
LAPLEX_INLINE void load_pairs(const T* pairs, const std::uint16_t* where, Pack<T>& a, Pack<T>& b) {
#if defined(LAPLEX_VECTORS)
  // A pair is one load: a number of 64 bits, or a register of two.
  if constexpr (sizeof(T) == 4) {
    for (int p = 0; p < Pack<T>::kParts; ++p) {
#if defined(__SSE2__)
      // Two pairs are two loads; the compiler by itself adds a permutation.
      const auto two_pairs = [&](int k) {
        const T* const first = pairs + 2 * std::int64_t(where[k]);
        const T* const second = pairs + 2 * std::int64_t(where[k + 1]);
        const __m128i low = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(first));
        return _mm_loadh_pi(_mm_castsi128_ps(low), reinterpret_cast<const __m64*>(second));
      };
#else
      const auto two_pairs = [&](int k) {
        NativeOf<double, 2>::type bits;
        for (int j = 0; j < 2; ++j) {
          double pair = 0.0;
          std::memcpy(&pair, pairs + 2 * std::int64_t(where[k + j]), sizeof(pair));
          bits[j] = pair;
        }
        return (NativeOf<float, 4>::type)bits;
      };
#endif
      using V = Native<T>;
#if LAPLEX_AVX2
      const V x = join(two_pairs(0), two_pairs(4));
      const V y = join(two_pairs(2), two_pairs(6));
      a.part[0] = __builtin_shufflevector(x, y, 0, 2, 8, 10, 4, 6, 12, 14);
      b.part[0] = __builtin_shufflevector(x, y, 1, 3, 9, 11, 5, 7, 13, 15);
#else
      const V x = (V)two_pairs(4 * p);
      const V y = (V)two_pairs(4 * p + 2);
      a.part[p] = __builtin_shufflevector(x, y, 0, 2, 4, 6);
      b.part[p] = __builtin_shufflevector(x, y, 1, 3, 5, 7);
#endif
    }
    return;
  } else if constexpr (kLanes<T> <= 4) {
    using Two = NativeOf<double, 2>::type;
    const auto pair = [&](int k) {
      Two two;
      std::memcpy(&two, pairs + 2 * std::int64_t(where[k]), sizeof(two));
      return two;
    };
    using V = Native<T>;
    for (int p = 0; p < Pack<T>::kParts; ++p) {
      if constexpr (kLanes<T> == 4) {
        const V x = __builtin_shufflevector(pair(4 * p), pair(4 * p + 2), 0, 1, 2, 3);
        const V y = __builtin_shufflevector(pair(4 * p + 1), pair(4 * p + 3), 0, 1, 2, 3);
        a.part[p] = __builtin_shufflevector(x, y, 0, 4, 2, 6);
        b.part[p] = __builtin_shufflevector(x, y, 1, 5, 3, 7);
      } else {
        a.part[p] = __builtin_shufflevector(pair(2 * p), pair(2 * p + 1), 0, 2);
        b.part[p] = __builtin_shufflevector(pair(2 * p), pair(2 * p + 1), 1, 3);
      }
    }
    return;
  }
#endif
  a = make_pack<T>([&](int k) { return pairs[std::ptrdiff_t(2) * where[k]]; });
  b = make_pack<T>([&](int k) { return pairs[std::ptrdiff_t(2) * where[k] + 1]; });
}

/// Lane k of what is stored is lane lanes[k] of `a`.
template <class T>
LAPLEX_INLINE void store_lanes(T* to, const Pack<T>& a, const std::uint8_t* lanes) {
#if LAPLEX_AVX2
  if constexpr (sizeof(T) == 4) {
    const __m256i order =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(lanes)));
    const __m256i moved = _mm256_permutevar8x32_epi32((__m256i)a.part[0], order);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), moved);
    return;
  }
#endif
#if LAPLEX_AVX512
  if constexpr (sizeof(T) == 8) {
    const __m512i order =
        _mm512_maskz_cvtepu8_epi64(0xFF, _mm_loadl_epi64(reinterpret_cast<const __m128i*>(lanes)));
    _mm512_storeu_pd(to, _mm512_maskz_permutexvar_pd(0xFF, order, (__m512d)a.part[0]));
    return;
  }
#endif
  T value[8];
  store(value, a);
  for (int k = 0; k < 8; ++k) {
    to[k] = value[lanes[k]];
  }
}

/// Bit k tells whether values[k] < bound.
LAPLEX_INLINE std::uint32_t less_mask(const std::uint32_t* values, std::uint32_t bound) {
#if LAPLEX_AVX2
  const __m256i sign = _mm256_set1_epi32(static_cast<int>(0x80000000U));
  const __m256i x =
      _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)), sign);
  const __m256i y = _mm256_xor_si256(_mm256_set1_epi32(static_cast<int>(bound)), sign);
  return static_cast<std::uint32_t>(
      _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(y, x))));
#else
  std::uint32_t mask = 0;
  for (int k = 0; k < 8; ++k) {
    mask |= (values[k] < bound ? 1U : 0U) << k;
  }
  return mask;
#endif
}

/// Bit k tells whether a[k] == b[k].
template <class T>
LAPLEX_INLINE std::uint32_t equal_mask(const T* a, const T* b) {
#if LAPLEX_AVX2
  if constexpr (sizeof(T) == 4) {
    return static_cast<std::uint32_t>(
        _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(b), _CMP_EQ_OQ)));
  } else {
    const auto half = [&](int k) {
      return static_cast<std::uint32_t>(_mm256_movemask_pd(
          _mm256_cmp_pd(_mm256_loadu_pd(a + k), _mm256_loadu_pd(b + k), _CMP_EQ_OQ)));
    };
    return half(0) | half(4) << 4;
  }
#else
  std::uint32_t mask = 0;
  for (int k = 0; k < 8; ++k) {
    mask |= (a[k] == b[k] ? 1U : 0U) << k;
  }
  return mask;
#endif
}

/// The first lanes; zeros in the others, whatever was there.
template <class T>
LAPLEX_INLINE Pack<T> first_lanes(const Pack<T>& a, std::int64_t count) {
#if defined(LAPLEX_VECTORS)
  // A mask from a table, without a branch: in sparse cells the count cannot be predicted.
  using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::int64_t>;
  static constexpr Bits kOnes = static_cast<Bits>(-1);
  alignas(64) static constexpr Bits kMask[16] = {
      kOnes, kOnes, kOnes, kOnes, kOnes, kOnes, kOnes, kOnes, 0, 0, 0, 0, 0, 0, 0, 0};
  const Bits* const mask = kMask + 8 - (count < 8 ? count : 8);
  using V = Native<T>;
  using M = typename NativeOf<Bits, kLanes<T>>::type;
  Pack<T> r;
  for (std::ptrdiff_t p = 0; p < Pack<T>::kParts; ++p) {
    M m;
    std::memcpy(&m, mask + p * kLanes<T>, sizeof(m));
    r.part[p] = (V)((M)a.part[p] & m);
  }
  return r;
#else
  T value[8] = {};
  for (int k = 0; k < count && k < 8; ++k) {
    value[k] = a.get(k);
  }
  return load(value);
#endif
}

/// Rows become columns.
template <class T>
LAPLEX_INLINE void transpose8(Pack<T>* row) {
#if defined(LAPLEX_VECTORS)
  using V = Native<T>;
  if constexpr (kLanes<T> == 8) {
    // Interleave numbers, then pairs, then halves: permutations that are one instruction each.
    V a[8];
    V b[8];
    for (int k = 0; k < 8; k += 2) {
      const V x = row[k].part[0];
      const V y = row[k + 1].part[0];
      a[k] = __builtin_shufflevector(x, y, 0, 8, 1, 9, 4, 12, 5, 13);
      a[k + 1] = __builtin_shufflevector(x, y, 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int k = 0; k < 8; k += 4) {
      for (int j = 0; j < 2; ++j) {
        b[k + 2 * j] = __builtin_shufflevector(a[k + j], a[k + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        b[k + 2 * j + 1] =
            __builtin_shufflevector(a[k + j], a[k + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
      }
    }
    for (int j = 0; j < 4; ++j) {
      row[j].part[0] = __builtin_shufflevector(b[j], b[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
      row[j + 4].part[0] = __builtin_shufflevector(b[j], b[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    return;
  } else if constexpr (kLanes<T> == 4) {
    V out[8][2];
    for (int r = 0; r < 8; r += 4) {
      for (int p = 0; p < 2; ++p) {
        const V a0 = __builtin_shufflevector(row[r].part[p], row[r + 1].part[p], 0, 4, 1, 5);
        const V a1 = __builtin_shufflevector(row[r].part[p], row[r + 1].part[p], 2, 6, 3, 7);
        const V a2 = __builtin_shufflevector(row[r + 2].part[p], row[r + 3].part[p], 0, 4, 1, 5);
        const V a3 = __builtin_shufflevector(row[r + 2].part[p], row[r + 3].part[p], 2, 6, 3, 7);
        out[4 * p][r / 4] = __builtin_shufflevector(a0, a2, 0, 1, 4, 5);
        out[4 * p + 1][r / 4] = __builtin_shufflevector(a0, a2, 2, 3, 6, 7);
        out[4 * p + 2][r / 4] = __builtin_shufflevector(a1, a3, 0, 1, 4, 5);
        out[4 * p + 3][r / 4] = __builtin_shufflevector(a1, a3, 2, 3, 6, 7);
      }
    }
    for (int k = 0; k < 8; ++k) {
      row[k].part[0] = out[k][0];
      row[k].part[1] = out[k][1];
    }
    return;
  }
#endif
  T value[64];
  for (int r = 0; r < 8; ++r) {
    for (int k = 0; k < 8; ++k) {
      value[8 * k + r] = row[r].get(k);
    }
  }
  for (int r = 0; r < 8; ++r) {
    row[r] = load(value + std::ptrdiff_t(8) * r);
  }
}

}  // namespace laplex::detail::LAPLEX_LEVEL
