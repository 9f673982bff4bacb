/// Transitions of blocks of columns across the gaps of a line, and their derivatives: once for each
/// point, before and after the kernels that walk along the line. They are those of the CPU, see
/// cpp/src.
///
/// Nothing here depends on the compiled width, so that the long formulas are compiled once.
#pragma once

#include "gram_line.hpp"

#include <laplex/detail/transition.hpp>
#include <laplex/gram.hpp>

namespace laplex::cuda::detail {

/// The largest of kTransitionStride<J, B> and of J B, over all compiled widths.
inline constexpr int kMostTransition = kTransitionStride<6, 3>;
inline constexpr int kMostDecays = 18;

__device__ inline double entry_of(const double* array, std::int64_t k) {
  return array == nullptr ? 0.0 : array[k];
}

using laplex::detail::Slopes;

template <class N>
inline constexpr bool kIsDual = std::is_same_v<N, Dual>;

__device__ inline double slope_of(double /*x*/) {
  return 0.0;
}
__device__ inline double slope_of(Dual x) {
  return x.slope;
}
template <class N>
__device__ inline N number(double value, double slope) {
  if constexpr (kIsDual<N>) {
    return {value, slope};
  } else {
    return value;
  }
}
/// What leaves as the result: the derivative itself, or its slope.
__device__ inline double result(double x) {
  return x;
}
__device__ inline double result(Dual x) {
  return x.slope;
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

/// An infinite gap, as there is before the first point of a line.
template <class N>
__device__ inline ScaledGap<N> endless_gap(int size, const N* lengthscale) {
  ScaledGap<N> gap{true, {N(0.0), N(0.0)}, {0.0, 0.0}};
  for (int i = 0; i < (size == 2 ? 2 : 1); ++i) {
    gap.x[i] = N(1.0) / lengthscale[i];
  }
  return gap;
}

/// The gap here - before, whose derivative along a direction is `slope`.
template <class N>
__device__ inline ScaledGap<N> scaled_gap(double here, double before, int size,
                                          const N* lengthscale, double slope) {
  ScaledGap<N> gap{false, {N(0.0), N(0.0)}, {0.0, 0.0}};
  laplex::detail::Distance d = laplex::detail::distance(here, before);
  const double unit = std::isinf(d.high) ? 0.5 : 1.0;
  if (unit < 1.0) {
    d = laplex::detail::distance(unit * here, unit * before);
  }
  for (int i = 0; i < (size == 2 ? 2 : 1); ++i) {
    const double scale = unit * laplex::detail::value(lengthscale[i]);
    const double x = d.high / scale;
    gap.x[i] = number<N>(
        x, (slope - x * slope_of(lengthscale[i])) / laplex::detail::value(lengthscale[i]));
    gap.low[i] = (std::fma(-x, scale, d.high) + d.low) / scale;
  }
  const double u = laplex::detail::value(gap.x[0]);
  const double v = laplex::detail::value(gap.x[1]);
  const double slow = size == 2 && v < u ? v / (u + std::sqrt((u - v) * (u + v))) * v : u;
  if (slow < kForgotten && u + v < 1e150) {
    return gap;
  }
  return endless_gap(size, lengthscale);
}

/// The most numbers of a transition: A, and one matrix Q, packed, for each weight.
inline constexpr int kLargestTransition = 15;

/// The weights that belong to a block.
__device__ inline int weights_of(int size) {
  return size == 2 ? 2 : 1;
}

/// The transition of a block of `size` across a gap of x.
template <class T, class N>
__device__ inline void find_transition(int size, const ScaledGap<N>& gap, const T* x,
                                       const N* lengthscale, T* table) {
  const auto append = [&](const T* from, int count) {
    for (int k = 0; k < count; ++k) {
      *table++ = from[k];
    }
  };
  if (size == 1) {
    if (gap.infinite) {
      table[0] = T(0.0);
      table[1] = T(1.0);
      return;
    }
    const T r = laplex::detail::exponential(-x[0]);
    table[0] = (1.0 - gap.low[0]) * r;
    table[1] = 2.0 * (x[0] * laplex::detail::mean_decay(2.0 * x[0]));
  } else if (size == 2) {
    laplex::detail::Oscillator<T> t;
    if (gap.infinite) {
      laplex::detail::cross_infinity(x[0], x[1], t);
    } else {
      const N damping = lengthscale[1] / lengthscale[0];
      laplex::detail::cross(x[0], x[1], gap.low[0], gap.low[1], damping, t);
    }
    append(t.a, 4);
    append(t.first, 3);
    append(t.second, 3);
  } else {
    laplex::detail::Matern52<T> t;
    if (gap.infinite) {
      laplex::detail::cross_infinity(t);
    } else {
      laplex::detail::cross(x[0], t);
    }
    append(t.a, 9);
    append(t.q, 6);
  }
}

/// Writes a block's transition to the arrays of a Step of groups of B columns, which are 0
/// elsewhere.
template <class N>
__device__ inline void place(int B, const Part& part, const N* table, const N* weights, N* decay,
                             N* gain) {
  const int at = part.first % B;
  const int size = part.size;
  for (int r = 0; r < size; ++r) {
    for (int c = 0; c < size; ++c) {
      decay[(part.first + r) * B + at + c] = *table++;
    }
  }
  gain += part.first / B * (B * (B + 1) / 2);
  for (int w = 0; w < weights_of(size); ++w) {
    for (int c = 0; c < size; ++c) {
      for (int r = 0; r <= c; ++r) {
        gain[packed(at + r, at + c)] += weights[w] * *table++;
      }
    }
  }
}

/// The derivatives of what place() writes: by x and by the weights, from those by A in the shape of
/// Step::decay and from cov_bar(k, l), k <= l, by the covariance of the state, to which Q adds.
/// Adds to weights_bar.
template <class N, class F>
__device__ inline void place_reverse(int B, const Part& part, const Slopes<N>* table,
                                     const N* weights, const N* decay_bar, const F& cov_bar,
                                     N* x_bar, N* weights_bar) {
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
        const N bar = N(r < c ? 2.0 : 1.0) * cov_bar(part.first + r, part.first + c);
        x_bar[0] += bar * weights[w] * table->by[0];
        x_bar[1] += bar * weights[w] * table->by[1];
        weights_bar[w] += bar * table->value;
      }
    }
  }
}

/// A block's parameters and the gap before a point in units of its lengthscales.
template <class N>
struct PartAt {
  N lengthscale[2] = {N(1.0), N(1.0)};
  N weights[2] = {N(0.0), N(0.0)};
  ScaledGap<N> gap;

  __device__ PartAt(const GramLine& line, const GramTangent& tangent, const Part& part,
                    std::int64_t chunk, int i) {
    const std::int64_t b = chunk / line.chunks;
    for (int m = 0; m < part.size && m < 2; ++m) {
      const std::int64_t from = b * line.blocks.columns + part.first + m;
      const std::int64_t along = b * line.width + part.column + m;
      lengthscale[m] = number<N>(line.lengthscale[from], entry_of(tangent.lengthscale, along));
      weights[m] = number<N>(line.weights[from], entry_of(tangent.weights, along));
    }
    if (line.is_first(chunk, i)) {
      gap = endless_gap(part.size, lengthscale);
      return;
    }
    const std::int64_t at = slot<1>(chunk, i);
    const std::int64_t before = line.slot_before(chunk, i);
    const double slope = entry_of(tangent.anchors, line.entry(chunk, at)) -
                         entry_of(tangent.anchors, line.entry(chunk, before));
    gap = scaled_gap(line.anchors[at], line.anchors[before], part.size, lengthscale, slope);
  }
};

template <class N>
struct TransitionJob {
  GramLine line;
  GramTangent tangent;
  N* transition;           ///< in slots of kTransitionStride<J, B>
  double* state_variance;  ///< as that of GramLine, or null
};

/// A thread for each point.
template <class N>
__global__ void __launch_bounds__(kFlatThreads) transition_kernel(TransitionJob<N> job) {
  const GramLine& line = job.line;
  const GramBlocks& blocks = line.blocks;
  const std::int64_t number = thread_number();  // threads side by side write slots side by side
  const std::int64_t chunk = number / (kWarp * kGramChunk) * kWarp + number % kWarp;
  const auto i = static_cast<int>(number / kWarp % kGramChunk);
  if (chunk >= line.all_chunks() || i >= line.size(chunk)) {
    return;
  }
  const int decays = blocks.columns * blocks.block;
  const int gains = blocks.columns * (blocks.block + 1) / 2;
  const int stride = decays + gains;
  N out[kMostTransition];
  double variance[kMostTransition];
  double none[kMostDecays];
  for (int k = 0; k < kMostTransition; ++k) {
    out[k] = N(0.0);
    variance[k] = 0.0;
  }
  const bool stationary = job.state_variance != nullptr && line.is_first(chunk, i);
  for (int p = 0; p < blocks.num_parts; ++p) {
    const Part part = blocks.parts[p];
    const PartAt<N> here(line, job.tangent, part, chunk, i);
    N table[kLargestTransition];
    find_transition(part.size, here.gap, here.gap.x, here.lengthscale, table);
    place(blocks.block, part, table, here.weights, out, out + decays);
    if constexpr (std::is_same_v<N, double>) {
      const double sizes[2] = {std::fabs(here.weights[0]), std::fabs(here.weights[1])};
      place(blocks.block, part, table, sizes, none, variance);
    }
  }
  for (int k = 0; k < stride; ++k) {
    job.transition[slot_of(stride, chunk, i, k)] = out[k];
  }
  for (int k = 0; stationary && k < gains; ++k) {
    job.state_variance[chunk / line.chunks * gains + k] = variance[k];
  }
}

template <class N>
struct TransitionReverseJob {
  GramLine line;
  GramTangent tangent;
  const N* decay_bar;  ///< in slots of J B: the derivatives by A,
  const N* noise_bar;  ///< and in slots of kBlockPacked<J, B> those by the covariance, as by Q
  double* gap_bar;     ///< in slots: the derivative by the gap before, or null
  double* lengthscale_bars;  ///< [lines, chunks, width] of the caller's columns, or null
  double* weight_bars;
};

/// From the derivatives by transitions to those by gaps, lengthscales and weights.
template <class N>
__global__ void __launch_bounds__(kWalkThreads)
    transition_reverse_kernel(TransitionReverseJob<N> job) {
  const GramLine& line = job.line;
  const GramBlocks& blocks = line.blocks;
  const std::int64_t chunk = walk_number();
  if (chunk >= line.all_chunks()) {
    return;
  }
  const int decays = blocks.columns * blocks.block;
  const int gains = blocks.columns * (blocks.block + 1) / 2;
  N lengthscale_bar[GramBlocks::kMost];
  N weight_bar[GramBlocks::kMost];
  for (int k = 0; k < GramBlocks::kMost; ++k) {
    lengthscale_bar[k] = weight_bar[k] = N(0.0);
  }
  const int size = line.size(chunk);
  for (int i = 0; i < size; ++i) {
    N decay_bar[kMostDecays];
    for (int k = 0; k < decays; ++k) {
      decay_bar[k] = job.decay_bar[slot_of(decays, chunk, i, k)];
    }
    N gap_bar = N(0.0);
    for (int p = 0; p < blocks.num_parts; ++p) {
      const Part part = blocks.parts[p];
      const PartAt<N> here(line, job.tangent, part, chunk, i);
      const Slopes<N> x[2] = {{here.gap.x[0], N(1.0), N(0.0)}, {here.gap.x[1], N(0.0), N(1.0)}};
      Slopes<N> table[kLargestTransition];
      find_transition(part.size, here.gap, x, here.lengthscale, table);
      N x_bar[2];
      const int B = blocks.block;
      const auto cov_bar = [&](int k, int l) {
        const int at = k / B * (B * (B + 1) / 2) + packed(k % B, l % B);
        return job.noise_bar[slot_of(gains, chunk, i, at)];
      };
      place_reverse(B, part, table, here.weights, decay_bar, cov_bar, x_bar,
                    weight_bar + part.column);
      for (int m = 0; m < (part.size == 2 ? 2 : 1); ++m) {
        const N by_gap = x_bar[m] / here.lengthscale[m];
        if (!here.gap.infinite) {
          gap_bar += by_gap;
        }
        lengthscale_bar[part.column + m] -= by_gap * here.gap.x[m];
      }
    }
    if (job.gap_bar != nullptr) {
      job.gap_bar[slot<1>(chunk, i)] = result(gap_bar);
    }
  }
  for (std::int64_t k = 0; k < line.width; ++k) {
    if (job.lengthscale_bars != nullptr) {
      job.lengthscale_bars[chunk * line.width + k] = result(lengthscale_bar[k]);
    }
    if (job.weight_bars != nullptr) {
      job.weight_bars[chunk * line.width + k] = result(weight_bar[k]);
    }
  }
}

}  // namespace laplex::cuda::detail
