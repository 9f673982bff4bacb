#include "block_pass.hpp"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

namespace laplex::detail {

namespace {

/// Of bits. Different values show at the first.
template <class T>
bool all_equal(const T* values, std::int64_t count) {
  return count > 0 &&
         std::memcmp(values, values + 1, static_cast<std::size_t>(count - 1) * sizeof(T)) == 0;
}

}  // namespace

template <class T>
void LaidOut<T>::set(PassShape shape, const SideView<T>& side, std::int64_t count,
                     const Vectors<const T>& values, Block block, bool conjugate,
                     Array<std::byte>& scratch, int threads) {
  const Kernels<T>& kernel = kernels<T>();
  input_.paired = values.paired();
  input_.conjugate = conjugate && input_.paired;
  input_.phased = false;
  input_.step = values.step();
  waits_ = false;
  sorted_ = !shape.wide && shape.form == Form::real && side.index != nullptr;
  if (shape.wide) {
    input_.base = nullptr;
    input_.rows = rows_of(values, block, count);
    if (side.index != nullptr || !input_.rows.whole()) {
      const std::int64_t entry = input_.paired ? 2 * kRows : kRows;
      tile_.reset(count * entry);
      // Without entries there may be no array either, to which nothing can be added.
      for (std::int64_t part = 0; part < entry / kRows && count > 0; ++part) {
        RowsOf<const T> rows = input_.rows;
        rows.first += part;
        parallel_ranges(threads, count, kLaneGrain, [&](std::int64_t begin, std::int64_t end) {
          kernel.to_tile(rows, begin, end, tile_.data() + part * kRows, entry);
        });
      }
      input_.base = tile_.data();
    }
  } else {
    input_.base = values.lane(block.head, block.first);
    if (sorted_ && input_.step == 1 && all_equal(input_.base, count)) {
      sorted_ = false;  // in any order
    } else if (side.index != nullptr && !permute(side, count, scratch, threads)) {
      given_ = input_;
      waits_ = true;
      const std::int64_t planes = planes_of(shape.form);
      tile_.reset(count * planes);
      input_ = {tile_.data(), planes, planes == 2, false, planes == 2, {}};
    }
  }
}

template <class T>
void Carried<T>::set(PassShape shape, const Cells<T>& cells, const SideView<T>& side,
                     std::int64_t count, const Vectors<const T>& values, Block block,
                     bool conjugate, Array<std::byte>& scratch, int threads) {
  const Kernels<T>& kernel = kernels<T>();
  values_.set(shape, side, count, values, block, conjugate, scratch, threads);
  const std::int64_t num_cells = cells.count();
  const std::int64_t numbers = num_cells * shape.carry();
  grown_.reset(numbers);
  shrunk_.reset(numbers);
  left_.reset(side.point != nullptr ? numbers : 0);
  scanned_ = num_cells > 1 || cells.shared() != nullptr;
  if (!scanned_ && side.point == nullptr) {  // nothing enters the only cell
    std::fill(grown_.begin(), grown_.end(), 0.0);
    std::fill(shrunk_.begin(), shrunk_.end(), 0.0);
    values_.sort(side, 0, count);
    return;
  }
  const std::int64_t scratch_size = scratch_bytes(sizeof(T), shape.wide);
  over_cells(cells, scratch, scratch_size, threads,
             [&](std::int64_t begin, std::int64_t end, void* memory) {
               values_.sort(side, side.first[begin], side.first[end]);
               kernel.totals(shape.form, shape.wide, side, values_.input(), begin, end,
                             grown_.data(), shrunk_.data(), memory);
             });
  if (!scanned_) {
    std::fill(left_.begin(), left_.end(), 0.0);
    std::fill(shrunk_.begin(), shrunk_.end(), 0.0);
  } else if (shape.form == Form::oscillating) {
    sum_up(shape, cells.template line<Complex>(), threads);
  } else {
    sum_up(shape, cells.template line<double>(), threads);
  }
}

template <class T>
bool LaidOut<T>::permute(const SideView<T>& side, std::int64_t count, Array<std::byte>& scratch,
                         int threads) {
  const std::int64_t numbers = input_.paired ? 2 : 1;
  if (side.permutation == nullptr || input_.step != numbers) {
    return false;
  }
  tile_.reset(count * numbers);
  if (input_.paired) {
    side.permutation->to_sorted(reinterpret_cast<const Pair<T>*>(input_.base),
                                reinterpret_cast<Pair<T>*>(tile_.data()), scratch, threads);
  } else {
    side.permutation->to_sorted(input_.base, tile_.data(), scratch, threads);
  }
  input_.base = tile_.data();
  return true;
}

template <class T>
void LaidOut<T>::sort(const SideView<T>& side, std::int64_t begin, std::int64_t end) {
  if (!waits_) {
    return;
  }
  T* const sorted = tile_.data();
  const Input<T> given = given_;
  const std::uint32_t* const index = side.index;
  if (!input_.paired) {
    for (std::int64_t k = begin; k < end; ++k) {
      sorted[k] = given.base[index[k] * given.step];
    }
    return;
  }
  const T sign = given.conjugate ? T(-1) : T(1);
  const bool phased = side.phase_re != nullptr;
  for (std::int64_t k = begin; k < end; ++k) {
    const T* const from = given.base + index[k] * given.step;
    const T re = from[0];
    const T c = phased ? side.phase_re[k] : T(1);
    const T s = phased ? side.phase_im[k] : T(0);
    if (given.paired) {
      const T im = sign * from[1];
      sorted[2 * k] = phased ? re * c - im * s : re;
      sorted[2 * k + 1] = phased ? re * s + im * c : im;
    } else {
      sorted[2 * k] = phased ? re * c : re;
      sorted[2 * k + 1] = phased ? re * s : T(0);
    }
  }
}

template <class T>
void Carried<T>::run_along(PassShape shape, const Cells<T>& cells, const SideView<T>& side,
                           bool reverse, Array<std::byte>& scratch, int threads) {
  const std::int64_t width = shape.width();
  const std::int64_t count = cells.count();
  reverse_ = reverse;
  running_.reset(count * width);
  over_cells(cells, scratch, scratch_bytes(sizeof(T), shape.wide), threads,
             [&](std::int64_t begin, std::int64_t end, void* memory) {
               kernels<T>().plain_sums(shape.wide, side, values_.input(), begin, end,
                                       running_.data(), memory);
             });
  // What each addition rounds off is carried too, so that the error does not grow with the line.
  double sum[kRows] = {};
  double lost[kRows] = {};
  for (std::int64_t k = 0; k < count; ++k) {
    double* const cell = running_.data() + (reverse ? count - 1 - k : k) * width;
    for (std::int64_t lane = 0; lane < width; ++lane) {
      const double term = cell[lane];
      cell[lane] = sum[lane] + lost[lane];
      const double next = sum[lane] + term;
      const double of_term = next - sum[lane];
      lost[lane] += (sum[lane] - (next - of_term)) + (term - of_term);
      sum[lane] = next;
    }
  }
}

template <class T>
double* Carried<T>::sums(const LineTree* const* trees, std::size_t level, bool reverse,
                         std::int64_t carry) {
  const LineTree& forward = *trees[0];
  const std::int64_t before =
      reverse ? forward.own_below(forward.top() + 1) + trees[1]->own_below(level)
              : forward.own_below(level);
  return sums_.data() + before * carry;
}

template <class T>
template <class D, class Body>
void Carried<T>::each_range(PassShape shape, const Line<D>& line, std::size_t level, int threads,
                            const Body& body) {
  constexpr std::int64_t kNumbers = kDoublesOf<D>;
  // Ranges of chunks that are long enough to hide the cost of handing them out.
  const std::int64_t grain = 8192 / chunk_size(level);
  const LineTree* const* const trees = line.points.tree;
  std::int64_t ranges[2];
  for (int direction = 0; direction < 2; ++direction) {
    const std::int64_t chunks = num_chunks(trees[direction]->chunked(level).count, level);
    ranges[direction] = (chunks + grain - 1) / grain;
  }
  parallel_tasks(
      ranges[0] + ranges[1] > 2 ? threads : 1, ranges[0] + ranges[1], [&](std::int64_t task) {
        const bool reverse = task >= ranges[0];
        const LineTree& tree = *trees[reverse ? 1 : 0];
        const NodeRange nodes = tree.chunked(level);
        const NodeRange own = tree.own(level);
        // Cells stand in ascending order, nodes above them in that of the scan.
        const bool backwards = reverse && level == 0;
        const std::int64_t shift = backwards ? own.end() - nodes.end() : nodes.first - own.first;
        const std::int64_t carry = shape.carry();
        double* const values = level > 0 ? sums(trees, level, reverse, carry)
                                         : (reverse ? shrunk_.data() : grown_.data());
        const auto* const decays =
            reinterpret_cast<const double*>(line.decays->level(level, reverse));
        const ChunkLevel from{values + shift * carry, decays + shift * kNumbers, nodes.count,
                              level == 0, backwards};
        const std::int64_t begin = (reverse ? task - ranges[0] : task) * grain;
        const std::int64_t end = std::min(num_chunks(nodes.count, level), begin + grain);
        double* const out = (level > 0 ? values : entering(reverse)) + shift * carry;
        double* const above = level < tree.top() ? sums(trees, level + 1, reverse, carry) : nullptr;
        body(from, begin, end, above, out);
      });
}

/// Sums of chunks of cells, and of chunks of those, up to the top.
template <class T>
template <class D>
void Carried<T>::sum_up(PassShape shape, const Line<D>& line, int threads) {
  const LineTree* const* const trees = line.points.tree;
  const std::size_t top = trees[0]->top();
  sums_.reset((trees[0]->own_below(top + 1) + trees[1]->own_below(top + 1)) * shape.carry());
  for (std::size_t level = 0; level < top; ++level) {
    each_range(
        shape, line, level, threads,
        [&](const ChunkLevel& from, std::int64_t begin, std::int64_t end, double* above, double*) {
          kernels<T>().sum_chunks(shape.form, shape.wide, from, begin, end, above);
        });
  }
}

template <class T>
template <class D>
void Carried<T>::spread_down(PassShape shape, const Line<D>& line, int threads) {
  for (std::size_t level = line.points.tree[0]->top() + 1; level-- > 0;) {
    each_range(shape, line, level, threads,
               [&](const ChunkLevel& from, std::int64_t begin, std::int64_t end,
                   const double* above, double* out) {
                 kernels<T>().spread_chunks(shape.form, shape.wide, from, begin, end, above, out);
               });
  }
}

template <class T>
double* Carried<T>::leaf(const Cells<T>& cells, const Skeleton::Node& node, bool reverse,
                         double* of_cells, std::int64_t carry) {
  const Points points = cells.points();
  const NodeRange own = points.tree[reverse ? 1 : 0]->own(node.level);
  const std::int64_t at = node.node - own.first;
  if (node.level > 0) {
    return sums(points.tree, node.level, reverse, carry) + at * carry;
  }
  return of_cells + (reverse ? own.count - 1 - at : at) * carry;
}

template <class T>
void Carried<T>::send(PassShape shape, const Cells<T>& cells, std::int64_t slot, Round& round) {
  const SharedLine& shared = *cells.shared();
  const std::int64_t carry = shape.carry();
  for (const bool reverse : {false, true}) {
    double* const totals = reverse ? shrunk_.data() : grown_.data();
    shared.each_own_leaf(reverse, [&](std::int64_t, const Skeleton::Node& node) {
      const double* const total = leaf(cells, node, reverse, totals, carry);
      std::copy(total, total + carry, round.mine(slot, reverse, node.leaf));
    });
  }
}

template <class T>
template <class D>
void Carried<T>::receive(PassShape shape, const Cells<T>& cells, std::int64_t slot,
                         const Round& round) {
  const SharedLine& shared = *cells.shared();
  const Line<D> line = cells.template line<D>();
  const std::int64_t carry = shape.carry();
  for (const bool reverse : {false, true}) {
    const std::vector<D>& decays = line.decays->skeleton[reverse ? 1 : 0];
    const auto move = [&](double* sum, std::int64_t node, bool) {
      const D decay = decays[static_cast<std::size_t>(node)];
      if constexpr (std::is_same_v<D, double>) {
        for (std::int64_t k = 0; k < carry; ++k) {
          sum[k] = decay * sum[k];
        }
      } else {
        double* const im = sum + shape.width();
        for (std::int64_t k = 0; k < shape.width(); ++k) {
          const double re = decay.re * sum[k] - decay.im * im[k];
          im[k] = decay.re * im[k] + decay.im * sum[k];
          sum[k] = re;
        }
      }
    };
    std::vector<double> comes = scan_skeleton<double>(
        shared.skeleton(reverse), carry, move,
        [&](const Skeleton::Node& node) { return round.total(slot, reverse, node); });
    shared.each_own_leaf(reverse, [&](std::int64_t k, const Skeleton::Node& node) {
      double* const here = comes.data() + k * carry;
      if (node.level == 0) {  // of cells, what enters
        move(here, k, false);
      }
      std::copy(here, here + carry, leaf(cells, node, reverse, entering(reverse), carry));
    });
  }
}

template <class T>
void Carried<T>::enter(PassShape shape, const Cells<T>& cells, std::int64_t slot,
                       const Round* round, int threads) {
  const auto go_on = [&](auto zero) {
    using D = decltype(zero);
    if (round != nullptr) {
      receive<D>(shape, cells, slot, *round);
    }
    spread_down(shape, cells.template line<D>(), threads);
  };
  if (scanned_) {
    if (shape.form == Form::oscillating) {
      go_on(Complex{});
    } else {
      go_on(double{});
    }
  }
}

template <class T>
void Permuted<T>::scatter(std::int64_t begin, std::int64_t end) {
  const std::uint32_t* const index = side_.index;
  if (pairs_) {
    const auto* const sorted = reinterpret_cast<const Pair<T>*>(sorted_);
    auto* const out = reinterpret_cast<Pair<T>*>(out_);
    for (std::int64_t k = begin; k < end; ++k) {
      out[index[k]] = sorted[k];
    }
  } else {
    const T* const sorted = sorted_;
    T* const out = out_;
    for (std::int64_t k = begin; k < end; ++k) {
      out[index[k]] = sorted[k];
    }
  }
}

template <class T>
void Permuted<T>::close(Array<std::byte>& scratch, int threads) {
  if (out_ == nullptr) {
    return;
  }
  if (side_.permutation == nullptr) {
    parallel_ranges(threads, count_, kLaneGrain,
                    [&](std::int64_t begin, std::int64_t end) { scatter(begin, end); });
  } else if (pairs_) {
    side_.permutation->to_given(reinterpret_cast<const Pair<T>*>(sorted_),
                                reinterpret_cast<Pair<T>*>(out_), scratch, threads);
  } else {
    side_.permutation->to_given(sorted_, out_, scratch, threads);
  }
  out_ = nullptr;
}

template <class T>
void Delivered<T>::open(PassShape shape, const SideView<T>& side, std::int64_t count,
                        const Vectors<T>& results, Block block, bool conjugate, double scale,
                        bool in_rows, T* room) {
  shape_ = shape;
  output_.paired = results.paired();
  output_.conjugate = conjugate && output_.paired;
  output_.scale = static_cast<T>(scale);
  output_.sorted = false;
  output_.step = results.step();
  if (shape.wide) {
    output_.base = nullptr;
    output_.rows = rows_of(results, block, count);
    if (side.index != nullptr || !output_.rows.whole() || !in_rows) {
      tile_.reset(count * (output_.paired ? 2 * kRows : kRows));
      output_.base = tile_.data();
    }
    return;
  }
  output_.base = results.lane(block.head, block.first);
  output_.sorted = output_.step == (output_.paired ? 2 : 1) && Permuted<T>::pays(side, count);
  if (output_.sorted) {
    output_.base = permuted_.open(side, count, output_.base, room, output_.paired);
  }
}

template <class T>
void Delivered<T>::close(Array<std::byte>& scratch, int threads) {
  if (!shape_.wide) {
    if (output_.sorted && permuted_.waits()) {
      permuted_.close(scratch, threads);
    }
    return;
  }
  if (output_.base == nullptr || output_.rows.length == 0) {
    return;
  }
  const Kernels<T>& kernel = kernels<T>();
  const std::int64_t entry = output_.paired ? 2 * kRows : kRows;
  for (std::int64_t part = 0; part < entry / kRows; ++part) {
    RowsOf<T> rows = output_.rows;
    rows.first += part;
    parallel_ranges(threads, rows.length, kLaneGrain, [&](std::int64_t begin, std::int64_t end) {
      kernel.from_tile(tile_.data() + part * kRows, entry, begin, end, rows);
    });
  }
}

template class LaidOut<float>;
template class LaidOut<double>;
template class Carried<float>;
template class Carried<double>;
template class Permuted<float>;
template class Permuted<double>;
template class Delivered<float>;
template class Delivered<double>;

}  // namespace laplex::detail
