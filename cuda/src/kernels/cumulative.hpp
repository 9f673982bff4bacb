/// What a scan carries for cumulative sums, sum_j L(x_i - y_j) v_j with the distribution function
/// of the standard Laplace distribution, L(t) = e^t / 2 below 0 and 1 - e^-t / 2 above.
///
/// A source below the target counts whole but for half of its decayed value, one at the target
/// half, and one above it half of its decayed value. No difference of large numbers is taken where
/// the sum is small: L is at least 1/2 wherever something is subtracted.
#pragma once

#include <laplex/detail/host_device.hpp>

#include <type_traits>

namespace laplex::cuda::detail {

/// A sum of values as it decays along the line, and as it would be without decay.
struct Cumulated {
  double decayed;
  double whole;
};

LAPLEX_HOST_DEVICE inline Cumulated operator+(Cumulated a, Cumulated b) {
  return {a.decayed + b.decayed, a.whole + b.whole};
}
LAPLEX_HOST_DEVICE inline Cumulated operator*(double decay, Cumulated sum) {
  return {decay * sum.decayed, sum.whole};
}

template <class S>
inline constexpr bool kIsCumulative = std::is_same_v<S, Cumulated>;

/// What one side of a target contributes, from `beyond` it and from the target's own place.
LAPLEX_HOST_DEVICE inline double contribution(Cumulated beyond, Cumulated here, bool is_below) {
  const double half = 0.5 * beyond.decayed;
  return (is_below ? beyond.whole - half : half) + 0.5 * here.whole;
}

}  // namespace laplex::cuda::detail
