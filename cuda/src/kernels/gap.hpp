/// A step along the line, from one place to a neighbour, and what it does to a sum.
#pragma once

#include "../device.hpp"
#include "cumulative.hpp"

#include <laplex/detail/complex.hpp>
#include <laplex/detail/decay.hpp>
#include <laplex/detail/scan_element.hpp>

#include <cmath>
#include <type_traits>

namespace laplex::cuda::detail {

using laplex::detail::Complex;
using laplex::detail::Rate;

/// A head's rate, and its inverse.
struct LineRate {
  Rate rate;
  double inverse = 0.0;  ///< 1 / rate.lengthscale
  double valid = 1.0;    ///< NaN where the lengthscale or the frequency is no legal number
};

/// The heads' lengthscales where they are now.
struct Lengthscales {
  const double* given = nullptr;  ///< [heads]; null: 1
  double lengths = 1.0;           ///< a lengthscale over the length of the kernel's exponential
};

/// Reads the length of a head's exponential, and its frequency (null: 0).
__host__ __device__ inline LineRate read_rate(const Lengthscales& lengthscale,
                                              const double* frequency, std::int64_t head) {
  LineRate r;
  double ell = lengthscale.given != nullptr ? lengthscale.given[head] : 1.0;
  const double omega = frequency != nullptr ? frequency[head] : 0.0;
  const bool legal = ell >= 2.2250738585072014e-308 && std::isfinite(ell) && std::isfinite(omega);
  if (lengthscale.lengths != 1.0) {
    ell = ell / lengthscale.lengths;
  }
  r.rate = {legal ? ell : 1.0, legal ? omega : 0.0};
  r.inverse = 1.0 / r.rate.lengthscale;
  r.valid = legal ? 1.0 : std::nan("");
  return r;
}

/// D is double, or with a frequency Complex; P the largest moment that sums carry.
///
/// With float anchors and no frequency, a short step takes a polynomial, a fifth of an exponential.
/// Without moments it is kept as -(1 - decay), which loses nothing where the decay is close to 1. A
/// step is short if its scaled distance is below a quarter; the sign bit tells which form it is.
template <class T, class D, int P>
struct Gap {
  static constexpr bool kPolynomial = std::is_same_v<T, float> && std::is_same_v<D, double>;
  static constexpr bool kShortForm = kPolynomial && P == 0;

  D factor;
  double tau;  ///< the scaled distance; for P > 0 and for derivatives by the lengthscale
  bool zero;   ///< whether the two places are one

  /// The decay itself.
  __device__ D decay() const {
    if constexpr (kShortForm) {
      return std::signbit(factor) ? 1.0 + factor : factor;
    } else {
      return factor;
    }
  }
};

/// The full decay, called and not inlined: the code of a double exponential and of a rotation, in
/// every place that takes a step, would be tens of minutes of compiling and more than instruction
/// caches hold.
template <class D>
__device__ __noinline__ D full_decay(double above, double below, Rate rate) {
  return laplex::detail::decay<D>(above, below, rate);
}

/// 1 - exp(-t) to 4e-11 of itself for 0 <= t < 1/4: the Taylor series.
__device__ inline double short_loss(double t) {
  double p = -1.0 / 40320.0;
  p = std::fma(p, t, 1.0 / 5040.0);
  p = std::fma(p, t, -1.0 / 720.0);
  p = std::fma(p, t, 1.0 / 120.0);
  p = std::fma(p, t, -1.0 / 24.0);
  p = std::fma(p, t, 1.0 / 6.0);
  p = std::fma(p, t, -0.5);
  p = std::fma(p, t, 1.0);
  return p * t;
}

/// The step between two places, `above` not below `below`.
template <class T, class D, int P>
__device__ inline Gap<T, D, P> gap_between(T above, T below, const LineRate& r) {
  Gap<T, D, P> gap{};
  const double a = static_cast<double>(above);
  const double b = static_cast<double>(below);
  gap.zero = above == below;
  if constexpr (Gap<T, D, P>::kPolynomial) {
    gap.tau = (a - b) * r.inverse;
    const auto kept = [](double loss) { return Gap<T, D, P>::kShortForm ? -loss : 1.0 - loss; };
    gap.factor = gap.tau < 0.25 ? kept(short_loss(gap.tau)) : full_decay<double>(a, b, r.rate);
    if (gap.zero) {
      gap.factor = kept(0.0);
    }
  } else {
    gap.tau = laplex::detail::scaled_distance(a, b, r.rate);
    gap.factor = full_decay<D>(a, b, r.rate);
  }
  return gap;
}

/// Moments beyond those of Matern kernels are for derivatives: small code before fast code.
template <int P, class D, class S>
__host__ __device__ __noinline__ void move_moments(S* sums, D factor, double tau) {
  laplex::detail::advance<P, 1>(sums, factor, tau);
}

/// Moves sums of moments 0..P across a gap.
template <int P, class T, class D, class S>
__host__ __device__ inline void move(S* sums, const Gap<T, D, P>& gap) {
  if constexpr (Gap<T, D, P>::kShortForm) {
    const double f = gap.factor;
    const auto decayed = [f, is_short = std::signbit(f)](double sum) {
      return std::fma(f, sum, is_short ? sum : 0.0);
    };
    if constexpr (std::is_same_v<S, double>) {
      sums[0] = decayed(sums[0]);
    } else if constexpr (kIsCumulative<S>) {
      sums[0].decayed = decayed(sums[0].decayed);
    } else {
      sums[0] = {decayed(sums[0].re), decayed(sums[0].im)};
    }
  } else if constexpr (P > 2) {
    move_moments<P>(sums, gap.factor, gap.tau);
  } else if constexpr (P > 0) {
    laplex::detail::advance<P, 1>(sums, gap.factor, gap.tau);
  } else {
    sums[0] = gap.factor * sums[0];
  }
}

}  // namespace laplex::cuda::detail
