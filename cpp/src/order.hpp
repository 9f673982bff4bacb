/// The sorted order of the anchors of one head.
#pragma once

#include <cstdint>
#include <vector>

namespace laplex::detail {

/// Positions in ascending order and where each came from. Equal positions stand in the order of
/// their indices, so there is one right order, and a repaired order is the same as a fresh one.
struct SortedAnchors {
  std::vector<double> position;     ///< [count], ascending; -0 is stored as +0
  std::vector<std::int64_t> index;  ///< [count], the index before sorting

  [[nodiscard]] std::int64_t size() const { return static_cast<std::int64_t>(position.size()); }
  [[nodiscard]] std::int64_t nbytes() const { return size() * 16; }
};

/// Sorts `count` finite values. `hint`, if given, is an earlier order of as many anchors: it is
/// checked in one pass, repaired by insertion if few neighbours are exchanged, and dropped
/// otherwise.
template <class T>
SortedAnchors sort_anchors(const T* values, std::int64_t count, const SortedAnchors* hint);

}  // namespace laplex::detail
