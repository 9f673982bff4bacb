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
};

/// With a null workspace of no bytes and `counts`, nothing is run and its size is returned.
template <class T>
std::size_t product(const ProductCall<T>& call, Memory workspace, bool counts, Stream stream);
template <class T>
std::size_t gradients(const GradientCall<T>& call, Memory workspace, bool counts, Stream stream);
/// Those of a term, which has the polynomial of its kernel too.
template <class T>
std::size_t term_gradients(const GradientCall<T>& call, const Term& term, Memory workspace,
                           bool counts, Stream stream);

}  // namespace laplex::cuda::detail
