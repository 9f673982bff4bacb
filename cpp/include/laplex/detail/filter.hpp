/// One step of the Kalman filter that factorises a covariance on a line, and its reverse.
///
/// The state of the line is a vector of J numbers in blocks of B: those of independent processes,
/// Ornstein-Uhlenbeck processes of variance 1 if B is 1. Point n observes h . state + noise. `cov`
/// is the state's covariance given the points before n, packed: entry (k, l), k <= l, at l (l + 1)
/// / 2 + k. A derivative by a covariance is that by the whole symmetric matrix, so f changes by
/// sum_kl bar_kl d cov_kl.
///
/// N is double, or Dual for derivatives of derivatives.
#pragma once

#include <laplex/detail/decay.hpp>
#include <laplex/detail/dual.hpp>
#include <laplex/detail/host_device.hpp>

#include <cmath>
#include <cstddef>

namespace laplex::detail {

template <int J>
inline constexpr int kPacked = J * (J + 1) / 2;

LAPLEX_HOST_DEVICE inline int packed(int k, int l) {
  return k <= l ? l * (l + 1) / 2 + k : k * (k + 1) / 2 + l;
}

/// The numbers of a symmetric matrix per block, over all blocks.
template <int J, int B>
inline constexpr int kBlockPacked = J / B * kPacked<B>;

/// What one point is, and what the filter makes of it.
template <class N, int J, int B = 1>
struct Step {
  N x[J];  ///< the gap before it in lengthscales
  /// The transition A across the gap, each row within its block; r = exp(-x) for B = 1.
  N decay[J * B];
  /// The process noise Q across the gap, packed per block: for B = 1 the variance 1 - r^2.
  N gain[kBlockPacked<J, B>];
  N h[J];             ///< what it observes
  N noise;            ///< of which variance; infinite: it observes nothing
  N cov[kPacked<J>];  ///< of the state, given the points before
  N v[J];             ///< cov h
  N w[J];             ///< the gain, v / d
  N d;                ///< its own variance given the points before
  N inverse;          ///< 1 / d

  [[nodiscard]] LAPLEX_HOST_DEVICE bool observed() const { return !std::isinf(value(noise)); }
};

/// exp(-x) of the gap a - b, in one number from which exp(-x) and 1 - exp(-2 x) both come without
/// cancellation: exp(-x) - 1, which is not positive, for small gaps, exp(-x) for wide ones.
LAPLEX_HOST_DEVICE inline double fall_across(double a, double b, double lengthscale) {
  const Distance gap = distance(a, b);
  if (std::isinf(gap.high)) {
    return fall_across(0.5 * a, 0.5 * b, 0.5 * lengthscale);
  }
  const double x = gap.high / lengthscale;
  if (x < 0.5) {
    return std::expm1(-x);
  }
  const double decay = decay_modulus(gap, lengthscale);
  return decay > 0.0 ? decay : -1.0;  // 0 would be no gap at all
}
LAPLEX_HOST_DEVICE inline double decay_of(double fall) {
  return fall > 0.0 ? fall : 1.0 + fall;
}
LAPLEX_HOST_DEVICE inline double gain_of(double fall) {
  return fall > 0.0 ? 1.0 - fall * fall : -fall * (2.0 + fall);
}

/// v = cov h; returns h . v.
template <int J, int B, class N>
LAPLEX_HOST_DEVICE inline N look(Step<N, J, B>& s) {
  N variance = N(0.0);
  for (int k = 0; k < J; ++k) {
    s.v[k] = N(0.0);
    for (int l = 0; l < J; ++l) {
      s.v[k] += s.cov[packed(k, l)] * s.h[l];
    }
    variance += s.h[k] * s.v[k];
  }
  return variance;
}

/// From s.v and s.d: the gain, and the covariance given this point too.
template <int J, int B, class N>
LAPLEX_HOST_DEVICE inline void condition(Step<N, J, B>& s, N* filtered) {
  const bool observed = s.observed();
  s.inverse = N(1.0) / s.d;
  for (int k = 0; k < J; ++k) {
    s.w[k] = observed ? s.v[k] * s.inverse : change_of(s.noise) * s.v[k];
  }
  if (J == 1 && observed) {
    // A product of what is positive: nothing cancels.
    filtered[0] = s.cov[0] * (s.noise * s.inverse);
    return;
  }
  for (int l = 0; l < J; ++l) {
    for (int k = 0; k <= l; ++k) {
      filtered[packed(k, l)] = s.cov[packed(k, l)] - s.v[k] * s.w[l];
    }
  }
}

/// From s.cov, s.h and s.noise: v, d, w, and the covariance given this point too.
///
/// A point that observes nothing has precision b = 1/noise = 0; the slope of its noise is taken for
/// that of b, and d is 1 + b h . v.
template <int J, int B, class N>
LAPLEX_HOST_DEVICE inline void observe(Step<N, J, B>& s, N* filtered) {
  const N variance = look<J>(s);
  s.d = s.observed() ? variance + s.noise : N(1.0) + change_of(s.noise) * variance;
  condition<J>(s, filtered);
}

/// The same where d is known from before: the next point need not wait for a division.
template <int J, int B>
LAPLEX_HOST_DEVICE inline void observe_again(double d, Step<double, J, B>& s, double* filtered) {
  look<J>(s);
  s.d = d;
  condition<J>(s, filtered);
}

/// A cov A^T, or A^T cov A if `back`, of packed covariances; in place if `to` is `cov`.
template <int J, int B, bool back = false, class N>
LAPLEX_HOST_DEVICE inline void carry(const N* a, const N* cov, N* to) {
  if constexpr (B == 1) {
    for (int l = 0; l < J; ++l) {
      for (int k = 0; k <= l; ++k) {
        to[packed(k, l)] = a[k] * a[l] * cov[packed(k, l)];
      }
    }
  } else {
    const auto at = [](int block, int row, int column) {
      return back ? (block + column) * B + row : (block + row) * B + column;
    };
    for (int l = 0; l < J; l += B) {
      for (int k = 0; k <= l; k += B) {
        N half[B][B];
        for (int r = 0; r < B; ++r) {
          for (int c = 0; c < B; ++c) {
            half[r][c] = a[at(k, r, 0)] * cov[packed(k, l + c)];
            for (int m = 1; m < B; ++m) {
              half[r][c] += a[at(k, r, m)] * cov[packed(k + m, l + c)];
            }
          }
        }
        for (int r = 0; r < B; ++r) {
          for (int c = k < l ? 0 : r; c < B; ++c) {
            N sum = half[r][0] * a[at(l, c, 0)];
            for (int m = 1; m < B; ++m) {
              sum += half[r][m] * a[at(l, c, m)];
            }
            to[packed(k + r, l + c)] = sum;
          }
        }
      }
    }
  }
}

/// A state, or A^T state if `back`, in place; the numbers of the state are `stride` apart.
template <int J, int B, bool back = false, class N>
LAPLEX_HOST_DEVICE inline void carry_state(const N* a, N* state, std::ptrdiff_t stride = 1) {
  for (int k = 0; k < J; k += B) {
    N before[B];
    for (int m = 0; m < B; ++m) {
      before[m] = state[(k + m) * stride];
    }
    for (int r = 0; r < B; ++r) {
      N sum = a[back ? k * B + r : (k + r) * B] * before[0];
      for (int m = 1; m < B; ++m) {
        sum += a[back ? (k + m) * B + r : (k + r) * B + m] * before[m];
      }
      state[(k + r) * stride] = sum;
    }
  }
}

/// The covariance on the other side of the gap before `next`.
template <int J, int B, class N>
LAPLEX_HOST_DEVICE inline void predict(const N* filtered, Step<N, J, B>& next) {
  carry<J, B>(next.decay, filtered, next.cov);
  for (int k = 0; k < J; k += B) {
    for (int c = 0; c < B; ++c) {
      for (int r = 0; r <= c; ++r) {
        next.cov[packed(k + r, k + c)] += next.gain[k / B * kPacked<B> + packed(r, c)];
      }
    }
  }
}

/// The variance of h . state, of the packed covariances of the blocks.
template <int J, int B>
LAPLEX_HOST_DEVICE inline double variance_of(const double* blocks, const double* h) {
  double variance = 0.0;
  for (int k = 0; k < J; k += B) {
    for (int r = 0; r < B; ++r) {
      for (int c = 0; c < B; ++c) {
        variance += h[k + r] * h[k + c] * blocks[k / B * kPacked<B> + packed(r, c)];
      }
    }
  }
  return variance;
}

/// How much of a relative change of A's entries arrives in the variances D: tells a variance from
/// what rounding leaves of 0.
///
/// With S_k the variance of point k without noise, h_k . h_k for B = 1, its growth is
///
///     growth_k = sum_j (L^-1)_kj^2 S_j.
///
/// As d_k = z^T A z for row z of L^-1, some change of the entries by at most e sqrt(S_i S_j) takes
/// d_k to 0 where d_k <= e growth_k: A is that close to a singular matrix. With a condition number
/// below 1 / e it never is, since growth_k <= d_k max S / (least eigenvalue). The factor itself
/// belongs to entries that are off by a few units in the last place of sqrt(S_i S_j). Found where
/// d_k should be 0, of 2 to 16 columns: about epsilon growth_k; above kSingular growth_k in 7 of
/// 31500 cases that were made to be hard, where the variances before have no digit left themselves.
///
/// (L^-1)_k is what the filter does to white noise; this carries its covariance along the line.
template <int J, int B = 1>
struct Growth {
  double spread[kPacked<J>] = {};

  /// That of the next point: from its decay, h, and w.
  [[nodiscard]] LAPLEX_HOST_DEVICE double next(const Step<double, J>& s) {
    double prior = 0.0;
    for (int k = 0; k < J; ++k) {
      prior += s.h[k] * s.h[k];
    }
    return next(s, prior);
  }

  /// The same from its variance S as well.
  [[nodiscard]] LAPLEX_HOST_DEVICE double next(const Step<double, J, B>& s, double prior) {
    double moved[J];  // spread h
    double growth = 0.0;
    carry<J, B>(s.decay, spread, spread);
    for (int k = 0; k < J; ++k) {
      moved[k] = 0.0;
      for (int l = 0; l < J; ++l) {
        moved[k] += spread[packed(k, l)] * s.h[l];
      }
      growth += s.h[k] * moved[k];
    }
    growth = prior + (growth > 0.0 ? growth : 0.0);
    for (int l = 0; l < J; ++l) {
      for (int k = 0; k <= l; ++k) {
        spread[packed(k, l)] += growth * s.w[k] * s.w[l] - s.w[k] * moved[l] - moved[k] * s.w[l];
      }
    }
    return growth;
  }
};

/// A is singular, or so nearly that double precision cannot tell, where d <= kSingular growth: the
/// relative change e of Growth. One column is found in products of positive numbers alone and needs
/// no such bound.
template <int J>
inline constexpr double kSingular = J == 1 ? 0.0 : 2.0 * J * 0x1p-52;

/// The part of h . h from which up d is safe, and Growth need not be asked: at one place there are
/// J points at most before A is singular, and where each keeps a part p of its variance, the growth
/// is about p^(1 - J) h . h at most. Below kSingular growth, then, lies no d above p =
/// kSingular^(1/J).
template <int J>
LAPLEX_HOST_DEVICE inline double safe_part() {
  return J == 1 ? 0.0 : std::pow(kSingular<J>, 1.0 / J);
}

/// Reverse of observe(): `bar`, derivative by the filtered covariance, becomes that by s.cov;
/// `w_bar` is that by the gain, `weight` that by log d. Adds to h_bar; returns that by the noise.
template <int J, int B, class N>
LAPLEX_HOST_DEVICE inline N observe_reverse(const Step<N, J, B>& s, N weight, const N* w_bar,
                                            N* h_bar, N* bar) {
  if (J == 1 && s.observed()) {
    // In factors of noise / d, which the general formula would find as a difference.
    const N rest = s.noise * s.inverse;
    const N w = s.w[0];
    const N cov = s.cov[0];
    const N by_noise = (weight - w_bar[0] * w) * s.inverse + bar[0] * w * w;
    h_bar[0] += N(2.0) * weight * w + w_bar[0] * cov * s.inverse * (rest - w * s.h[0]) -
                N(2.0) * bar[0] * cov * rest * w;
    bar[0] = (weight * s.h[0] + w_bar[0] * rest) * s.h[0] * s.inverse + bar[0] * rest * rest;
    return by_noise;
  }
  N bar_v[J];  // bar times v, or times w where the point is observed
  N quadratic = N(0.0);
  N along = N(0.0);
  N variance = N(0.0);
  const bool observed = s.observed();
  for (int k = 0; k < J; ++k) {
    bar_v[k] = N(0.0);
    for (int l = 0; l < J; ++l) {
      bar_v[k] += bar[packed(k, l)] * (observed ? s.w[l] : s.v[l]);
    }
    quadratic += bar_v[k] * (observed ? s.w[k] : s.v[k]);
    along += w_bar[k] * (observed ? s.w[k] * s.inverse : s.v[k]);
    variance += s.h[k] * s.v[k];
  }
  const N precision = change_of(s.noise);
  const N d_bar = weight * s.inverse;
  const N by_noise = observed ? d_bar - along + quadratic : variance * d_bar - quadratic + along;
  const N variance_bar = observed ? by_noise : precision * d_bar;
  N v_bar[J];
  for (int k = 0; k < J; ++k) {
    v_bar[k] = (observed ? w_bar[k] * s.inverse - N(2.0) * bar_v[k]
                         : precision * (w_bar[k] - N(2.0) * bar_v[k])) +
               variance_bar * s.h[k];
    h_bar[k] += variance_bar * s.v[k];
  }
  for (int l = 0; l < J; ++l) {
    for (int k = 0; k < J; ++k) {
      h_bar[l] += s.cov[packed(k, l)] * v_bar[k];
    }
    for (int k = 0; k <= l; ++k) {
      bar[packed(k, l)] += N(0.5) * (v_bar[k] * s.h[l] + s.h[k] * v_bar[l]);
    }
  }
  return by_noise;
}

/// Reverse of predict(): `bar`, derivative by next.cov, becomes that by the filtered covariance.
/// x_bar is that by the gap; decay_bar is that of what else the decays move.
template <int J, class N>
LAPLEX_HOST_DEVICE inline void predict_reverse(const N* filtered, const Step<N, J>& next,
                                               const N* decay_bar, N* x_bar, N* bar) {
  for (int k = 0; k < J; ++k) {
    N by_decay = decay_bar[k];
    for (int l = 0; l < J; ++l) {
      by_decay += N(2.0) * bar[packed(k, l)] * next.decay[l] * filtered[packed(k, l)];
    }
    x_bar[k] = next.decay[k] * (N(2.0) * next.decay[k] * bar[packed(k, k)] - by_decay);
  }
  for (int l = 0; l < J; ++l) {
    for (int k = 0; k <= l; ++k) {
      bar[packed(k, l)] = next.decay[k] * next.decay[l] * bar[packed(k, l)];
    }
  }
}

/// Of blocks: adds to `decay_bar` the derivative by the transition A, in the shape of Step::decay.
/// That by the process noise Q is `bar`, that by next.cov; that by the filtered covariance is
/// A^T bar A.
template <int J, int B, class N>
LAPLEX_HOST_DEVICE inline void transition_reverse(const N* filtered, const Step<N, J, B>& next,
                                                  const N* bar, N* decay_bar) {
  N moved[J][J];  // A filtered
  for (int k = 0; k < J; k += B) {
    for (int r = 0; r < B; ++r) {
      for (int l = 0; l < J; ++l) {
        moved[k + r][l] = N(0.0);
        for (int m = 0; m < B; ++m) {
          moved[k + r][l] += next.decay[(k + r) * B + m] * filtered[packed(k + m, l)];
        }
      }
    }
  }
  for (int k = 0; k < J; ++k) {
    for (int c = 0; c < B; ++c) {
      N sum = N(0.0);
      for (int l = 0; l < J; ++l) {
        sum += bar[packed(k, l)] * moved[l][k / B * B + c];
      }
      decay_bar[k * B + c] += N(2.0) * sum;
    }
  }
}

}  // namespace laplex::detail
