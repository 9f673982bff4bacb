/// Products and gradients as the plan calls them: everything resolved but the types of the scan.
#pragma once

#include "kernels/gradients.hpp"
#include "kernels/product.hpp"
#include "profile.hpp"
#include "runtime.hpp"
#include "state.hpp"

namespace laplex::cuda::detail {

/// What of a kernel can change without a new order.
struct Parameters {
  Lengthscales lengthscale;
  const double* frequency;
  bool is_complex;  ///< of values and kernel together: whether sums are complex
};

template <class T>
struct ProductCall {
  const State<T>& state;
  Parameters parameters;
  std::int64_t rows;
  bool swapped;
  Input<T> input;
  Output<T> output;
  Parity parity;
  laplex::detail::Polynomial polynomial;
  Part part;
  bool cumulative = false;
  bool in_order = false;  ///< values and results are in the order of the sorted anchors

  [[nodiscard]] Line<T> line() const {
    Line<T> line = state.line(swapped);
    if (in_order) {
      line.from.index = nullptr;
      line.to.index = nullptr;
    }
    return line;
  }
};

template <class T>
struct GradientCall {
  const State<T>& state;
  Parameters parameters;
  std::int64_t rows;
  Input<T> values;
  Input<T> grad;
  Output<T> d_values;
  AnchorGradients<T> targets;
  AnchorGradients<T> sources;
  double* lengthscale;
  double* frequency;
  Part part;  ///< of the sources, as a target sees them
};

/// The places where the smoothed count of anchors below reaches the levels; see Plan::quantiles().
template <class T>
struct QuantileCall {
  const State<T>& state;
  Parameters parameters;
  const double* levels;  ///< [heads, count]
  std::int64_t count;
  double* result;  ///< [heads, count]
};

/// The part of a one-sided plan, as the anchors that sums are read off at see it.
[[nodiscard]] inline Part part_of(Side side, bool swapped) {
  return side == Side::both                ? Part::both
         : (side == Side::left) != swapped ? Part::left
                                           : Part::right;
}
/// The side of a target whose sources count whole in a cumulative sum.
[[nodiscard]] inline Part whole_part(bool swapped) {
  return swapped ? Part::right : Part::left;
}
[[nodiscard]] inline Part turned(Part part) {
  return part == Part::left ? Part::right : part == Part::right ? Part::left : part;
}

/// With a null workspace of no bytes and `counts`, nothing is run and its size is returned.
template <class T>
std::size_t product(const ProductCall<T>& call, Memory workspace, bool counts, Stream stream);
template <class T>
std::size_t gradients(const GradientCall<T>& call, Memory workspace, bool counts, Stream stream);
template <class T>
std::size_t quantiles(const QuantileCall<T>& call, Memory workspace, bool counts, Stream stream);
/// Those of a term, which has the polynomial of its kernel too.
template <class T>
std::size_t term_gradients(const GradientCall<T>& call, const Term& term, Memory workspace,
                           bool counts, Stream stream);

}  // namespace laplex::cuda::detail
