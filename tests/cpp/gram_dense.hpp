/// Dense matrices in extended precision, and products with the factor of a Gram.
#pragma once

#include "gram_cases.hpp"

#include <laplex/gram.hpp>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace laplex::tests {

inline constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

using Matrix = std::vector<std::vector<long double>>;

inline Vector apply(const Gram& gram, Factor factor, bool scaled, const Vector& in,
                    std::int64_t rows) {
  Vector out(in.size());
  gram.apply(factor, scaled, in.data(), out.data(), rows);
  return out;
}

inline double dot(const Vector& a, const Vector& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// log det by a dense Cholesky factorisation.
inline long double dense_logdet(Matrix a) {
  long double sum = 0.0L;
  for (std::size_t k = 0; k < a.size(); ++k) {
    sum += std::log(a[k][k]);
    for (std::size_t i = k + 1; i < a.size(); ++i) {
      const long double factor = a[i][k] / a[k][k];
      for (std::size_t j = k + 1; j < a.size(); ++j) {
        a[i][j] -= factor * a[k][j];
      }
    }
  }
  return sum;
}

}  // namespace laplex::tests
