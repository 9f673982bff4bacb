#include "checks.hpp"
#include "gram_state.hpp"
#include "inspection.hpp"
#include "kernels/gram_filter.hpp"
#include "kernels/gram_product.hpp"
#include "sorting.hpp"

#include <laplex/cuda/gram.hpp>

#include <algorithm>
#include <cstdio>
#include <string>
#include <type_traits>
#include <vector>

namespace laplex::cuda {

using namespace detail;
using laplex::detail::invalid;

namespace {

/// Indices within a line take 32 bits.
constexpr std::int64_t kMostOfLine = (std::int64_t(1) << 32) - 2;

void check_shape(std::int64_t batch, std::int64_t n, std::int64_t width) {
  laplex::detail::check_sizes(batch, n, 0, kMostOfLine);
  if (width < 1 || width > Gram::kMostColumns) {
    invalid("a covariance on a GPU has 1 to " + std::to_string(Gram::kMostColumns) +
            " columns, got " + std::to_string(width) +
            ": a real term is one column, one with a phase or a frequency two; the CPU takes up "
            "to " +
            std::to_string(laplex::kMostColumns) + ", from CPU arrays");
  }
}

void lay_out(Cutter& cut, GramLine& line) {
  with_columns(line.width, [&](auto columns) {
    constexpr int J = decltype(columns)::value;
    const std::int64_t points = slots(line, 1);
    const std::int64_t nodes = line.lines * line.tree.all;
    line.lengthscale = cut.take<double>(line.lines * J);
    line.order = cut.take<std::uint32_t>(points);
    line.anchors = cut.take<double>(points);
    line.fall = cut.take<double>(points * J);
    line.loadings = cut.take<double>(points * J);
    line.noise = cut.take<double>(points);
    line.gain = cut.take<double>(points * J);
    line.variance = cut.take<double>(points);
    line.before = cut.take<double>(nodes * kPacked<J>);
    line.decays = cut.take<double>(nodes * J);
    line.maps = cut.take<double>(nodes * J * J);
  });
}

/// The constructor's scratch, in one order for counting and for cutting.
struct GramScratch {
  unsigned long long* looks;  ///< of the inspection
  Findings* found;            ///< noise and ties; the singular matrix
  double* turned;             ///< anchors, if ties are taken backwards
  double* position;
  std::uint32_t* index;
  SortScratch<double> sort;
  void* passages;

  GramScratch(Cutter& cut, const GramLine& line)
      : looks(cut.take<unsigned long long>(kMostLooks)),
        found(cut.take<Findings>(2)),
        turned(cut.take<double>(line.lines * line.n)),
        position(cut.take<double>(line.lines * line.n)),
        index(cut.take<std::uint32_t>(line.lines * line.n)),
        sort(cut, line.lines, line.n) {
    with_columns(line.width, [&](auto columns) {
      passages = cut.take<Passage<decltype(columns)::value>>(line.lines * line.tree.all);
    });
  }
};

struct VariancesJob {
  const double* values;
  std::int64_t count;
  unsigned long long* first_bad;
};

__global__ void __launch_bounds__(kFlatThreads) variances_kernel(VariancesJob job) {
  const std::int64_t k = thread_number();
  if (k < job.count && !(job.values[k] >= 0.0)) {
    atomicMin(job.first_bad, static_cast<unsigned long long>(k));
  }
}

void sort_and_fill(const Covariance& c, const GramLine& line, const GramScratch& scratch,
                   Stream stream) {
  if (c.ties_backwards) {
    launch(turn_kernel, one_thread_each(c.batch * c.n), stream,
           TurnJob{c.anchors, c.batch, c.n, scratch.turned});
  }
  sort_lines(SortLines<double>{c.ties_backwards ? scratch.turned : c.anchors, scratch.position,
                               scratch.index, c.batch, c.n, c.ties_backwards},
             scratch.sort, stream);
  with_columns(c.width, [&](auto columns) {
    launch(fill_kernel<decltype(columns)::value>, one_thread_each(slots(line, 1)), stream,
           FillJob{line, scratch.index, scratch.position, c.lengthscale, c.loadings, c.noise,
                   &scratch.found->descents});
  });
}

void factorise(const GramLine& line, const GramScratch& scratch, Stream stream) {
  with_columns(line.width, [&](auto columns) {
    constexpr int J = decltype(columns)::value;
    const GramTree& tree = line.tree;
    PassageJob<J> job{line, static_cast<Passage<J>*>(scratch.passages), 0};
    if (line.chunks > 1) {
      launch(pass_kernel<J>, one_walk_each(line.all_chunks()), stream, job);
    }
    for (; job.level + 1 < tree.levels; ++job.level) {
      launch(join_kernel<J>, one_walk_each(line.lines * tree.nodes[job.level + 1]), stream, job);
    }
    for (; job.level >= 0; --job.level) {
      const bool top = job.level + 1 == tree.levels;
      launch(start_kernel<J>, one_walk_each(line.lines * (top ? 1 : tree.nodes[job.level + 1])),
             stream, job);
    }
    launch(filter_kernel<J>, one_walk_each(line.all_chunks()), stream,
           FilterJob{line, &scratch.found[1].first_bad, &scratch.found[1].descents});
    compose<double, J>(tree, line.lines, line.decays, line.maps, stream);
  });
}

/// Whether variances that are in doubt may be 0.
void look_closer(const GramLine& line, const GramScratch& scratch, Stream stream) {
  with_columns(line.width, [&](auto columns) {
    launch(growth_kernel<decltype(columns)::value>, one_walk_each(line.all_chunks()), stream,
           FilterJob{line, &scratch.found[1].first_bad, &scratch.found[1].descents});
  });
}

/// Says what is wrong with sorted point `at` of [lines, n].
[[noreturn]] void singular_at(const GramLine& line, std::int64_t at, Stream stream) {
  const std::int64_t matrix = at / line.n;
  const auto fetch = [&](auto* array, std::int64_t k) {
    std::remove_const_t<std::remove_pointer_t<decltype(array)>> value;
    const std::int64_t chunk = matrix * line.chunks + k / kGramChunk;
    copy_to_host(&value, array + slot<1>(chunk, k % kGramChunk), sizeof(value), stream);
    return value;
  };
  const std::int64_t k = at % line.n;
  const double place = fetch(line.anchors, k);
  const bool tied = k > 0 && fetch(line.anchors, k - 1) == place;
  laplex::detail::singular({matrix, line.lines, fetch(line.order, k),
                            tied ? std::int64_t(fetch(line.order, k - 1)) : -1, place,
                            fetch(line.variance, k)});
}

template <int J, bool kUpwards>
void product(const GramProductJob& given, bool inverse, Stream stream) {
  GramProductJob job = given;
  const GramLine& line = job.line;
  const auto run = [&](bool passes) {
    job.passes = passes;
    job.squares = passes ? nullptr : given.squares;
    launch(
        inverse ? gram_product_kernel<J, kUpwards, true> : gram_product_kernel<J, kUpwards, false>,
        one_walk_each(line.all_chunks() * job.rows), stream, job);
  };
  if (line.chunks > 1) {
    run(true);
    if (inverse) {
      spread<Mapping<J>>(line.tree, line.lines, job.rows, kUpwards, line.maps, job.states, stream);
    } else {
      spread<Fading<double, J>>(line.tree, line.lines, job.rows, kUpwards, line.decays, job.states,
                                stream);
    }
  }
  run(false);
}

void apply_any(const GramLine& line, Factor factor, bool scaled, const double* in, double* out,
               std::int64_t rows, double* states, Stream stream, double* squares = nullptr) {
  const bool inverse = factor == Factor::lower_inverse || factor == Factor::upper_inverse;
  const GramProductJob job{line,  rows,   in, out, scaled, line.chunks > 1 ? states : nullptr,
                           false, squares};
  with_columns(line.width, [&](auto columns) {
    constexpr int J = decltype(columns)::value;
    if (factor == Factor::upper || factor == Factor::upper_inverse) {
      product<J, true>(job, inverse, stream);
    } else {
      product<J, false>(job, inverse, stream);
    }
  });
}

/// Of products, in one order for counting and for cutting.
struct GramWorkspace {
  double* sums;    ///< of chunks: one for each row, or for no rows one
  double* logdet;  ///< [lines]
  double* states = nullptr;

  GramWorkspace(Cutter& cut, const GramLine& line, std::int64_t rows)
      : sums(cut.take<double>(line.all_chunks() * std::max<std::int64_t>(rows, 1))),
        logdet(cut.take<double>(line.lines)) {
    with_columns(line.width, [&](auto columns) {
      states = cut.take<double>(line.lines * rows * line.tree.all * decltype(columns)::value);
    });
  }
};

/// log det of each line, by way of that of each chunk.
void add_logs(const GramLine& line, double* sums, double* out, Stream stream) {
  launch(gram_logs_kernel, one_walk_each(line.all_chunks()), stream, GramLogsJob{line, sums});
  launch(gram_totals_kernel, gram_totals_grid(line.lines), stream,
         GramTotalsJob{sums, line.chunks, 1, 1, out});
}

void check_rows(std::int64_t rows, std::int64_t entries, const void* in, const void* out) {
  if (rows < 0) {
    invalid("rows must not be negative, got " + std::to_string(rows));
  }
  if (entries > 0 && (in == nullptr || out == nullptr)) {
    invalid("the input or the output is null");
  }
}

}  // namespace

Gram::Gram(const Covariance& c, Stream stream, Memory storage, Memory scratch) {
  check_shape(c.batch, c.n, c.width);
  if (c.weights != nullptr || c.num_blocks > 0) {
    invalid("a covariance on a GPU has neither weights nor blocks: use laplex::Gram");
  }
  require_device();
  if (is_capturing(stream)) {
    throw Error(
        ErrorCode::device,
        "a covariance cannot be factorised while its stream is being captured into a graph, "
        "because the host has to learn whether it is singular: factorise it before the "
        "capture");
  }
  auto state = std::make_shared<GramState>(c.batch, c.n, c.width);
  GramLine& line = state->line;
  const std::size_t bytes = storage_bytes(c.batch, c.n, c.width);
  if (storage.data == nullptr) {
    state->owned = DeviceMemory(bytes, stream);
    storage = {state->owned.data(), bytes};
  }
  const Lent held(storage, bytes, stream, "storage");
  Cutter cut(held.data());
  lay_out(cut, line);
  state->nbytes = static_cast<std::int64_t>(bytes);
  const Lent lent(scratch, scratch_bytes(c.batch, c.n, c.width), stream, "scratch");
  Cutter cut_scratch(lent.data());
  const GramScratch spare(cut_scratch, line);

  launch(reset_kernel<Findings>, {1, kWarp}, stream,
         ResetJob<Findings>{spare.found, {~0ULL, 0ULL}, 2});
  Inspection<double> inspection(spare.looks, stream);
  inspection.look(Looked::anchors, c.anchors, c.batch, c.n);
  if (c.loadings != nullptr) {
    inspection.look(Looked::loadings, c.loadings, c.batch, c.n * c.width);
  }
  if (c.noise != nullptr) {
    check_array(c.noise, c.batch * c.n, "noise");
    launch(variances_kernel, one_thread_each(c.batch * c.n), stream,
           VariancesJob{c.noise, c.batch * c.n, &spare.found->first_bad});
  }
  std::vector<double> lengthscale(static_cast<std::size_t>(c.batch * c.width), 1.0);
  if (c.lengthscale != nullptr) {
    check_array(c.lengthscale, c.batch * c.width, "lengthscale");
  }
  // What is wrong with numbers makes others of them, which are looked at in the end.
  if (c.batch * c.n > 0) {
    sort_and_fill(c, line, spare, stream);
    factorise(line, spare, stream);
  }
  inspection.finish();
  if (c.lengthscale != nullptr) {
    copy_to_host(lengthscale.data(), c.lengthscale, lengthscale.size() * sizeof(double), stream);
  }
  for (std::size_t k = 0; k < lengthscale.size(); ++k) {
    laplex::detail::check_rate({lengthscale[k], 0.0}, static_cast<std::int64_t>(k) / c.width,
                               c.batch);
  }
  Findings found[2];
  copy_to_host(found, spare.found, sizeof(found), stream);
  if (found[0].first_bad != ~0ULL) {
    const auto bad = static_cast<std::int64_t>(found[0].first_bad);
    double value = 0.0;
    copy_to_host(&value, c.noise + bad, sizeof(value), stream);
    laplex::detail::not_a_variance(c.batch, c.n, bad, value);
  }
  if (found[1].descents != 0) {
    look_closer(line, spare, stream);
    copy_to_host(found, spare.found, sizeof(found), stream);
  }
  if (found[1].first_bad != ~0ULL) {
    singular_at(line, static_cast<std::int64_t>(found[1].first_bad), stream);
  }
  state->has_ties = found[0].descents != 0;
  state_ = std::move(state);
}

void Gram::apply(Factor factor, bool scaled, const double* in, double* out, std::int64_t rows,
                 Stream stream, Memory workspace) const {
  check_rows(rows, batch() * rows * size(), in, out);
  const Lent lent(workspace, workspace_bytes(rows), stream, "workspace");
  Cutter cut(lent.data());
  const GramWorkspace space(cut, state_->line, rows);
  apply_any(state_->line, factor, scaled, in, out, rows, space.states, stream);
}

void Gram::solve(const double* b, double* x, std::int64_t rows, Stream stream,
                 Memory workspace) const {
  check_rows(rows, batch() * rows * size(), b, x);
  const Lent lent(workspace, workspace_bytes(rows), stream, "workspace");
  Cutter cut(lent.data());
  const GramWorkspace space(cut, state_->line, rows);
  apply_any(state_->line, Factor::lower_inverse, true, b, x, rows, space.states, stream);
  apply_any(state_->line, Factor::upper_inverse, true, x, x, rows, space.states, stream);
}

void Gram::log_variances(double* out, Stream stream) const {
  launch(gram_points_kernel, one_thread_each(batch() * size()), stream,
         GramPointsJob{state_->line, out, nullptr});
}

void Gram::order(std::int64_t* out, Stream stream) const {
  launch(gram_points_kernel, one_thread_each(batch() * size()), stream,
         GramPointsJob{state_->line, nullptr, out});
}

void Gram::logdet(double* out, Stream stream, Memory workspace) const {
  const Lent lent(workspace, workspace_bytes(0), stream, "workspace");
  add_logs(state_->line, static_cast<double*>(lent.data()), out, stream);
}

void Gram::log_prob(const double* v, double* out, std::int64_t rows, Stream stream,
                    Memory workspace) const {
  check_rows(rows, batch() * rows * size(), v, out);
  const GramLine& line = state_->line;
  const Lent lent(workspace, workspace_bytes(rows), stream, "workspace");
  Cutter cut(lent.data());
  const GramWorkspace space(cut, line, rows);
  apply_any(line, Factor::lower_inverse, true, v, nullptr, rows, space.states, stream, space.sums);
  launch(gram_totals_kernel, gram_totals_grid(batch() * rows), stream,
         GramTotalsJob{space.sums, line.chunks, 1, 1, out});
  add_logs(line, space.sums, space.logdet, stream);
  constexpr double kLogOf2Pi = 1.8378770664093454836;
  launch(
      gram_log_prob_kernel, one_thread_each(batch() * rows), stream,
      LogProbJob{batch() * rows, rows, static_cast<double>(size()) * kLogOf2Pi, space.logdet, out});
}

void Gram::vjp(const double* a, const double* b, std::int64_t rows, const double* w,
               const GramGradients& gradients, double* d_b, Stream stream, Memory workspace) const {
  check_rows(rows, batch() * rows * size(), a, b);
  gram_gradients<double>(state_->line, {a, b, rows, w, {}, gradients, nullptr, d_b, nullptr},
                         workspace, false, stream);
}

void Gram::vjp_tangent(const double* a, const double* b, std::int64_t rows, const double* w,
                       const GramTangent& tangent, const GramGradients& gradients, double* d_a,
                       double* d_b, double* d_w, Stream stream, Memory workspace) const {
  check_rows(rows, batch() * rows * size(), a, b);
  gram_gradients<Dual>(state_->line, {a, b, rows, w, tangent, gradients, d_a, d_b, d_w}, workspace,
                       false, stream);
}

std::size_t Gram::storage_bytes(std::int64_t batch, std::int64_t n, std::int64_t width) {
  check_shape(batch, n, width);
  GramLine line(batch, n, width);
  Cutter cut;
  lay_out(cut, line);
  return cut.used();
}

std::size_t Gram::scratch_bytes(std::int64_t batch, std::int64_t n, std::int64_t width) {
  check_shape(batch, n, width);
  Cutter cut;
  const GramScratch spare(cut, GramLine(batch, n, width));
  return cut.used();
}

std::size_t Gram::workspace_bytes(std::int64_t rows) const {
  Cutter cut;
  const GramWorkspace space(cut, state_->line, rows);
  return cut.used();
}

std::size_t Gram::gradient_workspace_bytes(std::int64_t rows, bool tangent) const {
  double any = 0.0;
  const GramGradientCall call{nullptr, nullptr, rows,   nullptr, {}, {&any, &any, &any, &any},
                              nullptr, nullptr, nullptr};
  return tangent ? gram_gradients<Dual>(state_->line, call, {}, true, nullptr)
                 : gram_gradients<double>(state_->line, call, {}, true, nullptr);
}

std::int64_t Gram::batch() const noexcept {
  return state_->line.lines;
}
std::int64_t Gram::size() const noexcept {
  return state_->line.n;
}
std::int64_t Gram::width() const noexcept {
  return state_->line.width;
}
bool Gram::has_ties() const noexcept {
  return state_->has_ties;
}
std::int64_t Gram::nbytes() const noexcept {
  return state_->nbytes;
}

}  // namespace laplex::cuda
