/// Reads the scanned sums off at the other side's anchors.
#pragma once

#include "direction.hpp"

#include <laplex/plan.hpp>

namespace laplex::detail {

/// Scans values [m][W] (sorted order) along the line of `direction` from both sides and reads the
/// sums of `term`, whose moment is not 0, off at its points: out [n][W], sorted order. W lanes are
/// independent vectors that share the decays.
template <int W, class D, class S>
void scan_and_read(Term term, const Direction<D>& direction, Rate rate, const S* values, S* out,
                   int threads);

}  // namespace laplex::detail
