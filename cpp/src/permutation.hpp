/// The permutation between the order in which one side was given and its sorted order, in two
/// passes: beyond the caches a random access moves a whole line for one number.
///
/// Sorted places are cut into buckets that fit a near cache. On the way there, values are dealt to
/// the buckets as they come, and then put to their places bucket by bucket; on the way back the
/// same in reverse.
#pragma once

#include "array.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace laplex::detail {

/// A complex number on its way.
template <class T>
struct Pair {
  T re;
  T im;
};

class Permutation {
 public:
  /// From the index as given of each sorted place. Takes as long as some two uses save.
  Permutation(const std::uint32_t* index, std::int64_t count, int threads);

  /// Whether so many numbers are too many for the caches.
  [[nodiscard]] static bool pays(std::int64_t count) { return count >= std::int64_t(1) << 21; }

  /// sorted[k] = given[index[k]]. Here and below, `scratch` is memory between the two passes: that
  /// of the caller, because clearing fresh pages takes as long as a pass.
  template <class T>
  void to_sorted(const T* given, T* sorted, Array<std::byte>& scratch, int threads) const;
  /// given[index[k]] = sorted[k]
  template <class T>
  void to_given(const T* sorted, T* given, Array<std::byte>& scratch, int threads) const;

  [[nodiscard]] std::int64_t nbytes() const;

 private:
  [[nodiscard]] std::int64_t count() const { return bucket_.size(); }
  /// Room for the numbers between the passes.
  template <class T>
  T* dealt(Array<std::byte>& scratch) const;
  /// Calls body(part, begin, end, next) for parts of the order given; next[b] is where the first
  /// number of the part that belongs to bucket b is found or put.
  template <class Body>
  void each_part(int threads, const Body& body) const;

  Array<std::uint16_t> bucket_;  ///< [count] in the order given
  Array<std::uint16_t> place_;  ///< [count] within the bucket; bucket by bucket, in the order given
  std::vector<std::uint32_t> first_;  ///< [parts][buckets]
  std::int64_t buckets_ = 0;
  std::int64_t parts_ = 0;
};

}  // namespace laplex::detail
