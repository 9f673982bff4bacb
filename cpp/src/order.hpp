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

/// Sees whether each side stands in ascending order as given.
template <class T>
void find_order_given(const Anchors<T>& anchors, Sorting<T>& sorting);

/// Sorts records of up to 2^kRepairIdBits anchors, most of which are near their places; `spare` is
/// memory for as many.
template <class T>
void repair_order(Record<T>* records, Record<T>* spare, std::int64_t count);

/// Sorts `end` records, of which those before `middle` ascend, and so do the others.
template <class T>
void join_runs(Record<T>* records, std::int64_t middle, std::int64_t end);

/// Sorts all anchors into `sorting.records`: ascending, equal ones by id, so there is one right
/// order.
template <class T>
void sort_anchors(const Anchors<T>& anchors, Sorting<T>& sorting, int threads);

}  // namespace laplex::detail
