/// Anchors as what sorts and fills the tables sees them: integers with an index.
#pragma once

#include "inline.hpp"

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace laplex::detail {

/// A value as an unsigned integer of the same order; -0 and +0 are the same place on the line.
template <class T>
using Key = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

template <class T>
[[nodiscard]] LAPLEX_INLINE Key<T> key_of(T value) {
  value += T(0);
  Key<T> bits;
  std::memcpy(&bits, &value, sizeof(bits));
  constexpr int kSignBit = 8 * sizeof(T) - 1;
  return bits ^ ((Key<T>(0) - (bits >> kSignBit)) | (Key<T>(1) << kSignBit));
}

template <class T>
[[nodiscard]] LAPLEX_INLINE T value_of(Key<T> key) {
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

/// Moves a record down to its place among those before it, which ascend; by how many places.
template <class T>
LAPLEX_INLINE std::int64_t sink(Record<T>* records, std::int64_t k) {
  if (k == 0 || !(records[k] < records[k - 1])) {
    return 0;
  }
  const Record<T> moving = records[k];
  std::int64_t place = k;
  while (place > 0 && moving < records[place - 1]) {
    records[place] = records[place - 1];
    --place;
  }
  records[place] = moving;
  return k - place;
}

}  // namespace laplex::detail
