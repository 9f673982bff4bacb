#include "call.hpp"
#include "passes.hpp"

#include <algorithm>

namespace laplex::cuda::detail {
namespace {

template <class T, class D, class S, bool ByCells>
std::size_t run(const GradientCall<T>& call, Memory workspace, bool counts, Stream stream) {
  using Scan = LongScan<T, D, S, 0, true, ByCells>;
  static_assert(ByCells || Scan::kTile == std::int64_t(kGradientThreads) * kGradientItems);
  const State<T>& state = call.state;
  const std::int64_t heads = state.heads();
  const std::int64_t rows = call.rows;
  const Line<T> line = state.line(false);
  const Line<T> back = state.line(true);
  const std::int64_t tile_items = ByCells ? gradient_tile(line.self) : Scan::kTile;
  const std::int64_t tiles = ceil_div(line.items, tile_items);
  const Groups row_groups(rows, heads * tiles);
  const std::int64_t groups = row_groups.count;
  const bool needs_stretch = call.lengthscale != nullptr || call.frequency != nullptr;

  GradientJob<T> job{};
  job.line = line;
  job.values = call.values;
  job.grad = call.grad;
  job.d_values = call.d_values;
  job.targets = call.targets;
  job.sources = call.sources;
  job.lengthscale = call.parameters.lengthscale;
  job.frequency = call.parameters.frequency;
  job.rows = rows;
  job.tiles = tiles;
  job.tile_items = tile_items;
  job.groups = groups;
  job.group_rows = row_groups.rows;

  // The workspace, in one order for counting and for cutting.
  const auto lay_out = [&](Cutter& cut, bool runs) {
    const auto parts = [&](AnchorGradients<T>& sums, const AnchorGradients<T>& wanted,
                           std::int64_t count) {
      if (groups > 1) {
        sums.position = wanted.position ? cut.take<T>(groups * heads * count) : nullptr;
        sums.phase = wanted.phase ? cut.take<T>(groups * heads * count) : nullptr;
      }
    };
    parts(job.target_parts, call.targets, state.n());
    parts(job.source_parts, call.sources, state.m());
    job.stretch = needs_stretch ? cut.take<Complex>(heads * groups * tiles) : nullptr;
    if (tiles > 1) {
      Scan values(cut, line, heads, rows, tile_items);
      Scan grad(cut, back, heads, rows, tile_items);
      if (runs) {
        values.run(job.values, job.lengthscale, job.frequency, stream);
        grad.run(job.grad, job.lengthscale, job.frequency, stream);
        job.value_carries = values.carries();
        job.grad_carries = grad.carries();
        job.value_sent = values.sent();
        job.grad_sent = grad.sent();
      }
    }
  };
  Cutter counting;
  lay_out(counting, false);
  if (counts) {
    return counting.used();
  }
  const Lent lent(workspace, counting.used(), stream, "workspace");
  Cutter cut(lent.data());
  lay_out(cut, true);
  if constexpr (ByCells) {
    launch(line.self ? cell_gradient_kernel<true> : cell_gradient_kernel<false>,
           {heads * groups * tiles, kCellThreads, cell_gradient_shared(line.self)}, stream, job);
  } else {
    launch(gradient_kernel<T, D, S>,
           {heads * groups * tiles, kGradientThreads,
            GradientShared<T, D, S, kGradientThreads>::bytes(line.self)},
           stream, job);
  }

  const auto finish = [&](const Side<T>& side, const AnchorGradients<T>& parts,
                          const AnchorGradients<T>& out) {
    if (groups > 1 && (out.position != nullptr || out.phase != nullptr)) {
      launch(finish_kernel<T>, one_thread_each(heads * side.count), stream,
             FinishJob<T>{side, heads, groups, parts, out});
    }
  };
  finish(line.to, job.target_parts, call.targets);
  finish(line.from, job.source_parts, call.sources);
  if (needs_stretch) {
    launch(scalars_kernel, {heads, kScalarThreads, kScalarThreads / kWarp * sizeof(double)}, stream,
           ScalarsJob{job.stretch, groups * tiles, job.lengthscale, job.frequency, call.lengthscale,
                      call.frequency});
  }
  return counting.used();
}

template <class T, class D, class S>
std::size_t run_any(const GradientCall<T>& call, Memory workspace, bool counts, Stream stream) {
  if constexpr (kHasCells<T, D, S>) {
    const bool by_cells = is_for_cells(call.state.line(false)) && call.rows > 0 &&
                          call.targets.phase == nullptr && call.sources.phase == nullptr;
    if (counts) {  // whichever gradients will be asked for
      return std::max(run<T, D, S, true>(call, workspace, true, stream),
                      run<T, D, S, false>(call, workspace, true, stream));
    }
    if (by_cells) {
      return run<T, D, S, true>(call, workspace, false, stream);
    }
  }
  return run<T, D, S, false>(call, workspace, counts, stream);
}

}  // namespace

template <class T>
std::size_t gradients(const GradientCall<T>& call, Memory workspace, bool counts, Stream stream) {
  if (call.state.heads() == 0) {
    return 0;
  }
  std::size_t bytes = 0;
  with_types(call.parameters.frequency != nullptr, call.parameters.is_complex, [&](auto types) {
    bytes = run_any<T, typename decltype(types)::D, typename decltype(types)::S>(call, workspace,
                                                                                 counts, stream);
  });
  return bytes;
}

template std::size_t gradients<float>(const GradientCall<float>&, Memory, bool, Stream);
template std::size_t gradients<double>(const GradientCall<double>&, Memory, bool, Stream);

}  // namespace laplex::cuda::detail
