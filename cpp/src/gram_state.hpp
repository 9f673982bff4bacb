/// What a Gram holds: for each matrix the sorted line, its factor, and the filter's covariance at
/// the start of each chunk, from which derivatives run it again.
#pragma once

#include <laplex/detail/filter.hpp>
#include <laplex/gram.hpp>

#include "array.hpp"
#include "checks.hpp"

#include <cstdint>
#include <vector>

namespace laplex::detail {

/// Points between two kept covariances: what derivatives find again at a time.
inline constexpr std::int64_t kFilterChunk = 128;

/// One matrix, in sorted order. Columns that fill up the compiled width have loadings of 0.
struct GramLine {
  Array<std::uint32_t> order;       ///< [n], numbers of the anchors
  Array<double> anchors;            ///< [n]
  Array<double> fall;               ///< [n, J], see fall_across(); of the first point: -1
  Array<double> loadings;           ///< [n, J]
  Array<double> noise;              ///< [n]
  Array<double> gain;               ///< [n, J]
  Array<double> variance;           ///< [n], D
  Array<double> chunk_cov;          ///< [chunks, kPacked<J>], predicted for the chunk's first point
  std::vector<double> lengthscale;  ///< [J]
  double logdet = 0.0;
  bool has_ties = false;
};

struct GramState {
  std::int64_t n = 0;
  std::int64_t width = 0;    ///< of the caller's arrays
  std::int64_t columns = 0;  ///< J, the width as compiled
  int num_threads = 0;
  std::vector<GramLine> lines;

  [[nodiscard]] std::int64_t chunks() const { return (n + kFilterChunk - 1) / kFilterChunk; }
};

/// The widths that are compiled; others are filled up to the next one.
inline constexpr int kCompiledWidths[] = {1, 2, 3, 4, 6, 8, 16, 32};

template <int J>
struct Width {
  static constexpr int value = J;
};

/// Calls f(Width<J>()) for the compiled width.
template <class F>
void with_width(std::int64_t columns, const F& f) {
  switch (columns) {
    case 1:
      return f(Width<1>());
    case 2:
      return f(Width<2>());
    case 3:
      return f(Width<3>());
    case 4:
      return f(Width<4>());
    case 6:
      return f(Width<6>());
    case 8:
      return f(Width<8>());
    case 16:
      return f(Width<16>());
    default:
      return f(Width<32>());
  }
}

/// The gap before point k > 0 in units of `lengthscale`, finite.
[[nodiscard]] inline double scaled_gap(const GramLine& line, std::int64_t k, double lengthscale) {
  const double x = scaled_distance(line.anchors[k], line.anchors[k - 1], {lengthscale, 0.0});
  return x < 1e3 ? x : 1e3;  // beyond, its decay and every derivative of it are 0
}

}  // namespace laplex::detail
