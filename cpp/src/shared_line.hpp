/// A line of cells that several processes share.
///
/// All of them scan by one chunk schedule, so that sums have the same bits whoever makes them. A
/// node with cells of several processes is nobody's own. Those nodes and their children are the
/// skeleton: its leaves are own nodes, whose totals their owners send to all, and every process
/// scans the skeleton by itself. There are at most some dozens of leaves at each end of a process's
/// cells, however many the cells.
#pragma once

#include "decays.hpp"
#include "line_tree.hpp"

#include <laplex/line_part.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace laplex::detail {

/// The skeleton of one direction. Elements are numbered in the order of the scan.
struct Skeleton {
  struct Node {
    std::size_t level;
    std::int64_t node;
    int owner;            ///< of a leaf; -1 if several processes have elements of it
    std::int64_t leaf;    ///< which of the leaves of its owner
    std::int64_t before;  ///< the element in front of it, -1 if there is none
    std::int64_t last;    ///< its last element
  };
  /// Children of one node that stand side by side; those of the top level have parent -1.
  struct Family {
    std::int64_t parent;
    std::int64_t first;
    std::int64_t count;
  };
  std::vector<Node> nodes;
  std::vector<Family> families;      ///< parents before children
  std::vector<std::int64_t> leaves;  ///< [processes]
};

class SharedLine {
 public:
  /// Collective. `cells` are those of this process, of `anchors` targets and sources.
  SharedLine(std::shared_ptr<const LinePart> part, std::int64_t cells, std::int64_t anchors);

  [[nodiscard]] int rank() const { return part_->rank; }
  [[nodiscard]] int size() const { return part_->size; }
  [[nodiscard]] std::int64_t first() const { return bounds_[static_cast<std::size_t>(rank())]; }
  [[nodiscard]] std::int64_t total() const { return bounds_.back(); }
  /// Targets and sources of all processes.
  [[nodiscard]] std::int64_t anchors() const { return anchors_; }
  [[nodiscard]] const Skeleton& skeleton(bool reverse) const { return skeleton_[reverse ? 1 : 0]; }
  /// Calls body(number in the skeleton, node) for the leaves that are this process's.
  template <class Body>
  void each_own_leaf(bool reverse, const Body& body) const {
    const std::vector<Skeleton::Node>& nodes = skeleton(reverse).nodes;
    for (std::size_t k = 0; k < nodes.size(); ++k) {
      if (nodes[k].owner == rank()) {
        body(static_cast<std::int64_t>(k), nodes[k]);
      }
    }
  }

  /// Where cells are that other processes have, for both directions. Collective; `left_to_right`
  /// and `right_to_left` are the places of this process's cells.
  [[nodiscard]] FarPoints far_points(const double* left_to_right,
                                     const double* right_to_left) const;

  /// Numbers from every process to all, `counts[r]` of process r. Collective.
  void gather(const std::vector<double>& mine, const std::vector<std::int64_t>& counts,
              std::vector<double>& all) const;

 private:
  [[nodiscard]] std::vector<std::int64_t> places_of(bool reverse) const;

  std::shared_ptr<const LinePart> part_;
  std::vector<std::int64_t> bounds_;  ///< [processes + 1] the first cell of each
  std::int64_t anchors_ = 0;
  Skeleton skeleton_[2];
};

/// One round of messages: for each of some slots, `numbers` doubles of every leaf from its owner to
/// all processes.
class Round {
 public:
  Round(const SharedLine& line, std::int64_t slots, std::int64_t numbers);

  /// Where this process puts the total of one of its leaves.
  [[nodiscard]] double* mine(std::int64_t slot, bool reverse, std::int64_t leaf);
  void gather();
  [[nodiscard]] const double* total(std::int64_t slot, bool reverse,
                                    const Skeleton::Node& leaf) const;

 private:
  [[nodiscard]] std::int64_t leaves_of(int rank) const;
  [[nodiscard]] std::int64_t place(int rank, std::int64_t slot, bool reverse,
                                   std::int64_t leaf) const;

  const SharedLine& line_;
  std::int64_t numbers_;
  std::vector<std::int64_t> counts_;
  std::vector<std::int64_t> begins_;
  std::vector<double> mine_;
  std::vector<double> all_;
};

/// Scans the skeleton: what comes to each of its nodes, S numbers each, before the step to its
/// last element. `move(sum, node, first)` takes that step, where `first` says that the sum is 0
/// because a total begins with this node; `total(node)` is the total of a leaf.
template <class S, class Move, class Total>
[[nodiscard]] std::vector<S> scan_skeleton(const Skeleton& skeleton, std::int64_t numbers,
                                           const Move& move, const Total& total) {
  const std::size_t width = static_cast<std::size_t>(numbers);
  std::vector<S> totals(skeleton.nodes.size() * width);
  std::vector<S> comes(skeleton.nodes.size() * width);
  const auto add = [&](S* sum, const S* other) {
    for (std::int64_t k = 0; k < numbers; ++k) {
      sum[k] = sum[k] + other[k];
    }
  };
  const auto at = [&](std::vector<S>& all, std::int64_t node) {
    return all.data() + static_cast<std::size_t>(node) * width;
  };
  for (std::size_t k = 0; k < skeleton.nodes.size(); ++k) {
    if (skeleton.nodes[k].owner >= 0) {
      const S* const from = total(skeleton.nodes[k]);
      std::copy(from, from + numbers, at(totals, static_cast<std::int64_t>(k)));
    }
  }
  std::vector<S> sum(width);
  for (std::size_t f = skeleton.families.size(); f-- > 0;) {
    const Skeleton::Family& family = skeleton.families[f];
    if (family.parent >= 0) {
      std::fill(sum.begin(), sum.end(), S{});
      for (std::int64_t k = family.first; k < family.first + family.count; ++k) {
        move(sum.data(), k, k == family.first);
        add(sum.data(), at(totals, k));
      }
      std::copy(sum.begin(), sum.end(), at(totals, family.parent));
    }
  }
  for (const Skeleton::Family& family : skeleton.families) {
    if (family.parent >= 0) {
      const S* const from = at(comes, family.parent);
      std::copy(from, from + numbers, sum.begin());
    } else {
      std::fill(sum.begin(), sum.end(), S{});
    }
    for (std::int64_t k = family.first; k < family.first + family.count; ++k) {
      std::copy(sum.begin(), sum.end(), at(comes, k));
      move(sum.data(), k, false);
      add(sum.data(), at(totals, k));
    }
  }
  return comes;
}

}  // namespace laplex::detail
