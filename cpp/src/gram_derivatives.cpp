/// Derivatives of what the factor of a Gram does: the filter's recurrence in reverse, and the same
/// again in dual numbers.
#include <laplex/gram.hpp>

#include "boundary.hpp"
#include "checks.hpp"
#include "gram_reverse.hpp"
#include "gram_state.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace laplex {

using namespace detail;

namespace {

double* offset(double* array, std::int64_t by) {
  return array == nullptr ? nullptr : array + by;
}
const double* offset(const double* array, std::int64_t by) {
  return array == nullptr ? nullptr : array + by;
}

void check_vectors(const Gram& gram, const double* a, const double* b, std::int64_t rows) {
  check_rows(gram.batch(), rows, gram.size());
  check_array("a", a, gram.batch() * rows * gram.size());
  check_array("b", b, gram.batch() * rows * gram.size());
}

template <class N>
void reverse_all(const GramState& state, Problem all, int num_threads) {
  const std::int64_t n = state.n;
  const std::int64_t width = state.width;
  const auto batch = static_cast<std::int64_t>(state.lines.size());
  const std::int64_t rows = all.rows;
  const int threads = threads_for(batch * (rows + width) * n * state.layout.columns,
                                  num_threads > 0 ? num_threads : state.num_threads);
  for (double* const each : {all.gradients.lengthscale, all.gradients.weights}) {
    if (each != nullptr) {  // where there are no anchors, and of columns that have no lengthscale
      std::fill(each, each + batch * width, 0.0);
    }
  }
  parallel_tasks(threads, n > 0 ? batch : 0, [&](std::int64_t m) {
    const Problem one{
        &state.layout,
        &state.lines[static_cast<std::size_t>(m)],
        n,
        width,
        rows,
        offset(all.a, m * rows * n),
        offset(all.b, m * rows * n),
        offset(all.w, m * n),
        {offset(all.tangent.anchors, m * n), offset(all.tangent.lengthscale, m * width),
         offset(all.tangent.loadings, m * n * width), offset(all.tangent.noise, m * n),
         offset(all.tangent.weights, m * width)},
        {offset(all.gradients.anchors, m * n), offset(all.gradients.lengthscale, m * width),
         offset(all.gradients.loadings, m * n * width), offset(all.gradients.noise, m * n),
         offset(all.gradients.weights, m * width)},
        offset(all.d_a, m * rows * n),
        offset(all.d_b, m * rows * n),
        offset(all.d_w, m * n)};
    with_shape(state.layout.block, state.layout.columns, [&](auto shape) {
      Reverse<N, decltype(shape)::columns, decltype(shape)::block>(one).run();
    });
  });
}

}  // namespace

void Gram::vjp(const double* a, const double* b, std::int64_t rows, const double* w,
               const GramGradients& gradients, double* d_b, int num_threads) const {
  guarded([&] {
    check_vectors(*this, a, b, rows);
    reverse_all<double>(
        checked(state_),
        {nullptr, nullptr, 0, 0, rows, a, b, w, {}, gradients, nullptr, d_b, nullptr}, num_threads);
  });
}

void Gram::vjp_tangent(const double* a, const double* b, std::int64_t rows, const double* w,
                       const GramTangent& tangent, const GramGradients& gradients, double* d_a,
                       double* d_b, double* d_w, int num_threads) const {
  guarded([&] {
    check_vectors(*this, a, b, rows);
    reverse_all<Dual>(checked(state_),
                      {nullptr, nullptr, 0, 0, rows, a, b, w, tangent, gradients, d_a, d_b, d_w},
                      num_threads);
  });
}

}  // namespace laplex
