/// Prefix sums with decay along a line of points, by the chunk schedule.
#pragma once

#include "chunks.hpp"
#include "decays.hpp"
#include "parallel.hpp"

#include <laplex/detail/scan_element.hpp>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace laplex::detail {

/// Scans `values` into `sums`, both [m][P + 1][W]: the element of scan_element.hpp after each
/// anchor, from the left, or from the right (Reverse; sums[k] then belongs to anchor m - 1 - k).
template <bool Reverse, int P, int W, class D, class S>
class Scan {
 public:
  static constexpr int kWidth = (P + 1) * W;

  Scan(const Line<D>& line, int threads)
      : line_(line), threads_(threads), sizes_(level_sizes(line.size)) {}

  void run(const S* values, S* sums) {
    const std::int64_t m = line_.size;
    if (m == 0) {
      return;
    }
    const auto load = [&](S* s, std::int64_t k) {  // adds the source at place k of the scan
      add<P, W>(s, values + place<Reverse>(k, m) * kWidth);
    };
    const std::size_t levels = sizes_.size();
    totals_.resize(levels);
    std::int64_t span = 1;
    for (std::size_t level = 1; level < levels; ++level) {
      totals_[level].resize(static_cast<std::size_t>(sizes_[level]) * kWidth);
      if (level == 1) {
        sum_chunks(0, span, load);
      } else {
        sum_chunks(level - 1, span,
                   [&](S* s, std::int64_t k) { add<P, W>(s, total(level - 1, k)); });
      }
      span *= chunk_size(level - 1);
    }
    for (std::size_t level = levels - 1; level > 0; --level) {
      spread(
          level, span, [&](S* s, std::int64_t k) { add<P, W>(s, total(level, k)); },
          [&](const S* s, std::int64_t k) { std::copy(s, s + kWidth, total(level, k)); });
      span /= chunk_size(level - 1);
    }
    spread(0, 1, load,
           [&](const S* s, std::int64_t k) { std::copy(s, s + kWidth, sums + k * kWidth); });
  }

 private:
  S* total(std::size_t level, std::int64_t node) { return totals_[level].data() + node * kWidth; }

  void move(S* s, std::size_t level, std::int64_t span, std::int64_t node) const {
    double tau = 0.0;
    if constexpr (P > 0) {
      tau = scaled_step<Reverse>(line_.position, last_element(node - 1, span, line_.size),
                                 last_element(node, span, line_.size), line_.size, line_.rate);
    }
    advance<P, W>(s, line_.template decay_into<Reverse>(level, node), tau);
  }

  /// Up: the total of every chunk of `level`, stored at the level above.
  template <class Load>
  void sum_chunks(std::size_t level, std::int64_t span, const Load& load) {
    const std::int64_t nodes = sizes_[level];
    const std::int64_t size = chunk_size(level);
    const auto sum = [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t chunk = begin; chunk < end; ++chunk) {
        S s[kWidth] = {};
        const std::int64_t first = chunk * size;
        const std::int64_t last = std::min(nodes, first + size);
        for (std::int64_t node = first; node < last; ++node) {
          if (node > first) {
            move(s, level, span, node);
          }
          load(s, node);
        }
        std::copy(s, s + kWidth, total(level + 1, chunk));
      }
    };
    parallel_ranges(threads_, sizes_[level + 1], kGrain / size, sum);
  }

  /// Down: the sums after every node of `level`, starting each chunk from the sum after the one
  /// before.
  template <class Load, class Store>
  void spread(std::size_t level, std::int64_t span, const Load& load, const Store& store) {
    const std::int64_t nodes = sizes_[level];
    const std::int64_t size = chunk_size(level);
    const auto scan = [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t chunk = begin; chunk < end; ++chunk) {
        S s[kWidth] = {};
        const std::int64_t first = chunk * size;
        const std::int64_t last = std::min(nodes, first + size);
        if (chunk > 0) {
          const S* before = total(level + 1, chunk - 1);
          std::copy(before, before + kWidth, s);
        }
        for (std::int64_t node = first; node < last; ++node) {
          if (node > 0) {
            move(s, level, span, node);
          }
          load(s, node);
          store(s, node);
        }
      }
    };
    parallel_ranges(threads_, num_chunks(nodes, level), kGrain / size, scan);
  }

  /// Nodes a task: long enough to hide the cost of handing it out.
  static constexpr std::int64_t kGrain = 8192;

  Line<D> line_;
  int threads_;
  std::vector<std::int64_t> sizes_;
  std::vector<std::vector<S>> totals_;
};

}  // namespace laplex::detail
