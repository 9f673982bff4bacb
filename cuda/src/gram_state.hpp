/// What a Gram holds, and its calls' passes over it: everything resolved but the compiled shape.
#pragma once

#include "kernels/gram_line.hpp"
#include "runtime.hpp"

#include <laplex/cuda/gram.hpp>

#include <array>
#include <cstddef>
#include <cstdint>

namespace laplex::cuda::detail {

/// J columns in slots of B.
template <int J, int B>
struct Shape {
  static constexpr int columns = J;
  static constexpr int block = B;
};

/// The widths that are compiled for slots of 1, 2 and 3 columns.
inline constexpr std::array<int, 4> kCompiledWidths[] = {{1, 2, 4, 8}, {2, 4, 8, 8}, {3, 6, 6, 6}};

template <int B, int... J, class F>
void with_columns(int columns, const F& f) {
  (void)((columns == J && (f(Shape<J, B>()), true)) || ...);
}

/// Calls f(Shape<J, B>()) for what is compiled.
template <class F>
void with_shape(const GramBlocks& blocks, const F& f) {
  if (blocks.block == 1) {
    with_columns<1, 1, 2, 4, 8>(blocks.columns, f);
  } else if (blocks.block == 2) {
    with_columns<2, 2, 4, 8>(blocks.columns, f);
  } else {
    with_columns<3, 3, 6>(blocks.columns, f);
  }
}

struct GramState {
  GramLine line;
  bool has_ties = false;
  std::int64_t nbytes = 0;
  DeviceMemory owned;

  explicit GramState(const GramLine& line_) : line(line_) {}
};

/// The arguments of Gram::vjp_tangent().
struct GramGradientCall {
  const double* a;
  const double* b;
  std::int64_t rows;
  const double* w;
  GramTangent tangent;
  GramGradients gradients;
  double* d_a;
  double* d_b;
  double* d_w;
};

/// With `counts` nothing is run, and the workspace's size is returned. N is double, or Dual.
template <class N>
std::size_t gram_gradients(const GramLine& line, const GramGradientCall& call, Memory workspace,
                           bool counts, Stream stream);

}  // namespace laplex::cuda::detail
