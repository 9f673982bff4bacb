// The one body of the transitions. Each level's file compiles it into a namespace of its own.
#include "../kernels/pack.hpp"

#include "gram_kernels.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

/// A Pack as a number: it mixes with constants.
struct PackNumber {
  Pack<double> pack;

  PackNumber() = default;
  LAPLEX_INLINE PackNumber(const Pack<double>& p) : pack(p) {}    // NOLINT
  LAPLEX_INLINE PackNumber(double x) : pack(splat<double>(x)) {}  // NOLINT

  LAPLEX_INLINE friend PackNumber operator+(const PackNumber& a, const PackNumber& b) {
    return a.pack + b.pack;
  }
  LAPLEX_INLINE friend PackNumber operator-(const PackNumber& a, const PackNumber& b) {
    return a.pack - b.pack;
  }
  LAPLEX_INLINE friend PackNumber operator*(const PackNumber& a, const PackNumber& b) {
    return a.pack * b.pack;
  }
  LAPLEX_INLINE friend PackNumber operator-(const PackNumber& a) { return PackNumber(0.0) - a; }
  LAPLEX_INLINE friend void operator+=(PackNumber& a, const PackNumber& b) { a = a + b; }
};

LAPLEX_INLINE void put(const PackNumber* numbers, int count, std::int64_t stride, double* to) {
  for (int k = 0; k < count; ++k) {
    store(to + k * stride, numbers[k].pack);
  }
}
LAPLEX_INLINE void put(const Oscillator<PackNumber>& t, std::int64_t stride, double* to) {
  put(t.a, 4, stride, to);
  put(t.first, 3, stride, to + 4 * stride);
  put(t.second, 3, stride, to + 7 * stride);
}
LAPLEX_INLINE void put(const Matern52<PackNumber>& t, std::int64_t stride, double* to) {
  put(t.a, 9, stride, to);
  put(t.q, 6, stride, to + 9 * stride);
}

void transitions(const ShortGaps& gaps, const Terms& terms, std::int64_t stride, double* values,
                 double* by_u, double* by_v);
// NOLINTNEXTLINE(misc-definitions-in-headers): each level's file has it in a namespace of its own
void transitions(const ShortGaps& gaps, const Terms& terms, std::int64_t stride, double* values,
                 double* by_u, double* by_v) {
  const PackNumber u = load(gaps.u);
  if (gaps.size == 3) {
    Matern52<PackNumber> t;
    cross_short(u, terms, t);
    put(t, stride, values);
    if (by_u != nullptr) {
      Matern52<PackNumber> by;
      slopes_of(t, by);
      put(by, stride, by_u);
    }
    return;
  }
  const PackNumber v = load(gaps.v);
  const PackNumber damping = gaps.damping;
  const std::int64_t numbers = 10 * stride;
  Oscillator<PackNumber> t;
  if (by_u == nullptr) {
    cross_short(u, v, damping, terms, t);
    put(t, stride, values);
    for (int m = 1; m <= gaps.doublings; ++m) {
      double_gap(t);
      put(t, stride, values + m * numbers);
    }
    return;
  }
  Oscillator<PackNumber> first;
  Oscillator<PackNumber> second;
  cross_short(u, v, damping, terms, t, first, second);
  for (int m = 0;; ++m) {
    put(t, stride, values + m * numbers);
    put(first, stride, by_u + m * numbers);
    put(second, stride, by_v + m * numbers);
    if (m == gaps.doublings) {
      return;
    }
    double_gap(t, first);
    double_gap(t, second);
    double_gap(t);
  }
}

}  // namespace laplex::detail::LAPLEX_LEVEL
