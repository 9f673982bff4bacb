#include "gram_blocks.hpp"
#include "gram_state.hpp"
#include "inspection.hpp"
#include "kernels/gram_filter.hpp"
#include "kernels/gram_product.hpp"
#include "kernels/gram_transition.hpp"
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

/// Where each block goes; weights and blocks have been checked.
GramBlocks blocks_of(const Covariance& c) {
  const laplex::detail::Layout layout = laplex::detail::lay_out(c);
  GramBlocks blocks;
  blocks.block = layout.block;
  int columns = static_cast<int>(c.width);
  if (layout.block > 1) {
    columns = 0;
    std::fill(std::begin(blocks.column), std::end(blocks.column), -1);
    for (const auto& part : layout.parts) {
      columns = std::max(columns, (part.first / layout.block + 1) * layout.block);
    }
  }
  const auto& widths = kCompiledWidths[layout.block - 1];
  const auto* const compiled =
      std::find_if(widths.begin(), widths.end(), [&](int width) { return width >= columns; });
  if (compiled == widths.end()) {
    invalid(
        "on a GPU, a covariance with a block of 3 columns (a Matern-5/2 term) has room for two "
        "groups of up to 3 columns, in which blocks stay whole, and these blocks need " +
        std::to_string(columns / 3) + " groups: the CPU takes them, from CPU arrays");
  }
  blocks.columns = *compiled;
  for (const auto& part : layout.parts) {
    if (layout.block > 1) {
      blocks.parts[blocks.num_parts++] = {part.size, part.column, part.first};
      for (int k = 0; k < part.size; ++k) {
        blocks.column[part.first + k] = part.column + k;
      }
    }
  }
  return blocks;
}

/// An empty line of the covariance's shape. Reads nothing from device memory.
GramLine line_of(const Covariance& c) {
  check_shape(c.batch, c.n, c.width);
  Covariance sizes = c;
  sizes.batch = 0;  // weights are not looked at
  laplex::detail::check_blocks(sizes);
  return {c.batch, c.n, c.width, blocks_of(c)};
}

Covariance covariance_of(std::int64_t batch, std::int64_t n, std::int64_t width) {
  Covariance c;
  c.batch = batch;
  c.n = n;
  c.width = width;
  return c;
}

void lay_out(Cutter& cut, GramLine& line) {
  with_shape(line.blocks, [&](auto shape) {
    constexpr int J = decltype(shape)::columns;
    constexpr int B = decltype(shape)::block;
    const std::int64_t points = slots(line, 1);
    const std::int64_t nodes = line.lines * line.tree.all;
    line.lengthscale = cut.take<double>(line.lines * J);
    line.order = cut.take<std::uint32_t>(points);
    line.anchors = cut.take<double>(points);
    if (B == 1) {
      line.fall = cut.take<double>(points * J);
    } else {
      line.weights = cut.take<double>(line.lines * J);
      line.state_variance = cut.take<double>(line.lines * kBlockPacked<J, B>);
      line.transition = cut.take<double>(points * kTransitionStride<J, B>);
    }
    line.loadings = cut.take<double>(points * J);
    line.noise = cut.take<double>(points);
    line.gain = cut.take<double>(points * J);
    line.variance = cut.take<double>(points);
    line.before = cut.take<double>(nodes * kPacked<J>);
    line.decays = cut.take<double>(nodes * J * B);
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
    with_shape(line.blocks, [&](auto shape) {
      passages = cut.take<Passage<decltype(shape)::columns>>(line.lines * line.tree.all);
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
  with_shape(line.blocks, [&](auto shape) {
    constexpr int J = decltype(shape)::columns;
    constexpr int B = decltype(shape)::block;
    launch(fill_kernel<J, B>, one_thread_each(slots(line, 1)), stream,
           FillJob{line, scratch.index, scratch.position, c.lengthscale, c.weights, c.loadings,
                   c.noise, &scratch.found->descents});
    if (B > 1) {
      launch(transition_kernel<double>, one_thread_each(slots(line, 1)), stream,
             TransitionJob<double>{line, {}, line.transition, line.state_variance});
    }
  });
}

/// `in_turn`: from chunk to chunk, see start_in_turn_kernel.
void factorise(const GramLine& line, bool in_turn, const GramScratch& scratch, Stream stream) {
  with_shape(line.blocks, [&](auto shape) {
    constexpr int J = decltype(shape)::columns;
    constexpr int B = decltype(shape)::block;
    const GramTree& tree = line.tree;
    PassageJob<J> job{line, static_cast<Passage<J>*>(scratch.passages), 0};
    if constexpr (B > 1) {
      if (in_turn) {
        launch(start_in_turn_kernel<J, B>, one_walk_each(line.lines), stream, job);
      }
    }
    if (!in_turn) {
      if (line.chunks > 1) {
        launch(pass_kernel<J, B>, one_walk_each(line.all_chunks()), stream, job);
      }
      for (; job.level + 1 < tree.levels; ++job.level) {
        launch(join_kernel<J, B>, one_walk_each(line.lines * tree.nodes[job.level + 1]), stream,
               job);
      }
      for (; job.level >= 0; --job.level) {
        const bool top = job.level + 1 == tree.levels;
        launch(start_kernel<J, B>,
               one_walk_each(line.lines * (top ? 1 : tree.nodes[job.level + 1])), stream, job);
      }
    }
    launch(filter_kernel<J, B>, one_walk_each(line.all_chunks()), stream,
           FilterJob{line, &scratch.found[1].first_bad, &scratch.found[1].descents});
    compose<double, J, B>(tree, line.lines, line.decays, line.maps, stream);
  });
}

/// Whether variances that are in doubt may be 0.
void look_closer(const GramLine& line, const GramScratch& scratch, Stream stream) {
  with_shape(line.blocks, [&](auto shape) {
    launch(growth_kernel<decltype(shape)::columns, decltype(shape)::block>,
           one_walk_each(line.all_chunks()), stream,
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

template <int J, int B, bool kUpwards>
void product(const GramProductJob& given, bool inverse, Stream stream) {
  GramProductJob job = given;
  const GramLine& line = job.line;
  const auto run = [&](bool passes) {
    job.passes = passes;
    job.squares = passes ? nullptr : given.squares;
    launch(inverse ? gram_product_kernel<J, B, kUpwards, true>
                   : gram_product_kernel<J, B, kUpwards, false>,
           one_walk_each(line.all_chunks() * job.rows), stream, job);
  };
  if (line.chunks > 1) {
    run(true);
    if (inverse) {
      spread<Mapping<J>>(line.tree, line.lines, job.rows, kUpwards, line.maps, job.states, stream);
    } else {
      spread<Fading<double, J, B>>(line.tree, line.lines, job.rows, kUpwards, line.decays,
                                   job.states, stream);
    }
  }
  run(false);
}

void apply_any(const GramLine& line, Factor factor, bool scaled, const double* in, double* out,
               std::int64_t rows, double* states, Stream stream, double* squares = nullptr) {
  const bool inverse = factor == Factor::lower_inverse || factor == Factor::upper_inverse;
  const GramProductJob job{line,  rows,   in, out, scaled, line.chunks > 1 ? states : nullptr,
                           false, squares};
  with_shape(line.blocks, [&](auto shape) {
    constexpr int J = decltype(shape)::columns;
    constexpr int B = decltype(shape)::block;
    if (factor == Factor::upper || factor == Factor::upper_inverse) {
      product<J, B, true>(job, inverse, stream);
    } else {
      product<J, B, false>(job, inverse, stream);
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
    states = cut.take<double>(line.lines * rows * line.tree.all * line.blocks.columns);
  }
};

/// log det of each line, by way of that of each chunk.
void add_logs(const GramLine& line, double* sums, double* out, Stream stream) {
  launch(gram_logs_kernel, one_walk_each(line.all_chunks()), stream, GramLogsJob{line, sums});
  launch(gram_totals_kernel, gram_totals_grid(line.lines), stream,
         GramTotalsJob{sums, line.chunks, 1, 1, out});
}

/// Vectors [batch, rows, n], and what belongs to them.
void check_vectors(const Gram& gram, std::int64_t rows, const char* name, const double* in,
                   const char* other, const double* out, bool a_number_each = false) {
  laplex::detail::check_rows(gram.batch(), rows, gram.size());
  laplex::detail::check_array(name, in, gram.batch() * rows * gram.size());
  laplex::detail::check_array(other, out, gram.batch() * rows * (a_number_each ? 1 : gram.size()));
}

}  // namespace

Gram::Gram(const Covariance& c, Stream stream, Memory storage, Memory scratch) {
  auto state = std::make_shared<GramState>(line_of(c));
  require_device();
  if (is_capturing(stream)) {
    throw Error(
        ErrorCode::device,
        "a covariance cannot be factorised while its stream is being captured into a graph, "
        "because the host has to learn whether it is singular: factorise it before the "
        "capture");
  }
  std::vector<double> weights;
  if (c.weights != nullptr) {
    check_array(c.weights, c.batch * c.width, "weights");
    weights.resize(static_cast<std::size_t>(c.batch * c.width));
    copy_to_host(weights.data(), c.weights, weights.size() * sizeof(double), stream);
    Covariance on_host = c;
    on_host.weights = weights.data();
    laplex::detail::check_blocks(on_host);
  }
  const bool in_turn =
      std::any_of(weights.begin(), weights.end(), [](double weight) { return weight < 0.0; });
  GramLine& line = state->line;
  const std::size_t bytes = storage_bytes(c);
  if (storage.data == nullptr) {
    state->owned = DeviceMemory(bytes, stream);
    storage = {state->owned.data(), bytes};
  }
  const Lent held(storage, bytes, stream, "storage");
  Cutter cut(held.data());
  lay_out(cut, line);
  state->nbytes = static_cast<std::int64_t>(bytes);
  const Lent lent(scratch, scratch_bytes(c), stream, "scratch");
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
    factorise(line, in_turn, spare, stream);
  }
  inspection.finish();
  if (c.lengthscale != nullptr) {
    copy_to_host(lengthscale.data(), c.lengthscale, lengthscale.size() * sizeof(double), stream);
  }
  const std::vector<char> used = laplex::detail::used_lengthscales(c);
  for (std::size_t k = 0; k < lengthscale.size(); ++k) {
    if (used[k % used.size()] != 0) {
      laplex::detail::check_rate({lengthscale[k], 0.0}, static_cast<std::int64_t>(k) / c.width,
                                 c.batch);
    }
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
  laplex::detail::check_factor(factor);
  check_vectors(*this, rows, "in", in, "out", out);
  const Lent lent(workspace, workspace_bytes(rows), stream, "workspace");
  Cutter cut(lent.data());
  const GramWorkspace space(cut, state_->line, rows);
  apply_any(state_->line, factor, scaled, in, out, rows, space.states, stream);
}

void Gram::solve(const double* b, double* x, std::int64_t rows, Stream stream,
                 Memory workspace) const {
  check_vectors(*this, rows, "b", b, "x", x);
  const Lent lent(workspace, workspace_bytes(rows), stream, "workspace");
  Cutter cut(lent.data());
  const GramWorkspace space(cut, state_->line, rows);
  apply_any(state_->line, Factor::lower_inverse, true, b, x, rows, space.states, stream);
  apply_any(state_->line, Factor::upper_inverse, true, x, x, rows, space.states, stream);
}

void Gram::log_variances(double* out, Stream stream) const {
  laplex::detail::check_array("out", out, batch() * size());
  launch(gram_points_kernel, one_thread_each(batch() * size()), stream,
         GramPointsJob{state_->line, out, nullptr});
}

void Gram::order(std::int64_t* out, Stream stream) const {
  laplex::detail::check_array("out", out, batch() * size());
  launch(gram_points_kernel, one_thread_each(batch() * size()), stream,
         GramPointsJob{state_->line, nullptr, out});
}

void Gram::logdet(double* out, Stream stream, Memory workspace) const {
  laplex::detail::check_array("out", out, batch());
  const Lent lent(workspace, workspace_bytes(0), stream, "workspace");
  add_logs(state_->line, static_cast<double*>(lent.data()), out, stream);
}

void Gram::log_prob(const double* v, double* out, std::int64_t rows, Stream stream,
                    Memory workspace) const {
  check_vectors(*this, rows, "v", v, "out", out, true);
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
  check_vectors(*this, rows, "a", a, "b", b);
  gram_gradients<double>(state_->line, {a, b, rows, w, {}, gradients, nullptr, d_b, nullptr},
                         workspace, false, stream);
}

void Gram::vjp_tangent(const double* a, const double* b, std::int64_t rows, const double* w,
                       const GramTangent& tangent, const GramGradients& gradients, double* d_a,
                       double* d_b, double* d_w, Stream stream, Memory workspace) const {
  check_vectors(*this, rows, "a", a, "b", b);
  gram_gradients<Dual>(state_->line, {a, b, rows, w, tangent, gradients, d_a, d_b, d_w}, workspace,
                       false, stream);
}

std::size_t Gram::storage_bytes(const Covariance& c) {
  GramLine line = line_of(c);
  Cutter cut;
  lay_out(cut, line);
  return cut.used();
}

std::size_t Gram::scratch_bytes(const Covariance& c) {
  Cutter cut;
  const GramScratch spare(cut, line_of(c));
  return cut.used();
}

std::size_t Gram::storage_bytes(std::int64_t batch, std::int64_t n, std::int64_t width) {
  return storage_bytes(covariance_of(batch, n, width));
}

std::size_t Gram::scratch_bytes(std::int64_t batch, std::int64_t n, std::int64_t width) {
  return scratch_bytes(covariance_of(batch, n, width));
}

std::size_t Gram::workspace_bytes(std::int64_t rows) const {
  Cutter cut;
  const GramWorkspace space(cut, state_->line, rows);
  return cut.used();
}

std::size_t Gram::gradient_workspace_bytes(std::int64_t rows, bool tangent) const {
  double any = 0.0;
  const GramGradientCall call{nullptr, nullptr, rows,   nullptr, {}, {&any, &any, &any, &any, &any},
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
