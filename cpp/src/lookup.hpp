/// Reads the scanned sums off at the other side's anchors.
#pragma once

#include "direction.hpp"

#include <laplex/plan.hpp>

#include <cstdint>
#include <vector>

namespace laplex::detail {

/// One of the results that can be read off at a point.
enum class Reading { even, odd, strict, left, right };

[[nodiscard]] inline Reading reading_of(Parity parity) {
  return parity == Parity::even  ? Reading::even
         : parity == Parity::odd ? Reading::odd
                                 : Reading::strict;
}

/// Where a reading of a moment goes: out [n][W], in the sorted order of the points.
template <class S>
struct Tap {
  Reading reading;
  int moment;
  S* out;
};

/// Scans values [m][W] (sorted order) along the line of `direction` from both sides and reads
/// `taps` off at its points [n]. W lanes are independent vectors that share the decays; no tap's
/// moment exceeds `largest_moment`.
template <int W, class D, class S>
void scan_and_read(int largest_moment, const Direction<D>& direction, Rate rate, const S* values,
                   const std::vector<Tap<S>>& taps, int threads);

}  // namespace laplex::detail
