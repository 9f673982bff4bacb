/// Quantiles of sums of Laplace distributions, between two neighbouring anchors; for every device.
///
/// With F(b) = sum_j L((b - x_j) / ell), see Term::cumulative, and `upto` anchors at or below the
/// neighbour `a`,
///     F(b) = upto - left_a exp(-s) / 2 + right_a exp(s) / 2,   s = (b - a) / ell,
/// up to the next anchor, so that F(b) = level is a quadratic equation for exp(s).
#pragma once

#include <laplex/detail/host_device.hpp>

#include <cmath>
#include <limits>

namespace laplex::detail {

// Constants, because nvcc refuses to call the functions of the host's library in device code.
inline constexpr double kMostDouble = std::numeric_limits<double>::max();
inline constexpr double kLeastNormal = std::numeric_limits<double>::min();

/// What is known of F at one anchor.
struct QuantileAnchor {
  double position;
  double upto;   ///< the number of anchors at or below it
  double left;   ///< the sum of exp(-distance / ell) to the anchors at or below it
  double right;  ///< the same to the anchors above it
};

/// F at an anchor.
LAPLEX_HOST_DEVICE inline double level_at(const QuantileAnchor& a) {
  return a.upto + 0.5 * (a.right - a.left);
}

/// How far from an anchor F differs from its number of anchors at or below by `c`, in lengthscales
/// and without loss of digits near the anchor. `own` is the sum on the side that is left behind,
/// the anchor itself included, and `other` that on the side ahead.
LAPLEX_HOST_DEVICE inline double quantile_offset(double c, double own, double other) {
  const double rise = 2.0 * c + (own - other);
  if (!(rise > 0.0)) {
    return 0.0;  // the anchor itself, up to rounding
  }
  // The square of a level near 0 would be 0.
  const double root = other > 0.0 ? std::sqrt(c * c + own * other) : std::fabs(c);
  const double ahead = other - c;
  if (ahead <= 0.0) {
    return std::log((c + root) / other);  // at least log(2)
  }
  const double ratio = rise / (ahead + root);
  return ratio <= kMostDouble ? std::log1p(ratio) : std::log(rise) - std::log(ahead + root);
}

/// The b below all anchors with F(b) = level, where `first` is the least anchor.
LAPLEX_HOST_DEVICE inline double quantile_below(const QuantileAnchor& first, double level,
                                                double lengthscale) {
  return first.position - lengthscale * quantile_offset(-level, first.upto + first.right, 0.0);
}

/// The b above all anchors, of which `last` is the largest.
LAPLEX_HOST_DEVICE inline double quantile_above(const QuantileAnchor& last, double level,
                                                double lengthscale) {
  return last.position + lengthscale * quantile_offset(level - last.upto, last.left, 0.0);
}

/// The b between two neighbouring anchors, level_at(a) <= level <= level_at(b) up to rounding.
LAPLEX_HOST_DEVICE inline double quantile_between(const QuantileAnchor& a, const QuantileAnchor& b,
                                                  double level, double lengthscale) {
  const double c = level - a.upto;
  const double right = b.right + (b.upto - a.upto);  // with the anchors at b
  const double gap = b.position - a.position;
  double result = 0.0;
  if (c < 0.0 || (c == 0.0 && a.right >= kLeastNormal)) {
    result = a.position + lengthscale * quantile_offset(c, a.left, a.right);
  } else if (c > 0.0) {
    const double left = a.left * std::exp(-gap / lengthscale);
    result = b.position - lengthscale * quantile_offset(-c, right, left);
  } else {  // in the middle of a gap beyond the range of exp
    result = 0.5 * a.position + 0.5 * b.position +
             0.5 * lengthscale * (std::log(a.left) - std::log(right));
  }
  return result < a.position ? a.position : result > b.position ? b.position : result;
}

}  // namespace laplex::detail
