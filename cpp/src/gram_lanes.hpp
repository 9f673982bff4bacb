/// Several numbers that go through the same formulas together.
#pragma once

#include <algorithm>
#include <cstdint>

namespace laplex::detail {

/// Segments that go along the line together. A step waits for a division; of eight at a time, most
/// of the waiting is over.
constexpr std::int64_t kSide = 8;

/// A number of each of kSide segments, or points.
struct alignas(64) Lanes {
  double lane[kSide];

  Lanes() = default;
  Lanes(double x) {  // NOLINT(google-explicit-constructor): as constants mix with numbers
    std::fill(lane, lane + kSide, x);
  }
};

template <class F>
Lanes each(const F& f) {
  Lanes out;
  for (int l = 0; l < kSide; ++l) {
    out.lane[l] = f(l);
  }
  return out;
}

inline Lanes operator+(const Lanes& a, const Lanes& b) {
  return each([&](int l) { return a.lane[l] + b.lane[l]; });
}
inline Lanes operator-(const Lanes& a, const Lanes& b) {
  return each([&](int l) { return a.lane[l] - b.lane[l]; });
}
inline Lanes operator*(const Lanes& a, const Lanes& b) {
  return each([&](int l) { return a.lane[l] * b.lane[l]; });
}
inline Lanes operator/(const Lanes& a, const Lanes& b) {
  return each([&](int l) { return a.lane[l] / b.lane[l]; });
}
inline Lanes operator-(const Lanes& a) {
  return each([&](int l) { return -a.lane[l]; });
}
inline void operator+=(Lanes& a, const Lanes& b) {
  a = a + b;
}
/// Segments have observed points alone, see run_filter().
inline double value(const Lanes& a) {
  return a.lane[0];
}
inline Lanes change_of(const Lanes& /*a*/) {
  return 0.0;
}

inline double& at(double& x, int /*lane*/) {
  return x;
}
inline double& at(Lanes& x, int lane) {
  return x.lane[lane];
}

}  // namespace laplex::detail
