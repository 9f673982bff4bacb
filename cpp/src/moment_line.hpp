/// The line of a head's cells as moments see it.
#pragma once

#include "cells.hpp"
#include "decays.hpp"

#include <cstdint>
#include <vector>

namespace laplex::detail {

/// Sums from the left go from the last anchor of a cell to that of the next, and sums from the
/// right from first to first. D is double or Complex.
template <class D>
struct MomentLine {
  std::vector<double> first;
  std::vector<double> last;
  std::vector<D> enter;  ///< the decay from a cell's first anchor to its centre
  std::vector<D> leave;  ///< the decay from its centre to its last anchor
  /// [cells + 1] the decay from the last anchor of a cell to the first of the next
  std::vector<D> gap;
  FarPoints far;  ///< last anchors of cells from the left, first ones from the right
  Decays<D> of_last;
  Decays<D> of_first;

  [[nodiscard]] std::int64_t nbytes() const {
    return bytes(first) + bytes(last) + bytes(enter) + bytes(leave) + bytes(gap) +
           of_last.nbytes() + of_first.nbytes();
  }
};

template <class T, class D>
[[nodiscard]] MomentLine<D> make_moment_line(const Cells<T>& cells, int threads);

}  // namespace laplex::detail
