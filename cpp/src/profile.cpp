#include "profile.hpp"

#include "checks.hpp"

#include <cmath>
#include <cstddef>
#include <string>

namespace laplex::detail {

int degree_of(const Polynomial& polynomial) {
  std::size_t degree = kMaxMoment;
  while (degree > 0 && polynomial[degree] == 0.0) {
    --degree;
  }
  return static_cast<int>(degree);
}

Polynomial polynomial_of(Profile profile) {
  switch (profile) {
    case Profile::matern32:
      return {1.0, 1.0};
    case Profile::matern52:
      return {1.0, 1.0, 1.0 / 3.0};
    default:
      return {1.0};
  }
}

double lengths_of(Profile profile) {
  switch (profile) {
    case Profile::matern32:
      return std::sqrt(3.0);
    case Profile::matern52:
      return std::sqrt(5.0);
    default:
      return 1.0;
  }
}

Polynomial polynomial_of(const Term& term, Profile profile) {
  if (term.parity < Parity::even || term.parity > Parity::strict) {
    invalid("parity must be even, odd or strict, got the number " +
            std::to_string(static_cast<int>(term.parity)));
  }
  for (std::size_t q = 0; q < term.polynomial.size(); ++q) {
    if (!std::isfinite(term.polynomial[q])) {
      invalid("coefficients of a term's polynomial must be finite, but that of power " +
              std::to_string(q) + " is " + std::to_string(term.polynomial[q]));
    }
  }
  const Polynomial kernel = polynomial_of(profile);
  const int degree = degree_of(kernel) + degree_of(term.polynomial);
  if (degree > kMaxMoment) {
    invalid("the term's polynomial has degree " + std::to_string(degree_of(term.polynomial)) +
            ", but this kernel leaves degrees up to " +
            std::to_string(kMaxMoment - degree_of(kernel)));
  }
  Polynomial product{};
  for (std::size_t i = 0; i < product.size(); ++i) {
    for (std::size_t j = 0; i + j < product.size(); ++j) {
      product[i + j] += term.polynomial[i] * kernel[j];
    }
  }
  return product;
}

}  // namespace laplex::detail
