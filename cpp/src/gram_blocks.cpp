#include "gram_blocks.hpp"

#include "gram_kernels/gram_kernels.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

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
  if (c.num_blocks < 0) {
    invalid("num_blocks must not be negative, got " + std::to_string(c.num_blocks));
  }
  check_array("blocks", c.blocks, c.num_blocks);
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
      layout.column[static_cast<std::size_t>(part.first) + static_cast<std::size_t>(k)] =
          part.column + k;
    }
  }
  return layout;
}

namespace {

/// The decay rate beyond which a transition is 0 to double precision, whatever it multiplies.
constexpr double kForgotten = 800.0;

double slope_of(double /*x*/) {
  return 0.0;
}
double slope_of(Dual x) {
  return x.slope;
}
double number(double value, double /*slope*/, double /*like*/) {
  return value;
}
Dual number(double value, double slope, Dual /*like*/) {
  return {value, slope};
}

/// A gap in units of the lengthscales of a block.
template <class N>
struct ScaledGap {
  bool infinite;
  N x[2];
  double low[2];  ///< what the values of x leave out
};

/// The gap before point k, whose slope is `slope`.
template <class N>
ScaledGap<N> scaled_gap(const double* anchors, std::int64_t k, int size, const N* lengthscale,
                        double slope) {
  ScaledGap<N> gap{k == 0, {N(0.0), N(0.0)}, {0.0, 0.0}};
  const int rates = size == 2 ? 2 : 1;
  if (k > 0) {
    Distance d = distance(anchors[k], anchors[k - 1]);
    const double unit = std::isinf(d.high) ? 0.5 : 1.0;
    if (unit < 1.0) {
      d = distance(unit * anchors[k], unit * anchors[k - 1]);
    }
    for (int i = 0; i < rates; ++i) {
      const double scale = unit * value(lengthscale[i]);
      const double x = d.high / scale;
      gap.x[i] = number(x, (slope - x * slope_of(lengthscale[i])) / value(lengthscale[i]), N(0.0));
      // Only angles of many turns feel it; std::fma is slow where the processor has none.
      gap.low[i] = x > 8.0 ? (std::fma(-x, scale, d.high) + d.low) / scale : 0.0;
    }
    const double u = value(gap.x[0]);
    const double v = value(gap.x[1]);
    const double slow =
        u > kForgotten && size == 2 && v < u ? v / (u + std::sqrt((u - v) * (u + v))) * v : u;
    gap.infinite = !(slow < kForgotten && u + v < 1e150);
  }
  if (gap.infinite) {
    for (int i = 0; i < rates; ++i) {
      gap.x[i] = N(1.0) / lengthscale[i];
    }
  }
  return gap;
}

template <class N>
void store(const Oscillator<N>& t, std::int64_t stride, N* to) {
  for (int k = 0; k < 4; ++k) {
    to[k * stride] = t.a[k];
  }
  for (int k = 0; k < 3; ++k) {
    to[(4 + k) * stride] = t.first[k];
    to[(7 + k) * stride] = t.second[k];
  }
}
template <class N>
void store(const Matern52<N>& t, std::int64_t stride, N* to) {
  for (int k = 0; k < 9; ++k) {
    to[k * stride] = t.a[k];
  }
  for (int k = 0; k < 6; ++k) {
    to[(9 + k) * stride] = t.q[k];
  }
}

template <class N>
bool is_short(int size, const N& u, const N& v) {
  return size > 1 && value(u) <= 1.0 && (size == 3 || value(v) <= 1.0);
}

/// One transition, to the addresses of its first number and of its derivatives; null: none.
template <class N>
void find_one(int size, const ScaledGap<N>& gap, const N* lengthscale, std::int64_t stride,
              N* values, N* by_u, N* by_v) {
  const N& u = gap.x[0];
  const N& v = gap.x[1];
  if (size == 1) {
    const N r = gap.infinite ? N(0.0) : exponential(-u) * N(1.0 - gap.low[0]);
    values[0] = r;
    values[stride] = gap.infinite ? N(1.0) : N(2.0) * u * mean_decay(N(2.0) * u);
    if (by_u != nullptr) {
      by_u[0] = -r;
      by_u[stride] = N(2.0) * r * r;
    }
  } else if (size == 3) {
    Matern52<N> t;
    if (gap.infinite) {
      cross_infinity(t);
    } else {
      cross(u, t);
    }
    store(t, stride, values);
    if (by_u != nullptr) {
      Matern52<N> by;
      slopes_of(t, by);
      store(by, stride, by_u);
    }
  } else if (by_u == nullptr) {
    Oscillator<N> t;
    if (gap.infinite) {
      cross_infinity(u, v, t);
    } else {
      cross(u, v, gap.low[0], gap.low[1], lengthscale[1] / lengthscale[0], t);
    }
    store(t, stride, values);
  } else if (!gap.infinite && is_short(size, u, v)) {
    Oscillator<N> t;
    Oscillator<N> first;
    Oscillator<N> second;
    cross_short(u, v, lengthscale[1] / lengthscale[0], terms_for(std::max(value(u), value(v))), t,
                first, second);
    store(t, stride, values);
    store(first, stride, by_u);
    store(second, stride, by_v);
  } else {
    const Slopes<N> x{u, N(1.0), N(0.0)};
    const Slopes<N> y{v, N(0.0), N(1.0)};
    Oscillator<Slopes<N>> t;
    if (gap.infinite) {
      cross_infinity(x, y, t);
    } else {
      cross(x, y, gap.low[0], gap.low[1], lengthscale[1] / lengthscale[0], t);
    }
    const auto put = [&](int k, const Slopes<N>& number) {
      values[k * stride] = number.value;
      by_u[k * stride] = number.by[0];
      by_v[k * stride] = number.by[1];
    };
    for (int k = 0; k < 4; ++k) {
      put(k, t.a[k]);
    }
    for (int k = 0; k < 3; ++k) {
      put(4 + k, t.first[k]);
      put(7 + k, t.second[k]);
    }
  }
}

/// Gaps that go through the series together.
constexpr std::int64_t kTogether = 8;

/// Where the oscillator is damped as fast as it swings, by these u / v or so, gaps from 1/4 to 32
/// are found by doubling shorter ones, for which the series are short. Elsewhere the result might
/// feel that each doubling doubles rounding errors.
constexpr int kDoublings = 7;
constexpr double kShortest = 0.25;
constexpr double kDamping[] = {0.5, 1.125};

/// Gaps before kTogether points or fewer; 0 stands for those that are found in another way.
struct Together {
  double u[kTogether] = {};
  double v[kTogether] = {};
  double longest = -1.0;
  int size = 0;
  double damping = 0.0;
};

/// Gaps of which some are at least kShortest.
void find_by_doubling(Together& gaps, std::int64_t i, Transitions<double>& to) {
  constexpr std::int64_t kNumbers = numbers_of(2);
  int doublings[kTogether] = {};
  double part[kTogether];
  int most = 0;
  for (std::int64_t l = 0; l < kTogether; ++l) {
    part[l] = 1.0;
    for (; std::max(gaps.u[l], gaps.v[l]) * part[l] >= kShortest; part[l] *= 0.5) {
      ++doublings[l];
    }
    gaps.u[l] *= part[l];
    gaps.v[l] *= part[l];
    most = std::max(most, doublings[l]);
  }
  double values[(kDoublings + 1) * kNumbers * kTogether];
  double by[2][(kDoublings + 1) * kNumbers * kTogether];
  transition_kernel()({2, gaps.u, gaps.v, gaps.damping, most}, terms_for(0.5 * kShortest),
                      kTogether, values, to.slopes ? by[0] : nullptr, to.slopes ? by[1] : nullptr);
  for (std::int64_t l = 0; l < kTogether; ++l) {
    for (std::int64_t m = 0; m < kNumbers; ++m) {
      const auto at = static_cast<std::size_t>(m * to.stride + i + l);
      const std::int64_t from = (kNumbers * doublings[l] + m) * kTogether + l;
      to.values[at] = values[from];
      for (int x = 0; to.slopes && x < 2; ++x) {
        to.by[x][at] = part[l] * by[x][from];
      }
    }
  }
}

/// The transitions before `count` points from k, as far as they can be found together: those with
/// `found`.
void find_together(const double* anchors, std::int64_t k, std::int64_t count, std::int64_t i,
                   const double* lengthscale, Transitions<double>& to, bool* found) {
  Together gaps;
  gaps.size = to.part.size;
  const double scale = gaps.size == 2 ? lengthscale[1] : lengthscale[0];
  gaps.damping = scale / lengthscale[0];
  const bool doubles = gaps.size == 2 && gaps.damping >= kDamping[0] && gaps.damping <= kDamping[1];
  const double limit = doubles ? std::ldexp(kShortest, kDoublings) : 1.0;
  for (std::int64_t l = k == 0 ? 1 : 0; l < count; ++l) {
    const double gap = anchors[k + l] - anchors[k + l - 1];
    const double u = gap / lengthscale[0];
    const double v = gap / scale;
    found[l] = u < limit && v < limit;
    if (found[l]) {
      const auto at = static_cast<std::size_t>(i + l);
      to.x[0][at] = gaps.u[l] = u;
      to.x[1][at] = gaps.v[l] = v;
      to.infinite[at] = 0;
      gaps.longest = std::max({gaps.longest, u, v});
    }
  }
  if (doubles && gaps.longest >= kShortest) {
    find_by_doubling(gaps, i, to);
  } else if (gaps.longest >= 0.0) {
    transition_kernel()({gaps.size, gaps.u, gaps.v, gaps.damping}, terms_for(gaps.longest),
                        to.stride, to.values.data() + i, to.slopes ? to.by[0].data() + i : nullptr,
                        to.slopes ? to.by[1].data() + i : nullptr);
  }
}

}  // namespace

template <class N>
void Transitions<N>::find(const double* anchors, const N* lengthscale, const double* gap_slopes,
                          std::int64_t begin, std::int64_t end) {
  for (std::int64_t from = begin; from < end; from += kTogether) {
    const std::int64_t to = std::min(from + kTogether, end);
    bool found[kTogether] = {};
    if constexpr (std::is_same_v<N, double>) {
      if (part.size > 1) {
        find_together(anchors, from, to - from, from - begin, lengthscale, *this, found);
      }
    }
    for (std::int64_t k = from; k < to; ++k) {
      if (found[k - from]) {
        continue;
      }
      const std::int64_t i = k - begin;
      const auto at = static_cast<std::size_t>(i);
      const ScaledGap<N> gap = scaled_gap(anchors, k, part.size, lengthscale,
                                          gap_slopes == nullptr ? 0.0 : gap_slopes[i]);
      infinite[at] = gap.infinite ? 1 : 0;
      x[0][at] = gap.x[0];
      x[1][at] = gap.x[1];
      find_one(part.size, gap, lengthscale, stride, values.data() + i,
               slopes ? by[0].data() + i : nullptr, slopes ? by[1].data() + i : nullptr);
    }
  }
}

template struct Transitions<double>;
template struct Transitions<Dual>;

namespace {

/// A few points at a time, whose transitions stay in the nearest cache.
template <int J, int B>
void fill_range(const Layout& layout, std::int64_t begin, std::int64_t end, GramLine& line) {
  constexpr int kStride = kTransitionStride<J, B>;
  constexpr std::int64_t kPoints = 64;
  std::fill_n(&line.transition[begin * kStride], (end - begin) * kStride, 0.0);
  for (const Part& part : layout.parts) {
    const auto first = static_cast<std::size_t>(part.first);
    Transitions<double> transitions(part, std::min(kPoints, end - begin), false);
    for (std::int64_t from = begin; from < end; from += kPoints) {
      const std::int64_t to = std::min(from + kPoints, end);
      transitions.find(line.anchors.data(), &line.lengthscale[first], nullptr, from, to);
      for (std::int64_t k = from; k < to; ++k) {
        double* const point = &line.transition[k * kStride];
        transitions.place<B>(k - from, &line.weights[first], point, point + std::ptrdiff_t(J) * B);
      }
    }
  }
}

}  // namespace

void fill_transitions(const Layout& layout, std::int64_t n, int threads, GramLine& line) {
  with_shape(layout.block, layout.columns, [&](auto shape) {
    constexpr int J = decltype(shape)::columns;
    constexpr int B = decltype(shape)::block;
    if constexpr (B > 1) {
      line.transition.reset(n * kTransitionStride<J, B>);
      line.state_variance.assign(kBlockPacked<J, B>, 0.0);
      std::vector<double> none(std::size_t(J) * B);
      for (const Part& part : layout.parts) {
        const auto first = static_cast<std::size_t>(part.first);
        const double sizes[2] = {std::fabs(line.weights[first]),
                                 part.size == 2 ? std::fabs(line.weights[first + 1]) : 0.0};
        Transitions<double> endless(part, 1, false);
        endless.find(line.anchors.data(), &line.lengthscale[first], nullptr, 0, 1);
        endless.place<B>(0, sizes, none.data(), line.state_variance.data());
      }
      parallel_ranges(threads, n, kGrain, [&](std::int64_t begin, std::int64_t end) {
        fill_range<J, B>(layout, begin, end, line);
      });
    }
  });
}

}  // namespace laplex::detail
