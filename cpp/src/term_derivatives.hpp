/// The sums that the derivatives of a sum are made of.
///
/// With tau = |x_i - y_j| / ell, c' = 1 - i ell frequency and s+ = 1, 2, 1 for s = 0, 1, 2 (1, 0 if
/// the kernel is smooth, for then the square of the sign is 1 at ties too), the sums
///   S(s, q)_i = sum_j sign(x_i - y_j)^s q(tau) exp(-c' tau) v_j
/// of a polynomial q have the derivatives
///   dS/dx_i = S(s+, q' - c' q) / ell,  dS/dell = S(s, tau (q - q')) / ell,
///   dS/dfrequency = i ell S(s, tau q),
/// so that all gradients are made of the results of two passes: one over the values, read off at
/// the targets, and one over the cotangents, read off at the sources. Each term here has the
/// polynomial of its kernel too. A cumulative sum U has no kink and the derivatives
///   dU/dx_i = S(0, 1/2) / ell,  dU/dell = S(1, -tau/2) / ell.
#pragma once

#include <laplex/plan.hpp>

namespace laplex::detail {

/// S(s+, q' - q) and S(s+, q): with i ell frequency times the second, ell dS/dx_i.
[[nodiscard]] Term slope_of(const Term& term);
[[nodiscard]] Term turn_of(const Term& term);

/// S(s, tau (q - q')) and S(s, tau q). Throws for powers beyond kMaxMoment.
[[nodiscard]] Term stretch_of(const Term& term);
[[nodiscard]] Term swing_of(const Term& term);

}  // namespace laplex::detail
