/// exp(t) and exp(-t) of the anchors of a cell, eight at a time.
#pragma once

#include "pack.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

// exp(t) = 2^k exp(r), |r| <= ln(2)/2, and exp(+-r) = 1 + (cosh r - 1) +- sinh r: both signs for
// the price of one. Terms of the Taylor series: after the last one the rest is below a tenth of a
// unit of T. No fused operations, so that all levels agree.
struct ExponentialParts {
  Pack<double> even;  ///< cosh r - 1
  Pack<double> odd;   ///< sinh r
  Pack<double> scale_up;
  Pack<double> scale_down;
};

template <class T>
LAPLEX_INLINE ExponentialParts exponential_parts(const Pack<double>& t) {
  // 1.5 * 2^52 + 1023: adding it rounds to an integer and leaves that integer, biased as an
  // exponent, in the low bits.
  const Pack<double> magic = splat(6755399441055744.0 + 1023.0);
  const Pack<double> shifted = t * splat(1.4426950408889634) + magic;
  const Pack<double> k = shifted - magic;
  // ln 2 in two parts; k times the first is exact.
  const Pack<double> r =
      (t - k * splat(0.693147180369123816490)) - k * splat(1.90821492927058770002e-10);
  const Pack<double> q = r * r;
  Pack<double> even;  // (cosh r - 1) / q
  Pack<double> odd;   // sinh r / r - 1, over q
  if constexpr (sizeof(T) == sizeof(double)) {
    even =
        ((((q * splat(1.0 / 479001600.0) + splat(1.0 / 3628800.0)) * q + splat(1.0 / 40320.0)) * q +
          splat(1.0 / 720.0)) *
             q +
         splat(1.0 / 24.0)) *
            q +
        splat(0.5);
    odd =
        ((((q * splat(1.0 / 6227020800.0) + splat(1.0 / 39916800.0)) * q + splat(1.0 / 362880.0)) *
              q +
          splat(1.0 / 5040.0)) *
             q +
         splat(1.0 / 120.0)) *
            q +
        splat(1.0 / 6.0);
  } else {
    even = (q * splat(1.0 / 720.0) + splat(1.0 / 24.0)) * q + splat(0.5);
    odd = (q * splat(1.0 / 5040.0) + splat(1.0 / 120.0)) * q + splat(1.0 / 6.0);
  }
  Pack<double> scale_up;
  Pack<double> scale_down;
#if defined(LAPLEX_VECTORS)
  using Bits = typename NativeOf<std::int64_t, kLanes<double>>::type;
  for (int p = 0; p < Pack<double>::kParts; ++p) {
    Bits bits;
    std::memcpy(&bits, &shifted.part[p], sizeof(bits));
    const Bits up_bits = bits << 52;
    // The low bits hold 1023 + k; 2046 - (1023 + k) = 1023 - k.
    const Bits down_bits = (2046 - bits) << 52;
    std::memcpy(&scale_up.part[p], &up_bits, sizeof(bits));
    std::memcpy(&scale_down.part[p], &down_bits, sizeof(bits));
  }
#else
  for (int l = 0; l < 8; ++l) {
    std::uint64_t bits;
    const double value = shifted.get(l);
    std::memcpy(&bits, &value, sizeof(bits));
    const std::uint64_t up_bits = bits << 52;
    const std::uint64_t down_bits = (std::uint64_t(2046) - bits) << 52;
    std::memcpy(&scale_up.part[l], &up_bits, sizeof(up_bits));
    std::memcpy(&scale_down.part[l], &down_bits, sizeof(down_bits));
  }
#endif
  return {q * even, r + r * (q * odd), scale_up, scale_down};
}

template <class T>
LAPLEX_INLINE void exponential_pair(const Pack<double>& t, Pack<double>& up, Pack<double>& down) {
  const ExponentialParts e = exponential_parts<T>(t);
  const Pack<double> one = splat(1.0);
  up = (one + (e.even + e.odd)) * e.scale_up;
  down = (one + (e.even - e.odd)) * e.scale_down;
}

template <class T>
LAPLEX_INLINE void exponentials_of_group(const T* position, const Pack<double>& centre,
                                         const Pack<double>& scale, T* grow, T* shrink) {
  // The quotient is rounded once in double precision; in single, the product with the inverse is
  // exact enough, and three times cheaper.
  const Pack<double> offset = widen(load(position)) - centre;
  Pack<double> up;
  Pack<double> down;
  exponential_pair<T>(sizeof(T) == sizeof(double) ? offset / scale : offset * scale, up, down);
  store(grow, narrow<T>(up));
  store(shrink, narrow<T>(down));
}

template <class T>
void exponentials(const T* position, std::int64_t count, double centre, double lengthscale, T* grow,
                  T* shrink) {
  const Pack<double> middle = splat(centre);
  const Pack<double> scale = splat(sizeof(T) == sizeof(double) ? lengthscale : 1.0 / lengthscale);
  std::int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    exponentials_of_group(position + k, middle, scale, grow + k, shrink + k);
  }
  if (k < count) {
    T rest[8];
    T up[8];
    T down[8];
    for (std::int64_t j = 0; j < 8; ++j) {
      rest[j] = k + j < count ? position[k + j] : position[count - 1];
    }
    exponentials_of_group(rest, middle, scale, up, down);
    for (std::int64_t j = 0; k + j < count; ++j) {
      grow[k + j] = up[j];
      shrink[k + j] = down[j];
    }
  }
}

}  // namespace laplex::detail::LAPLEX_LEVEL
