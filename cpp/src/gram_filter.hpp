/// The filter along one line: one point after another, or for long lines in segments side by side.
#pragma once

#include "gram_state.hpp"

#include <cstdint>

namespace laplex::detail {

/// From this many points on a line is cut into segments, whatever the number of threads: the bits
/// are to depend on the line alone.
inline constexpr std::int64_t kSegmentedLine = std::int64_t(1) << 14;

/// The same for two to four columns, whose segments are twice the arithmetic: it takes three cores
/// to win. With more columns one core is busy enough with one segment, and the line stays whole.
inline constexpr std::int64_t kSegmentedLines = std::int64_t(1) << 20;

/// Fills gain, variance and chunk_cov of a line whose other arrays are there. Returns the first
/// point at which the matrix is singular, with its variance in place, or -1.
[[nodiscard]] std::int64_t run_filter(GramLine& line, std::int64_t n, const Layout& layout,
                                      int threads);

}  // namespace laplex::detail
