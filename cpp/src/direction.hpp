/// What a scan with moments in one direction (scan these anchors, read off at those) needs: the
/// sorted anchors, the decays between them and the places to look up.
#pragma once

#include "cells.hpp"
#include "decays.hpp"

#include <cstdint>
#include <vector>

namespace laplex::detail {

/// Positions in ascending order and where each came from.
struct SortedAnchors {
  std::vector<double> position;
  std::vector<std::int64_t> index;  ///< the index before sorting

  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(position.size()); }
};

/// D is double or, with a frequency, Complex.
///
/// A read-off point at x looks up three places of the scanned line: the last anchor at or below it
/// (left), the last strictly below (strict) and the first above (right). Where x is tied with a
/// scanned anchor those decays are 1 and two gaps, so only untied points store their own, and the
/// self case stores none.
template <class D>
struct Direction {
  SortedAnchors from;               ///< [m]
  SortedAnchors to;                 ///< [n]
  Decays<D> decays;                 ///< of the scan over `from`
  std::vector<std::int64_t> below;  ///< [n] number of scanned anchors < x
  std::vector<std::int64_t> upto;   ///< [n] number of scanned anchors <= x
  std::vector<D> left;              ///< [n] or empty: decay from anchor upto - 1 to x
  std::vector<D> right;             ///< [n] or empty: decay from x to anchor upto

  [[nodiscard]] Line<D> line(Rate rate) const {
    return {from.position.data(), from.size(), &decays, rate};
  }
  [[nodiscard]] std::int64_t nbytes() const;
};

template <class T, class D>
[[nodiscard]] Direction<D> make_direction(const Cells<T>& cells, bool transposed, Rate rate,
                                          int threads);

}  // namespace laplex::detail
