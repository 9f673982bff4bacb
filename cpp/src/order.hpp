/// The sorted order of the anchors of one head, targets and sources together.
#pragma once

#include "array.hpp"
#include "record.hpp"

#include <cstdint>

namespace laplex::detail {

/// The most anchors of a head, both sides together: numbers of 32 bits count them, which is a third
/// of the memory of a plan.
inline constexpr std::int64_t kMostAnchors = (std::int64_t(1) << 32) - 2;

/// What is sorted: `count` values of both sides.
template <class T>
struct Anchors {
  const T* targets;
  const T* sources;  ///< null in the self case
  std::int64_t num_targets;
  std::int64_t num_sources;  ///< 0 in the self case
  bool self = false;

  [[nodiscard]] std::int64_t count() const { return num_targets + num_sources; }
};

/// Sorted records, and memory to sort them in.
template <class T>
struct Sorting {
  Array<Record<T>> records;
  bool targets_as_given = false;  ///< the sorted order of a side is that in which it was given
  bool sources_as_given = false;
  Array<Record<T>> other;

  [[nodiscard]] std::int64_t nbytes() const { return records.nbytes() + other.nbytes(); }
};

/// Sorts all anchors into `sorting.records`: ascending, equal ones by id, so there is one right
/// order. `hint`, if not null, holds the ids in an order that may be nearly right: it is tried
/// first, and repaired by insertion unless that is dearer than sorting.
template <class T>
void sort_anchors(const Anchors<T>& anchors, const std::uint32_t* hint, Sorting<T>& sorting,
                  int threads);

}  // namespace laplex::detail
