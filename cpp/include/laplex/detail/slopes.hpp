/// A number with its derivatives by two variables, for the transitions of a state across a gap.
#pragma once

#include <laplex/detail/dual.hpp>
#include <laplex/detail/host_device.hpp>

#include <cmath>
#include <type_traits>

namespace laplex::detail {

/// N is double, or Dual for derivatives of these derivatives.
template <class N>
struct Slopes {
  N value;
  N by[2];

  Slopes() = default;
  // Implicit as for any wider type of number: formulas mix it with constants.
  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T> || std::is_same_v<T, N>>>
  LAPLEX_HOST_DEVICE Slopes(T v) : value(v), by{N(0.0), N(0.0)} {}  // NOLINT
  LAPLEX_HOST_DEVICE Slopes(const N& v, const N& first, const N& second)
      : value(v), by{first, second} {}

  LAPLEX_HOST_DEVICE friend Slopes operator+(const Slopes& a, const Slopes& b) {
    return {a.value + b.value, a.by[0] + b.by[0], a.by[1] + b.by[1]};
  }
  LAPLEX_HOST_DEVICE friend Slopes operator-(const Slopes& a, const Slopes& b) {
    return {a.value - b.value, a.by[0] - b.by[0], a.by[1] - b.by[1]};
  }
  LAPLEX_HOST_DEVICE friend Slopes operator-(const Slopes& a) {
    return {-a.value, -a.by[0], -a.by[1]};
  }
  LAPLEX_HOST_DEVICE friend Slopes operator*(const Slopes& a, const Slopes& b) {
    return {a.value * b.value, a.by[0] * b.value + a.value * b.by[0],
            a.by[1] * b.value + a.value * b.by[1]};
  }
  LAPLEX_HOST_DEVICE friend Slopes operator*(double a, const Slopes& b) {
    return {N(a) * b.value, N(a) * b.by[0], N(a) * b.by[1]};
  }
  LAPLEX_HOST_DEVICE friend Slopes operator/(const Slopes& a, const Slopes& b) {
    const N q = a.value / b.value;
    return {q, (a.by[0] - q * b.by[0]) / b.value, (a.by[1] - q * b.by[1]) / b.value};
  }
  LAPLEX_HOST_DEVICE friend Slopes& operator+=(Slopes& a, const Slopes& b) { return a = a + b; }
};

template <class N>
LAPLEX_HOST_DEVICE inline double value(const Slopes<N>& a) {
  return value(a.value);
}

/// f(x) from f and its derivative at the value of x.
LAPLEX_HOST_DEVICE inline Dual chain(double f, double derivative, Dual x) {
  return {f, derivative * x.slope};
}
template <class N>
LAPLEX_HOST_DEVICE inline Slopes<N> chain(N f, N derivative, const Slopes<N>& x) {
  return {f, derivative * x.by[0], derivative * x.by[1]};
}

LAPLEX_HOST_DEVICE inline double exponential(double x) {
  return std::exp(x);
}
LAPLEX_HOST_DEVICE inline Dual exponential(Dual x) {
  const double e = std::exp(x.value);
  return chain(e, e, x);
}
template <class N>
LAPLEX_HOST_DEVICE inline Slopes<N> exponential(const Slopes<N>& x) {
  const N e = exponential(x.value);
  return chain(e, e, x);
}

LAPLEX_HOST_DEVICE inline double root(double x) {
  return std::sqrt(x);
}
LAPLEX_HOST_DEVICE inline Dual root(Dual x) {
  const double r = std::sqrt(x.value);
  return chain(r, 0.5 / r, x);
}
template <class N>
LAPLEX_HOST_DEVICE inline Slopes<N> root(const Slopes<N>& x) {
  const N r = root(x.value);
  return chain(r, N(0.5) / r, x);
}

/// Sine and cosine of an angle and of a small rest that its value leaves out.
LAPLEX_HOST_DEVICE inline void sine_cosine(double angle, double rest, double& sine,
                                           double& cosine) {
  const double s = std::sin(angle);
  const double c = std::cos(angle);
  sine = s + c * rest;
  cosine = c - s * rest;
}
template <class N>
LAPLEX_HOST_DEVICE inline void sine_cosine(const N& angle, double rest, N& sine, N& cosine) {
  decltype(angle.value) s;
  decltype(angle.value) c;
  sine_cosine(angle.value, rest, s, c);
  sine = chain(s, c, angle);
  cosine = chain(c, -s, angle);
}

}  // namespace laplex::detail
