/// What a Gram holds, and its calls' passes over it: everything resolved but the compiled width.
#pragma once

#include "kernels/gram_line.hpp"
#include "runtime.hpp"

#include <laplex/cuda/gram.hpp>

#include <cstddef>
#include <cstdint>

namespace laplex::cuda::detail {

template <int J>
struct Columns {
  static constexpr int value = J;
};

/// Calls f(Columns<J>()) for the compiled width that holds `width` columns.
template <class F>
void with_columns(std::int64_t width, const F& f) {
  if (width <= 1) {
    f(Columns<1>());
  } else if (width <= 2) {
    f(Columns<2>());
  } else if (width <= 4) {
    f(Columns<4>());
  } else {
    f(Columns<8>());
  }
}

struct GramState {
  GramLine line;
  bool has_ties = false;
  std::int64_t nbytes = 0;
  DeviceMemory owned;

  GramState(std::int64_t batch, std::int64_t n, std::int64_t width) : line(batch, n, width) {}
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
