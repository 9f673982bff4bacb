/// A number with its derivative along one direction, for derivatives of derivatives.
#pragma once

#include <laplex/detail/host_device.hpp>

#include <cmath>

namespace laplex::detail {

struct Dual {
  double value;
  double slope;

  Dual() = default;
  // Implicit as for any wider type of number: formulas mix it with constants.
  LAPLEX_HOST_DEVICE Dual(double v, double s = 0.0) : value(v), slope(s) {}  // NOLINT
};

LAPLEX_HOST_DEVICE inline Dual operator+(Dual a, Dual b) {
  return {a.value + b.value, a.slope + b.slope};
}
LAPLEX_HOST_DEVICE inline Dual operator-(Dual a, Dual b) {
  return {a.value - b.value, a.slope - b.slope};
}
LAPLEX_HOST_DEVICE inline Dual operator-(Dual a) {
  return {-a.value, -a.slope};
}
LAPLEX_HOST_DEVICE inline Dual operator*(Dual a, Dual b) {
  return {a.value * b.value, a.value * b.slope + a.slope * b.value};
}
LAPLEX_HOST_DEVICE inline Dual operator/(Dual a, Dual b) {
  const double q = a.value / b.value;
  return {q, (a.slope - q * b.slope) / b.value};
}
LAPLEX_HOST_DEVICE inline Dual& operator+=(Dual& a, Dual b) {
  return a = a + b;
}
LAPLEX_HOST_DEVICE inline Dual& operator-=(Dual& a, Dual b) {
  return a = a - b;
}
LAPLEX_HOST_DEVICE inline double value(double a) {
  return a;
}
LAPLEX_HOST_DEVICE inline double value(Dual a) {
  return a.value;
}
/// The change alone: a number of value 0.
LAPLEX_HOST_DEVICE inline double change_of(double) {
  return 0.0;
}
LAPLEX_HOST_DEVICE inline Dual change_of(Dual a) {
  return {0.0, a.slope};
}

}  // namespace laplex::detail
