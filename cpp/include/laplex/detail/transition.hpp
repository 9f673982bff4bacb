/// How the states of linear processes move across a gap: the transition A and the process noise Q,
///
///     cov' = A cov A^T + Q,
///
/// in dimensionless numbers, with relative digits in every entry of Q however short the gap.
///
/// N is double, or Dual or Slopes for derivatives. Off-diagonal entries of Q are given once:
/// packed, entry (k, l), k <= l, at l (l + 1) / 2 + k.
#pragma once

#include <laplex/detail/decay.hpp>
#include <laplex/detail/slopes.hpp>

#include <cmath>

namespace laplex::detail {

/// The damped oscillator of the rate gamma and the frequency omega, of the state (x, x' / omega),
/// F = omega [[0, 1], [-1, -2 z]] with z = gamma / omega. It is driven by white noise of the
/// spectral density 2 gamma (e b b^T + f c c^T), with b = (1, -2 z) and c = (0, 1):
/// Q = e first + f second.
template <class N>
struct Oscillator {
  N a[4];
  N first[3];
  N second[3];
};

/// A Matern-5/2 process of variance 1, of the state (x, x' / r, x'' / r^2).
template <class N>
struct Matern52 {
  N a[9];
  N q[6];
};

/// (1 - exp(-x)) / x, the mean of exp(-x s) over 0 < s < 1.
template <class N>
LAPLEX_HOST_DEVICE inline N mean_decay(const N& x) {
  if (value(x) >= 0.5) {
    return (N(1.0) - exponential(-x)) / x;
  }
  N sum = N(1.0);
  for (int k = 15; k > 1; --k) {
    sum = N(1.0) - (1.0 / k) * x * sum;
  }
  return sum;
}

/// What sqrt(v^2 - u^2) = angle leaves out, to first order, also where u and v leave out parts of
/// their own.
LAPLEX_HOST_DEVICE inline double angle_rest(double u, double v, double angle, double u_low,
                                            double v_low) {
  const double uu = u * u;
  const double vv = v * v;
  const double square = angle * angle;
  const double lost = std::fma(v, v, -vv) - std::fma(u, u, -uu) - std::fma(angle, angle, -square);
  return (((vv - square) - uu) + lost + 2.0 * (v * v_low - u * u_low)) / (2.0 * angle);
}

/// J = int_0^1 exp(-2 u s) S(s)^2 ds for u, v <= 1, with S(s) = sin(sqrt(kappa) s) / sqrt(kappa):
/// exp(-2 u) times a power series in 2 u and -4 kappa, whose terms have one sign where the
/// oscillator is overdamped and hardly cancel elsewhere.
template <class N>
LAPLEX_HOST_DEVICE inline N short_integral(const N& u, const N& kappa, const N& decay,
                                           double size) {
  const int pairs = size < 1e-3 ? 3 : size < 1.0 / 64 ? 5 : size < 0.25 ? 8 : 13;
  const N two_u = 2.0 * u;
  const N step = -4.0 * kappa;
  N source = N(1.0);
  N term = N(1.0 / 3.0);
  N sum = term;
  for (int m = 3; m < 3 + 2 * pairs; m += 2) {
    term = (1.0 / (m + 1)) * (two_u * term);
    sum += term;
    source = (1.0 / (m * (m + 1))) * (step * source);
    term = (1.0 / (m + 2)) * (two_u * term + source);
    sum += term;
  }
  return decay * decay * sum;
}

/// u (u / v)^P, from u / v = ratio also where u and v are 0.
template <int P>
LAPLEX_HOST_DEVICE inline double times_ratio(double u, double /*v*/, double ratio) {
  return P == 1 ? u * ratio : u * ratio * ratio;
}
template <int P>
LAPLEX_HOST_DEVICE inline Dual times_ratio(Dual u, Dual /*v*/, Dual ratio) {
  return P == 1 ? u * ratio : u * ratio * ratio;
}
template <int P, class N>
LAPLEX_HOST_DEVICE inline Slopes<N> times_ratio(const Slopes<N>& u, const Slopes<N>& v,
                                                const N& ratio) {
  const N power = P == 1 ? ratio : ratio * ratio;
  const N by_u = N(P + 1.0) * power;
  const N by_v = N(-P) * (power * ratio);
  return {u.value * power, by_u * u.by[0] + by_v * v.by[0], by_u * u.by[1] + by_v * v.by[1]};
}

/// Across a gap of u = gamma d and v = omega d; `u_low` and `v_low` are what their values leave
/// out, and `damping` is u / v, which gaps of 0 do not show.
///
/// With kappa = v^2 - u^2, C = cos(sqrt(kappa)) and S = sin(sqrt(kappa)) / sqrt(kappa), the
/// integrals that make Q are those of exp(-2 u s) times squares of C and S. They follow from J (see
/// short_integral()) and from c = exp(-u) C and s = exp(-u) S in positive terms, but for c where
/// the oscillator is underdamped. Where it does not cancel, v^2 J = ((1 - exp(-2 u)) / (2 u) - s c
/// - u s^2) / 2.
template <class N, class M>
LAPLEX_HOST_DEVICE inline void cross(const N& u, const N& v, double u_low, double v_low,
                                     const M& damping, Oscillator<N>& t) {
  const double size = value(u) > value(v) ? value(u) : value(v);
  const N kappa = (v - u) * (v + u);
  const double k = value(kappa);
  const N decay = exponential(-u);
  const N eta = k < -0.25 ? root(-kappa) : N(0.0);
  const N slow = k < -0.25 ? v / (u + eta) * v : u;
  N c;
  N s;
  if (k < -1.0) {
    const N fast = u + eta;
    const N by_slow = exponential(-slow);
    const N by_fast = exponential(-fast);
    const N half = N(0.5) / eta;
    c = 0.5 * (by_slow + by_fast);
    s = half * (by_slow - by_fast);
    t.a[0] = half * (fast * by_slow - slow * by_fast);
    t.a[3] = half * (fast * by_fast - slow * by_slow);
  } else {
    if (k > 1.0) {
      const N angle = root(kappa);
      const double rest = angle_rest(value(u), value(v), value(angle), u_low, v_low);
      sine_cosine(angle, rest, s, c);
      s = decay * (s / angle);
      c = decay * c;
    } else {
      const double part = k < 0.0 ? -k : k;
      c = N(1.0);
      s = N(1.0);
      for (int m = part < 1e-3 ? 4 : part < 1.0 / 16 ? 6 : 10; m > 0; --m) {
        c = N(1.0) - (1.0 / (2 * m * (2 * m - 1))) * kappa * c;
        s = N(1.0) - (1.0 / (2 * m * (2 * m + 1))) * kappa * s;
      }
      c = decay * c;
      s = decay * s;
    }
    t.a[0] = c + u * s;
    t.a[3] = c - u * s;
  }
  t.a[1] = v * s;
  t.a[2] = -t.a[1];
  const N square = s * s;
  const N both = s * c;
  N vvj;  // v^2 J
  if (size <= 1.0) {
    vvj = v * v * short_integral(u, kappa, decay, size);
  } else if (value(slow) < 0.5 && k < -0.25) {
    const N difference =
        mean_decay(2.0 * slow) - 2.0 * mean_decay(2.0 * u) + mean_decay(2.0 * (u + eta));
    vvj = v * v * difference / (4.0 * eta * eta);
  } else {
    vvj = 0.5 * (mean_decay(2.0 * u) - both - u * square);
  }
  const N two_u = 2.0 * u;
  const N second = both + vvj;  // int_0^1 exp(-2 u s) (C - u S)^2 ds
  t.second[0] = two_u * vvj;
  t.second[1] = u * v * square;
  t.second[2] = two_u * second;
  t.first[0] = t.second[2];
  t.first[1] = -(4.0 * times_ratio<1>(u, v, damping) * second + t.second[1]);
  t.first[2] = 8.0 * times_ratio<2>(u, v, damping) * second + two_u * (two_u * square + vvj);
}

/// Across an infinite gap: A = 0, and Q is the stationary covariance.
template <class N>
LAPLEX_HOST_DEVICE inline void cross_infinity(const N& gamma, const N& omega, Oscillator<N>& t) {
  const N damping = gamma / omega;
  for (N& a : t.a) {
    a = N(0.0);
  }
  t.first[0] = N(0.5);
  t.first[1] = -damping;
  t.first[2] = N(0.5) + 2.0 * damping * damping;
  t.second[0] = N(0.5);
  t.second[1] = N(0.0);
  t.second[2] = N(0.5);
}

/// Across a gap of u = r d.
template <class N>
LAPLEX_HOST_DEVICE inline void cross(const N& u, Matern52<N>& t) {
  // With M = F / r + 1, M^3 = 0: A = exp(-u) (1 + u M + u^2 / 2 M^2).
  constexpr double kOnce[9] = {1, 1, 0, 0, 1, 1, -1, -3, -2};
  constexpr double kTwice[9] = {1, 2, 1, -1, -2, -1, 1, 2, 1};
  const N decay = exponential(-u);
  const N once = decay * u;
  const N twice = 0.5 * (once * u);
  for (int k = 0; k < 9; ++k) {
    t.a[k] = kOnce[k] * once + kTwice[k] * twice;
  }
  for (int k = 0; k < 9; k += 4) {
    t.a[k] += decay;
  }
  // i[k] = int_0^u exp(-2 s) s^k ds, downwards in positive terms.
  const N square = decay * decay;
  N i[5];
  N power[5] = {square};  // u^k exp(-2 u)
  for (int k = 1; k < 5; ++k) {
    power[k] = u * power[k - 1];
  }
  if (value(u) < 2.0) {
    N term = N(0.2);
    N sum = term;
    for (int m = 6; m < (value(u) < 0.125 ? 18 : 40); ++m) {
      term = (2.0 / m) * (u * term);
      sum += term;
    }
    i[4] = power[4] * u * sum;
  } else {
    const N x = 2.0 * u;
    const N rest = N(1.0) + x * (N(1.0) + 0.5 * x * (N(1.0) + (1.0 / 3) * x * (N(1.0) + 0.25 * x)));
    i[4] = 0.75 * (N(1.0) - square * rest);
  }
  for (int k = 4; k > 0; --k) {
    i[k - 1] = (1.0 / k) * (2.0 * i[k] + power[k]);
  }
  const N b1 = u - 0.5 * u * u;
  constexpr double kDensity = 16.0 / 3.0;
  t.q[0] = 0.25 * kDensity * i[4];
  t.q[1] = 0.125 * kDensity * power[4];
  t.q[2] = kDensity * (i[2] - i[3] + 0.25 * i[4]);
  t.q[3] = kDensity * (0.5 * i[2] - i[3] + 0.25 * i[4]);
  t.q[4] = 0.5 * kDensity * (b1 * b1 * square);
  t.q[5] = kDensity * (i[0] - 4.0 * i[1] + 5.0 * i[2] - 2.0 * i[3] + 0.25 * i[4]);
}

template <class N>
LAPLEX_HOST_DEVICE inline void cross_infinity(Matern52<N>& t) {
  for (N& a : t.a) {
    a = N(0.0);
  }
  constexpr double kStationary[6] = {1.0, 0.0, 1.0 / 3.0, -1.0 / 3.0, 0.0, 1.0};
  for (int k = 0; k < 6; ++k) {
    t.q[k] = N(kStationary[k]);
  }
}

}  // namespace laplex::detail
