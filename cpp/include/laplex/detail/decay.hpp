/// exp(-c * (a - b)) for a >= b to about one unit in the last place, however large the exponent.
///
/// The plain formula loses |exponent| units: exp(-700 * (1 + 1e-16)) is off by 7e-14. So the
/// distance is taken as an unevaluated sum of two doubles (Knuth's two-sum is exact), the division
/// keeps its remainder, and the small part enters through exp(-(t + e)) = exp(-t) (1 - e) + O(e^2).
/// Needs IEEE arithmetic without contraction or reassociation: compile with -ffp-contract=off.
#pragma once

#include <laplex/detail/complex.hpp>

#include <cmath>

namespace laplex::detail {

/// c = 1/lengthscale - i*frequency, the exponent per unit of distance.
struct Rate {
  double lengthscale = 1.0;
  double frequency = 0.0;
};

/// a - b = high + low exactly, unless it overflows.
struct Distance {
  double high = 0.0;
  double low = 0.0;
};

LAPLEX_HOST_DEVICE inline Distance distance(double a, double b) {
  const double high = a - b;
  if (std::isinf(high)) {
    return {high, 0.0};
  }
  const double minus_b = high - a;
  const double low = (a - (high - minus_b)) + (-b - minus_b);
  return {high, low};
}

/// tau = (a - b) / lengthscale, the dimensionless distance.
LAPLEX_HOST_DEVICE inline double scaled_distance(double a, double b, Rate rate) {
  const double d = a - b;
  return std::isinf(d) ? (0.5 * a - 0.5 * b) / (0.5 * rate.lengthscale) : d / rate.lengthscale;
}

/// exp(-745.14) is the smallest positive double; beyond it the decay is exactly 0.
inline constexpr double kLargestExponent = 745.2;

/// Below this exponent the rounding of the exponent itself is under a quarter of a unit of the
/// result, and the correction is not worth its price. Most gaps of a dense line are below it.
inline constexpr double kExactExponent = 0.25;

LAPLEX_HOST_DEVICE inline double decay_modulus(Distance d, double lengthscale) {
  const double t = d.high / lengthscale;
  if (t < kExactExponent) {
    return std::exp(-t);
  }
  if (t >= kLargestExponent) {  // not so for NaN, which makes NaN
    return 0.0;
  }
  const double remainder = std::fma(-t, lengthscale, d.high) + d.low;
  const double e = std::exp(-t);
  return e - e * (remainder / lengthscale);
}

/// exp(i * frequency * d), however large the angle.
LAPLEX_HOST_DEVICE inline Complex rotation(Distance d, double frequency) {
  const double angle = d.high * frequency;
  const double rest = std::fma(d.high, frequency, -angle) + d.low * frequency;
  const double c = std::cos(angle);
  const double s = std::sin(angle);
  // |rest| is half a unit of `angle`: tiny for ordinary angles, of order 1 when omega*d passes
  // 1e16.
  const bool small = std::fabs(rest) < 1e-8;
  const double cr = small ? 1.0 : std::cos(rest);
  const double sr = small ? rest : std::sin(rest);
  return {c * cr - s * sr, s * cr + c * sr};
}

/// The decay of a kernel without frequency (D = double) or with one (D = Complex).
template <class D>
LAPLEX_HOST_DEVICE D decay(double a, double b, Rate rate);

/// The same decay in twice the unit, where a distance beyond the largest double is an ordinary one.
/// Halving is exact: anchors that far apart are no small numbers.
template <class D>
LAPLEX_HOST_DEVICE inline D decay_of_halves(double a, double b, Rate rate) {
  return decay<D>(0.5 * a, 0.5 * b, {0.5 * rate.lengthscale, 2.0 * rate.frequency});
}

template <>
LAPLEX_HOST_DEVICE inline double decay<double>(double a, double b, Rate rate) {
  const Distance d = distance(a, b);
  return std::isinf(d.high) ? decay_of_halves<double>(a, b, rate)
                            : decay_modulus(d, rate.lengthscale);
}

template <>
LAPLEX_HOST_DEVICE inline Complex decay<Complex>(double a, double b, Rate rate) {
  const Distance d = distance(a, b);
  if (std::isinf(d.high)) {
    return decay_of_halves<Complex>(a, b, rate);
  }
  const double modulus = decay_modulus(d, rate.lengthscale);
  if (modulus == 0.0) {
    return {0.0, 0.0};  // before an infinite angle can turn 0 into NaN
  }
  const Complex turn = rotation(d, rate.frequency);
  return {modulus * turn.re, modulus * turn.im};
}

}  // namespace laplex::detail
