/// The decays of a scan along a line of points: from one to the next, and between the nodes of the
/// chunk schedule above them.
#pragma once

#include <laplex/detail/complex.hpp>
#include <laplex/detail/decay.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace laplex::detail {

/// Memory that a table takes.
template <class T>
[[nodiscard]] std::int64_t bytes(const std::vector<T>& table) {
  return static_cast<std::int64_t>(table.size() * sizeof(T));
}

/// D is double or, with a frequency, Complex.
template <class D>
struct Decays {
  std::vector<D> gap;  ///< [m + 1] from point k - 1 to k; 0 at both ends, where nothing comes from
  /// Per level above the points, from node K - 1 to K of the scan from left to right.
  std::vector<std::vector<D>> upper_forward;
  std::vector<std::vector<D>> upper_reverse;  ///< the same for the scan from right to left

  /// The decays into the nodes of a level of the chunk schedule; level 0 are the points themselves.
  [[nodiscard]] const D* level(std::size_t level, bool reverse) const {
    return level == 0 ? gap.data() : (reverse ? upper_reverse : upper_forward)[level - 1].data();
  }

  [[nodiscard]] std::int64_t nbytes() const;
};

/// `position` [m] in ascending order.
template <class D>
[[nodiscard]] Decays<D> make_decays(const double* position, std::int64_t m, Rate rate, int threads);

/// The line that is scanned: positions [size] and the decays between them.
template <class D>
struct Line {
  const double* position;
  std::int64_t size;
  const Decays<D>* decays;
  Rate rate;

  /// Decay into node `node` (> 0) of level `level` of a scan; level 0 are the points themselves.
  template <bool Reverse>
  [[nodiscard]] D decay_into(std::size_t level, std::int64_t node) const {
    return decays->level(level, Reverse)[Reverse && level == 0 ? size - node : node];
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
