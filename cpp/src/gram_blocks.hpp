/// The blocks of columns of a covariance, and their transitions across the gaps of a line.
///
/// The filter is compiled for columns in slots of one size. A slot of 2 columns holds an
/// oscillator, or up to two processes of one column; a slot of 3 holds whatever fits.
#pragma once

#include <laplex/detail/transition.hpp>

#include "gram_state.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace laplex::detail {

/// Throws where sizes do not add up or weights are not finite.
void check_blocks(const Covariance& c);

/// Which columns have a lengthscale: [width].
[[nodiscard]] std::vector<char> used_lengthscales(const Covariance& c);

/// Where each block goes.
[[nodiscard]] Layout lay_out(const Covariance& c);

/// Fills line.transition, of slots of more than one column, and line.state_variance.
void fill_transitions(const Layout& layout, std::int64_t n, int threads, GramLine& line);

inline double slope_of(double /*x*/) {
  return 0.0;
}
inline double slope_of(Dual x) {
  return x.slope;
}

template <class N>
N number(double value, double slope);
template <>
inline double number<double>(double value, double /*slope*/) {
  return value;
}
template <>
inline Dual number<Dual>(double value, double slope) {
  return {value, slope};
}

/// A gap in units of the lengthscales of a process.
template <class N>
struct ScaledGap {
  bool infinite;  ///< or so wide that nothing is left of the state; x is 1 / lengthscale then
  N x[2];
  double low[2];  ///< what the values of x leave out
};

/// The decay rate beyond which a transition is 0 to double precision, whatever it multiplies.
inline constexpr double kForgotten = 800.0;

/// The gap before point k; `slope` is its own.
template <class N>
ScaledGap<N> scaled_gap(const GramLine& line, std::int64_t k, int size, const N* lengthscale,
                        double slope) {
  ScaledGap<N> gap{k == 0, {N(0.0), N(0.0)}, {0.0, 0.0}};
  const int rates = size == 2 ? 2 : 1;
  if (k > 0) {
    Distance d = distance(line.anchors[k], line.anchors[k - 1]);
    const double unit = std::isinf(d.high) ? 0.5 : 1.0;
    if (unit < 1.0) {
      d = distance(unit * line.anchors[k], unit * line.anchors[k - 1]);
    }
    for (int i = 0; i < rates; ++i) {
      const double scale = unit * value(lengthscale[i]);
      const double x = d.high / scale;
      gap.x[i] = number<N>(x, (slope - x * slope_of(lengthscale[i])) / value(lengthscale[i]));
      gap.low[i] = (std::fma(-x, scale, d.high) + d.low) / scale;
    }
    const double u = value(gap.x[0]);
    const double v = value(gap.x[1]);
    const double slow = size == 2 && v < u ? v / (u + std::sqrt((u - v) * (u + v))) * v : u;
    gap.infinite = !(slow < kForgotten && u + v < 1e150);
  }
  if (gap.infinite) {
    for (int i = 0; i < rates; ++i) {
      gap.x[i] = N(1.0) / lengthscale[i];
    }
  }
  return gap;
}

/// The numbers of a transition: A, and one matrix Q, packed, for each weight.
inline constexpr int kTransition[] = {0, 2, 10, 15};
inline constexpr int kLargestTransition = 15;

/// The weights that belong to a block.
inline int weights_of(int size) {
  return size == 2 ? 2 : 1;
}

/// The transition of a block of `size` across a gap of x, for T = N or Slopes<N>.
template <class T, class N>
void find_transition(int size, const ScaledGap<N>& gap, const T* x, const N* lengthscale,
                     T* table) {
  if (size == 1) {
    if (gap.infinite) {
      table[0] = T(0.0);
      table[1] = T(1.0);
      return;
    }
    const T r = exponential(-x[0]);
    table[0] = (1.0 - gap.low[0]) * r;
    table[1] = 2.0 * (x[0] * mean_decay(2.0 * x[0]));
  } else if (size == 2) {
    Oscillator<T> t;
    if (gap.infinite) {
      cross_infinity(x[0], x[1], t);
    } else {
      const N damping = lengthscale[1] / lengthscale[0];
      cross(x[0], x[1], gap.low[0], gap.low[1], damping, t);
    }
    table = std::copy(t.a, t.a + 4, table);
    table = std::copy(t.first, t.first + 3, table);
    std::copy(t.second, t.second + 3, table);
  } else {
    Matern52<T> t;
    if (gap.infinite) {
      cross_infinity(t);
    } else {
      cross(x[0], t);
    }
    table = std::copy(t.a, t.a + 9, table);
    std::copy(t.q, t.q + 6, table);
  }
}

template <class N>
const N& leading(const N& x) {
  return x;
}
template <class N>
const N& leading(const Slopes<N>& x) {
  return x.value;
}

/// Writes a block's transition to the arrays of a Step, which are 0 elsewhere.
template <int B, class T, class N>
void place(const Part& part, const T* table, const N* weights, N* decay, N* gain) {
  const int at = part.first % B;
  const int size = part.size;
  for (int r = 0; r < size; ++r) {
    for (int c = 0; c < size; ++c) {
      decay[(part.first + r) * B + at + c] = leading<N>(*table++);
    }
  }
  gain += part.first / B * kPacked<B>;
  for (int w = 0; w < weights_of(size); ++w) {
    for (int c = 0; c < size; ++c) {
      for (int r = 0; r <= c; ++r) {
        gain[packed(at + r, at + c)] += weights[w] * leading<N>(*table++);
      }
    }
  }
}

/// The derivatives of what place() writes: by x and by the weights, from those by A in the shape of
/// Step::decay and by the covariance of the state, to which Q adds. Adds to weights_bar.
template <int B, class N>
void place_reverse(const Part& part, const Slopes<N>* table, const N* weights, const N* decay_bar,
                   const N* cov_bar, N* x_bar, N* weights_bar) {
  const int at = part.first % B;
  const int size = part.size;
  x_bar[0] = x_bar[1] = N(0.0);
  for (int r = 0; r < size; ++r) {
    for (int c = 0; c < size; ++c, ++table) {
      const N bar = decay_bar[(part.first + r) * B + at + c];
      x_bar[0] += bar * table->by[0];
      x_bar[1] += bar * table->by[1];
    }
  }
  for (int w = 0; w < weights_of(size); ++w) {
    for (int c = 0; c < size; ++c) {
      for (int r = 0; r <= c; ++r, ++table) {
        const N bar = N(r < c ? 2.0 : 1.0) * cov_bar[packed(part.first + r, part.first + c)];
        x_bar[0] += bar * weights[w] * table->by[0];
        x_bar[1] += bar * weights[w] * table->by[1];
        weights_bar[w] += bar * table->value;
      }
    }
  }
}

}  // namespace laplex::detail
