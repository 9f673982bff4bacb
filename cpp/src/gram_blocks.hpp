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
#include <type_traits>
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

/// The numbers of a transition: A, and one matrix Q, packed, for each weight.
inline constexpr int kTransition[] = {0, 2, 10, 15};
inline constexpr int kLargestTransition = 15;

/// The weights that belong to a block.
constexpr int weights_of(int size) {
  return size == 2 ? 2 : 1;
}

/// The transition of a block of `size` across a gap, for T = N or Slopes<N>.
template <class T, class N>
void find_transition(int size, const ScaledGap<N>& gap, const N* lengthscale, T* table);

/// The same across the gaps before points [begin, end), `stride` numbers apart, for N = double;
/// `gaps` receives these. Several short ones at a time.
template <class T>
void find_transitions(const GramLine& line, int size, const double* lengthscale, std::int64_t begin,
                      std::int64_t end, std::int64_t stride, T* tables, ScaledGap<double>* gaps);

template <class N>
const N& leading(const N& x) {
  return x;
}
template <class N>
const N& leading(const Slopes<N>& x) {
  return x.value;
}

/// Calls f with the size as a constant.
template <class F>
void with_size(int size, const F& f) {
  if (size == 2) {
    f(std::integral_constant<int, 2>());
  } else if (size == 1) {
    f(std::integral_constant<int, 1>());
  } else {
    f(std::integral_constant<int, 3>());
  }
}

/// Writes a block's transition to the arrays of a Step, which are 0 elsewhere.
template <int B, int size, class T, class N>
void place(int first, const T* table, const N* weights, N* decay, N* gain) {
  const int at = first % B;
  for (int r = 0; r < size; ++r) {
    for (int c = 0; c < size; ++c) {
      decay[(first + r) * B + at + c] = leading<N>(*table++);
    }
  }
  gain += first / B * kPacked<B>;
  for (int w = 0; w < weights_of(size); ++w) {
    for (int c = 0; c < size; ++c) {
      for (int r = 0; r <= c; ++r) {
        gain[packed(at + r, at + c)] += weights[w] * leading<N>(*table++);
      }
    }
  }
}

/// The same for `count` points, from tables `stride` apart to what `to(k)` returns: decay and gain.
template <int B, class T, class N, class To>
void place_all(const Part& part, const T* tables, std::int64_t stride, std::int64_t count,
               const N* weights, const To& to) {
  with_size(part.size, [&](auto size) {
    if constexpr (decltype(size)::value <= B) {
      for (std::int64_t k = 0; k < count; ++k) {
        const auto [decay, gain] = to(k);
        place<B, decltype(size)::value>(part.first, tables + k * stride, weights, decay, gain);
      }
    }
  });
}

/// The derivatives of what place() writes: by x and by the weights, from those by A in the shape of
/// Step::decay and by the covariance of the state, to which Q adds. Adds to weights_bar.
template <int size, class N>
void place_reverse(int first, int at, int block, const Slopes<N>* table, const N* weights,
                   const N* decay_bar, const N* cov_bar, N* x_bar, N* weights_bar) {
  x_bar[0] = x_bar[1] = N(0.0);
  for (int r = 0; r < size; ++r) {
    for (int c = 0; c < size; ++c, ++table) {
      const N bar = decay_bar[(first + r) * block + at + c];
      x_bar[0] += bar * table->by[0];
      x_bar[1] += bar * table->by[1];
    }
  }
  for (int w = 0; w < weights_of(size); ++w) {
    for (int c = 0; c < size; ++c) {
      for (int r = 0; r <= c; ++r, ++table) {
        const N bar = N(r < c ? 2.0 : 1.0) * cov_bar[packed(first + r, first + c)];
        x_bar[0] += bar * weights[w] * table->by[0];
        x_bar[1] += bar * weights[w] * table->by[1];
        weights_bar[w] += bar * table->value;
      }
    }
  }
}

}  // namespace laplex::detail
