#include "block_pass.hpp"

#include <algorithm>

namespace laplex::detail {

template <class T>
void Carried<T>::set(PassShape shape, const Cells<T>& cells, const SideView<T>& side,
                     std::int64_t count, const Vectors<const T>& values, Block block,
                     bool conjugate, Array<std::byte>& scratch, int threads) {
  const Kernels<T>& kernel = kernels<T>();
  input_.paired = values.paired();
  input_.conjugate = conjugate && input_.paired;
  input_.phased = false;
  input_.step = values.step();
  sorted_ = !shape.wide && shape.form == Form::real && side.index != nullptr;
  if (shape.wide) {
    const std::int64_t entry = input_.paired ? 2 * kRows : kRows;
    tile_.reset(count * entry);
    for (std::int64_t part = 0; part < entry / kRows; ++part) {
      const T* rows[kRows] = {};
      for (std::int64_t r = 0; r < block.count; ++r) {
        rows[r] = values.lane(block.head, block.first + r) + part;
      }
      parallel_ranges(threads, count, kLaneGrain, [&](std::int64_t begin, std::int64_t end) {
        kernel.to_tile(rows, input_.step, begin, end, tile_.data() + part * kRows, entry);
      });
    }
    input_.base = tile_.data();
  } else {
    input_.base = values.lane(block.head, block.first);
    if (side.index != nullptr) {
      sort_values(shape, side, count, scratch, threads);
    }
  }
  const std::int64_t carry = shape.carry();
  const std::int64_t num_cells = cells.count();
  for (Array<double>* array : {&grown_, &shrunk_, &left_, &right_}) {
    array->reset(num_cells * carry);
  }
  if (num_cells <= 1) {  // nothing enters the only cell
    std::fill(left_.begin(), left_.end(), 0.0);
    std::fill(right_.begin(), right_.end(), 0.0);
    if (side.point == nullptr) {  // a point cell still needs its total
      return;
    }
  }
  const std::int64_t scratch_size = scratch_bytes(sizeof(T), shape.wide);
  over_cells(num_cells, scratch, scratch_size, threads,
             [&](std::int64_t begin, std::int64_t end, void* memory) {
               kernel.totals(shape.form, shape.wide, side, input_, begin, end, grown_.data(),
                             shrunk_.data(), memory);
             });
  if (num_cells <= 1) {
    return;
  }
  if (shape.form == Form::oscillating) {
    if (shape.wide) {
      scan<Complex, kRows>(cells, threads);
    } else {
      scan<Complex, 1>(cells, threads);
    }
  } else if (shape.form == Form::complex) {
    if (shape.wide) {
      scan<double, 2 * kRows>(cells, threads);
    } else {
      scan<double, 2>(cells, threads);
    }
  } else if (shape.wide) {
    scan<double, kRows>(cells, threads);
  } else {
    scan<double, 1>(cells, threads);
  }
}

/// Brings the values of a single lane into the order of the side, phases in: once for both looks at
/// them.
template <class T>
void Carried<T>::sort_values(PassShape shape, const SideView<T>& side, std::int64_t count,
                             Array<std::byte>& scratch, int threads) {
  const std::int64_t planes = planes_of(shape.form);
  const Input<T> given = input_;
  tile_.reset(count * planes);
  T* const sorted = tile_.data();
  const std::uint32_t* const index = side.index;
  if (side.permutation != nullptr && planes == 1 && given.step == 1) {
    side.permutation->to_sorted(given.base, sorted, scratch, threads);
    input_ = {sorted, 1, false, false, false};
    return;
  }
  const T sign = given.conjugate ? T(-1) : T(1);
  parallel_ranges(threads, count, kLaneGrain, [&](std::int64_t begin, std::int64_t end) {
    if (planes == 1) {
      for (std::int64_t k = begin; k < end; ++k) {
        sorted[k] = given.base[index[k] * given.step];
      }
      return;
    }
    for (std::int64_t k = begin; k < end; ++k) {
      const T* const from = given.base + index[k] * given.step;
      const T re = from[0];
      const T im = given.paired ? sign * from[1] : T(0);
      const bool phased = side.phase_re != nullptr;
      const T c = phased ? side.phase_re[k] : T(1);
      const T s = phased ? side.phase_im[k] : T(0);
      sorted[2 * k] = phased ? re * c - im * s : re;
      sorted[2 * k + 1] = phased ? re * s + im * c : im;
    }
  });
  input_ = {sorted, planes, planes == 2, false, planes == 2};
}

/// What enters each cell: the scanned sums after its neighbour, moved to its centre.
template <class T>
template <class D, int L>
void Carried<T>::scan(const Cells<T>& cells, int threads) {
  const Line<D> line = cells.template line<D>();
  const std::int64_t count = line.size;
  sums_.reset(grown_.size());
  D* const sums = reinterpret_cast<D*>(sums_.data());
  D* const left = reinterpret_cast<D*>(left_.data());
  D* const right = reinterpret_cast<D*>(right_.data());
  const D* const gap = line.decays->gap.data();

  Scan<false, 0, L, D, D>(line, threads).run(reinterpret_cast<const D*>(grown_.data()), sums);
  for (int l = 0; l < L; ++l) {
    left[l] = D{};
  }
  for (std::int64_t c = 1; c < count; ++c) {
    for (int l = 0; l < L; ++l) {
      left[c * L + l] = gap[c] * sums[(c - 1) * L + l];
    }
  }
  Scan<true, 0, L, D, D>(line, threads).run(reinterpret_cast<const D*>(shrunk_.data()), sums);
  for (int l = 0; l < L; ++l) {
    right[(count - 1) * L + l] = D{};
  }
  for (std::int64_t c = 0; c + 1 < count; ++c) {
    for (int l = 0; l < L; ++l) {
      right[c * L + l] = gap[c + 1] * sums[(count - 2 - c) * L + l];
    }
  }
}

template <class T>
void Permuted<T>::close(Array<std::byte>& scratch, int threads) {
  if (out_ == nullptr) {
    return;
  }
  if (side_.permutation != nullptr) {
    side_.permutation->to_given(sorted_, out_, scratch, threads);
  } else {
    parallel_ranges(threads, count_, kLaneGrain, [&](std::int64_t begin, std::int64_t end) {
      T* const out = out_;
      const T* const sorted = sorted_;
      const std::uint32_t* const index = side_.index;
      for (std::int64_t k = begin; k < end; ++k) {
        out[index[k]] = sorted[k];
      }
    });
  }
  out_ = nullptr;
}

template <class T>
void Delivered<T>::open(PassShape shape, const SideView<T>& side, std::int64_t count,
                        const Vectors<T>& results, Block block, bool conjugate, double scale,
                        T* room) {
  shape_ = shape;
  count_ = count;
  output_.paired = results.paired();
  output_.conjugate = conjugate && output_.paired;
  output_.scale = static_cast<T>(scale);
  step_ = output_.step = results.step();
  if (shape.wide) {
    tile_.reset(count * (output_.paired ? 2 * kRows : kRows));
    for (std::int64_t r = 0; r < kRows; ++r) {
      rows_[r] = r < block.count ? results.lane(block.head, block.first + r) : nullptr;
    }
    output_.base = tile_.data();
    return;
  }
  output_.base = results.lane(block.head, block.first);
  output_.sorted = output_.step == 1 && Permuted<T>::pays(side, count);
  if (output_.sorted) {
    output_.base = permuted_.open(side, count, output_.base, room);
  }
}

template <class T>
void Delivered<T>::close(Array<std::byte>& scratch, int threads) {
  if (!shape_.wide) {
    permuted_.close(scratch, threads);
    return;
  }
  const Kernels<T>& kernel = kernels<T>();
  const std::int64_t entry = output_.paired ? 2 * kRows : kRows;
  for (std::int64_t part = 0; part < entry / kRows; ++part) {
    T* rows[kRows];
    for (std::int64_t r = 0; r < kRows; ++r) {
      rows[r] = rows_[r] != nullptr ? rows_[r] + part : nullptr;
    }
    parallel_ranges(threads, count_, kLaneGrain, [&](std::int64_t begin, std::int64_t end) {
      kernel.from_tile(tile_.data() + part * kRows, entry, begin, end, rows, step_);
    });
  }
}

template class Carried<float>;
template class Carried<double>;
template class Permuted<float>;
template class Permuted<double>;
template class Delivered<float>;
template class Delivered<double>;

}  // namespace laplex::detail
