// Products with K, K^T and K^H, the derivative family, and the half sums.
#include "block_pass.hpp"
#include "boundary.hpp"
#include "checks.hpp"
#include "moments.hpp"
#include "state.hpp"

#include <laplex/plan.hpp>

#include <algorithm>
#include <vector>

namespace laplex {

using namespace detail;

namespace {

/// One of the results of a pass.
template <class T>
struct Result {
  Combine combine;
  bool strict;  ///< tied pairs left out
  Vectors<T> vectors;
};

/// Sends every block of lanes through the cells, once for each result.
template <class T>
void run(const State<T>& state, const Vectors<const T>& values, std::int64_t rows, bool transposed,
         bool conjugate, const std::vector<Result<T>>& results, double scale, int num_threads) {
  const Fixed<T>& fixed = state.fixed();
  const std::int64_t lanes = rows * values.parts;
  const std::int64_t n_in = transposed ? fixed.n : fixed.m;
  const std::int64_t n_out = transposed ? fixed.m : fixed.n;
  const int threads = threads_for(fixed.heads * lanes * (fixed.n + fixed.m), num_threads);
  const PassShape shape = pass_shape(fixed, values.complex, lanes);
  const std::int64_t width = shape.width();
  const std::int64_t blocks = (lanes + width - 1) / width;
  const ThreadSplit split = split_threads(threads, fixed.heads * blocks, fixed.n + fixed.m);
  const std::int64_t scratch_size = scratch_bytes(sizeof(T), shape.wide);
  struct Worker {
    Carried<T> in;
    Delivered<T> out;
    Array<std::byte> scratch;
  };
  std::vector<Worker> workers(static_cast<std::size_t>(split.outer));
  parallel_workers(split.outer, fixed.heads * blocks, [&](std::int64_t task, int worker) {
    Worker& w = workers[static_cast<std::size_t>(worker)];
    const std::int64_t head = task / blocks;
    const std::int64_t first = task % blocks * width;
    const Block block{head, first, std::min(width, lanes - first)};
    const Cells<T>& cells = state.cells(head);
    const auto side = [&](Side which) { return side_for(shape, state, head, which, split.inner); };
    const SideView<T> from = side(transposed ? Side::targets : Side::sources);
    const SideView<T> to = side(transposed ? Side::sources : Side::targets);
    w.in.set(shape, cells, from, n_in, values, block, conjugate, w.scratch, split.inner);
    for (const Result<T>& result : results) {
      w.out.open(shape, to, n_out, result.vectors, block, conjugate, scale);
      over_cells(cells, w.scratch, scratch_size, split.inner,
                 [&](std::int64_t begin, std::int64_t end, void* memory) {
                   kernels<T>().product(
                       shape.form, shape.wide, from, to, result.strict ? to.below : to.split,
                       result.strict ? to.upto : to.split, w.in.input(), w.in.carries(), begin, end,
                       result.combine, w.out.output(), memory);
                   w.out.deliver(to.first[begin], to.first[end]);
                 });
      w.out.close(split.inner);
    }
  });
}

}  // namespace

template <class T>
void Plan<T>::apply_any(const T* v, bool v_complex, std::int64_t rows, Strides v_strides, T* u,
                        bool u_complex, Strides u_strides, Mode mode, Term term,
                        int num_threads) const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  check_call(rows, "result", u_complex, v_complex || kernel_is_complex());
  check_term(term);
  const bool transposed = mode != Mode::plain;
  const int parts = parts_of(fixed, v_complex);
  // sign(x_i - y_j) seen from the source is its negative.
  const double scale = transposed && term.parity == Parity::odd ? -1.0 : 1.0;
  guarded([&] {
    const Vectors<const T> in{v, v_complex, v_strides, parts};
    const Vectors<T> out{u, u_complex, u_strides, parts};
    const bool conjugate = mode == Mode::adjoint && parts == 1;
    const int threads = num_threads > 0 ? num_threads : fixed.num_threads;
    if (term.moment > 0) {
      apply_moment(*snapshot, in, rows, transposed, conjugate, term, out, scale, threads);
    } else {
      const Combine combine = term.parity == Parity::odd ? Combine::difference : Combine::sum;
      run<T>(*snapshot, in, rows, transposed, conjugate,
             {{combine, term.parity != Parity::even, out}}, scale, threads);
    }
  });
}

template <class T>
void Plan<T>::half_sums_any(const T* v, bool v_complex, std::int64_t rows, Strides v_strides,
                            T* left, T* right, bool u_complex, Strides u_strides,
                            int num_threads) const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  check_call(rows, "result", u_complex, v_complex || kernel_is_complex());
  const int parts = parts_of(fixed, v_complex);
  guarded([&] {
    run<T>(*snapshot, {v, v_complex, v_strides, parts}, rows, false, false,
           {{Combine::left, false, Vectors<T>{left, u_complex, u_strides, parts}},
            {Combine::right, false, Vectors<T>{right, u_complex, u_strides, parts}}},
           1.0, num_threads > 0 ? num_threads : fixed.num_threads);
  });
}

template void Plan<float>::apply_any(const float*, bool, std::int64_t, Strides, float*, bool,
                                     Strides, Mode, Term, int) const;
template void Plan<double>::apply_any(const double*, bool, std::int64_t, Strides, double*, bool,
                                      Strides, Mode, Term, int) const;
template void Plan<float>::half_sums_any(const float*, bool, std::int64_t, Strides, float*, float*,
                                         bool, Strides, int) const;
template void Plan<double>::half_sums_any(const double*, bool, std::int64_t, Strides, double*,
                                          double*, bool, Strides, int) const;

}  // namespace laplex
