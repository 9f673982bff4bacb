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

template <class N, int J>
std::size_t run(const GramLine& line, const GramGradientCall& call, Memory workspace, bool counts,
                Stream stream) {
  const GramTree& tree = line.tree;
  const std::int64_t nodes = line.lines * tree.all;
  const bool passes = line.chunks > 1;
  const std::int64_t groups = num_groups(line, call.rows);

  TraceJob<N> trace{line, call.tangent, {}, nullptr, nullptr, call.d_w, false};
  ReverseJob<N> reverse{};
  // The workspace, in one order for counting and for cutting.
  const auto lay_out = [&](Cutter& cut) {
    trace.trace.cov = cut.take<N>(slots(line, kPacked<J>));
    if constexpr (kIsDual<N>) {
      trace.trace.decay = cut.take<N>(slots(line, J));
      trace.trace.loadings = cut.take<N>(slots(line, J));
      trace.trace.gain = cut.take<N>(slots(line, J));
      trace.decays = cut.take<N>(nodes * J);
      trace.maps = cut.take<N>(nodes * J * J);
      trace.trace.decays = trace.decays;
      trace.trace.maps = trace.maps;
      trace.trace.slopes = passes ? cut.take<double>(nodes * kPacked<J>) : nullptr;
    } else {
      trace.trace.decay = line.fall;
      trace.trace.loadings = line.loadings;
      trace.trace.gain = line.gain;
      trace.trace.decays = line.decays;
      trace.trace.maps = line.maps;
    }
    N* const means = passes ? cut.take<N>(call.rows * nodes * J) : nullptr;
    N* const mean_bars = passes ? cut.take<N>(call.rows * nodes * J) : nullptr;
    const RowsJob<N> rows{line, trace.trace, call.rows, call.a, call.b, means, mean_bars};
    BarsJob<N> bars{rows, groups, nullptr, nullptr, nullptr, nullptr, call.d_a, call.d_b};
    for (N** each : {&bars.mean, &bars.gain_bar, &bars.loading_bar, &bars.decay_bar}) {
      *each = cut.take<N>(groups * slots(line, J));
    }
    N* const cov_bars = passes ? cut.take<N>(nodes * kPacked<J>) : nullptr;
    double* const gap_bar =
        call.gradients.anchors != nullptr ? cut.take<double>(slots(line, 1)) : nullptr;
    double* const lengthscale_bars =
        call.gradients.lengthscale != nullptr ? cut.take<double>(line.all_chunks() * J) : nullptr;
    reverse = {bars,  call.tangent,   call.w,  cov_bars,
               false, call.gradients, gap_bar, lengthscale_bars};
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
    if (passes) {
      trace.passes = true;
      launch(trace_kernel<N, J>, chunks, stream, trace);
      trace.passes = false;
      spread<Congruence<double, J>>(tree, line.lines, 1, false, line.maps, trace.trace.slopes,
                                    stream);
    }
  }
  launch(trace_kernel<N, J>, chunks, stream, trace);
  if constexpr (kIsDual<N>) {
    compose<N, J>(tree, line.lines, trace.decays, trace.maps, stream);
  }

  const RowsJob<N>& rows = reverse.bars.rows;
  if (passes) {
    launch(rows_kernel<N, J>, one_walk_each(line.all_chunks() * call.rows), stream, rows);
    spread<Fading<N, J>>(tree, line.lines, call.rows, false, trace.trace.decays, rows.means,
                         stream);
    spread<Fading<N, J>>(tree, line.lines, call.rows, true, trace.trace.decays, rows.mean_bars,
                         stream);
  }
  launch(bars_kernel<N, J>, one_walk_each(line.all_chunks() * groups), stream, reverse.bars);

  if (passes) {
    reverse.passes = true;
    launch(reverse_kernel<N, J>, chunks, stream, reverse);
    reverse.passes = false;
    spread<Congruence<N, J>>(tree, line.lines, 1, true, trace.trace.maps, reverse.cov_bars, stream);
  }
  launch(reverse_kernel<N, J>, chunks, stream, reverse);
  if (call.gradients.anchors != nullptr) {
    launch(gram_anchors_kernel, one_thread_each(line.lines * line.n), stream,
           AnchorsJob{line, reverse.gap_bar, call.gradients.anchors});
  }
  if (call.gradients.lengthscale != nullptr) {
    launch(gram_totals_kernel, gram_totals_grid(line.lines * line.width), stream,
           GramTotalsJob{reverse.lengthscale_bars, line.chunks, J, line.width,
                         call.gradients.lengthscale});
  }
  return counting.used();
}

}  // namespace

template <class N>
std::size_t gram_gradients(const GramLine& line, const GramGradientCall& call, Memory workspace,
                           bool counts, Stream stream) {
  std::size_t bytes = 0;
  with_columns(line.width, [&](auto columns) {
    bytes = run<N, decltype(columns)::value>(line, call, workspace, counts, stream);
  });
  return bytes;
}

template std::size_t gram_gradients<double>(const GramLine&, const GramGradientCall&, Memory, bool,
                                            Stream);
template std::size_t gram_gradients<Dual>(const GramLine&, const GramGradientCall&, Memory, bool,
                                          Stream);

}  // namespace laplex::cuda::detail
