/// Prefix sums with decay along a line of points, by the chunk schedule.
#pragma once

#include "chunks.hpp"
#include "decays.hpp"
#include "parallel.hpp"
#include "shared_line.hpp"

#include <laplex/detail/scan_element.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace laplex::detail {

/// Totals of the nodes above the points, level by level.
using ScanTotals = std::vector<std::vector<double>>;

/// Scans `values`, [m][P + 1][W], into `sums`, likewise: the element of scan_element.hpp that comes
/// to each anchor from the left, or from the right (Reverse; sums[k] then belongs to anchor
/// m - 1 - k), as it was at the anchor before. Sums go up, and down again; on a line that other
/// processes share, totals go to them in between.
template <bool Reverse, int P, int W, class D, class S>
class Scan {
 public:
  static constexpr std::int64_t kWidth = std::int64_t(P + 1) * W;

  /// `totals` is the memory that is kept between the two halves.
  Scan(const Line<D>& line, ScanTotals& totals, int threads)
      : line_(line),
        tree_(*line.points.tree[Reverse ? 1 : 0]),
        totals_(totals),
        threads_(threads) {}

  void sum_up(const S* values) {
    totals_.resize(tree_.top() + 1);
    for (std::size_t level = 1; level <= tree_.top(); ++level) {
      totals_[level].resize(
          static_cast<std::size_t>(tree_.own(level).count * kWidth * kDoublesOf<S>));
      sum_chunks(level - 1, values);
    }
  }

  /// Puts this process's leaves of the skeleton to where they are sent from.
  void send(const S* values, const SharedLine& shared, std::int64_t slot, Round& round) const {
    shared.each_own_leaf(Reverse, [&](std::int64_t, const Skeleton::Node& node) {
      const S* const total = total_of(values, node.level, node.node);
      std::copy(total, total + kWidth, reinterpret_cast<S*>(round.mine(slot, Reverse, node.leaf)));
    });
  }

  /// Takes what comes to those leaves.
  void receive(const SharedLine& shared, std::int64_t slot, const Round& round, S* sums) {
    const auto& steps = line_.points.far->skeleton[Reverse ? 1 : 0];
    const std::vector<S> comes = scan_skeleton<S>(
        shared.skeleton(Reverse), kWidth,
        [&](S* s, std::int64_t k, bool first) {
          const auto at = static_cast<std::size_t>(k);
          if (!first && !std::isnan(steps[at][0])) {
            advance<P, W>(s, line_.decays->skeleton[Reverse ? 1 : 0][at],
                          P > 0 ? distance_of(Reverse, steps[at], line_.rate) : 0.0);
          }
        },
        [&](const Skeleton::Node& leaf) {
          return reinterpret_cast<const S*>(round.total(slot, Reverse, leaf));
        });
    shared.each_own_leaf(Reverse, [&](std::int64_t k, const Skeleton::Node& node) {
      const std::int64_t at = node.node - tree_.own(node.level).first;
      S* const to = node.level == 0 ? sums + at * kWidth : above(node.level, at);
      const S* const from = comes.data() + k * kWidth;
      std::copy(from, from + kWidth, to);
    });
  }

  void spread_down(const S* values, S* sums) {
    for (std::size_t level = tree_.top() + 1; level-- > 0;) {
      spread(level, values, sums);
    }
  }

 private:
  /// An own node of a level above the points, by its number here.
  [[nodiscard]] S* above(std::size_t level, std::int64_t at) const {
    return reinterpret_cast<S*>(totals_[level].data()) + at * kWidth;
  }

  [[nodiscard]] const S* total_of(const S* values, std::size_t level, std::int64_t node) const {
    const std::int64_t at = node - tree_.own(level).first;
    return level == 0 ? values + (Reverse ? tree_.own(0).count - 1 - at : at) * kWidth
                      : above(level, at);
  }

  void move(S* s, std::size_t level, std::int64_t span, std::int64_t node) const {
    const std::int64_t at = node - tree_.own(level).first;
    double tau = 0.0;
    if constexpr (P > 0) {
      tau = distance_of(Reverse, line_.points.step_into(Reverse, span, node), line_.rate);
    }
    const std::int64_t place = Reverse && level == 0 ? line_.points.size - at : at;
    advance<P, W>(s, line_.decays->level(level, Reverse)[place], tau);
  }

  /// Calls body(chunk, first and last node) for the chunks of a level, by their numbers here.
  template <class Body>
  void each_chunk(std::size_t level, const Body& body) const {
    const NodeRange nodes = tree_.chunked(level);
    const std::int64_t size = chunk_size(level);
    parallel_ranges(threads_, num_chunks(nodes.count, level), kGrain / size,
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t chunk = begin; chunk < end; ++chunk) {
                        const std::int64_t first = nodes.first + chunk * size;
                        body(chunk, first, std::min(nodes.end(), first + size));
                      }
                    });
  }

  /// Up: the total of every chunk of `level`, stored at the level above.
  void sum_chunks(std::size_t level, const S* values) {
    const std::int64_t span = span_of(level);
    each_chunk(level, [&](std::int64_t chunk, std::int64_t first, std::int64_t last) {
      S s[kWidth] = {};
      for (std::int64_t node = first; node < last; ++node) {
        if (node > first) {
          move(s, level, span, node);
        }
        add<P, W>(s, total_of(values, level, node));
      }
      std::copy(s, s + kWidth, above(level + 1, chunk));
    });
  }

  /// Down: what comes to every node of `level`, starting each chunk with what comes to all of it.
  /// Above the points it takes the place of their totals.
  void spread(std::size_t level, const S* values, S* sums) {
    const std::int64_t span = span_of(level);
    const std::int64_t own = tree_.own(level).first;
    each_chunk(level, [&](std::int64_t chunk, std::int64_t first, std::int64_t last) {
      S s[kWidth] = {};
      if (level < tree_.top()) {
        std::copy(above(level + 1, chunk), above(level + 1, chunk) + kWidth, s);
      }
      for (std::int64_t node = first; node < last; ++node) {
        S kept[kWidth];
        const S* total = total_of(values, level, node);
        S* to = sums + (node - own) * kWidth;
        if (level > 0) {
          std::copy(total, total + kWidth, kept);
          total = kept;
          to = above(level, node - own);
        }
        std::copy(s, s + kWidth, to);
        if (node > 0) {
          move(s, level, span, node);
        }
        add<P, W>(s, total);
      }
    });
  }

  /// Nodes a task: long enough to hide the cost of handing it out.
  static constexpr std::int64_t kGrain = 8192;

  Line<D> line_;
  const LineTree& tree_;
  ScanTotals& totals_;
  int threads_;
};

}  // namespace laplex::detail
