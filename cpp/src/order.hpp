/// The sorted order of the anchors of one head, targets and sources together.
#pragma once

#include "array.hpp"

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace laplex::detail {

/// The most anchors of a head, both sides together: numbers of 32 bits count them, which is a third
/// of the memory of a plan.
inline constexpr std::int64_t kMostAnchors = (std::int64_t(1) << 32) - 2;

/// A value as an unsigned integer of the same order; -0 and +0 are the same place on the line.
template <class T>
using Key = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

template <class T>
[[nodiscard]] inline Key<T> key_of(T value) {
  value += T(0);
  Key<T> bits;
  std::memcpy(&bits, &value, sizeof(bits));
  constexpr int kSignBit = 8 * sizeof(T) - 1;
  return bits ^ ((Key<T>(0) - (bits >> kSignBit)) | (Key<T>(1) << kSignBit));
}

template <class T>
[[nodiscard]] inline T value_of(Key<T> key) {
  constexpr int kSignBit = 8 * sizeof(T) - 1;
  // key ^ sign where the sign bit is set, ~key elsewhere: without a branch, signs being random.
  const Key<T> bits = key ^ (((key >> kSignBit) - 1) | (Key<T>(1) << kSignBit));
  T value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

/// An anchor on its way to its place: source j has the id j, target i the id num_sources + i. In
/// the self case there are targets alone, and i is the id.
template <class T>
struct Record {
  Key<T> key;
  std::uint32_t id;

  friend bool operator<(const Record& a, const Record& b) {
    return a.key < b.key || (a.key == b.key && a.id < b.id);
  }
};

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
