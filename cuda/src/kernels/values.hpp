/// How values come in and results go out: types, strides, conjugates and phases.
#pragma once

#include "gap.hpp"
#include "line.hpp"

#include <laplex/cuda/plan.hpp>

#include <type_traits>

namespace laplex::cuda::detail {

#if defined(LAPLEX_CUDA_EMULATION)
using emulation::bfloat16_from_float;
using emulation::bfloat16_to_float;
using emulation::half_from_float;
using emulation::half_to_float;
#else
__device__ __forceinline__ float half_to_float(std::uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
__device__ __forceinline__ std::uint16_t half_from_float(float value) {
  return __half_as_ushort(__float2half_rn(value));
}
__device__ __forceinline__ float bfloat16_to_float(std::uint16_t bits) {
  return __bfloat162float(__ushort_as_bfloat16(bits));
}
__device__ __forceinline__ std::uint16_t bfloat16_from_float(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
#endif

/// exp(i * angle).
__device__ __noinline__ inline Complex turn(float angle) {
  return {static_cast<double>(std::cos(angle)), static_cast<double>(std::sin(angle))};
}
__device__ __noinline__ inline Complex turn(double angle) {
  return {std::cos(angle), std::sin(angle)};
}

/// The factors exp(+-i phase) of one side; null: 1.
template <class T>
struct Phases {
  const T* phase = nullptr;  ///< [heads, count]
  double sign = 1.0;

  __device__ Complex at(std::int64_t entry) const {
    return turn(static_cast<T>(sign) * phase[entry]);
  }
};

/// One real number of a vector.
template <class T>
__device__ inline T read(const void* data, std::int64_t at, Storage storage) {
  if constexpr (std::is_same_v<T, float>) {
    if (storage == Storage::half) {
      return half_to_float(static_cast<const std::uint16_t*>(data)[at]);
    }
    if (storage == Storage::bfloat16) {
      return bfloat16_to_float(static_cast<const std::uint16_t*>(data)[at]);
    }
  }
  return static_cast<const T*>(data)[at];
}
template <class T>
__device__ inline void write(void* data, std::int64_t at, Storage storage, T value) {
  if constexpr (std::is_same_v<T, float>) {
    if (storage == Storage::half) {
      static_cast<std::uint16_t*>(data)[at] = half_from_float(value);
      return;
    }
    if (storage == Storage::bfloat16) {
      static_cast<std::uint16_t*>(data)[at] = bfloat16_from_float(value);
      return;
    }
  }
  static_cast<T*>(data)[at] = value;
}

/// Numbers of a scan in shared memory and in the workspace: one T, or two side by side.
template <class T, class S>
struct Packed;
template <class T>
struct Packed<T, double> {
  T re;
  __device__ double wide() const { return static_cast<double>(re); }
  __device__ static Packed of(double value) { return {static_cast<T>(value)}; }
};
template <class T>
struct Packed<T, Cumulated> {
  T re;
  __device__ Cumulated wide() const { return {static_cast<double>(re), static_cast<double>(re)}; }
  __device__ static Packed of(double value) { return {static_cast<T>(value)}; }
};
template <class T>
struct alignas(2 * sizeof(T)) Packed<T, Complex> {
  T re;
  T im;
  __device__ Complex wide() const { return {static_cast<double>(re), static_cast<double>(im)}; }
  __device__ static Packed of(Complex value) {
    return {static_cast<T>(value.re), static_cast<T>(value.im)};
  }
};

/// What a pass scans: the caller's vectors, or after totals() the same in sorted order with
/// conjugates and phases done.
template <class T>
struct Input {
  ConstVectors vectors;
  Phases<T> phases;
  bool conjugate = false;
  void* sorted = nullptr;  ///< [heads, rows, count] of Packed, or null

  /// Entry k in sorted order, from the caller's vectors.
  template <class S>
  __device__ Packed<T, S> gather(const SideView<T>& side, std::int64_t head, std::int64_t row,
                                 std::int64_t k) const {
    const std::int64_t index = side.source_of(head, k);
    const std::int64_t at = head * vectors.strides.head + row * vectors.strides.row + index;
    if constexpr (!std::is_same_v<S, Complex>) {
      return {read<T>(vectors.data, at, vectors.storage)};
    } else {
      Packed<T, Complex> value{};
      if (vectors.complex) {
        value.re = read<T>(vectors.data, 2 * at, vectors.storage);
        value.im = read<T>(vectors.data, 2 * at + 1, vectors.storage);
        if (conjugate) {
          value.im = -value.im;
        }
      } else {
        value.re = read<T>(vectors.data, at, vectors.storage);
      }
      if (phases.phase != nullptr) {
        value = Packed<T, Complex>::of(phases.at(head * side.count + index) * value.wide());
      }
      return value;
    }
  }
  template <class S>
  __device__ Packed<T, S>* sorted_row(const SideView<T>& side, std::int64_t head, std::int64_t row,
                                      std::int64_t rows) const {
    return static_cast<Packed<T, S>*>(sorted) + (head * rows + row) * side.count;
  }
  /// Entries first .. first + count of a row into shared memory.
  template <class S>
  __device__ void load(const SideView<T>& side, std::int64_t head, std::int64_t row,
                       std::int64_t rows, std::int64_t first, std::int64_t count,
                       Packed<T, S>* shared) const {
    if (sorted != nullptr) {
      const Packed<T, S>* const from = sorted_row<S>(side, head, row, rows) + first;
      for (std::int64_t k = threadIdx.x; k < count; k += blockDim.x) {
        shared[k] = from[k];
      }
    } else {
      for (std::int64_t k = threadIdx.x; k < count; k += blockDim.x) {
        shared[k] = gather<S>(side, head, row, first + k);
      }
    }
  }
};

/// Where the results of a pass go.
template <class T>
struct Output {
  Vectors vectors;  ///< data may be null: nowhere
  Phases<T> phases;
  bool conjugate = false;
  double scale = 1.0;

  template <class S>
  __device__ void scatter(const SideView<T>& side, std::int64_t head, std::int64_t row,
                          std::int64_t k, Packed<T, S> packed, double valid) const {
    const std::int64_t index = side.source_of(head, k);
    const std::int64_t at = head * vectors.strides.head + row * vectors.strides.row + index;
    const double factor = scale * valid;
    if constexpr (!std::is_same_v<S, Complex>) {
      write<T>(vectors.data, at, vectors.storage,
               static_cast<T>(factor * static_cast<double>(packed.re)));
    } else {
      Complex value = packed.wide();
      if (phases.phase != nullptr) {
        value = phases.at(head * side.count + index) * value;
      }
      if (vectors.complex) {
        write<T>(vectors.data, 2 * at, vectors.storage, static_cast<T>(factor * value.re));
        write<T>(vectors.data, 2 * at + 1, vectors.storage,
                 static_cast<T>((conjugate ? -factor : factor) * value.im));
      } else {
        write<T>(vectors.data, at, vectors.storage, static_cast<T>(factor * value.re));
      }
    }
  }
};

}  // namespace laplex::cuda::detail
