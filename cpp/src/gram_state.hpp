/// What a Gram holds: for each matrix the sorted line, its factor, and the filter's covariance at
/// the start of each chunk, from which derivatives run it again.
#pragma once

#include <laplex/detail/filter.hpp>
#include <laplex/gram.hpp>

#include "array.hpp"
#include "checks.hpp"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <vector>

namespace laplex::detail {

/// Points between two kept covariances: what derivatives find again at a time.
inline constexpr std::int64_t kFilterChunk = 128;

/// Where a block of columns is among those as compiled.
struct Part {
  int size;
  int column;  ///< its first one of the caller's
  int first;   ///< its first one as compiled
};

struct Layout {
  int block = 1;    ///< B, the columns of a slot
  int columns = 0;  ///< J, the width as compiled
  std::vector<Part> parts;
  std::vector<int> column;  ///< [J], of the caller's arrays; -1 where there is none
};

/// One matrix, in sorted order. Columns that fill up the compiled width have loadings of 0.
struct GramLine {
  Array<std::uint32_t> order;       ///< [n], numbers of the anchors
  Array<double> anchors;            ///< [n]
  Array<double> fall;               ///< [n, J], see fall_across(); of the first point: -1; B = 1
  Array<double> transition;         ///< [n, kTransitionStride<J, B>], as in Step; B > 1
  Array<double> loadings;           ///< [n, J]
  Array<double> noise;              ///< [n]
  Array<double> gain;               ///< [n, J]
  Array<double> variance;           ///< [n], D
  Array<double> chunk_cov;          ///< [chunks, kPacked<J>], predicted for the chunk's first point
  std::vector<double> lengthscale;  ///< [J]
  std::vector<double> weights;      ///< [J]; B > 1
  /// The stationary covariances of the blocks, of the sizes of the weights, packed; B > 1.
  std::vector<double> state_variance;
  double logdet = 0.0;
  bool root = false;  ///< chunk_cov is what RootFilter::keep() writes
  bool has_ties = false;
};

struct GramState {
  std::int64_t n = 0;
  std::int64_t width = 0;  ///< of the caller's arrays
  Layout layout;
  int num_threads = 0;
  std::vector<GramLine> lines;

  [[nodiscard]] std::int64_t chunks() const { return (n + kFilterChunk - 1) / kFilterChunk; }
};

/// The state of a Gram that was not moved from.
[[nodiscard]] inline const GramState& checked(const std::shared_ptr<const GramState>& state) {
  if (state == nullptr) {
    invalid("this Gram was moved from: use the one that it was moved to");
  }
  return *state;
}

/// The widths that are compiled; others are filled up to the next one.
inline constexpr int kCompiledWidths[] = {1, 2, 3, 4, 6, 8, 16, 32};

/// The same for slots of 2 and of 3 columns. The last ones hold whatever kMostColumns can need: a
/// block of 3, 14 of 2 and one of 1 are 15 slots.
inline constexpr int kCompiledPairs[] = {2, 4, 6, 8, 16, 32};
inline constexpr int kCompiledTriples[] = {3, 6, 12, 45};

/// The least compiled width of at least so many columns, in slots of `block`.
[[nodiscard]] inline int compiled_columns(int block, int columns) {
  const auto least = [&](const auto& widths) {
    return *std::find_if(std::begin(widths), std::end(widths) - 1,
                         [&](int width) { return width >= columns; });
  };
  return block == 1   ? least(kCompiledWidths)
         : block == 2 ? least(kCompiledPairs)
                      : least(kCompiledTriples);
}

template <int J, int B>
struct Shape {
  static constexpr int columns = J;
  static constexpr int block = B;
};

/// The numbers of a point's transition: A and Q as Step has them.
template <int J, int B>
inline constexpr int kTransitionStride = J * B + kBlockPacked<J, B>;

template <int B, int... J, class F>
void with_columns(int columns, const F& f) {
  (void)((columns == J && (f(Shape<J, B>()), true)) || ...);
}

/// Calls f(Shape<J, B>()) for what is compiled.
template <class F>
void with_shape(int block, int columns, const F& f) {
  if (block == 1) {
    with_columns<1, 1, 2, 3, 4, 6, 8, 16, 32>(columns, f);
  } else if (block == 2) {
    with_columns<2, 2, 4, 6, 8, 16, 32>(columns, f);
  } else {
    with_columns<3, 3, 6, 12, 45>(columns, f);
  }
}

/// The gap before point k > 0 in units of `lengthscale`, finite.
[[nodiscard]] inline double scaled_gap(const GramLine& line, std::int64_t k, double lengthscale) {
  const double x = scaled_distance(line.anchors[k], line.anchors[k - 1], {lengthscale, 0.0});
  return x < 1e3 ? x : 1e3;  // beyond, its decay and every derivative of it are 0
}

}  // namespace laplex::detail
