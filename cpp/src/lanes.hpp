/// How vectors in the caller's memory become lanes.
///
/// A lane is one vector that goes through the cells. The cosine form is a real matrix, so complex
/// values under it make two lanes a row, their real and imaginary parts; otherwise a row is a lane.
/// Lanes go through the cells one at a time or, in a wide block, kRows side by side.
#pragma once

#include "parallel.hpp"
#include "state.hpp"

#include <cstdint>

namespace laplex::detail {

/// A batch of vectors: [heads][rows][count] by strides; complex numbers are pairs of T.
template <class T>
struct Vectors {
  T* base;
  bool complex;
  Strides strides;
  int parts;  ///< lanes per row: 2 if real and imaginary parts are lanes of their own

  /// First scalar of a lane, and the step from one of its entries to the next.
  [[nodiscard]] T* lane(std::int64_t head, std::int64_t lane) const {
    const std::int64_t row = lane / parts;
    const std::int64_t start = head * strides.head + row * strides.row;
    return base + (complex ? 2 * start : start) + lane % parts;
  }
  [[nodiscard]] std::int64_t step() const { return complex ? 2 : 1; }
  /// Whether an entry of a lane is a pair (re, im).
  [[nodiscard]] bool paired() const { return complex && parts == 1; }
};

/// A run of lanes, kRows at most.
struct Block {
  std::int64_t head;
  std::int64_t first;
  std::int64_t count;
};

/// Lanes of a wide block, which have `length` entries each.
template <class T>
[[nodiscard]] RowsOf<T> rows_of(const Vectors<T>& vectors, Block block, std::int64_t length) {
  return {vectors.lane(block.head, block.first),
          vectors.strides.row * (vectors.complex ? 2 : 1),
          vectors.parts,
          vectors.step(),
          block.count,
          length};
}

inline constexpr std::int64_t kLaneGrain = 4096;

/// Lanes per row for values of this type.
template <class T>
[[nodiscard]] int parts_of(const Fixed<T>& fixed, bool values_complex) {
  return values_complex && fixed.real_part ? 2 : 1;
}

/// How a call runs: the form of its values, and whether it takes eight lanes at a time or one.
struct PassShape {
  Form form;
  bool wide;

  [[nodiscard]] std::int64_t width() const { return wide ? kRows : 1; }
  /// Numbers of double precision a cell and block carry.
  [[nodiscard]] std::int64_t carry() const { return planes_of(form) * width(); }
};

/// The width is a matter of speed and memory: every lane goes through the same operations whatever
/// stands beside it.
template <class T>
[[nodiscard]] PassShape pass_shape(const State<T>& state, bool values_complex, std::int64_t lanes) {
  // A wide block takes as long as about three narrow ones, or six where its tiles, which take 64
  // bytes an anchor, are beyond the near caches.
  constexpr std::int64_t kNear = std::int64_t(1) << 15;
  constexpr std::int64_t kWideLimit = std::int64_t(1) << 22;
  const Fixed<T>& fixed = state.fixed();
  PassShape shape{};
  shape.wide = lanes >= (state.anchors() <= kNear ? 3 : 6) && state.anchors() <= kWideLimit;
  shape.form = fixed.oscillates                                             ? Form::oscillating
               : fixed.has_phases() || (values_complex && !fixed.real_part) ? Form::complex
                                                                            : Form::real;
  return shape;
}

/// How a call over heads and blocks of lanes shares its threads: many small blocks run side by
/// side, a few long ones one after the other with all threads inside.
struct ThreadSplit {
  int outer = 1;
  int inner = 1;
};

[[nodiscard]] inline ThreadSplit split_threads(int threads, std::int64_t tasks,
                                               std::int64_t anchors) {
  constexpr std::int64_t kLong = 1 << 18;
  if (tasks >= threads && anchors < kLong) {
    return {threads, 1};
  }
  return {1, threads};
}

}  // namespace laplex::detail
