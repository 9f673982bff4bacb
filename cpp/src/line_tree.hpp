/// The nodes of the chunk schedule (chunks.hpp) that lie within the elements of one process.
#pragma once

#include "chunks.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace laplex::detail {

/// The elements below a node of `level`.
[[nodiscard]] inline std::int64_t span_of(std::size_t level) {
  std::int64_t span = 1;
  for (std::size_t l = 0; l < level; ++l) {
    span *= chunk_size(l);
  }
  return span;
}

/// Nodes [first, first + count) of a level.
struct NodeRange {
  std::int64_t first = 0;
  std::int64_t count = 0;

  [[nodiscard]] std::int64_t end() const { return first + count; }
};

/// Elements [begin, end) of a scan over `total`: those of this process, or all. A node that other
/// processes have elements of is nobody's own; see shared_line.hpp.
class LineTree {
 public:
  LineTree() = default;
  LineTree(std::int64_t begin, std::int64_t end, std::int64_t total, bool shared)
      : total_(total), shared_(shared), sizes_(level_sizes(total)) {
    for (const std::int64_t nodes : sizes_) {
      const std::int64_t span = span_of(own_.size());
      const std::int64_t first = (begin + span - 1) / span;
      const std::int64_t last = end == total ? nodes : end / span;
      own_.push_back({first, std::max<std::int64_t>(0, last - first)});
    }
  }

  [[nodiscard]] std::int64_t total() const { return total_; }
  [[nodiscard]] std::size_t top() const { return own_.size() - 1; }
  [[nodiscard]] NodeRange own(std::size_t level) const { return own_[level]; }
  /// Own nodes on the levels above the elements and below this one.
  [[nodiscard]] std::int64_t own_below(std::size_t level) const {
    std::int64_t sum = 0;
    for (std::size_t l = 1; l < level; ++l) {
      sum += own_[l].count;
    }
    return sum;
  }
  /// The nodes whose parents are own: what is summed and spread here, chunk by chunk. Those of the
  /// top level are one chunk, unless they are shared.
  [[nodiscard]] NodeRange chunked(std::size_t level) const {
    if (level == top()) {
      return shared_ ? NodeRange{} : own_[level];
    }
    const NodeRange parents = own_[level + 1];
    const std::int64_t first = parents.first * chunk_size(level);
    const std::int64_t end = std::min(parents.end() * chunk_size(level), sizes_[level]);
    return {first, parents.count == 0 ? 0 : end - first};
  }

 private:
  std::int64_t total_ = 0;
  bool shared_ = false;
  std::vector<std::int64_t> sizes_;
  std::vector<NodeRange> own_;
};

}  // namespace laplex::detail
