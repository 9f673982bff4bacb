/// The shapes of kernels: polynomials of the scaled distance times the exponential of a Laplace
/// kernel.
#pragma once

#include <laplex/detail/scan_element.hpp>
#include <laplex/plan.hpp>

#include <array>

namespace laplex::detail {

/// The coefficients of the powers 0..kMaxMoment of a distance over the length of the exponential.
using Polynomial = std::array<double, kMaxMoment + 1>;

/// The highest power with a coefficient; 0 of the polynomial 0 too.
[[nodiscard]] int degree_of(const Polynomial& polynomial);

[[nodiscard]] Polynomial polynomial_of(Profile profile);

/// The lengthscale over the length of the exponential.
[[nodiscard]] double lengths_of(Profile profile);

/// The polynomial of a term of the family, that of its kernel included. Throws for a coefficient
/// that is not finite, and for powers beyond kMaxMoment.
[[nodiscard]] Polynomial polynomial_of(const Term& term, Profile profile);

}  // namespace laplex::detail
