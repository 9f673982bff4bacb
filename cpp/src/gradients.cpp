// First-order gradients of F = Re<g, K v> for all seven inputs, from one pass over the cells.
//
// With c = 1/lengthscale - i*frequency, d = |x_i - y_j|, even sums over all pairs and odd ones with
// sign(x_i - y_j), ties left out,
//   dF/dx_i     = Re(conj(g_i) * -c * odd_i(v))
//   dF/dtheta_i = Re(conj(g_i) * i * even_i(v))
//   dF/dv_j     = conj(even_j(g)),  dF/dphi_j = Re(-i v_j even_j(g)),  dF/dy_j = Re(v_j * -c *
//   odd_j(g))
// where the sums at the sources are those of K^T conj(g). With W = sum_ij conj(g_i) d K_ij v_j,
//   dF/dell = Re(W) / ell^2,  dF/domega = -Im(W).
// W is the integral along the line of the sum over all pairs that straddle a place. That sum is a
// product, (what comes from the sources on the left) * (what comes from the targets on the right)
// and the reverse, and constant between neighbours: no term of it cancels, unlike in the formula
// through the gradients by the anchors, which loses |x|/ell digits.
#include "block_pass.hpp"
#include "boundary.hpp"
#include "checks.hpp"
#include "exact_sum.hpp"
#include "product_pass.hpp"
#include "profile.hpp"
#include "second_gradients.hpp"
#include "state.hpp"
#include "term_gradients.hpp"

#include <laplex/plan.hpp>

#include <algorithm>
#include <vector>

namespace laplex {

using namespace detail;

namespace {

/// Sums over lanes, in sorted order and in double; empty where not asked for.
struct Accumulators {
  std::vector<double> targets;
  std::vector<double> sources;
  std::vector<double> target_phase;
  std::vector<double> source_phase;
  std::vector<double> stretch;  ///< [cells][2]: W over the lengthscale

  void add(const Accumulators& other) {
    const auto add_to = [](auto& a, const auto& b) {
      for (std::size_t k = 0; k < a.size(); ++k) {
        a[k] = a[k] + b[k];
      }
    };
    add_to(targets, other.targets);
    add_to(sources, other.sources);
    add_to(target_phase, other.target_phase);
    add_to(source_phase, other.source_phase);
    add_to(stretch, other.stretch);
  }
};

template <class T>
struct Call {
  const State<T>& state;
  Vectors<const T> values;
  Vectors<const T> grad;
  Vectors<T> d_values;  ///< base may be null
  Gradients<T, T> wanted;
  bool cumulative = false;
  /// Whether the gradients by the targets and by the sources, which are the same anchors, are
  /// added.
  bool together = false;

  [[nodiscard]] bool needs_stretch() const { return wanted.lengthscale || wanted.frequency; }
  /// Whether a block's gradients by anchors and phases can go to where the caller wants them: there
  /// is no other block to add to them.
  bool direct = false;

  [[nodiscard]] Accumulators accumulators(std::int64_t head) const {
    const auto n = static_cast<std::size_t>(direct ? 0 : state.fixed().n);
    const auto m = static_cast<std::size_t>(direct ? 0 : state.fixed().m);
    Accumulators a;
    a.targets.resize(wanted.targets ? n : 0);
    a.sources.resize(wanted.sources && !together ? m : 0);
    a.target_phase.resize(wanted.target_phase ? n : 0);
    a.source_phase.resize(wanted.source_phase ? m : 0);
    a.stretch.resize(needs_stretch() ? 2 * static_cast<std::size_t>(state.cells(head).count()) : 0);
    return a;
  }
  /// Where the gradient of one input of a head goes.
  [[nodiscard]] Sink<T> sink(T* out, std::int64_t head, std::int64_t count,
                             std::vector<double>& sum) const {
    Sink<T> sink;
    if (out != nullptr) {
      if (direct) {
        sink.out = out + head * count;
      } else {
        sink.sum = sum.data();
      }
    }
    return sink;
  }
};

/// What one thread keeps from block to block.
template <class T>
struct Worker {
  SideView<T> targets;
  SideView<T> sources;
  Carried<T> values;
  Carried<T> grad;
  Delivered<T> d_values;
  Permuted<T> permuted[4];
  Array<std::byte> scratch;
};

/// Sums the values and cotangents of one block of lanes up.
template <class T>
void sum_block(const Call<T>& call, PassShape shape, Block block, Worker<T>& worker, int threads) {
  const State<T>& state = call.state;
  const Fixed<T>& fixed = state.fixed();
  const Cells<T>& cells = state.cells(block.head);
  worker.targets = side_for(shape, state, block.head, Role::targets, threads);
  worker.sources = side_for(shape, state, block.head, Role::sources, threads);
  worker.values.set(shape, cells, worker.sources, fixed.m, call.values, block, false,
                    worker.scratch, threads);
  worker.grad.set(shape, cells, worker.targets, fixed.n, call.grad, block, true, worker.scratch,
                  threads);
}

/// Goes down again: adds the block's gradients to `sums` and stores the gradient of its values.
/// `round` is null unless other processes share the line; `slot` is the first of two there.
template <class T>
void add_block(const Call<T>& call, PassShape shape, Block block, std::int64_t slot,
               const Round* round, Accumulators& sums, Worker<T>& worker, int threads) {
  const State<T>& state = call.state;
  const Fixed<T>& fixed = state.fixed();
  const std::int64_t h = block.head;
  const Cells<T>& cells = state.cells(h);
  const Rate rate = fixed.rate[static_cast<std::size_t>(h)];
  worker.values.enter(shape, cells, slot, round, threads);
  worker.grad.enter(shape, cells, slot + 1, round, threads);
  GradientJob<T> job{};
  job.targets = worker.targets;
  job.sources = worker.sources;
  job.values = worker.values.input();
  job.grad = worker.grad.input();
  job.values_carries = worker.values.carries();
  job.grad_carries = worker.grad.carries();
  job.gap_after = cells.gap_after();
  job.self = fixed.self;
  job.side = combine_of(fixed.side);
  job.cumulative = call.cumulative;
  job.inverse_lengthscale = 1.0 / rate.lengthscale;
  job.frequency = rate.frequency;
  if (call.wanted.values) {
    worker.d_values.open(shape, job.sources, fixed.m, call.d_values, block, true, 1.0, false,
                         worker.values.sorted());
    job.d_values = worker.d_values.output();
  }
  job.d_targets = call.sink(call.wanted.targets, h, fixed.n, sums.targets);
  job.d_sources =
      call.together ? Sink<T>{} : call.sink(call.wanted.sources, h, fixed.m, sums.sources);
  job.d_target_phase = call.sink(call.wanted.target_phase, h, fixed.n, sums.target_phase);
  job.d_source_phase = call.sink(call.wanted.source_phase, h, fixed.m, sums.source_phase);
  job.stretch = call.needs_stretch() ? sums.stretch.data() : nullptr;
  const auto permute = [&](Sink<T>& sink, const SideView<T>& view, std::int64_t count,
                           Permuted<T>& permuted, T* room) {
    sink.sorted = sink.out != nullptr && Permuted<T>::pays(view, count);
    if (sink.sorted) {
      sink.out = permuted.open(view, count, sink.out, room);
    }
  };
  // A cell's gradients take the places of values and cotangents that it has read: fresh memory
  // would have to be cleared, and more of it to be held in the caches.
  permute(job.d_targets, job.targets, fixed.n, worker.permuted[0], worker.grad.sorted());
  if (call.together) {
    job.d_sources = job.d_targets;
    job.d_sources.add = true;
  } else {
    permute(job.d_sources, job.sources, fixed.m, worker.permuted[1], nullptr);
  }
  permute(job.d_target_phase, job.targets, fixed.n, worker.permuted[2], nullptr);
  permute(job.d_source_phase, job.sources, fixed.m, worker.permuted[3], nullptr);
  over_cells(cells, worker.scratch, scratch_bytes(sizeof(T), shape.wide), threads,
             [&](std::int64_t begin, std::int64_t end, void* memory) {
               kernels<T>().gradients(shape.form, shape.wide, job, begin, end, memory);
               if (call.wanted.values) {
                 worker.d_values.deliver(job.sources.first[begin], job.sources.first[end]);
               }
             });
  if (call.wanted.values) {
    worker.d_values.close(worker.scratch, threads);
  }
  for (Permuted<T>& gradient : worker.permuted) {
    gradient.close(worker.scratch, threads);
  }
}

template <class T>
void scatter(const std::vector<double>& sorted, const std::uint32_t* index, T* out) {
  for (std::size_t k = 0; k < sorted.size(); ++k) {
    out[index != nullptr ? index[k] : k] = static_cast<T>(sorted[k]);
  }
}

/// Writes the sums over all lanes of one head to where the caller wants them.
template <class T>
void finish(const Call<T>& call, std::int64_t h, const Accumulators& sums) {
  const State<T>& state = call.state;
  const Fixed<T>& fixed = state.fixed();
  const Gradients<T, T>& to = call.wanted;
  const std::uint32_t* const targets = state.cells(h).targets().index;
  const std::uint32_t* const sources = state.cells(h).sources().index;
  if (to.targets)
    scatter(sums.targets, targets, to.targets + h * fixed.n);
  if (to.sources && !call.together)
    scatter(sums.sources, sources, to.sources + h * fixed.m);
  if (to.target_phase)
    scatter(sums.target_phase, targets, to.target_phase + h * fixed.n);
  if (to.source_phase)
    scatter(sums.source_phase, sources, to.source_phase + h * fixed.m);
  if (call.needs_stretch()) {
    ExactSum re;
    ExactSum im;
    const auto add = [&](std::size_t part, ExactSum& sum) {
      std::vector<double> terms(sums.stretch.size() / 2);
      for (std::size_t k = 0; k < terms.size(); ++k) {
        terms[k] = sums.stretch[2 * k + part];
      }
      sum.add(terms.data(), static_cast<std::int64_t>(terms.size()));
    };
    if (to.lengthscale) {
      add(0, re);
    }
    if (to.frequency) {
      add(1, im);
    }
    add_over_processes(state.cells(h).shared(), {&re, &im});
    const double lengthscale = fixed.rate[static_cast<std::size_t>(h)].lengthscale;
    if (to.lengthscale)
      to.lengthscale[h] = (call.cumulative ? -0.5 : 1.0) * re.value() / lengthscale;
    if (to.frequency)
      to.frequency[h] = -lengthscale * im.value();
  }
}

/// Adds the groups of a head and writes what they come to.
template <class T>
void add_up(const Call<T>& call, std::int64_t head, std::int64_t groups,
            std::vector<Accumulators>& sums) {
  Accumulators& total = sums[static_cast<std::size_t>(head * groups)];
  for (std::int64_t group = 1; group < groups; ++group) {
    total.add(sums[static_cast<std::size_t>(head * groups + group)]);
  }
  finish(call, head, total);
}

/// How many partial sums a head is split into. A function of the sizes alone, so that the order of
/// additions, and with it every bit, does not depend on the threads; small enough to fit in memory.
std::int64_t num_groups(std::int64_t blocks, std::int64_t anchors) {
  constexpr std::int64_t kMost = 8;
  constexpr std::int64_t kAnchors = 1 << 21;  // 48 bytes of sums an anchor and group
  const std::int64_t room =
      std::max<std::int64_t>(1, kAnchors / std::max<std::int64_t>(1, anchors));
  return std::clamp<std::int64_t>(blocks, 1, std::min(kMost, room));
}

}  // namespace

template <class T>
void Plan<T>::vjp_any(const T* v, bool v_complex, Strides v_strides, const T* g, bool g_complex,
                      Strides g_strides, std::int64_t rows, const Gradients<T, T>& gradients,
                      Strides d_strides, Term term, int num_threads) const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  const bool together = fixed.self && fixed.heads > 0 && gradients.targets != nullptr &&
                        gradients.sources == gradients.targets;
  check_rows(fixed.heads, rows, std::max(fixed.n, fixed.m));
  check_type("cotangent", g_complex, v_complex || kernel_is_complex());
  check_array("v", v, fixed.heads * rows * fixed.m);
  check_array("g", g, fixed.heads * rows * fixed.n);
  check_cumulative(term, fixed.cumulates(), v_complex);
  term.polynomial = polynomial_of(term, fixed.profile);
  const int parts = parts_of(fixed, v_complex);
  Call<T> call{*snapshot,
               {v, v_complex, v_strides, parts},
               {g, g_complex, g_strides, parts},
               {gradients.values, v_complex, d_strides, parts},
               gradients};
  const std::int64_t lanes = rows * parts;
  const int threads = threads_for(2 * fixed.heads * lanes * (fixed.n + fixed.m),
                                  num_threads > 0 ? num_threads : fixed.num_threads);
  guarded([&] {
    const PassShape shape = pass_shape(*snapshot, v_complex, lanes);
    const std::int64_t width = shape.width();
    const std::int64_t blocks = (lanes + width - 1) / width;
    call.direct = blocks == 1;
    const bool product = !term.cumulative && term.parity == Parity::even &&
                         term.polynomial == polynomial_of(Profile::matern12);
    call.together = together && (product || term.cumulative) &&
                    (!call.direct || Permuted<T>::pays(snapshot->side(0, Role::targets), fixed.n));
    Array<T> of_sources;
    if (together && !call.together) {
      of_sources.reset(fixed.heads * fixed.n);
      call.wanted.sources = of_sources.data();
    }
    const auto add_roles = [&] {
      for (std::int64_t k = 0; k < of_sources.size(); ++k) {
        gradients.targets[k] += of_sources[k];
      }
    };
    if (!product && !term.cumulative) {
      term.smooth = term.smooth || fixed.profile != Profile::matern12;
      term_gradients(*snapshot, term, call.values, call.grad, rows, call.d_values, call.wanted,
                     threads);
      add_roles();
      return;
    }
    call.cumulative = term.cumulative;
    const auto by_values = [&] {
      if (term.cumulative && gradients.values != nullptr) {
        run<T>(*snapshot, call.grad, rows, true, false, {result_of(term, call.d_values)}, threads);
      }
    };
    if (term.cumulative) {
      call.wanted.values = nullptr;
      if (!gradients.targets && !gradients.sources && !gradients.lengthscale) {
        by_values();
        return;
      }
    }
    const std::int64_t groups = num_groups(blocks, snapshot->anchors());
    std::vector<Accumulators> sums(static_cast<std::size_t>(fixed.heads * groups));
    const auto block_at = [&](std::int64_t head, std::int64_t block) -> Block {
      const std::int64_t first = block * width;
      return {head, first, std::min(width, lanes - first)};
    };
    if (fixed.part != nullptr) {
      std::vector<Worker<T>> workers(kBlocksAtOnce);
      for (Accumulators& group : sums) {
        group = call.accumulators(0);
      }
      in_two_halves(
          *snapshot->cells(0).shared(), blocks, 2, shape.carry(),
          [&](std::int64_t block, std::int64_t slot, Round& round) {
            Worker<T>& worker = workers[static_cast<std::size_t>(slot)];
            sum_block(call, shape, block_at(0, block), worker, threads);
            worker.values.send(shape, snapshot->cells(0), 2 * slot, round);
            worker.grad.send(shape, snapshot->cells(0), 2 * slot + 1, round);
          },
          [&](std::int64_t block, std::int64_t slot, const Round& round) {
            // The group of which `blocks * group / groups` is the first block.
            const std::int64_t group = ((block + 1) * groups - 1) / blocks;
            add_block(call, shape, block_at(0, block), 2 * slot, &round,
                      sums[static_cast<std::size_t>(group)],
                      workers[static_cast<std::size_t>(slot)], threads);
          });
      add_up(call, 0, groups, sums);
      add_roles();
      return;
    }
    const ThreadSplit split = split_threads(threads, fixed.heads * groups, fixed.n + fixed.m);
    std::vector<Worker<T>> workers(static_cast<std::size_t>(split.outer));
    parallel_workers(split.outer, fixed.heads * groups, [&](std::int64_t task, int worker) {
      const std::int64_t head = task / groups;
      const std::int64_t group = task % groups;
      Accumulators& mine = sums[static_cast<std::size_t>(task)];
      mine = call.accumulators(head);
      for (std::int64_t block = blocks * group / groups; block < blocks * (group + 1) / groups;
           ++block) {
        Worker<T>& own = workers[static_cast<std::size_t>(worker)];
        sum_block(call, shape, block_at(head, block), own, split.inner);
        add_block(call, shape, block_at(head, block), 0, nullptr, mine, own, split.inner);
      }
    });
    parallel_tasks(split.outer, fixed.heads,
                   [&](std::int64_t head) { add_up(call, head, groups, sums); });
    add_roles();
    by_values();
  });
}

template <class T>
void Plan<T>::second_vjp(const T* v, Strides v_strides, const T* g, Strides g_strides,
                         std::int64_t rows, const GradientCotangents<T>& cotangents,
                         const SecondGradients<T>& gradients, int num_threads) const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  check_rows(fixed.heads, rows, std::max(fixed.n, fixed.m));
  check_array("v", v, fixed.heads * rows * fixed.m);
  check_array("g", g, fixed.heads * rows * fixed.n);
  if (fixed.complex_kernel() || fixed.profile != Profile::matern12) {
    invalid(
        "second_vjp supports only the kernel matern12 without phases and frequency: for others, "
        "combine products of terms");
  }
  const int threads = threads_for(4 * fixed.heads * rows * (fixed.n + fixed.m),
                                  num_threads > 0 ? num_threads : fixed.num_threads);
  guarded([&] {
    second_gradients<T>(*snapshot, {v, false, v_strides, 1}, {g, false, g_strides, 1}, rows,
                        cotangents, gradients, threads);
  });
}

template void Plan<float>::vjp_any(const float*, bool, Strides, const float*, bool, Strides,
                                   std::int64_t, const Gradients<float, float>&, Strides, Term,
                                   int) const;
template void Plan<double>::vjp_any(const double*, bool, Strides, const double*, bool, Strides,
                                    std::int64_t, const Gradients<double, double>&, Strides, Term,
                                    int) const;

template void Plan<float>::second_vjp(const float*, Strides, const float*, Strides, std::int64_t,
                                      const GradientCotangents<float>&,
                                      const SecondGradients<float>&, int) const;
template void Plan<double>::second_vjp(const double*, Strides, const double*, Strides, std::int64_t,
                                       const GradientCotangents<double>&,
                                       const SecondGradients<double>&, int) const;

}  // namespace laplex
