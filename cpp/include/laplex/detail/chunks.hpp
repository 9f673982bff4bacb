/// The chunk schedule: how a scan over m elements is cut, the same on every device and thread
/// count.
///
/// Level 0 holds the elements; every kChunk consecutive nodes of a level form one node of the next,
/// until a level has at most kChunk nodes. A scan sums chunks upwards, scans the top level, and
/// goes down again. The decay from one node to the next is computed from the positions of their
/// last elements, never as a product of the decays between: products of many rounded decays drift,
/// and on a regular grid they drift systematically. So each level adds at most kChunk roundings to
/// the error, and there are log_kChunk(m) levels.
#pragma once

#include <cstdint>
#include <vector>

namespace laplex::detail {

inline constexpr std::int64_t kChunk = 16;

[[nodiscard]] inline constexpr std::int64_t num_chunks(std::int64_t nodes) {
  return (nodes + kChunk - 1) / kChunk;
}

/// Number of nodes per level, starting with the elements; one entry when m <= kChunk.
[[nodiscard]] inline std::vector<std::int64_t> level_sizes(std::int64_t m) {
  std::vector<std::int64_t> sizes{m};
  while (sizes.back() > kChunk) {
    sizes.push_back(num_chunks(sizes.back()));
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
