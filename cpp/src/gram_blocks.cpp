#include "gram_blocks.hpp"

#include "gram_lanes.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

namespace laplex::detail {
namespace {

constexpr std::int64_t kGrain = 4096;

std::vector<int> sizes_of(const Covariance& c) {
  if (c.num_blocks > 0) {
    return {c.blocks, c.blocks + c.num_blocks};
  }
  return std::vector<int>(static_cast<std::size_t>(c.width), 1);
}

}  // namespace

void check_blocks(const Covariance& c) {
  std::int64_t columns = 0;
  for (std::int64_t k = 0; k < c.num_blocks; ++k) {
    if (c.blocks[k] < 1 || c.blocks[k] > 3) {
      invalid("the blocks of a covariance have 1, 2 or 3 columns, but block " + std::to_string(k) +
              " has " + std::to_string(c.blocks[k]));
    }
    columns += c.blocks[k];
    if (c.blocks[k] > 1 && c.weights == nullptr) {
      invalid("weights is null, which stands for 1 only where all blocks have one column");
    }
  }
  if (c.num_blocks > 0 && columns != c.width) {
    invalid("the blocks have " + std::to_string(columns) + " columns, but the covariance has " +
            std::to_string(c.width));
  }
  for (std::int64_t k = 0; c.weights != nullptr && k < c.batch * c.width; ++k) {
    if (!std::isfinite(c.weights[k])) {
      not_finite("weights", c.batch, c.width, k, c.weights[k]);
    }
  }
}

std::vector<char> used_lengthscales(const Covariance& c) {
  std::vector<char> used;
  for (const int size : sizes_of(c)) {
    for (int k = 0; k < size; ++k) {
      used.push_back(size < 3 || k == 0 ? 1 : 0);
    }
  }
  return used;
}

Layout lay_out(const Covariance& c) {
  const std::vector<int> sizes = sizes_of(c);
  Layout layout;
  layout.block = sizes.empty() ? 1 : *std::max_element(sizes.begin(), sizes.end());
  layout.block = layout.block == 1 && c.weights != nullptr ? 2 : layout.block;
  // The largest first, each in the first slot that has room.
  std::vector<int> filled;
  for (int size = 3; size > 0; --size) {
    int column = 0;
    for (const int each : sizes) {
      if (each == size) {
        const auto slot = std::find_if(filled.begin(), filled.end(),
                                       [&](int used) { return used + size <= layout.block; });
        const auto number = static_cast<int>(slot - filled.begin());
        if (slot == filled.end()) {
          filled.push_back(0);
        }
        int& used = filled[static_cast<std::size_t>(number)];
        layout.parts.push_back({size, column, number * layout.block + used});
        used += size;
      }
      column += each;
    }
  }
  layout.columns = compiled_columns(layout.block, static_cast<int>(filled.size()) * layout.block);
  layout.column.assign(static_cast<std::size_t>(layout.columns), -1);
  for (const Part& part : layout.parts) {
    for (int k = 0; k < part.size; ++k) {
      layout.column[static_cast<std::size_t>(part.first + k)] = part.column + k;
    }
  }
  return layout;
}

namespace {

/// The numbers of a transition, and of its derivatives by x: those of values alone if there are
/// none.
template <class N, int derivatives>
struct Table {
  N numbers[1 + derivatives][kLargestTransition];

  void take(int k, const Oscillator<N>& t) {
    N* to = std::copy(t.a, t.a + 4, numbers[k]);
    to = std::copy(t.first, t.first + 3, to);
    std::copy(t.second, t.second + 3, to);
  }

  void take(const Matern52<N>& t) {
    std::copy(t.q, t.q + 6, std::copy(t.a, t.a + 9, numbers[0]));
    if constexpr (derivatives > 0) {
      // dA = F A; dQ is what A makes of the noise, which drives the last number of the state.
      N* to = numbers[1];
      for (int k = 0; k < 6; ++k) {
        *to++ = t.a[k + 3];
      }
      for (int k = 0; k < 3; ++k) {
        *to++ = -(t.a[k] + 3.0 * (t.a[k + 3] + t.a[k + 6]));
      }
      for (int c = 0; c < 3; ++c) {
        for (int r = 0; r <= c; ++r) {
          *to++ = 16.0 / 3.0 * (t.a[3 * r + 2] * t.a[3 * c + 2]);
        }
      }
      std::fill_n(numbers[2], kLargestTransition, N(0.0));
    }
  }
};

/// Across gaps of x <= 1, of a size above 1.
template <class N, int derivatives>
void find_short(int size, const N* x, const N& damping, const Terms& terms,
                Table<N, derivatives>& table) {
  if (size == 3) {
    Matern52<N> t;
    cross_short(x[0], terms, t);
    table.take(t);
    return;
  }
  Oscillator<N> t;
  if constexpr (derivatives > 0) {
    Oscillator<N> by_u;
    Oscillator<N> by_v;
    cross_short(x[0], x[1], damping, terms, t, by_u, by_v);
    table.take(1, by_u);
    table.take(2, by_v);
  } else {
    cross_short(x[0], x[1], damping, terms, t);
  }
  table.take(0, t);
}

double lane_of(double x, int /*lane*/) {
  return x;
}
Dual lane_of(Dual x, int /*lane*/) {
  return x;
}
double lane_of(const Lanes& x, int lane) {
  return x.lane[lane];
}

template <class N, class M>
void store(const Table<M, 0>& table, int lane, int count, N* to) {
  for (int k = 0; k < count; ++k) {
    to[k] = lane_of(table.numbers[0][k], lane);
  }
}
template <class N, class M>
void store(const Table<M, 2>& table, int lane, int count, Slopes<N>* to) {
  for (int k = 0; k < count; ++k) {
    to[k] = {lane_of(table.numbers[0][k], lane), lane_of(table.numbers[1][k], lane),
             lane_of(table.numbers[2][k], lane)};
  }
}

template <class T, class N>
constexpr int kDerivatives = std::is_same_v<T, N> ? 0 : 2;

/// A variable of which the derivatives are taken, if there are any.
template <class T, class N>
T variable(const N& value, int which) {
  if constexpr (std::is_same_v<T, N>) {
    return value;
  } else {
    return {value, N(which == 0 ? 1.0 : 0.0), N(which == 1 ? 1.0 : 0.0)};
  }
}

/// Gaps that the series are for, which several gaps go through together.
template <class N>
bool is_short(int size, const ScaledGap<N>& gap) {
  return size > 1 && !gap.infinite && value(gap.x[0]) <= 1.0 &&
         (size != 2 || value(gap.x[1]) <= 1.0);
}

/// The short ones of at most kSide gaps.
template <class T>
void find_together(int size, const double* lengthscale, const ScaledGap<double>* gaps,
                   std::int64_t count, std::int64_t stride, T* tables) {
  double longest = 0.0;
  Lanes x[2] = {0.0, 0.0};
  for (int l = 0; l < count; ++l) {
    if (is_short(size, gaps[l])) {
      x[0].lane[l] = gaps[l].x[0];
      x[1].lane[l] = gaps[l].x[1];
      longest = std::max({longest, gaps[l].x[0], gaps[l].x[1]});
    }
  }
  Table<Lanes, kDerivatives<T, double>> found;
  const double damping = size == 2 ? lengthscale[1] / lengthscale[0] : 0.0;
  find_short(size, x, Lanes(damping), terms_for(longest), found);
  for (int l = 0; l < count; ++l) {
    if (is_short(size, gaps[l])) {
      store(found, l, kTransition[size], tables + l * stride);
    }
  }
}

/// A few points at a time, whose tables stay in the nearest cache.
template <int J, int B>
void fill_range(const Layout& layout, std::int64_t begin, std::int64_t end, GramLine& line) {
  constexpr int kStride = kTransitionStride<J, B>;
  constexpr std::int64_t kPoints = 64;
  std::array<double, kPoints * kLargestTransition> tables;
  std::array<ScaledGap<double>, kPoints> gaps;
  std::fill_n(&line.transition[begin * kStride], (end - begin) * kStride, 0.0);
  for (const Part& part : layout.parts) {
    const auto first = static_cast<std::size_t>(part.first);
    const int numbers = kTransition[part.size];
    for (std::int64_t from = begin; from < end; from += kPoints) {
      const std::int64_t to = std::min(from + kPoints, end);
      find_transitions(line, part.size, &line.lengthscale[first], from, to, numbers, tables.data(),
                       gaps.data());
      place_all<B>(part, tables.data(), numbers, to - from, &line.weights[first],
                   [&](std::int64_t k) {
                     double* const transition = &line.transition[(from + k) * kStride];
                     return std::pair(transition, transition + J * B);
                   });
    }
  }
}

}  // namespace

template <class T, class N>
void find_transition(int size, const ScaledGap<N>& gap, const N* lengthscale, T* table) {
  constexpr int derivatives = kDerivatives<T, N>;
  const int count = kTransition[size];
  const N damping = size == 2 ? lengthscale[1] / lengthscale[0] : N(0.0);
  Table<N, derivatives> found;
  if (is_short(size, gap)) {
    const double u = value(gap.x[0]);
    find_short(size, gap.x, damping, terms_for(size == 2 ? std::max(u, value(gap.x[1])) : u),
               found);
    store(found, 0, count, table);
  } else if (size == 1) {
    const N r = gap.infinite ? N(0.0) : exponential(-gap.x[0]) * N(1.0 - gap.low[0]);
    const N noise = gap.infinite ? N(1.0) : 2.0 * (gap.x[0] * mean_decay(N(2.0) * gap.x[0]));
    found.numbers[0][0] = r;
    found.numbers[0][1] = noise;
    if constexpr (derivatives > 0) {
      found.numbers[1][0] = -r;
      found.numbers[1][1] = N(2.0) * r * r;
      found.numbers[2][0] = found.numbers[2][1] = N(0.0);
    }
    store(found, 0, count, table);
  } else if (size == 3) {
    Matern52<N> t;
    if (gap.infinite) {
      cross_infinity(t);
    } else {
      cross(gap.x[0], t);
    }
    found.take(t);
    store(found, 0, count, table);
  } else {
    const T u = variable<T>(gap.x[0], 0);
    const T v = variable<T>(gap.x[1], 1);
    Oscillator<T> t;
    if (gap.infinite) {
      cross_infinity(u, v, t);
    } else {
      cross(u, v, gap.low[0], gap.low[1], damping, t);
    }
    table = std::copy(t.a, t.a + 4, table);
    table = std::copy(t.first, t.first + 3, table);
    std::copy(t.second, t.second + 3, table);
  }
}

template <class T>
void find_transitions(const GramLine& line, int size, const double* lengthscale, std::int64_t begin,
                      std::int64_t end, std::int64_t stride, T* tables, ScaledGap<double>* gaps) {
  for (; begin < end; begin += kSide, tables += kSide * stride, gaps += kSide) {
    const std::int64_t count = std::min(end - begin, kSide);
    int together = 0;
    for (std::int64_t l = 0; l < count; ++l) {
      gaps[l] = scaled_gap<double>(line, begin + l, size, lengthscale, 0.0);
      together += is_short(size, gaps[l]) ? 1 : 0;
    }
    if (together > 1) {
      find_together(size, lengthscale, gaps, count, stride, tables);
    }
    for (std::int64_t l = 0; l < count && (together < count || together == 1); ++l) {
      if (together <= 1 || !is_short(size, gaps[l])) {
        find_transition(size, gaps[l], lengthscale, tables + l * stride);
      }
    }
  }
}

template void find_transition<double, double>(int, const ScaledGap<double>&, const double*,
                                              double*);
template void find_transition<Slopes<Dual>, Dual>(int, const ScaledGap<Dual>&, const Dual*,
                                                  Slopes<Dual>*);
template void find_transitions<double>(const GramLine&, int, const double*, std::int64_t,
                                       std::int64_t, std::int64_t, double*, ScaledGap<double>*);
template void find_transitions<Slopes<double>>(const GramLine&, int, const double*, std::int64_t,
                                               std::int64_t, std::int64_t, Slopes<double>*,
                                               ScaledGap<double>*);

void fill_transitions(const Layout& layout, std::int64_t n, int threads, GramLine& line) {
  with_shape(layout.block, layout.columns, [&](auto shape) {
    constexpr int J = decltype(shape)::columns;
    constexpr int B = decltype(shape)::block;
    constexpr int kStride = kTransitionStride<J, B>;
    if constexpr (B > 1) {
      line.transition.reset(n * kStride);
      line.state_variance.assign(kBlockPacked<J, B>, 0.0);
      std::vector<double> none(J * B);
      for (const Part& part : layout.parts) {
        const double* const lengthscale = &line.lengthscale[static_cast<std::size_t>(part.first)];
        const double* const weights = &line.weights[static_cast<std::size_t>(part.first)];
        const double sizes[2] = {std::fabs(weights[0]),
                                 part.size == 2 ? std::fabs(weights[1]) : 0.0};
        const auto endless = scaled_gap<double>(line, 0, part.size, lengthscale, 0.0);
        double table[kLargestTransition];
        find_transition(part.size, endless, lengthscale, table);
        place_all<B>(part, table, 0, 1, sizes, [&](std::int64_t /*k*/) {
          return std::pair(none.data(), line.state_variance.data());
        });
      }
      parallel_ranges(threads, n, kGrain, [&](std::int64_t begin, std::int64_t end) {
        fill_range<J, B>(layout, begin, end, line);
      });
    }
  });
}

}  // namespace laplex::detail
