/// Eight cells of a few values each, side by side: on a sparse line nearly all cells are so small,
/// and one at a time they would leave most of a pack empty and wait for its sums.
///
/// Value k of the eight cells is a pack. The sums are those of a cell by itself, added in the same
/// order.
#pragma once

#include "cell.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

/// Whether the eight cells from `cell` on are such, of a run that ends at `end`. What may be read
/// ends with that run's values.
template <class T>
LAPLEX_INLINE bool are_small(const SideView<T>& from, std::int64_t cell, std::int64_t end) {
  const std::int64_t first = from.first[cell];
  if (from.first[cell + 1] - first > 8 || cell + 8 > end ||
      std::int64_t(from.first[cell + 7]) + 8 > std::int64_t(from.first[end])) {
    return false;  // a dense line pays for one comparison
  }
  std::uint32_t most = 0;
  for (int c = 0; c < 8; ++c) {
    const std::uint32_t count = from.first[cell + c + 1] - from.first[cell + c];
    most = count > most ? count : most;
  }
  if (from.point != nullptr) {
    for (int c = 0; c < 8; ++c) {
      most = from.point[cell + c] != 0 ? 9 : most;
    }
  }
  return most <= 8;
}

/// Pairs (a0, b0), (a1, b1), ... as two packs.
template <class T>
LAPLEX_INLINE void part_pairs(const T* pairs, Pack<T>& a, Pack<T>& b) {
  constexpr std::uint16_t kInOrder[8] = {0, 1, 2, 3, 4, 5, 6, 7};
  load_pairs(pairs, kInOrder, a, b);
}

/// The values of one cell, phases in; zeros after the last.
template <Form F, class T>
LAPLEX_INLINE void load_cell(const SideView<T>& side, const Input<T>& in, Range range,
                             Pack<T>* value) {
  constexpr int P = F == Form::real ? 1 : 2;
  const T* const from = in.base + range.begin * in.step;
  if (P == 2 && in.paired) {
    part_pairs(from, value[0], value[P - 1]);
    value[P - 1] = value[P - 1] * splat(in.conjugate ? T(-1) : T(1));
  } else {
    value[0] = in.step == 1 ? load(from) : make_pack<T>([&](int k) { return from[k * in.step]; });
    if constexpr (P == 2) {
      value[1] = splat(T(0));
    }
  }
  if (P == 2 && side.phase_re != nullptr && !in.phased) {
    multiply(value[0], value[P - 1], load(side.phase_re + range.begin),
             load(side.phase_im + range.begin));
  }
  for (int p = 0; p < P; ++p) {
    value[p] = first_lanes(value[p], range.size());
  }
}

/// The values of eight cells with their weights: lane c of pack k is value k of cell c.
template <Form F, class T>
LAPLEX_INLINE void load_small(const SideView<T>& side, const Input<T>& in, std::int64_t cell,
                              Pack<T> (*grown)[8], Pack<T> (*shrunk)[8]) {
  constexpr int P = F == Form::real ? 1 : 2;
  for (int c = 0; c < 8; ++c) {
    const Range range = range_of(side, cell + c);
    Pack<T> value[P];
    load_cell<F>(side, in, range, value);
    for (int p = 0; p < P; ++p) {
      grown[p][c] = value[p];
      shrunk[p][c] = value[p];
    }
    weigh<F, false, true>(side, range.begin, grown[0][c], grown[P - 1][c]);
    weigh<F, false, false>(side, range.begin, shrunk[0][c], shrunk[P - 1][c]);
  }
  for (int p = 0; p < P; ++p) {
    transpose8(grown[p]);
    transpose8(shrunk[p]);
  }
}

/// Numbers of eight cells, P planes of each: [8][P].
template <int P>
LAPLEX_INLINE void load_each(const double* from, Pack<double>* number) {
  if constexpr (P == 1) {
    number[0] = load(from);
  } else {
    part_pairs(from, number[0], number[1]);
  }
}

template <int P>
LAPLEX_INLINE void store_each(double* to, const Pack<double>* number) {
  if constexpr (P == 1) {
    store(to, number[0]);
  } else {
    store_pairs(to, number[0], number[1]);
  }
}

template <Form F, class T>
LAPLEX_APART void total_small(const SideView<T>& from, const Input<T>& values, std::int64_t cell,
                              double* grown, double* shrunk) {
  constexpr int P = F == Form::real ? 1 : 2;
  Pack<T> up[P][8];
  Pack<T> down[P][8];
  load_small<F>(from, values, cell, up, down);
  const auto add = [&](const Pack<T>(*x)[8], double* to) {
    Pack<double> sum[P];
    for (int p = 0; p < P; ++p) {
      const auto two = [&](int k) { return widen(x[p][k]) + widen(x[p][k + 1]); };
      sum[p] = splat(0.0) + ((two(0) + two(2)) + (two(4) + two(6)));
    }
    store_each<P>(to + cell * P, sum);
  };
  add(up, grown);
  add(down, shrunk);
}

/// Pair k of cell c, as `Buffers` would hold it for that cell alone, becomes pair 8 k + c + 1: from
/// one on, they are aligned.
template <Form F, class T, class Cell>
LAPLEX_INLINE void scan_small(const SideView<T>& from, const Input<T>& values,
                              const Carries& carries, std::int64_t cell, Cell& buffers) {
  constexpr int P = F == Form::real ? 1 : 2;
  Pack<T> up[P][8];
  Pack<T> down[P][8];
  load_small<F>(from, values, cell, up, down);
  Pack<double> left[P];
  Pack<double> right[P];
  load_each<P>(carries.left + cell * P, left);
  load_each<P>(carries.right + cell * P, right);
  for (int p = 0; p < P; ++p) {
    prefix_group(up[p]);
    suffix_group(down[p]);
    const Pack<T> before = narrow<T>(left[p]);
    const Pack<T> after = narrow<T>(right[p]);
    T* const pairs = buffers.pairs(p) + 2;
    for (std::int64_t k = 0; k <= 8; ++k) {
      store_pairs(pairs + 16 * k, k == 0 ? before : up[p][k - 1] + before,
                  (k == 8 ? splat(T(0)) : down[p][k]) + after);
    }
  }
}

/// Places to look up in those pairs, from the places within each of the eight cells; zeros after
/// the last.
template <class T>
LAPLEX_INLINE void look_up_small(const SideView<T>& to, const std::uint16_t* at, std::int64_t cell,
                                 std::uint16_t* where) {
  const std::int64_t first = to.first[cell];
  for (int c = 0; c < 8; ++c) {
    const std::int64_t end = to.first[cell + c + 1];
    std::int64_t k = to.first[cell + c];
    do {  // once for a cell of none: nothing to predict. The next cell writes over what is too
          // much.
      for (int j = 0; j < 8; ++j) {
        where[k - first + j] = static_cast<std::uint16_t>(8 * at[k + j] + c + 1);
      }
      k += 8;
    } while (k < end);
  }
  for (int j = 0; j < 8; ++j) {
    where[to.first[cell + 8] - first + j] = 0;
  }
}

}  // namespace laplex::detail::LAPLEX_LEVEL
