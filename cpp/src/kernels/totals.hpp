/// What each cell holds: the first look at the values.
#pragma once

#include "cell.hpp"
#include "small_cells.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

/// Groups of eight whose sum is formed in the precision of the values before it goes on in double.
inline constexpr std::int64_t kQuad = 4;

/// Sums of one piece: in each of the eight places of a group by itself, four groups at a time, then
/// those eight.
template <Form F, bool Wide, class T, class Cell>
LAPLEX_INLINE void sum_piece(const SideView<T> side, const Input<T> in, Range range, Cell& buffers,
                             Carry<Wide>* grown, Carry<Wide>* shrunk) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  constexpr int kPlaces = Wide ? 8 : 1;
  T* const value0 = buffers.value[0];
  T* const value1 = buffers.value[P - 1];
  load_values<F, Wide>(side, in, range, value0, value1);
  const std::int64_t groups = (range.size() + 7) / 8;
  const std::int64_t quads = (groups + kQuad - 1) / kQuad;
  for (std::int64_t k = groups * 8 * W; k < quads * kQuad * 8 * W; ++k) {
    value0[k] = T(0);
    value1[k] = T(0);
  }
  Pack<double> up[kPlaces][P];
  Pack<double> down[kPlaces][P];
  for (int j = 0; j < kPlaces; ++j) {
    Pack<double> grow[P];
    Pack<double> shrink[P];
    for (int p = 0; p < P; ++p) {
      grow[p] = shrink[p] = splat(0.0);
    }
    for (std::int64_t q = 0; q < quads; ++q) {
      Pack<T> g[kQuad][P];
      Pack<T> s[kQuad][P];
      for (std::int64_t group = 0; group < kQuad; ++group) {
        const std::int64_t k = 8 * (q * kQuad + group) + j;
        weigh<F, Wide, true>(side, range.begin, value0, value1, k, g[group][0], g[group][P - 1]);
        weigh<F, Wide, false>(side, range.begin, value0, value1, k, s[group][0], s[group][P - 1]);
      }
      for (int p = 0; p < P; ++p) {
        grow[p] = grow[p] + widen((g[0][p] + g[1][p]) + (g[2][p] + g[3][p]));
        shrink[p] = shrink[p] + widen((s[0][p] + s[1][p]) + (s[2][p] + s[3][p]));
      }
    }
    for (int p = 0; p < P; ++p) {
      up[j][p] = grow[p];
      down[j][p] = shrink[p];
    }
  }
  const auto sum_of = [](const auto& sum, int p) {
    if constexpr (Wide) {
      return ((sum[0][p] + sum[1][p]) + (sum[2][p] + sum[3][p])) +
             ((sum[4][p] + sum[5][p]) + (sum[6][p] + sum[7][p]));
    } else {
      return sum_lanes(sum[0][p]);
    }
  };
  for (int p = 0; p < P; ++p) {
    grown[p] = sum_of(up, p);
    shrunk[p] = sum_of(down, p);
  }
}

/// Sums over a range of any length, halved until it is one piece: so many additions at one point
/// must not add up their roundings.
template <Form F, bool Wide, class T, class Cell>
void sum_range(const SideView<T>& side, const Input<T>& in, Range range, Cell& buffers,
               Carry<Wide>* grown, Carry<Wide>* shrunk) {
  constexpr int P = F == Form::real ? 1 : 2;
  if (range.size() <= kCell) {
    sum_piece<F, Wide>(side, in, range, buffers, grown, shrunk);
    return;
  }
  const std::int64_t middle = range.begin + (range.size() / 2 + kCell - 1) / kCell * kCell;
  sum_range<F, Wide>(side, in, {range.begin, middle}, buffers, grown, shrunk);
  Carry<Wide> more_grown[P];
  Carry<Wide> more_shrunk[P];
  sum_range<F, Wide>(side, in, {middle, range.end}, buffers, more_grown, more_shrunk);
  for (int p = 0; p < P; ++p) {
    grown[p] = grown[p] + more_grown[p];
    shrunk[p] = shrunk[p] + more_shrunk[p];
  }
}

template <Form F, bool Wide, class T>
void totals_of(const SideView<T>& from, const Input<T>& values, std::int64_t begin,
               std::int64_t end, double* grown, double* shrunk, void* scratch) {
  constexpr int P = F == Form::real ? 1 : 2;
  auto& buffers = *static_cast<Buffers<T, P, Wide ? kRows : 1>*>(scratch);
  for (std::int64_t cell = begin; cell < end; ++cell) {
    if constexpr (!Wide) {
      if (are_small(from, cell, end)) {
        total_small<F>(from, values, cell, grown, shrunk);
        cell += 7;
        continue;
      }
    }
    Carry<Wide> up[P];
    Carry<Wide> down[P];
    sum_range<F, Wide>(from, values, range_of(from, cell), buffers, up, down);
    store_carry<F, Wide>(grown, cell, up);
    store_carry<F, Wide>(shrunk, cell, down);
  }
}

}  // namespace laplex::detail::LAPLEX_LEVEL
