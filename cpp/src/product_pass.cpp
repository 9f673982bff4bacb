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
  bool transposed;
  const std::vector<Result<T>>& results;
  Side seen;  ///< of `to`, the anchors of `from` that count
  int threads;

  [[nodiscard]] const Cells<T>& cells() const { return state.cells(block.head); }
  template <class D>
  [[nodiscard]] const MomentLine<D>& line() const {
    return state.template moments<D>(block.head, threads);
  }
  [[nodiscard]] const std::uint16_t* left_at(const Result<T>& result) const {
    if (seen != Side::both) {
      return one_side_at(result);
    }
    return result.strict() ? to.below : to.split;
  }
  [[nodiscard]] const std::uint16_t* right_at(const Result<T>& result) const {
    if (seen != Side::both) {
      return one_side_at(result);
    }
    return result.strict() ? to.upto : to.split;
  }
  [[nodiscard]] const std::uint16_t* one_side_at(const Result<T>& result) const {
    return (seen == Side::left) == result.strict() ? to.below : to.upto;
  }
};

/// Plain sums: up,
template <class T>
void sum_plain(const BlockPass<T>& pass, Worker<T>& w) {
  w.in.set(pass.shape, pass.cells(), pass.from, pass.n_in, pass.values, pass.block, pass.conjugate,
           w.scratch, pass.threads);
  if (std::any_of(pass.results.begin(), pass.results.end(),
                  [](const Result<T>& result) { return result.cumulative; })) {
    w.in.run_along(pass.shape, pass.cells(), pass.from, pass.transposed, w.scratch, pass.threads);
  }
}

/// and down again, once through the cells for each result.
template <class T>
void deliver_plain(const BlockPass<T>& pass, std::int64_t slot, const Round* round, Worker<T>& w) {
  const Cells<T>& cells = pass.cells();
  w.in.enter(pass.shape, cells, slot, round, pass.threads);
  for (std::size_t r = 0; r < pass.results.size(); ++r) {
    const Result<T>& result = pass.results[r];
    const Carries carries = result.cumulative ? w.in.running_carries() : w.in.carries();
    over_cells(cells, w.scratch, scratch_bytes(sizeof(T), pass.shape.wide), pass.threads,
               [&](std::int64_t begin, std::int64_t end, void* memory) {
                 kernels<T>().product(pass.shape.form, pass.shape.wide, pass.from, pass.to,
                                      pass.left_at(result), pass.right_at(result), w.in.input(),
                                      carries, begin, end, result.combine(pass.seen),
                                      w.out[r].output(), memory);
                 w.out[r].deliver(pass.to.first[begin], pass.to.first[end]);
               });
  }
}

/// Sums weighted by a polynomial of the distance: up,
template <class T, class D>
void sum_moments(const BlockPass<T>& pass, int degree, Worker<T>& w) {
  w.moments.set(pass.shape, degree, pass.cells(), pass.template line<D>(), pass.from, pass.n_in,
                pass.values, pass.block, pass.conjugate, w.scratch, pass.threads);
}

/// and down again, once through the cells for all results.
template <class T, class D>
void deliver_moments(const BlockPass<T>& pass, int degree, std::int64_t slot, const Round* round,
                     Worker<T>& w) {
  const Cells<T>& cells = pass.cells();
  w.moments.enter(cells, pass.template line<D>(), slot, round, pass.threads);
  std::vector<MomentResult<T>> results;
  for (std::size_t r = 0; r < pass.results.size(); ++r) {
    const Result<T>& result = pass.results[r];
    results.push_back(moment_result(result.polynomial, result.combine(pass.seen),
                                    pass.left_at(result), pass.right_at(result),
                                    w.out[r].output()));
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
  const PassShape shape = pass_shape(state, values.complex, lanes);
  const std::int64_t width = shape.width();
  const std::int64_t blocks = (lanes + width - 1) / width;
  const ThreadSplit split = fixed.part != nullptr
                                ? ThreadSplit{1, threads}
                                : split_threads(threads, fixed.heads * blocks, fixed.n + fixed.m);
  int degree = 0;
  for (const Result<T>& result : results) {
    degree = std::max(degree, degree_of(result.polynomial));
  }
  const Side seen = transposed ? turned(fixed.side) : fixed.side;
  const auto pass_of = [&](std::int64_t task) -> BlockPass<T> {
    const std::int64_t head = task / blocks;
    const std::int64_t first = task % blocks * width;
    const auto side = [&](Role which) {
      if (order == Order::given) {
        return side_for(shape, state, head, which, split.inner);
      }
      SideView<T> view = state.side(head, which);
      view.index = nullptr;
      return view;
    };
    return {state,
            shape,
            {head, first, std::min(width, lanes - first)},
            side(transposed ? Role::targets : Role::sources),
            side(transposed ? Role::sources : Role::targets),
            n_in,
            values,
            conjugate,
            transposed,
            results,
            seen,
            split.inner};
  };
  const int carried = carried_degree(degree);
  const auto sum = [&](const BlockPass<T>& pass, Worker<T>& w) {
    if (degree == 0) {
      sum_plain(pass, w);
    } else if (fixed.oscillates) {
      sum_moments<T, Complex>(pass, carried, w);
    } else {
      sum_moments<T, double>(pass, carried, w);
    }
  };
  const auto send = [&](const BlockPass<T>& pass, std::int64_t slot, Round& round, Worker<T>& w) {
    if (degree == 0) {
      w.in.send(shape, pass.cells(), slot, round);
    } else if (fixed.oscillates) {
      w.moments.send(pass.cells(), pass.template line<Complex>(), slot, round);
    } else {
      w.moments.send(pass.cells(), pass.template line<double>(), slot, round);
    }
  };
  const auto deliver = [&](const BlockPass<T>& pass, std::int64_t slot, const Round* round,
                           Worker<T>& w) {
    w.out.resize(results.size());
    for (std::size_t r = 0; r < results.size(); ++r) {
      // sign(x_i - y_j) seen from the source is its negative, and on the right it is -1.
      const bool negative = transposed != (seen == Side::right);
      const double sign = negative && results[r].parity == Parity::odd ? -1.0 : 1.0;
      w.out[r].open(shape, pass.to, n_out, results[r].vectors, pass.block, conjugate,
                    degree == 0 ? sign * results[r].polynomial[0] : sign, degree == 0);
    }
    if (degree == 0) {
      deliver_plain(pass, slot, round, w);
    } else if (fixed.oscillates) {
      deliver_moments<T, Complex>(pass, carried, slot, round, w);
    } else {
      deliver_moments<T, double>(pass, carried, slot, round, w);
    }
    for (Delivered<T>& out : w.out) {
      out.close(w.scratch, split.inner);
    }
  };
  if (fixed.part != nullptr) {
    std::vector<Worker<T>> workers(kBlocksAtOnce);
    in_two_halves(
        *state.cells(0).shared(), blocks, 1, shape.carry() * (carried + 1),
        [&](std::int64_t block, std::int64_t slot, Round& round) {
          Worker<T>& w = workers[static_cast<std::size_t>(slot)];
          const BlockPass<T> pass = pass_of(block);
          sum(pass, w);
          send(pass, slot, round, w);
        },
        [&](std::int64_t block, std::int64_t slot, const Round& round) {
          deliver(pass_of(block), slot, &round, workers[static_cast<std::size_t>(slot)]);
        });
    return;
  }
  std::vector<Worker<T>> workers(static_cast<std::size_t>(split.outer));
  parallel_workers(split.outer, fixed.heads * blocks, [&](std::int64_t task, int worker) {
    Worker<T>& w = workers[static_cast<std::size_t>(worker)];
    const BlockPass<T> pass = pass_of(task);
    sum(pass, w);
    deliver(pass, 0, nullptr, w);
  });
}

template void run<float>(const State<float>&, const Vectors<const float>&, std::int64_t, bool, bool,
                         const std::vector<Result<float>>&, int, Order);
template void run<double>(const State<double>&, const Vectors<const double>&, std::int64_t, bool,
                          bool, const std::vector<Result<double>>&, int, Order);

}  // namespace laplex::detail
