/// The decays of a scan along a line of points: from one to the next, and between the nodes of the
/// chunk schedule above them.
#pragma once

#include "line_tree.hpp"

#include <laplex/detail/complex.hpp>
#include <laplex/detail/decay.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>
#include <vector>

namespace laplex::detail {

/// The doubles that a decay, or a sum that it multiplies, is made of.
template <class D>
inline constexpr std::int64_t kDoublesOf = std::is_same_v<D, double> ? 1 : 2;

/// Memory that a table takes.
template <class T>
[[nodiscard]] std::int64_t bytes(const std::vector<T>& table) {
  return static_cast<std::int64_t>(table.size() * sizeof(T));
}

/// Points of a line that other processes have; of the scan from the left, and of that from the
/// right. NaN where there is none.
struct FarPoints {
  double neighbour[2];  ///< in front of the first point here, in the order of the scan
  /// The point in front of each node of the skeleton (shared_line.hpp), and the node's last one.
  std::vector<std::array<double, 2>> skeleton[2];
};

/// The decay along a step of a scan, and its distance in lengthscales.
template <class D>
[[nodiscard]] D decay_of(bool reverse, const std::array<double, 2>& step, Rate rate) {
  return reverse ? decay<D>(step[0], step[1], rate) : decay<D>(step[1], step[0], rate);
}
[[nodiscard]] inline double distance_of(bool reverse, const std::array<double, 2>& step,
                                        Rate rate) {
  return reverse ? scaled_distance(step[0], step[1], rate)
                 : scaled_distance(step[1], step[0], rate);
}

/// Points in ascending order, those of this process, and how scans go over them and all others.
struct Points {
  const double* position;  ///< [size]
  std::int64_t size;
  const LineTree* tree[2];  ///< of the scan from the left, and of that from the right
  const FarPoints* far;     ///< null if all points are here

  /// The k-th of the points here in the order of a scan, or with k = -1 the one in front of them.
  [[nodiscard]] double at(bool reverse, std::int64_t k) const {
    return k < 0 ? far->neighbour[reverse ? 1 : 0] : position[reverse ? size - 1 - k : k];
  }
  /// Both ends of the step into an own node of a level whose nodes have `span` points.
  [[nodiscard]] std::array<double, 2> step_into(bool reverse, std::int64_t span,
                                                std::int64_t node) const {
    const LineTree& line = *tree[reverse ? 1 : 0];
    const std::int64_t begin = line.own(0).first;
    return {at(reverse, node * span - 1 - begin),
            at(reverse, last_element(node, span, line.total()) - begin)};
  }
};

/// D is double or, with a frequency, Complex.
template <class D>
struct Decays {
  /// [size + 1] from point k - 1 to k; 0 at an end of the line, where nothing comes from
  std::vector<D> gap;
  // Of the scan from the left, and of that from the right; empty where not asked for.
  std::vector<std::vector<D>> upper[2];  ///< per level above the points, into each own node
  std::vector<D> skeleton[2];            ///< into each node of the skeletons, if there are any

  /// The decays into the own nodes of a level of the chunk schedule; level 0 are the points.
  [[nodiscard]] const D* level(std::size_t level, bool reverse) const {
    return level == 0 ? gap.data() : upper[reverse ? 1 : 0][level - 1].data();
  }

  [[nodiscard]] std::int64_t nbytes() const;
};

/// For scans in these directions: from the left (false), from the right (true).
template <class D>
[[nodiscard]] Decays<D> make_decays(const Points& points, Rate rate, int threads,
                                    std::initializer_list<bool> directions = {false, true});

/// The line that is scanned: points and the decays between them.
template <class D>
struct Line {
  Points points;
  const Decays<D>* decays;
  Rate rate;
};

}  // namespace laplex::detail
