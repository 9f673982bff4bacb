/// A complex number whose product is the four-multiplication formula and nothing else.
///
/// std::complex's operator* must repair NaNs (C99 Annex G), which costs a library call per product
/// unless -ffast-math is given, and that flag is ruled out here: it breaks the error-free
/// differences of decay.hpp. The repair is not needed: every decay has modulus at most 1.
#pragma once

#include <laplex/detail/host_device.hpp>

namespace laplex::detail {

struct Complex {  // no initialisers: buffers of it may stay uninitialised until written
  double re;
  double im;
};

LAPLEX_HOST_DEVICE inline Complex operator+(Complex a, Complex b) {
  return {a.re + b.re, a.im + b.im};
}
LAPLEX_HOST_DEVICE inline Complex operator-(Complex a, Complex b) {
  return {a.re - b.re, a.im - b.im};
}
LAPLEX_HOST_DEVICE inline Complex operator*(Complex a, Complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
LAPLEX_HOST_DEVICE inline Complex operator*(double a, Complex b) {
  return {a * b.re, a * b.im};
}

LAPLEX_HOST_DEVICE inline Complex conj(Complex a) {
  return {a.re, -a.im};
}
LAPLEX_HOST_DEVICE inline double conj(double a) {
  return a;
}
LAPLEX_HOST_DEVICE inline double real(Complex a) {
  return a.re;
}
LAPLEX_HOST_DEVICE inline double real(double a) {
  return a;
}
LAPLEX_HOST_DEVICE inline double imag(Complex a) {
  return a.im;
}
LAPLEX_HOST_DEVICE inline double imag(double) {
  return 0.0;
}
LAPLEX_HOST_DEVICE inline bool is_zero(Complex a) {
  return a.re == 0.0 && a.im == 0.0;
}
LAPLEX_HOST_DEVICE inline bool is_zero(double a) {
  return a == 0.0;
}

}  // namespace laplex::detail
