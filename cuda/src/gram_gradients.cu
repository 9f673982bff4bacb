#include "gram_state.hpp"
#include "kernels/gram_gradients.hpp"
#include "kernels/gram_product.hpp"

#include <algorithm>

namespace laplex::cuda::detail {
namespace {

/// How many groups the rows are cut into, so that a short line does not leave the device idle. A
/// function of the sizes alone, as the sums' order depends on it.
std::int64_t num_groups(const GramLine& line, std::int64_t rows) {
  constexpr std::int64_t kThreads = std::int64_t(1) << 15;
  constexpr std::int64_t kMost = 8;  // each takes four numbers for every point and column
  const std::int64_t wanted = ceil_div(kThreads, std::max<std::int64_t>(1, line.all_chunks()));
  return std::max<std::int64_t>(1, std::min({rows, wanted, kMost}));
}

template <class N, int J, int B>
std::size_t run(const GramLine& line, const GramGradientCall& call, Memory workspace, bool counts,
                Stream stream) {
  const GramTree& tree = line.tree;
  const std::int64_t nodes = line.lines * tree.all;
  const bool passes = line.chunks > 1;
  const std::int64_t groups = num_groups(line, call.rows);

  TraceJob<N> trace{line, call.tangent, {}, nullptr, nullptr, call.d_w, false};
  ReverseJob<N> reverse{};
  TransitionReverseJob<N> blocks{line, call.tangent, nullptr, nullptr, nullptr, nullptr, nullptr};
  // The workspace, in one order for counting and for cutting.
  const auto lay_out = [&](Cutter& cut) {
    trace.trace.cov = cut.take<N>(slots(line, kPacked<J>));
    if constexpr (kIsDual<N>) {
      trace.trace.decay = cut.take<N>(slots(line, B == 1 ? J : kTransitionStride<J, B>));
      trace.trace.loadings = cut.take<N>(slots(line, J));
      trace.trace.gain = cut.take<N>(slots(line, J));
      trace.decays = cut.take<N>(nodes * J * B);
      trace.maps = cut.take<N>(nodes * J * J);
      trace.trace.decays = trace.decays;
      trace.trace.maps = trace.maps;
      trace.trace.slopes = passes ? cut.take<double>(nodes * kPacked<J>) : nullptr;
    } else {
      trace.trace.decay = B == 1 ? line.fall : line.transition;
      trace.trace.loadings = line.loadings;
      trace.trace.gain = line.gain;
      trace.trace.decays = line.decays;
      trace.trace.maps = line.maps;
    }
    N* const means = passes ? cut.take<N>(call.rows * nodes * J) : nullptr;
    N* const mean_bars = passes ? cut.take<N>(call.rows * nodes * J) : nullptr;
    const RowsJob<N> rows{line, trace.trace, call.rows, call.a, call.b, means, mean_bars};
    BarsJob<N> bars{rows, groups, nullptr, nullptr, nullptr, nullptr, call.d_a, call.d_b};
    for (N** each : {&bars.mean, &bars.gain_bar, &bars.loading_bar}) {
      *each = cut.take<N>(groups * slots(line, J));
    }
    bars.decay_bar = cut.take<N>(groups * slots(line, J * B));
    N* const cov_bars = passes ? cut.take<N>(nodes * kPacked<J>) : nullptr;
    double* const gap_bar =
        call.gradients.anchors != nullptr ? cut.take<double>(slots(line, 1)) : nullptr;
    double* const lengthscale_bars =
        call.gradients.lengthscale != nullptr ? cut.take<double>(line.all_chunks() * J) : nullptr;
    N* const noise_bar = B > 1 ? cut.take<N>(slots(line, kBlockPacked<J, B>)) : nullptr;
    double* const weight_bars = B > 1 && call.gradients.weights != nullptr
                                    ? cut.take<double>(line.all_chunks() * J)
                                    : nullptr;
    reverse = {bars,           call.tangent, call.w,           cov_bars, false,
               call.gradients, gap_bar,      lengthscale_bars, noise_bar};
    blocks.decay_bar = bars.decay_bar;
    blocks.noise_bar = noise_bar;
    blocks.gap_bar = gap_bar;
    blocks.lengthscale_bars = lengthscale_bars;
    blocks.weight_bars = weight_bars;
  };
  Cutter counting;
  lay_out(counting);
  if (counts) {
    return counting.used();
  }
  const Lent lent(workspace, counting.used(), stream, "workspace");
  Cutter cut(lent.data());
  lay_out(cut);

  const Grid chunks = one_walk_each(line.all_chunks());
  if constexpr (kIsDual<N>) {
    if (B > 1) {
      launch(transition_kernel<N>, one_thread_each(slots(line, 1)), stream,
             TransitionJob<N>{line, call.tangent, trace.trace.decay, nullptr});
    }
    if (passes) {
      trace.passes = true;
      launch(trace_kernel<N, J, B>, chunks, stream, trace);
      trace.passes = false;
      spread<Congruence<double, J>>(tree, line.lines, 1, false, line.maps, trace.trace.slopes,
                                    stream);
    }
  }
  launch(trace_kernel<N, J, B>, chunks, stream, trace);
  if constexpr (kIsDual<N>) {
    compose<N, J, B>(tree, line.lines, trace.decays, trace.maps, stream);
  }

  const RowsJob<N>& rows = reverse.bars.rows;
  if (passes) {
    launch(rows_kernel<N, J, B>, one_walk_each(line.all_chunks() * call.rows), stream, rows);
    spread<Fading<N, J, B>>(tree, line.lines, call.rows, false, trace.trace.decays, rows.means,
                            stream);
    spread<Fading<N, J, B>>(tree, line.lines, call.rows, true, trace.trace.decays, rows.mean_bars,
                            stream);
  }
  launch(bars_kernel<N, J, B>, one_walk_each(line.all_chunks() * groups), stream, reverse.bars);

  if (passes) {
    reverse.passes = true;
    launch(reverse_kernel<N, J, B>, chunks, stream, reverse);
    reverse.passes = false;
    spread<Congruence<N, J>>(tree, line.lines, 1, true, trace.trace.maps, reverse.cov_bars, stream);
  }
  launch(reverse_kernel<N, J, B>, chunks, stream, reverse);
  if (B > 1) {
    launch(transition_reverse_kernel<N>, chunks, stream, blocks);
  }
  if (call.gradients.anchors != nullptr) {
    launch(gram_anchors_kernel, one_thread_each(line.lines * line.n), stream,
           AnchorsJob{line, reverse.gap_bar, call.gradients.anchors});
  }
  const auto add_up = [&](const double* bars, std::int64_t all_chunks, double* out) {
    const int columns = B == 1 ? J : static_cast<int>(line.width);
    if (out != nullptr) {
      launch(gram_totals_kernel, gram_totals_grid(line.lines * line.width), stream,
             GramTotalsJob{bars, all_chunks, columns, line.width, out});
    }
  };
  add_up(reverse.lengthscale_bars, line.chunks, call.gradients.lengthscale);
  add_up(blocks.weight_bars, B == 1 ? 0 : line.chunks, call.gradients.weights);
  return counting.used();
}

}  // namespace

template <class N>
std::size_t gram_gradients(const GramLine& line, const GramGradientCall& call, Memory workspace,
                           bool counts, Stream stream) {
  std::size_t bytes = 0;
  with_shape(line.blocks, [&](auto shape) {
    bytes = run<N, decltype(shape)::columns, decltype(shape)::block>(line, call, workspace, counts,
                                                                     stream);
  });
  return bytes;
}

template std::size_t gram_gradients<double>(const GramLine&, const GramGradientCall&, Memory, bool,
                                            Stream);
template std::size_t gram_gradients<Dual>(const GramLine&, const GramGradientCall&, Memory, bool,
                                          Stream);

}  // namespace laplex::cuda::detail
