/// Running sums of the values themselves, which the kernel does not weigh.
#pragma once

#include "cell.hpp"
#include "small_cells.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

/// The running sums of a cell at the places between its values, what is outside of it included: sum
/// k is that of all values before value k or (`reverse`) that of value k and all after it.
template <class T>
struct RunningSums {
  const T* sums = nullptr;
  bool reverse = false;

  template <bool Wide>
  [[nodiscard]] LAPLEX_INLINE Pack<T> at(const std::uint16_t* where) const {
    if constexpr (Wide) {
      return load(sums + std::int64_t(*where) * kRows);
    } else {
      return make_pack<T>([&](int j) { return sums[where[j]]; });
    }
  }
};

/// The sum of a piece: in each of the eight places of a group by itself, then those eight.
template <bool Wide, class T, class Cell>
LAPLEX_INLINE Carry<Wide> plain_sum_of_piece(const SideView<T>& side, const Input<T>& in,
                                             Range range, Cell& buffers) {
  constexpr std::int64_t W = Wide ? kRows : 1;
  constexpr int kPlaces = Wide ? 8 : 1;
  T* const value = buffers.value[0];
  load_values<Form::real, Wide>(side, in, range, value, value);
  Pack<double> sum[kPlaces];
  for (Pack<double>& place : sum) {
    place = splat(0.0);
  }
  for (std::int64_t k = 0; k < range.size(); k += 8) {
    for (int j = 0; j < kPlaces; ++j) {
      sum[j] = sum[j] + widen(load(value + (k + j) * W));
    }
  }
  if constexpr (Wide) {
    return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
  } else {
    return sum_lanes(sum[0]);
  }
}

/// The same of any length, as in sum_range.
template <bool Wide, class T, class Cell>
Carry<Wide> plain_sum(const SideView<T>& side, const Input<T>& in, Range range, Cell& buffers) {
  if (range.size() <= kCell) {
    return plain_sum_of_piece<Wide>(side, in, range, buffers);
  }
  const std::int64_t middle = range.begin + (range.size() / 2 + kCell - 1) / kCell * kCell;
  const Carry<Wide> first = plain_sum<Wide>(side, in, {range.begin, middle}, buffers);
  return first + plain_sum<Wide>(side, in, {middle, range.end}, buffers);
}

/// The values of eight small cells: lane c of pack k is value k of cell c.
template <class T>
LAPLEX_INLINE void load_small_values(const SideView<T>& side, const Input<T>& in, std::int64_t cell,
                                     Pack<T>* value) {
  for (int c = 0; c < 8; ++c) {
    load_cell<Form::real>(side, in, range_of(side, cell + c), value + c);
  }
  transpose8(value);
}

template <bool Wide, class T>
void plain_sums_of(const SideView<T>& from, const Input<T>& values, std::int64_t begin,
                   std::int64_t end, double* sums, void* scratch) {
  auto& buffers = *static_cast<Buffers<T, 1, Wide ? kRows : 1>*>(scratch);
  for (std::int64_t cell = begin; cell < end; ++cell) {
    if constexpr (!Wide) {
      if (are_small(from, cell, end)) {
        Pack<T> x[8];
        load_small_values(from, values, cell, x);
        const auto two = [&](int k) { return widen(x[k]) + widen(x[k + 1]); };
        store(sums + cell, splat(0.0) + ((two(0) + two(2)) + (two(4) + two(6))));
        cell += 7;
        continue;
      }
    }
    const Carry<Wide> sum = plain_sum<Wide>(from, values, range_of(from, cell), buffers);
    store_carry<Form::real, Wide>(sums, cell, &sum);
  }
}

/// The running sums of a cell, from its values.
template <bool Wide, class T>
LAPLEX_INLINE RunningSums<T> run_cell(const T* value, std::int64_t count, const Running& running,
                                      std::int64_t cell, T* sums) {
  constexpr std::int64_t W = Wide ? kRows : 1;
  const std::int64_t whole = (count + 7) / 8 * 8;
  Carry<Wide> outside;
  load_carry<Form::real, Wide>(running.outside, cell, &outside);
  const auto put = [&](std::int64_t k) {
    if constexpr (Wide) {
      store(sums + k * W, spread<T>(outside));
    } else {
      sums[k] = static_cast<T>(outside);
    }
  };
  if (running.reverse) {
    put(whole);
    for (std::int64_t k = whole - 8; k >= 0; k -= 8) {
      const Pack<T> c = spread<T>(outside);
      if constexpr (Wide) {
        Pack<T> x[8];
        repeat<8>([&](auto j) { x[j.value] = load(value + (k + j.value) * W); });
        suffix_group(x);
        repeat<8>([&](auto j) { store(sums + (k + j.value) * W, x[j.value] + c); });
        outside = outside + widen(x[0]);
      } else {
        const Pack<T> s = suffix8(load(value + k));
        store(sums + k, s + c);
        outside = outside + static_cast<double>(s.get(0));
      }
    }
  } else {
    put(0);
    for (std::int64_t k = 0; k < whole; k += 8) {
      const Pack<T> c = spread<T>(outside);
      if constexpr (Wide) {
        Pack<T> x[8];
        repeat<8>([&](auto j) { x[j.value] = load(value + (k + j.value) * W); });
        prefix_group(x);
        repeat<8>([&](auto j) { store(sums + (k + j.value + 1) * W, x[j.value] + c); });
        outside = outside + widen(x[7]);
      } else {
        const Pack<T> s = prefix8(load(value + k));
        store(sums + k + 1, s + c);
        outside = outside + static_cast<double>(s.get(7));
      }
    }
  }
  return {sums, running.reverse};
}

/// Those of a cell at one point: with none of its values and with all.
template <bool Wide, class T>
LAPLEX_INLINE RunningSums<T> run_point(const Carries& carries, std::int64_t cell, T* sums) {
  constexpr std::int64_t W = Wide ? kRows : 1;
  Carry<Wide> outside;
  Carry<Wide> total;
  load_carry<Form::real, Wide>(carries.running.outside, cell, &outside);
  load_carry<Form::real, Wide>(carries.total, cell, &total);
  const Carry<Wide> all = outside + total;
  const bool reverse = carries.running.reverse;
  const auto put = [&](T* to, const Carry<Wide>& sum) {
    if constexpr (Wide) {
      store(to, spread<T>(sum));
    } else {
      *to = static_cast<T>(sum);
    }
  };
  put(sums, reverse ? all : outside);
  put(sums + W, reverse ? outside : all);
  return {sums, reverse};
}

/// Those of eight small cells, sum k of cell c at 8 k + c + 1, as the pairs of scan_small.
template <class T>
LAPLEX_INLINE RunningSums<T> run_small(const SideView<T>& from, const Input<T>& values,
                                       const Running& running, std::int64_t cell, T* sums) {
  Pack<T> x[8];
  load_small_values(from, values, cell, x);
  const Pack<T> outside = narrow<T>(load(running.outside + cell));
  if (running.reverse) {
    suffix_group(x);
  } else {
    prefix_group(x);
  }
  for (int k = 0; k <= 8; ++k) {
    const int inside = running.reverse ? k : k - 1;
    const bool none = inside < 0 || inside > 7;
    store(sums + 8 * k + 1, none ? outside : x[inside] + outside);
  }
  return {sums, running.reverse};
}

}  // namespace laplex::detail::LAPLEX_LEVEL
