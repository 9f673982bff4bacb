#include "call.hpp"
#include "passes.hpp"

#include <algorithm>
#include <vector>

namespace laplex::cuda::detail {
namespace {

/// The gap behind the last anchor of a part of a line, in the integral that the lengthscale needs;
/// see kernels/gradients.hpp.
template <class T, class D, class S>
Complex share_of_gap_behind(const SharedLine& line, const Ends<Sums<S, 0, true>>& ends,
                            std::int64_t rows) {
  Complex share{0.0, 0.0};
  if (!line.has_anchors() || !line.has_next()) {
    return share;
  }
  const Gap<T, D, 0> across = line.template gap_across<T, D, 0>(ends.rate);
  const auto from_left = [&](std::size_t k) {
    Sums<S, 0, true> sums = ends.comes[k];
    sums.append(across, ends.leaves[k]);
    return sums.word[0] + sums.here();
  };
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto v = static_cast<std::size_t>(2 * row);
    const auto g = static_cast<std::size_t>(2 * (rows + row));
    const S v_left = from_left(v);
    const S g_left = from_left(g);
    // As they come, across the gap.
    const S v_right = ends.comes[v + 1].word[0];
    const S g_right = ends.comes[g + 1].word[0];
    share.re = share.re + (real_product(v_left, g_right) + real_product(g_left, v_right));
    share.im = share.im + (imaginary_product(v_left, g_right) + imaginary_product(g_left, v_right));
  }
  // The scaled distance may overflow where nothing comes across any more.
  const double tau = line.template gap_behind<T, D, 0>(ends.rate).tau;
  return {share.re == 0.0 ? 0.0 : tau * share.re, share.im == 0.0 ? 0.0 : tau * share.im};
}

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
  const SharedLine* const shared = state.shared_line();
  const std::int64_t stretches = groups * tiles + (shared != nullptr ? 1 : 0);

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
    job.stretch = needs_stretch ? cut.take<Complex>(heads * stretches) : nullptr;
    if (tiles > 1 || shared != nullptr) {
      Scan values(cut, line, heads, rows, shared != nullptr, tile_items);
      Scan grad(cut, back, heads, rows, shared != nullptr, tile_items);
      if (runs) {
        values.rise(job.values, job.lengthscale, job.frequency, stream);
        grad.rise(job.grad, job.lengthscale, job.frequency, stream);
        if (shared != nullptr) {
          const auto ends = exchange_ends(*shared, std::vector<Scan*>{&values, &grad}, rows,
                                          job.lengthscale, job.frequency, stream);
          if (needs_stretch) {
            const Complex share = share_of_gap_behind<T, D>(*shared, ends, rows);
            copy_to_device(job.stretch + stretches - 1, &share, sizeof(share), stream);
          }
        }
        values.descend(job.lengthscale, job.frequency, stream);
        grad.descend(job.lengthscale, job.frequency, stream);
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

  const auto finish = [&](const SideView<T>& side, const AnchorGradients<T>& parts,
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
           ScalarsJob{job.stretch, stretches, job.lengthscale, job.frequency, call.lengthscale,
                      call.frequency});
    if (shared != nullptr) {
      shared->add_up(call.lengthscale, call.frequency, stream);
    }
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
