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

/// 1 / k, for k > 0. N keeps apart what is compiled for several instruction sets.
template <class N>
LAPLEX_HOST_DEVICE inline double inverse(int k) {
#if defined(__CUDA_ARCH__)
  return 1.0 / k;
#else
  static constexpr double kInverse[] = {
      0.0,      1.0,      1.0 / 2,  1.0 / 3,  1.0 / 4,  1.0 / 5,  1.0 / 6,  1.0 / 7,
      1.0 / 8,  1.0 / 9,  1.0 / 10, 1.0 / 11, 1.0 / 12, 1.0 / 13, 1.0 / 14, 1.0 / 15,
      1.0 / 16, 1.0 / 17, 1.0 / 18, 1.0 / 19, 1.0 / 20, 1.0 / 21, 1.0 / 22, 1.0 / 23,
      1.0 / 24, 1.0 / 25, 1.0 / 26, 1.0 / 27, 1.0 / 28, 1.0 / 29, 1.0 / 30, 1.0 / 31,
      1.0 / 32, 1.0 / 33, 1.0 / 34, 1.0 / 35, 1.0 / 36, 1.0 / 37, 1.0 / 38, 1.0 / 39};
  return kInverse[k];
#endif
}

/// (1 - exp(-x)) / x, the mean of exp(-x s) over 0 < s < 1.
template <class N>
LAPLEX_HOST_DEVICE inline N mean_decay(const N& x) {
  if (value(x) >= 0.5) {
    return (N(1.0) - exponential(-x)) / x;
  }
  N sum = N(1.0);
  for (int k = 15; k > 1; --k) {
    sum = N(1.0) - inverse<N>(k) * x * sum;
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

/// The terms of series up to which a gap of u, v <= size, size <= 1, needs them.
struct Terms {
  int exponential;
  int trigonometric;
  int pairs;
  int moment;
};

LAPLEX_HOST_DEVICE inline Terms terms_for(double size) {
  return size < 1e-3       ? Terms{6, 3, 3, 6}
         : size < 1.0 / 64 ? Terms{8, 4, 5, 8}
         : size < 0.25     ? Terms{13, 6, 8, 14}
                           : Terms{19, 10, 13, 22};
}

/// C and S, with C = cos(sqrt(kappa)) and S = sin(sqrt(kappa)) / sqrt(kappa), for |kappa| <= 1.
template <class N>
LAPLEX_HOST_DEVICE inline void small_angle(const N& kappa, int terms, N& c, N& s) {
  c = N(1.0);
  s = N(1.0);
  for (int m = 2 * terms; m > 0; m -= 2) {
    c = N(1.0) - inverse<N>(m) * inverse<N>(m - 1) * (kappa * c);
    s = N(1.0) - inverse<N>(m) * inverse<N>(m + 1) * (kappa * s);
  }
}

/// exp(-x) for 0 <= x <= 1.
template <class N>
LAPLEX_HOST_DEVICE inline N small_decay(const N& x, int terms) {
  N sum = N(1.0);
  for (int k = terms; k > 0; --k) {
    sum = N(1.0) - inverse<N>(k) * (x * sum);
  }
  return sum;
}

/// J = int_0^1 exp(-2 u s) S(s)^2 ds for u, v <= 1, with S(s) = sin(sqrt(kappa) s) / sqrt(kappa):
/// exp(-2 u) times a power series in 2 u and -4 kappa, whose terms have one sign where the
/// oscillator is overdamped and hardly cancel elsewhere.
template <class N>
LAPLEX_HOST_DEVICE inline N short_integral(const N& u, const N& kappa, const N& decay, int pairs) {
  const N two_u = 2.0 * u;
  const N step = -4.0 * kappa;
  N source = N(1.0);
  N term = N(inverse<N>(3));
  N sum = term;
  for (int m = 3; m < 3 + 2 * pairs; m += 2) {
    term = inverse<N>(m + 1) * (two_u * term);
    sum += term;
    source = inverse<N>(m) * inverse<N>(m + 1) * (step * source);
    term = inverse<N>(m + 2) * (two_u * term + source);
    sum += term;
  }
  return decay * decay * sum;
}

/// u (u / v)^P, from u / v = ratio also where u and v are 0.
template <int P, class N>
LAPLEX_HOST_DEVICE inline N times_ratio(const N& u, const N& /*v*/, const N& ratio) {
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

/// With kappa = v^2 - u^2, C = cos(sqrt(kappa)) and S = sin(sqrt(kappa)) / sqrt(kappa), the
/// integrals that make Q are those of exp(-2 u s) times squares of C and S. They follow from v^2 J
/// (see short_integral()) and from c = exp(-u) C and s = exp(-u) S in positive terms, but for c
/// where the oscillator is underdamped.
template <class N, class M>
LAPLEX_HOST_DEVICE inline void finish(const N& u, const N& v, const N& c, const N& s, const N& vvj,
                                      const M& damping, Oscillator<N>& t) {
  const N square = s * s;
  const N two_u = 2.0 * u;
  const N second = s * c + vvj;  // int_0^1 exp(-2 u s) (C - u S)^2 ds
  t.a[1] = v * s;
  t.a[2] = -t.a[1];
  t.second[0] = two_u * vvj;
  t.second[1] = u * v * square;
  t.second[2] = two_u * second;
  t.first[0] = t.second[2];
  t.first[1] = -(4.0 * (times_ratio<1>(u, v, damping) * second) + t.second[1]);
  t.first[2] = 8.0 * (times_ratio<2>(u, v, damping) * second) + two_u * (two_u * square + vvj);
}

/// Across a gap of u, v <= 1; `damping` is u / v, which gaps of 0 do not show.
template <class N, class M>
LAPLEX_HOST_DEVICE inline void cross_short(const N& u, const N& v, const M& damping,
                                           const Terms& terms, Oscillator<N>& t) {
  const N kappa = (v - u) * (v + u);
  const N decay = small_decay(u, terms.exponential);
  N c;
  N s;
  small_angle(kappa, terms.trigonometric, c, s);
  c = decay * c;
  s = decay * s;
  t.a[0] = c + u * s;
  t.a[3] = c - u * s;
  const N vvj = v * v * short_integral(u, kappa, decay, terms.pairs);
  finish(u, v, c, s, vvj, damping, t);
}

/// Across a gap of u = gamma d and v = omega d; `u_low` and `v_low` are what their values leave
/// out. Where it does not cancel, v^2 J = ((1 - exp(-2 u)) / (2 u) - s c - u s^2) / 2.
template <class N, class M>
LAPLEX_HOST_DEVICE inline void cross(const N& u, const N& v, double u_low, double v_low,
                                     const M& damping, Oscillator<N>& t) {
  const double size = value(u) > value(v) ? value(u) : value(v);
  if (size <= 1.0) {
    return cross_short(u, v, damping, terms_for(size), t);
  }
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
      s = s / angle;
    } else {
      small_angle(kappa, terms_for(1.0).trigonometric, c, s);
    }
    c = decay * c;
    s = decay * s;
    t.a[0] = c + u * s;
    t.a[3] = c - u * s;
  }
  N vvj;
  if (value(slow) < 0.5 && k < -0.25) {
    const N difference =
        mean_decay(2.0 * slow) - 2.0 * mean_decay(2.0 * u) + mean_decay(2.0 * (u + eta));
    vvj = v * v * difference / (4.0 * eta * eta);
  } else {
    vvj = 0.5 * (mean_decay(2.0 * u) - s * c - u * (s * s));
  }
  finish(u, v, c, s, vvj, damping, t);
}

/// cross_short() with the derivatives by u and by v, in closed form.
template <class N, class M>
LAPLEX_HOST_DEVICE inline void cross_short(const N& u, const N& v, const M& damping,
                                           const Terms& terms, Oscillator<N>& t,
                                           Oscillator<N>& by_u, Oscillator<N>& by_v) {
  const N kappa = (v - u) * (v + u);
  const N decay = small_decay(u, terms.exponential);
  N c = N(1.0);
  N s = N(1.0);
  N f = N(0.0);  // exp(u) f = -dS / dkappa
  for (int m = 2 * terms.trigonometric; m > 0; m -= 2) {
    const double inner = inverse<N>(m) * inverse<N>(m + 1);
    c = N(1.0) - inverse<N>(m) * inverse<N>(m - 1) * (kappa * c);
    f = inner * (s - kappa * f);
    s = N(1.0) - inner * (kappa * s);
  }
  c = decay * c;
  s = decay * s;
  f = decay * f;
  // J as in short_integral(), its derivative by kappa, and K = int_0^1 s exp(-2 u s) S(s)^2 ds.
  const N two_u = 2.0 * u;
  const N step = -4.0 * kappa;
  N source = N(1.0);
  N source_k = N(0.0);
  N term = N(inverse<N>(3));
  N term_k = N(0.0);
  N moment = N(0.25);
  N sum = term;
  N sum_k = N(0.0);
  N sum_moment = moment;
  for (int m = 3; m < 3 + 2 * terms.pairs; m += 2) {
    const double inner = inverse<N>(m) * inverse<N>(m + 1);
    source_k = inner * (step * source_k - 4.0 * source);
    source = inner * (step * source);
    term = inverse<N>(m + 1) * (two_u * term);
    sum += term;
    term = inverse<N>(m + 2) * (two_u * term + source);
    sum += term;
    term_k = inverse<N>(m + 1) * (two_u * term_k);
    sum_k += term_k;
    term_k = inverse<N>(m + 2) * (two_u * term_k + source_k);
    sum_k += term_k;
    moment = inverse<N>(m + 2) * (two_u * moment);
    sum_moment += moment;
    moment = inverse<N>(m + 3) * (two_u * moment + source);
    sum_moment += moment;
  }
  const N square_decay = decay * decay;
  const N vv = v * v;
  const N vvj = vv * (square_decay * sum);
  const N j_k = square_decay * sum_k;
  const N vvj_u = -2.0 * (vv * (square_decay * sum_moment + u * j_k));
  const N vvj_v = 2.0 * (v * (square_decay * sum + vv * j_k));
  t.a[0] = c + u * s;
  t.a[3] = c - u * s;
  finish(u, v, c, s, vvj, damping, t);

  const N us = u * s;
  const N vs = v * s;
  const N uf = 2.0 * (u * f);
  const N vf = 2.0 * (v * f);
  const N c_u = us - c;
  const N s_u = uf - s;
  by_u.a[0] = c_u + s + u * s_u;
  by_u.a[1] = v * s_u;
  by_u.a[2] = -by_u.a[1];
  by_u.a[3] = c_u - s - u * s_u;
  by_v.a[0] = -(vs + u * vf);
  by_v.a[1] = s - v * vf;
  by_v.a[2] = -by_v.a[1];
  by_v.a[3] = u * vf - vs;
  const N square = s * s;
  const N square_u = 2.0 * (s * s_u);
  const N square_v = -2.0 * (s * vf);
  const N second = s * c + vvj;
  const N second_u = s_u * c + s * c_u + vvj_u;
  const N second_v = vvj_v - vf * c - s * vs;
  by_u.second[0] = 2.0 * (vvj + u * vvj_u);
  by_v.second[0] = two_u * vvj_v;
  by_u.second[1] = v * (square + u * square_u);
  by_v.second[1] = u * (square + v * square_v);
  by_u.second[2] = 2.0 * (second + u * second_u);
  by_v.second[2] = two_u * second_v;
  by_u.first[0] = by_u.second[2];
  by_v.first[0] = by_v.second[2];
  const N ratio = N(1.0) * damping;
  const N once = u * ratio;  // u^2 / v, and then u^3 / v^2
  const N twice = once * ratio;
  by_u.first[1] = -(4.0 * (2.0 * (ratio * second) + once * second_u) + by_u.second[1]);
  by_v.first[1] = -(4.0 * (once * second_v - ratio * (ratio * second)) + by_v.second[1]);
  by_u.first[2] = 8.0 * (3.0 * (ratio * (ratio * second)) + twice * second_u) +
                  4.0 * (u * (2.0 * square + u * square_u)) + by_u.second[0];
  by_v.first[2] = 8.0 * (twice * second_v - 2.0 * (ratio * (ratio * (ratio * second)))) +
                  4.0 * (u * u * square_v) + by_v.second[0];
}

/// A matrix of two columns times its like.
template <class N>
LAPLEX_HOST_DEVICE inline void multiply(const N (&x)[4], const N (&y)[4], N (&out)[4]) {
  for (int r = 0; r < 4; r += 2) {
    for (int c = 0; c < 2; ++c) {
      out[r + c] = x[r] * y[c] + x[r + 1] * y[c + 2];
    }
  }
}

/// out += x Q y^T + y Q x^T, or x Q x^T where `y` is null; packed.
template <class N>
LAPLEX_HOST_DEVICE inline void add_across(const N (&x)[4], const N* y, const N (&q)[3],
                                          N (&out)[3]) {
  const N a = x[0] * q[0] + x[1] * q[1];
  const N b = x[0] * q[1] + x[1] * q[2];
  const N c = x[2] * q[0] + x[3] * q[1];
  const N d = x[2] * q[1] + x[3] * q[2];
  if (y == nullptr) {
    out[0] += a * x[0] + b * x[1];
    out[1] += a * x[2] + b * x[3];
    out[2] += c * x[2] + d * x[3];
  } else {
    out[0] += 2.0 * (a * y[0] + b * y[1]);
    out[1] += a * y[2] + b * y[3] + c * y[0] + d * y[1];
    out[2] += 2.0 * (c * y[2] + d * y[3]);
  }
}

/// Doubles the gap: A^2, and A Q A^T + Q in positive terms.
template <class N>
LAPLEX_HOST_DEVICE inline void double_gap(Oscillator<N>& t) {
  const Oscillator<N> once = t;
  multiply(once.a, once.a, t.a);
  add_across<N>(once.a, nullptr, once.first, t.first);
  add_across<N>(once.a, nullptr, once.second, t.second);
}

/// The same of derivatives by a number in units of which the gap stays as it is.
template <class N>
LAPLEX_HOST_DEVICE inline void double_gap(const Oscillator<N>& t, Oscillator<N>& by) {
  const Oscillator<N> once = by;
  N other[4];
  multiply(once.a, t.a, by.a);
  multiply(t.a, once.a, other);
  for (int k = 0; k < 4; ++k) {
    by.a[k] += other[k];
  }
  add_across<N>(t.a, nullptr, once.first, by.first);
  add_across<N>(t.a, nullptr, once.second, by.second);
  add_across<N>(t.a, once.a, t.first, by.first);
  add_across<N>(t.a, once.a, t.second, by.second);
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

/// int_0^u exp(-2 s) s^4 ds for u < 2, from decay = exp(-u).
template <class N>
LAPLEX_HOST_DEVICE inline N short_moment(const N& u, const N& decay, int terms) {
  N term = N(inverse<N>(5));
  N sum = term;
  for (int m = 6; m < 6 + terms; ++m) {
    term = 2.0 * inverse<N>(m) * (u * term);
    sum += term;
  }
  const N power = u * u * decay;
  return u * (power * power * sum);
}

/// From decay = exp(-u) and moment = int_0^u exp(-2 s) s^4 ds.
template <class N>
LAPLEX_HOST_DEVICE inline void finish(const N& u, const N& decay, const N& moment, Matern52<N>& t) {
  // With M = F / r + 1, M^3 = 0: A = exp(-u) (1 + u M + u^2 / 2 M^2).
  const N once = decay * u;
  const N twice = 0.5 * (once * u);
  t.a[0] = decay + once + twice;
  t.a[1] = once + 2.0 * twice;
  t.a[2] = twice;
  t.a[3] = -twice;
  t.a[4] = decay + once - 2.0 * twice;
  t.a[5] = once - twice;
  t.a[6] = twice - once;
  t.a[7] = 2.0 * twice - 3.0 * once;
  t.a[8] = decay - 2.0 * once + twice;
  // int_0^u exp(-2 s) s^k ds for k = 3, .., 0, in positive terms.
  const N square = decay * decay;
  const N power1 = u * square;
  const N power2 = u * power1;
  const N power3 = u * power2;
  const N power4 = u * power3;
  const N moment3 = 0.25 * (2.0 * moment + power4);
  const N moment2 = inverse<N>(3) * (2.0 * moment3 + power3);
  const N moment1 = 0.5 * (2.0 * moment2 + power2);
  const N moment0 = 2.0 * moment1 + power1;
  const N b1 = once - twice;
  constexpr double kDensity = 16.0 / 3.0;
  const N quarter = 0.25 * moment;
  t.q[0] = kDensity * quarter;
  t.q[1] = 0.125 * kDensity * power4;
  t.q[2] = kDensity * (moment2 - moment3 + quarter);
  t.q[3] = kDensity * (0.5 * moment2 - moment3 + quarter);
  t.q[4] = 0.5 * kDensity * (b1 * b1);
  t.q[5] = kDensity * (moment0 - 4.0 * moment1 + 5.0 * moment2 - 2.0 * moment3 + quarter);
}

/// The derivatives by u: dA = F A, and dQ is what A makes of the noise, which drives the last
/// number of the state.
template <class N>
LAPLEX_HOST_DEVICE inline void slopes_of(const Matern52<N>& t, Matern52<N>& by_u) {
  for (int k = 0; k < 6; ++k) {
    by_u.a[k] = t.a[k + 3];
  }
  for (int k = 0; k < 3; ++k) {
    by_u.a[k + 6] = -(t.a[k] + 3.0 * (t.a[k + 3] + t.a[k + 6]));
  }
  for (int c = 0; c < 3; ++c) {
    for (int r = 0; r <= c; ++r) {
      by_u.q[c * (c + 1) / 2 + r] = 16.0 / 3.0 * (t.a[3 * r + 2] * t.a[3 * c + 2]);
    }
  }
}

/// Across a gap of u = r d <= 1.
template <class N>
LAPLEX_HOST_DEVICE inline void cross_short(const N& u, const Terms& terms, Matern52<N>& t) {
  const N decay = small_decay(u, terms.exponential);
  finish(u, decay, short_moment(u, decay, terms.moment), t);
}

/// Across a gap of u = r d.
template <class N>
LAPLEX_HOST_DEVICE inline void cross(const N& u, Matern52<N>& t) {
  if (value(u) <= 1.0) {
    return cross_short(u, terms_for(value(u)), t);
  }
  const N decay = exponential(-u);
  if (value(u) < 2.0) {
    return finish(u, decay, short_moment(u, decay, 33), t);
  }
  const N x = 2.0 * u;
  const N rest =
      N(1.0) + x * (N(1.0) + 0.5 * x * (N(1.0) + inverse<N>(3) * (x * (N(1.0) + 0.25 * x))));
  finish(u, decay, 0.75 * (N(1.0) - decay * decay * rest), t);
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
