#include "block_pass.hpp"

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace laplex::detail {

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
      for (std::int64_t part = 0; part < entry / kRows; ++part) {
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
    if (side.index != nullptr && !permute(side, count, scratch, threads)) {
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
  if (num_cells <= 1 && side.point == nullptr) {  // nothing enters the only cell
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
  if (num_cells <= 1) {
    std::fill(left_.begin(), left_.end(), 0.0);
    std::fill(shrunk_.begin(), shrunk_.end(), 0.0);
  } else if (shape.form == Form::oscillating) {
    scan<Complex>(shape, cells, threads);
  } else {
    scan<double>(shape, cells, threads);
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

/// What enters each cell: sums of chunks of cells upwards, and from the top down again.
template <class T>
template <class D>
void Carried<T>::scan(PassShape shape, const Cells<T>& cells, int threads) {
  const Kernels<T>& kernel = kernels<T>();
  const Line<D> line = cells.template line<D>();
  const std::vector<std::int64_t> sizes = level_sizes(line.size);
  const std::size_t top = sizes.size() - 1;
  const std::int64_t above = std::accumulate(sizes.begin() + 1, sizes.end(), std::int64_t(0));
  sums_.reset(2 * above * shape.carry());
  const auto sums = [&](std::size_t level, bool reverse) {
    const std::int64_t below =
        std::accumulate(sizes.begin() + 1, sizes.begin() + static_cast<std::ptrdiff_t>(level),
                        reverse ? above : std::int64_t(0));
    return sums_.data() + below * shape.carry();
  };
  // Both directions, in ranges of chunks that are long enough to hide the cost of handing them out.
  const auto each_range = [&](std::size_t level, const auto& body) {
    const std::int64_t grain = 8192 / chunk_size(level);
    const std::int64_t chunks = num_chunks(sizes[level], level);
    const std::int64_t ranges = (chunks + grain - 1) / grain;
    parallel_tasks(ranges > 1 ? threads : 1, 2 * ranges, [&](std::int64_t task) {
      const bool reverse = task % 2 != 0;
      const std::int64_t begin = task / 2 * grain;
      const double* const cell_values = reverse ? shrunk_.data() : grown_.data();
      const ChunkLevel from{level == 0 ? cell_values : sums(level, reverse),
                            reinterpret_cast<const double*>(line.decays->level(level, reverse)),
                            sizes[level], level == 0, reverse && level == 0};
      body(from, reverse, begin, std::min(chunks, begin + grain));
    });
  };
  for (std::size_t level = 0; level < top; ++level) {
    each_range(
        level, [&](const ChunkLevel& from, bool reverse, std::int64_t begin, std::int64_t end) {
          kernel.sum_chunks(shape.form, shape.wide, from, begin, end, sums(level + 1, reverse));
        });
  }
  for (std::size_t level = top + 1; level-- > 0;) {
    each_range(level,
               [&](const ChunkLevel& from, bool reverse, std::int64_t begin, std::int64_t end) {
                 double* const entering = reverse ? shrunk_.data() : entering_left();
                 kernel.spread_chunks(shape.form, shape.wide, from, begin, end,
                                      level < top ? sums(level + 1, reverse) : nullptr,
                                      level == 0 ? entering : sums(level, reverse));
               });
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
  if (output_.base == nullptr) {
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
