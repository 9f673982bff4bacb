/// What is left of the gradients of a term once its derivatives are sums in memory: inner products
/// with the caller's vectors. See cpp/src/term_derivatives.hpp for the sums.
#pragma once

#include "gradients.hpp"

namespace laplex::cuda::detail {

/// The sums that a gradient is made of, and what they are multiplied with.
template <class T>
struct InnerJob {
  ConstVectors vectors;  ///< at targets the cotangents, at sources the values
  const T* plain;        ///< [heads, rows, count], or null: zeros
  const T* turning;      ///< the same of the sums that the frequency asks for
  bool complex;          ///< of the sums
  std::int64_t heads;
  std::int64_t rows;
  std::int64_t count;

  /// Adds conj(w) s of an entry to a total.
  __device__ void add(Complex& total, const T* sums, std::int64_t head, std::int64_t row,
                      std::int64_t k) const {
    if (sums == nullptr) {
      return;
    }
    const auto number = [](const auto& read_at, bool is_complex, std::int64_t at) {
      return is_complex ? Complex{read_at(2 * at), read_at(2 * at + 1)} : Complex{read_at(at), 0.0};
    };
    const Complex w = number(
        [&](std::int64_t at) {
          return static_cast<double>(read<T>(vectors.data, at, vectors.storage));
        },
        vectors.complex, head * vectors.strides.head + row * vectors.strides.row + k);
    const Complex s = number([&](std::int64_t at) { return static_cast<double>(sums[at]); },
                             complex, (head * rows + row) * count + k);
    total = total + Complex{w.re, -w.im} * s;
  }
};

/// The gradient by the positions or by the phases of a side; a thread has an anchor.
template <class T>
struct AnchorsJob {
  InnerJob<T> inner;
  Lengthscales lengthscale;
  const double* frequency;
  double sign;  ///< 1 for targets, -1 for sources
  bool of_phases;
  T* out;  ///< [heads, count]
};

template <class T>
__global__ void __launch_bounds__(kFlatThreads) anchors_kernel(AnchorsJob<T> job) {
  const InnerJob<T>& inner = job.inner;
  const std::int64_t entry = thread_number();
  if (entry >= inner.heads * inner.count) {
    return;
  }
  const std::int64_t head = entry / inner.count;
  Complex plain{0.0, 0.0};
  Complex turning{0.0, 0.0};
  for (std::int64_t row = 0; row < inner.rows; ++row) {
    inner.add(plain, inner.plain, head, row, entry % inner.count);
    inner.add(turning, inner.turning, head, row, entry % inner.count);
  }
  if (job.of_phases) {
    job.out[entry] = static_cast<T>(-plain.im);
    return;
  }
  // Re(slope + i turns turn) / ell, and of sums with the conjugate of K that of slope - i turns
  // turn.
  const LineRate rate = read_rate(job.lengthscale, job.frequency, head);
  const double turns = rate.rate.frequency * rate.rate.lengthscale;
  job.out[entry] =
      static_cast<T>((job.sign * plain.re - turns * turning.im) / rate.rate.lengthscale);
}

/// The parts of W for scalars_kernel; a block takes kShareEntries of a head's rows.
template <class T>
struct SharesJob {
  InnerJob<T> inner;
  std::int64_t parts;
  Complex* shares;  ///< [heads, parts]
};

inline constexpr std::int64_t kShareEntries = 1 << 14;

template <class T>
__global__ void __launch_bounds__(kScalarThreads) shares_kernel(SharesJob<T> job) {
  const InnerJob<T>& inner = job.inner;
  const std::int64_t head = block_number() / job.parts;
  const std::int64_t first = block_number() % job.parts * kShareEntries;
  const std::int64_t all = inner.rows * inner.count;
  const std::int64_t end = first + kShareEntries < all ? first + kShareEntries : all;
  Complex plain{0.0, 0.0};
  Complex turning{0.0, 0.0};
  for (std::int64_t k = first + threadIdx.x; k < end; k += kScalarThreads) {
    inner.add(plain, inner.plain, head, k / inner.count, k % inner.count);
    inner.add(turning, inner.turning, head, k / inner.count, k % inner.count);
  }
  const double re = block_sum<kScalarThreads>(plain.re, shared_memory());
  const double im = block_sum<kScalarThreads>(turning.im, shared_memory());
  if (threadIdx.x == 0) {
    job.shares[block_number()] = {re, im};
  }
}

}  // namespace laplex::cuda::detail
