/// The element of the scan and how it moves along the line.
///
/// At position z the element holds, for every lane w and q = 0..P,
///     s[q][w] = sum over the sources so far of tau^q * decay * v,   tau = distance to z /
///     lengthscale.
/// Moving from z' to z with decay d and tau = (z - z')/lengthscale is the binomial theorem:
///     s[q] <- d * sum_r C(q, r) tau^(q-r) s[r],
/// and the map (d, tau, s) is associative, so it may be scanned in any grouping. The moments q > 0
/// are what derivatives with respect to lengthscale and frequency are made of; every term of them
/// is positive, so nothing cancels. (The formula -(1/c) sum_i x_i ... through the gradients of the
/// anchors is equivalent on paper but loses |x|/lengthscale digits.)
#pragma once

#include <laplex/detail/complex.hpp>

namespace laplex::detail {

/// The largest moment: the number of times a product with the Laplace kernel may be differentiated
/// by lengthscale and frequency. A Matern-3/2 kernel takes one of them itself, Matern-5/2 two.
inline constexpr int kMaxMoment = 4;

/// Moves an element of W lanes and P + 1 moments. `tau` is ignored where the decay is 0.
template <int P, int W, class D, class S>
LAPLEX_HOST_DEVICE inline void advance(S* s, D d, double tau) {
  if constexpr (P > 0) {
    const double t = is_zero(d) ? 0.0 : tau;  // tau^q may overflow where the decay underflows
    for (int q = P; q > 0; --q) {
      double coefficient = 1.0;  // C(q, r) tau^(q-r), from r = q downwards
      for (int r = q - 1; r >= 0; --r) {
        coefficient *= t * static_cast<double>(r + 1) / static_cast<double>(q - r);
        for (int w = 0; w < W; ++w) {
          s[q * W + w] = s[q * W + w] + coefficient * s[r * W + w];
        }
      }
      for (int w = 0; w < W; ++w) {
        s[q * W + w] = d * s[q * W + w];
      }
    }
  }
  for (int w = 0; w < W; ++w) {
    s[w] = d * s[w];
  }
}

template <int P, int W, class S>
LAPLEX_HOST_DEVICE inline void add(S* s, const S* other) {
  for (int k = 0; k < (P + 1) * W; ++k) {
    s[k] = s[k] + other[k];
  }
}

}  // namespace laplex::detail
