#include "term_derivatives.hpp"

#include "checks.hpp"
#include "profile.hpp"

#include <cstddef>
#include <string>

namespace laplex::detail {
namespace {

/// q' - q.
Polynomial along(const Polynomial& q) {
  Polynomial d{};
  for (std::size_t k = 0; k < q.size(); ++k) {
    const double derivative = k + 1 < q.size() ? static_cast<double>(k + 1) * q[k + 1] : 0.0;
    d[k] = derivative - q[k];
  }
  return d;
}

/// factor tau q.
Polynomial times_distance(const Polynomial& q, double factor) {
  if (q.back() != 0.0) {
    invalid("lengthscale and frequency can be differentiated at most " +
            std::to_string(kMaxMoment) + " times in total, the powers of a kernel counted");
  }
  Polynomial t{};
  for (std::size_t k = 1; k < t.size(); ++k) {
    t[k] = factor * q[k - 1];
  }
  return t;
}

Parity next_parity(const Term& term) {
  return term.parity != Parity::odd ? Parity::odd : term.smooth ? Parity::even : Parity::strict;
}

}  // namespace

Term slope_of(const Term& term) {
  if (term.cumulative) {
    return {Parity::even, {0.5}};
  }
  return {next_parity(term), along(term.polynomial), term.smooth};
}

Term turn_of(const Term& term) {
  return {next_parity(term), term.polynomial, term.smooth};
}

Term stretch_of(const Term& term) {
  if (term.cumulative) {
    return {Parity::odd, {0.0, -0.5}};
  }
  return {term.parity, times_distance(along(term.polynomial), -1.0), term.smooth};
}

Term swing_of(const Term& term) {
  return {term.parity, times_distance(term.polynomial, 1.0), term.smooth};
}

}  // namespace laplex::detail
