/// The leading bits of many terms at a time.
#pragma once

#include "pack.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

/// Splits each term into the nearest multiple of the last place of `anchor`, a power of two times
/// 1.5, and a rest, which takes its place. Returns the sum of the multiples; it and the rests are
/// exact if the terms are few and small enough beside `anchor`. `largest` becomes that of the
/// rests.
inline double extract(double* terms, std::int64_t count, double anchor, double* largest) {
  constexpr std::int64_t kLanes = 8;
  double sum[kLanes] = {};
  double most[kLanes] = {};
  const auto split = [&](double* term, std::int64_t lane) {
    const double multiple = (*term + anchor) - anchor;
    const double rest = *term - multiple;
    const double size = rest < 0.0 ? -rest : rest;
    sum[lane] += multiple;
    most[lane] = most[lane] < size ? size : most[lane];
    *term = rest;
  };
  std::int64_t k = 0;
  for (; k + kLanes <= count; k += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) {
      split(terms + k + lane, lane);
    }
  }
  for (; k < count; ++k) {
    split(terms + k, 0);
  }
  *largest = 0.0;
  double total = 0.0;
  for (std::int64_t lane = 0; lane < kLanes; ++lane) {
    total += sum[lane];
    *largest = *largest < most[lane] ? most[lane] : *largest;
  }
  return total;
}

}  // namespace laplex::detail::LAPLEX_LEVEL
