/// What a product in one direction (scan these anchors, read off at those) needs beside the two
/// orders.
#pragma once

#include "order.hpp"

#include <laplex/detail/chunks.hpp>
#include <laplex/detail/complex.hpp>
#include <laplex/detail/decay.hpp>

#include <cstdint>
#include <vector>

namespace laplex::detail {

/// Decays of the scan over `from` and of the look-ups at `to`. D is double or, with a frequency,
/// Complex.
///
/// A read-off point at x looks up three places of the scanned line: the last anchor at or below it
/// (left), the last strictly below (strict) and the first above (right). Where x is tied with a
/// scanned anchor those decays are 1 and two gaps, so only untied points store their own, and the
/// self case stores none.
template <class D>
struct Direction {
  std::vector<D> gap;  ///< [m] from anchor k - 1 to k; gap[0] unused
  std::vector<std::vector<D>>
      upper_forward;  ///< per level above the elements: node K - 1 to K, left to right
  std::vector<std::vector<D>> upper_reverse;  ///< the same for the scan from right to left
  std::vector<std::int64_t> below;            ///< [n] number of scanned anchors < x
  std::vector<std::int64_t> upto;             ///< [n] number of scanned anchors <= x
  std::vector<D> left;                        ///< [n] or empty: decay from anchor upto - 1 to x
  std::vector<D> right;                       ///< [n] or empty: decay from x to anchor upto

  [[nodiscard]] std::int64_t nbytes() const;
};

template <class D>
Direction<D> make_direction(const SortedAnchors& from, const SortedAnchors& to, bool self,
                            Rate rate, int threads);

/// The line that is scanned: positions [m] and the decays between them.
template <class D>
struct Line {
  const double* position;
  std::int64_t size;
  const Direction<D>* direction;
  Rate rate;

  /// Decay into node `node` (> 0) of level `level` of a scan; level 0 are the anchors themselves.
  template <bool Reverse>
  [[nodiscard]] D decay_into(std::size_t level, std::int64_t node) const {
    if (level == 0) {
      return direction->gap[static_cast<std::size_t>(Reverse ? size - node : node)];
    }
    const auto& upper = Reverse ? direction->upper_reverse : direction->upper_forward;
    return upper[level - 1][static_cast<std::size_t>(node)];
  }
};

/// The place of the k-th element in the order of a scan.
template <bool Reverse>
[[nodiscard]] inline std::int64_t place(std::int64_t k, std::int64_t m) {
  return Reverse ? m - 1 - k : k;
}

/// Distance travelled from element a to element b of a scan (b after a), scaled by the lengthscale.
template <bool Reverse>
[[nodiscard]] inline double scaled_step(const double* position, std::int64_t a, std::int64_t b,
                                        std::int64_t m, Rate rate) {
  const double za = position[place<Reverse>(a, m)];
  const double zb = position[place<Reverse>(b, m)];
  return Reverse ? scaled_distance(za, zb, rate) : scaled_distance(zb, za, rate);
}

}  // namespace laplex::detail
