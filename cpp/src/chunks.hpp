/// The chunk schedule: how a scan over m elements is cut, the same on every device and thread
/// count.
///
/// Level 0 holds the elements; kChunk consecutive elements form a node of level 1, and from there
/// kFanout nodes of a level form one of the next, until one chunk is left. A scan sums chunks
/// upwards, scans the top level, and goes down again. The decay from one node to the next is
/// computed from the positions of their last elements, never as a product of the decays between:
/// products of many rounded decays drift, and on a regular grid they drift systematically. A term
/// is multiplied by at most chunk_size(level) - 1 decays per level on its way up and as many on its
/// way down, 14 + 6 log4(m / 8) in all: a hundred for a billion elements. Longer chunks would be a
/// little faster and a lot less exact: with 16 on every level that count is 240, and one value on a
/// regular grid of 10^5 anchors can miss 1e-14.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace laplex::detail {

inline constexpr std::int64_t kChunk = 8;
inline constexpr std::int64_t kFanout = 4;

/// How many nodes of `level` form one of the next.
[[nodiscard]] inline constexpr std::int64_t chunk_size(std::size_t level) {
  return level == 0 ? kChunk : kFanout;
}

[[nodiscard]] inline constexpr std::int64_t num_chunks(std::int64_t nodes, std::size_t level) {
  return (nodes + chunk_size(level) - 1) / chunk_size(level);
}

/// Number of nodes per level, starting with the elements; one entry when m <= kChunk.
[[nodiscard]] inline std::vector<std::int64_t> level_sizes(std::int64_t m) {
  std::vector<std::int64_t> sizes{m};
  while (sizes.back() > chunk_size(sizes.size() - 1)) {
    sizes.push_back(num_chunks(sizes.back(), sizes.size() - 1));
  }
  return sizes;
}

/// The last element of node `node` at a level whose nodes span `span` elements each.
[[nodiscard]] inline constexpr std::int64_t last_element(std::int64_t node, std::int64_t span,
                                                         std::int64_t m) {
  const std::int64_t end = (node + 1) * span;
  return (end < m ? end : m) - 1;
}

}  // namespace laplex::detail
