#include "product_pass.hpp"

#include "moments.hpp"

#include <algorithm>

namespace laplex::detail {
namespace {

/// What one thread keeps from block to block.
template <class T>
struct Worker {
  Carried<T> in;
  CarriedMoments<T> moments;
  std::vector<Delivered<T>> out;
  Array<std::byte> scratch;
};

/// One block of lanes of a pass: where its values come from and where its results go.
template <class T>
struct BlockPass {
  const State<T>& state;
  PassShape shape;
  Block block;
  SideView<T> from;
  SideView<T> to;
  std::int64_t n_in;
  const Vectors<const T>& values;
  bool conjugate;
  const std::vector<Result<T>>& results;
  int threads;

  [[nodiscard]] const std::uint16_t* left_at(const Result<T>& result) const {
    return result.strict() ? to.below : to.split;
  }
  [[nodiscard]] const std::uint16_t* right_at(const Result<T>& result) const {
    return result.strict() ? to.upto : to.split;
  }
};

/// Plain sums, once through the cells for each result.
template <class T>
void run_plain(const BlockPass<T>& pass, Worker<T>& w) {
  const Cells<T>& cells = pass.state.cells(pass.block.head);
  w.in.set(pass.shape, cells, pass.from, pass.n_in, pass.values, pass.block, pass.conjugate,
           w.scratch, pass.threads);
  for (std::size_t r = 0; r < pass.results.size(); ++r) {
    const Result<T>& result = pass.results[r];
    over_cells(cells, w.scratch, scratch_bytes(sizeof(T), pass.shape.wide), pass.threads,
               [&](std::int64_t begin, std::int64_t end, void* memory) {
                 kernels<T>().product(pass.shape.form, pass.shape.wide, pass.from, pass.to,
                                      pass.left_at(result), pass.right_at(result), w.in.input(),
                                      w.in.carries(), begin, end, result.combine(),
                                      w.out[r].output(), memory);
                 w.out[r].deliver(pass.to.first[begin], pass.to.first[end]);
               });
  }
}

/// Sums weighted by a polynomial of the distance, once through the cells for all results.
template <class T, class D>
void run_moments(const BlockPass<T>& pass, int degree, Worker<T>& w) {
  const std::int64_t head = pass.block.head;
  const Cells<T>& cells = pass.state.cells(head);
  w.moments.set(pass.shape, degree, cells, pass.state.template moments<D>(head, pass.threads),
                pass.from, pass.n_in, pass.values, pass.block, pass.conjugate, w.scratch,
                pass.threads);
  std::vector<MomentResult<T>> results;
  for (std::size_t r = 0; r < pass.results.size(); ++r) {
    const Result<T>& result = pass.results[r];
    results.push_back(moment_result(result.polynomial, result.combine(), pass.left_at(result),
                                    pass.right_at(result), w.out[r].output()));
  }
  MomentJob<T> job = w.moments.job();
  job.to = pass.to;
  job.results = results.data();
  job.num_results = static_cast<int>(results.size());
  over_cells(cells, w.scratch, moment_scratch_bytes(sizeof(T), pass.shape.wide), pass.threads,
             [&](std::int64_t begin, std::int64_t end, void* memory) {
               kernels<T>().moment_products(pass.shape.form, pass.shape.wide, degree, job, begin,
                                            end, memory);
               for (Delivered<T>& out : w.out) {
                 out.deliver(pass.to.first[begin], pass.to.first[end]);
               }
             });
}

}  // namespace

template <class T>
void run(const State<T>& state, const Vectors<const T>& values, std::int64_t rows, bool transposed,
         bool conjugate, const std::vector<Result<T>>& results, int num_threads, Order order) {
  const Fixed<T>& fixed = state.fixed();
  const std::int64_t lanes = rows * values.parts;
  const std::int64_t n_in = transposed ? fixed.n : fixed.m;
  const std::int64_t n_out = transposed ? fixed.m : fixed.n;
  const int threads = threads_for(fixed.heads * lanes * (fixed.n + fixed.m), num_threads);
  const PassShape shape = pass_shape(fixed, values.complex, lanes);
  const std::int64_t width = shape.width();
  const std::int64_t blocks = (lanes + width - 1) / width;
  const ThreadSplit split = split_threads(threads, fixed.heads * blocks, fixed.n + fixed.m);
  int degree = 0;
  for (const Result<T>& result : results) {
    degree = std::max(degree, degree_of(result.polynomial));
  }
  std::vector<Worker<T>> workers(static_cast<std::size_t>(split.outer));
  parallel_workers(split.outer, fixed.heads * blocks, [&](std::int64_t task, int worker) {
    Worker<T>& w = workers[static_cast<std::size_t>(worker)];
    const std::int64_t head = task / blocks;
    const std::int64_t first = task % blocks * width;
    const Block block{head, first, std::min(width, lanes - first)};
    const auto side = [&](Side which) {
      if (order == Order::given) {
        return side_for(shape, state, head, which, split.inner);
      }
      SideView<T> view = state.side(head, which);
      view.index = nullptr;
      return view;
    };
    const BlockPass<T> pass{state,
                            shape,
                            block,
                            side(transposed ? Side::targets : Side::sources),
                            side(transposed ? Side::sources : Side::targets),
                            n_in,
                            values,
                            conjugate,
                            results,
                            split.inner};
    w.out.resize(results.size());
    for (std::size_t r = 0; r < results.size(); ++r) {
      // sign(x_i - y_j) seen from the source is its negative.
      const double sign = transposed && results[r].parity == Parity::odd ? -1.0 : 1.0;
      w.out[r].open(shape, pass.to, n_out, results[r].vectors, block, conjugate,
                    degree == 0 ? sign * results[r].polynomial[0] : sign, degree == 0);
    }
    if (degree == 0) {
      run_plain(pass, w);
    } else if (fixed.oscillates) {
      run_moments<T, Complex>(pass, carried_degree(degree), w);
    } else {
      run_moments<T, double>(pass, carried_degree(degree), w);
    }
    for (Delivered<T>& out : w.out) {
      out.close(w.scratch, split.inner);
    }
  });
}

template void run<float>(const State<float>&, const Vectors<const float>&, std::int64_t, bool, bool,
                         const std::vector<Result<float>>&, int, Order);
template void run<double>(const State<double>&, const Vectors<const double>&, std::int64_t, bool,
                          bool, const std::vector<Result<double>>&, int, Order);

}  // namespace laplex::detail
