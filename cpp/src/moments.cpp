#include "moments.hpp"

#include "buffer.hpp"
#include "lookup.hpp"

#include <algorithm>

namespace laplex::detail {

template <class T>
void apply_moment(const State<T>& state, const Vectors<const T>& values, std::int64_t rows,
                  bool transposed, bool conjugate, Term term, const Vectors<T>& result,
                  double scale, int num_threads) {
  const Fixed<T>& fixed = state.fixed();
  const std::int64_t lanes = rows * values.parts;
  const std::int64_t n_in = transposed ? fixed.n : fixed.m;
  const std::int64_t n_out = transposed ? fixed.m : fixed.n;
  const int threads = threads_for(fixed.heads * lanes * (fixed.n + fixed.m), num_threads);
  const auto& in_factors = transposed ? fixed.target_factor : fixed.source_factor;
  const auto& out_factors = transposed ? fixed.source_factor : fixed.target_factor;

  with_shape(pass_shape(fixed, values.complex, lanes), [&](auto shape) {
    using D = typename decltype(shape)::D;
    using S = typename decltype(shape)::S;
    constexpr int W = decltype(shape)::W;
    const std::int64_t blocks = (lanes + W - 1) / W;
    const ThreadSplit split = split_threads(threads, fixed.heads * blocks, fixed.n + fixed.m);
    parallel_tasks(split.outer, fixed.heads * blocks, [&](std::int64_t task) {
      const std::int64_t head = task / blocks;
      const std::int64_t first = task % blocks * W;
      const Block block{head, first, std::min<std::int64_t>(W, lanes - first)};
      const Direction<D>& direction = state.template moments<D>(head, transposed, split.inner);
      const Buffer<S> tile = make_buffer<S>(n_in * W);
      load<W>(values, block, direction.from, factor_of(in_factors, head, n_in), conjugate,
              tile.get(), split.inner);
      const Buffer<S> read = make_buffer<S>(n_out * W);
      scan_and_read<W>(term, direction, fixed.rate[static_cast<std::size_t>(head)], tile.get(),
                       read.get(), split.inner);
      store<W>(read.get(), block, direction.to, factor_of(out_factors, head, n_out), conjugate,
               scale, result, split.inner);
    });
  });
}

template void apply_moment<float>(const State<float>&, const Vectors<const float>&, std::int64_t,
                                  bool, bool, Term, const Vectors<float>&, double, int);
template void apply_moment<double>(const State<double>&, const Vectors<const double>&, std::int64_t,
                                   bool, bool, Term, const Vectors<double>&, double, int);

}  // namespace laplex::detail
