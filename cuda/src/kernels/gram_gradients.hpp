/// Derivatives of what a Gram's factor does: the filter's recurrence in reverse, and the same again
/// in dual numbers (N = Dual). The steps are those of the CPU, see cpp/src; here every chunk takes
/// them at once, first for what it passes on, then with what has come to it.
#pragma once

#include "gram_filter.hpp"
#include "gram_transition.hpp"

namespace laplex::cuda::detail {

__device__ inline void store(double* array, std::int64_t k, double value) {
  if (array != nullptr) {
    array[k] = value;
  }
}

/// A point as load() has it, along a direction if N is Dual; for B = 1 with its gap in
/// lengthscales. `transition` is that of blocks.
template <class N, int J, int B>
__device__ inline void load_along(const GramLine& line, const GramTangent& tangent,
                                  const N* transition, std::int64_t chunk, int i,
                                  Step<N, J, B>& s) {
  if constexpr (B > 1) {
    const std::int64_t id = line.entry(chunk, slot<1>(chunk, i));
    load_transition(transition, chunk, i, s);
    for (int j = 0; j < J; ++j) {
      const int column = line.column<B>(j);
      s.h[j] = number<N>(line.loadings[slot<J>(chunk, i, j)],
                         column < 0 ? 0.0 : entry_of(tangent.loadings, id * line.width + column));
    }
    s.noise = number<N>(line.noise[slot<1>(chunk, i)], entry_of(tangent.noise, id));
    return;
  }
  const std::int64_t b = chunk / line.chunks;
  const std::int64_t at = slot<1>(chunk, i);
  const std::int64_t id = line.entry(chunk, at);
  const bool first = line.is_first(chunk, i);
  const std::int64_t before = first ? at : line.slot_before(chunk, i);
  const double gap_slope =
      entry_of(tangent.anchors, id) - entry_of(tangent.anchors, b * line.n + line.order[before]);
  for (int j = 0; j < J; ++j) {
    const bool given = j < line.width;
    const double lengthscale = line.lengthscale[b * J + j];
    const double x = first ? 0.0 : scaled_gap(line.anchors[at], line.anchors[before], lengthscale);
    const double stretch = given ? entry_of(tangent.lengthscale, b * line.width + j) : 0.0;
    const double slope = first ? 0.0 : (gap_slope - x * stretch) / lengthscale;
    const double fall = line.fall[slot<J>(chunk, i, j)];
    const double r = laplex::detail::decay_of(fall);
    s.x[j] = number<N>(x, slope);
    s.decay[j] = number<N>(r, -r * slope);
    s.gain[j] = number<N>(laplex::detail::gain_of(fall), 2.0 * r * r * slope);
    s.h[j] = number<N>(line.loadings[slot<J>(chunk, i, j)],
                       given ? entry_of(tangent.loadings, id * line.width + j) : 0.0);
  }
  s.noise = number<N>(line.noise[at], entry_of(tangent.noise, id));
}

/// What rows need of the filter, and the filter's reverse too. For N = double the Gram has all but
/// the covariances.
template <class N>
struct GramTrace {
  const N* decays;  ///< [lines, tree, J, B]
  const N* maps;    ///< [lines, tree, J, J]
  N* decay;  ///< these in slots of J; of double: fall; of blocks: in slots of kTransitionStride
  N* loadings;
  N* gain;
  N* cov;          ///< in slots of kPacked<J>, predicted for each point
  double* slopes;  ///< of line.before; null: 0
};

__device__ inline double decay_in(double fall) {
  return laplex::detail::decay_of(fall);
}
__device__ inline Dual decay_in(Dual decay) {
  return decay;
}

/// The transition of a point's block at column k, [B, B].
template <int J, int B, class N>
__device__ inline void load_decay(const GramTrace<N>& trace, std::int64_t chunk, int i, int k,
                                  N* decay) {
  constexpr int kStride = B == 1 ? J : kTransitionStride<J, B>;
  for (int m = 0; m < B * B; ++m) {
    const N given = trace.decay[slot<kStride>(chunk, i, k * B + m)];
    decay[m] = B == 1 ? decay_in(given) : given;
  }
}

template <class N, int J>
__device__ inline void load_before(const GramLine& line, const GramTrace<N>& trace,
                                   std::int64_t chunk, N* cov) {
  const std::int64_t at = line.node(chunk) * kPacked<J>;
  for (int k = 0; k < kPacked<J>; ++k) {
    cov[k] = number<N>(line.before[at + k], trace.slopes == nullptr ? 0.0 : trace.slopes[at + k]);
  }
}

template <class N>
struct TraceJob {
  GramLine line;
  GramTangent tangent;
  GramTrace<N> trace;
  N* decays;  ///< level 0 of those of the trace; null for double, which has them
  N* maps;
  double* d_w;  ///< or null
  bool passes;  ///< only the slopes that leave the chunks are wanted
};

/// The filter once more.
template <class N, int J, int B>
__global__ void __launch_bounds__(kWalkThreads) trace_kernel(TraceJob<N> job) {
  const GramLine& line = job.line;
  const std::int64_t chunk = walk_number();
  if (chunk >= line.all_chunks()) {
    return;
  }
  const std::int64_t node = line.node(chunk);
  N filtered[kPacked<J>];
  const GramTrace<N>& trace = job.trace;
  GramTrace<N> known = trace;
  known.slopes = job.passes ? nullptr : trace.slopes;
  load_before<N, J>(line, known, chunk, filtered);
  N decays[J * B];
  N map[J * J];
  for (int k = 0; k < J * J; ++k) {
    map[k] = N(k % (J + 1) == 0 ? 1.0 : 0.0);
  }
  clear_decays<J, B>(decays);
  Step<N, J, B> s;
  const int size = line.size(chunk);
  for (int i = 0; i < size; ++i) {
    load_along(line, job.tangent, trace.decay, chunk, i, s);
    laplex::detail::predict<J>(filtered, s);
    laplex::detail::observe<J>(s, filtered);
    if (job.passes) {
      continue;
    }
    for (int k = 0; k < kPacked<J>; ++k) {
      trace.cov[slot<kPacked<J>>(chunk, i, k)] = s.cov[k];
    }
    if constexpr (kIsDual<N>) {
      for (int j = 0; j < J; ++j) {
        if constexpr (B == 1) {
          trace.decay[slot<J>(chunk, i, j)] = s.decay[j];
        }
        trace.loadings[slot<J>(chunk, i, j)] = s.h[j];
        trace.gain[slot<J>(chunk, i, j)] = s.w[j];
        if (j % B == 0) {
          follow<B>(s.decay + j * B, decays + j * B);
        }
      }
      extend(s, map);
      store(job.d_w, line.entry(chunk, slot<1>(chunk, i)), slope_of(s.d) / value(s.d));
    }
  }
  if constexpr (kIsDual<N>) {
    if (job.passes) {
      for (int k = 0; k < kPacked<J>; ++k) {
        trace.slopes[node * kPacked<J> + k] = slope_of(filtered[k]);
      }
      return;
    }
    for (int k = 0; k < J * B; ++k) {
      job.decays[node * J * B + k] = decays[k];
    }
    for (int k = 0; k < J * J; ++k) {
      job.maps[node * J * J + k] = map[k];
    }
  }
}

template <class N>
struct RowsJob {
  GramLine line;
  GramTrace<N> trace;
  std::int64_t rows;
  const double* a;  ///< [lines, rows, n]
  const double* b;
  N* means;  ///< [lines, rows, tree, J]: that leave the chunks, or that come; null: nothing does
  N* mean_bars;  ///< the same of the derivatives by the means, from the line's end
};

/// What each chunk gives to the mean of L b, and what to the derivative of <a, L b> by it.
template <class N, int J, int B>
__global__ void __launch_bounds__(kWalkThreads) rows_kernel(RowsJob<N> job) {
  const GramLine& line = job.line;
  const std::int64_t number = walk_number();
  if (number >= line.lines * job.rows * line.chunks) {
    return;
  }
  const std::int64_t vector = number / line.chunks;
  const std::int64_t chunk = vector / job.rows * line.chunks + number % line.chunks;
  const std::int64_t node = line.tree.at(vector, 0, number % line.chunks) * J;
  const int size = line.size(chunk);
  N state[J];
  for (N& x : state) {
    x = N(0.0);
  }
  for (int i = 0; i < size; ++i) {
    const N b = N(job.b[vector * line.n + line.order[slot<1>(chunk, i)]]);
    for (int k = 0; k < J; k += B) {
      N decay[B * B];
      load_decay<J, B>(job.trace, chunk, i, k, decay);
      laplex::detail::carry_state<B, B>(decay, state + k);
      for (int j = k; j < k + B; ++j) {
        state[j] += job.trace.gain[slot<J>(chunk, i, j)] * b;
      }
    }
  }
  for (int j = 0; j < J; ++j) {
    job.means[node + j] = state[j];
    state[j] = N(0.0);
  }
  for (int i = size - 1; i >= 0; --i) {
    const N a = N(job.a[vector * line.n + line.order[slot<1>(chunk, i)]]);
    for (int k = 0; k < J; k += B) {
      N decay[B * B];
      load_decay<J, B>(job.trace, chunk, i, k, decay);
      for (int j = k; j < k + B; ++j) {
        state[j] += job.trace.loadings[slot<J>(chunk, i, j)] * a;
      }
      laplex::detail::carry_state<B, B, true>(decay, state + k);
    }
  }
  for (int j = 0; j < J; ++j) {
    job.mean_bars[node + j] = state[j];
  }
}

template <class N>
struct BarsJob {
  RowsJob<N> rows;
  std::int64_t groups;  ///< of rows, each of which one thread takes for a chunk
  N* mean;              ///< of points: [groups], in slots of J
  N* gain_bar;          ///< derivatives by the gains, the same, of a group's rows
  N* loading_bar;
  N* decay_bar;
  double* d_a;  ///< [lines, rows, n] or null
  double* d_b;
};

/// Rows there and back again.
template <class N, int J, int B>
__global__ void __launch_bounds__(kWalkThreads) bars_kernel(BarsJob<N> job) {
  const GramLine& line = job.rows.line;
  const GramTrace<N>& trace = job.rows.trace;
  const std::int64_t number = walk_number();
  if (number >= job.groups * line.all_chunks()) {
    return;
  }
  const std::int64_t chunk = number % line.all_chunks();
  const std::int64_t group = number / line.all_chunks();
  const std::int64_t b = chunk / line.chunks;
  const std::int64_t of_group = group * slots(line, J);
  N* const kept = job.mean + of_group;
  N* const gain_bar = job.gain_bar + of_group;
  N* const loading_bar = job.loading_bar + of_group;
  N* const decay_bar = job.decay_bar + of_group * B;
  const int size = line.size(chunk);
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < J; ++j) {
      const std::int64_t at = slot<J>(chunk, i, j);
      for (int c = 0; c < B; ++c) {
        decay_bar[slot<J * B>(chunk, i, j * B + c)] = N(0.0);
      }
      gain_bar[at] = loading_bar[at] = N(0.0);
    }
  }
  for (std::int64_t row = group; row < job.rows.rows; row += job.groups) {
    const std::int64_t vector = b * job.rows.rows + row;
    const std::int64_t node = line.tree.at(vector, 0, chunk % line.chunks) * J;
    N state[J];
    for (int j = 0; j < J; ++j) {
      state[j] = job.rows.means == nullptr ? N(0.0) : job.rows.means[node + j];
    }
    for (int i = 0; i < size; ++i) {
      const std::int64_t id = vector * line.n + line.order[slot<1>(chunk, i)];
      const N value = N(job.rows.b[id]);
      N y = value;
      for (int k = 0; k < J; k += B) {
        for (int j = k; j < k + B; ++j) {
          kept[slot<J>(chunk, i, j)] = state[j];
        }
        N decay[B * B];
        load_decay<J, B>(trace, chunk, i, k, decay);
        laplex::detail::carry_state<B, B>(decay, state + k);
        for (int j = k; j < k + B; ++j) {
          const std::int64_t at = slot<J>(chunk, i, j);
          y += trace.loadings[at] * state[j];
          state[j] += trace.gain[at] * value;
        }
      }
      store(job.d_a, id, result(y));
    }
    for (int j = 0; j < J; ++j) {
      state[j] = job.rows.mean_bars == nullptr ? N(0.0) : job.rows.mean_bars[node + j];
    }
    for (int i = size - 1; i >= 0; --i) {
      const std::int64_t id = vector * line.n + line.order[slot<1>(chunk, i)];
      const N a = N(job.rows.a[id]);
      const N value = N(job.rows.b[id]);
      N by_b = a;
      for (int k = 0; k < J; k += B) {
        N decay[B * B];
        load_decay<J, B>(trace, chunk, i, k, decay);
        for (int j = k; j < k + B; ++j) {
          const std::int64_t at = slot<J>(chunk, i, j);
          gain_bar[at] += state[j] * value;
          by_b += trace.gain[at] * state[j];
        }
        N mean[B];  // predicted for the point
        for (int c = 0; c < B; ++c) {
          mean[c] = kept[slot<J>(chunk, i, k + c)];
        }
        laplex::detail::carry_state<B, B>(decay, mean);
        for (int j = k; j < k + B; ++j) {
          const std::int64_t at = slot<J>(chunk, i, j);
          loading_bar[at] += a * mean[j - k];
          state[j] += a * trace.loadings[at];  // by the mean predicted for the point
          for (int c = 0; c < B; ++c) {
            decay_bar[slot<J * B>(chunk, i, j * B + c)] +=
                state[j] * kept[slot<J>(chunk, i, k + c)];
          }
        }
        laplex::detail::carry_state<B, B, true>(decay, state + k);
      }
      store(job.d_b, id, result(by_b));
    }
  }
}

template <class N>
struct ReverseJob {
  BarsJob<N> bars;
  GramTangent tangent;
  const double* w;  ///< [lines, n] or null
  N* cov_bars;  ///< [lines, tree, kPacked<J>]: that leave the chunks, or come; null: nothing does
  bool passes;  ///< only those that leave are wanted
  GramGradients gradients;   ///< but for anchors and lengthscale
  double* gap_bar;           ///< in slots: the derivative by the gap before; B = 1
  double* lengthscale_bars;  ///< [lines, chunks, J]; B = 1
  /// In slots of kBlockPacked<J, B>: the derivatives by the predicted covariance's blocks. Those by
  /// the transition replace what the first group of rows has as decay_bar. B > 1
  N* noise_bar;
};

/// Back along the filter.
template <class N, int J, int B>
__global__ void __launch_bounds__(kWalkThreads) reverse_kernel(ReverseJob<N> job) {
  const GramLine& line = job.bars.rows.line;
  const GramTrace<N>& trace = job.bars.rows.trace;
  const std::int64_t chunk = walk_number();
  if (chunk >= line.all_chunks()) {
    return;
  }
  const std::int64_t b = chunk / line.chunks;
  const std::int64_t node = line.node(chunk) * kPacked<J>;
  N bar[kPacked<J>];
  for (int k = 0; k < kPacked<J>; ++k) {
    bar[k] = job.passes || job.cov_bars == nullptr ? N(0.0) : job.cov_bars[node + k];
  }
  const auto total = [&](const N* parts, int i, int j, auto kind) {
    constexpr int K = decltype(kind)::value;
    N sum = N(0.0);
    for (std::int64_t group = 0; group < job.bars.groups; ++group) {
      sum += parts[group * slots(line, K) + slot<K>(chunk, i, j)];
    }
    return sum;
  };
  constexpr std::integral_constant<int, J> of_columns{};
  constexpr std::integral_constant<int, J * B> of_decays{};
  N filtered[kPacked<J>];
  const auto find = [&](int i, Step<N, J, B>& s) {
    load_along(line, job.tangent, trace.decay, chunk, i, s);
    for (int k = 0; k < kPacked<J>; ++k) {
      s.cov[k] = trace.cov[slot<kPacked<J>>(chunk, i, k)];
    }
    laplex::detail::observe<J>(s, filtered);
  };
  N lengthscale[J];
  N lengthscale_bar[J];
  for (int j = 0; j < J; ++j) {
    lengthscale_bar[j] = N(0.0);
    lengthscale[j] =
        number<N>(line.lengthscale[b * J + j],
                  j < line.width ? entry_of(job.tangent.lengthscale, b * line.width + j) : 0.0);
  }
  const int size = line.size(chunk);
  Step<N, J, B> s;
  find(size - 1, s);
  for (int i = size - 1; i >= 0; --i) {
    const std::int64_t id = line.entry(chunk, slot<1>(chunk, i));
    N gain_bar[J];
    N decay_bar[J * B];
    N h_bar[J];
    for (int j = 0; j < J; ++j) {
      gain_bar[j] = total(job.bars.gain_bar, i, j, of_columns);
      for (int c = 0; c < B; ++c) {
        decay_bar[j * B + c] = total(job.bars.decay_bar, i, j * B + c, of_decays);
      }
      h_bar[j] = total(job.bars.loading_bar, i, j, of_columns);
    }
    const N by_noise =
        laplex::detail::observe_reverse<J>(s, N(entry_of(job.w, id)), gain_bar, h_bar, bar);
    if (!job.passes) {
      store(job.gradients.noise, id, result(by_noise));
      for (int j = 0; j < J; ++j) {
        const int column = line.column<B>(j);
        if (column >= 0) {
          store(job.gradients.loadings, id * line.width + column, result(h_bar[j]));
        }
      }
    }
    if (B == 1 && line.is_first(chunk, i)) {
      store(job.gap_bar, slot<1>(chunk, i), 0.0);
      break;
    }
    Step<N, J, B> before;
    if (i > 0) {
      find(i - 1, before);
    } else {
      load_before<N, J>(line, trace, chunk, filtered);
    }
    if constexpr (B > 1) {
      if (!job.passes) {
        laplex::detail::transition_reverse<J>(filtered, s, bar, decay_bar);
        for (int k = 0; k < J * B; ++k) {
          job.bars.decay_bar[slot<J * B>(chunk, i, k)] = decay_bar[k];
        }
        for (int k = 0; k < J; k += B) {
          for (int c = 0; c < B; ++c) {
            for (int r = 0; r <= c; ++r) {
              const int at = k / B * kPacked<B> + packed(r, c);
              job.noise_bar[slot<kBlockPacked<J, B>>(chunk, i, at)] = bar[packed(k + r, k + c)];
            }
          }
        }
      }
      laplex::detail::carry<J, B, true>(s.decay, bar, bar);
    } else {
      N x_bar[J];
      laplex::detail::predict_reverse<J>(filtered, s, decay_bar, x_bar, bar);
      N gap_bar = N(0.0);
      for (int j = 0; j < J; ++j) {
        const N by_gap = x_bar[j] / lengthscale[j];
        gap_bar += by_gap;
        lengthscale_bar[j] -= by_gap * s.x[j];
      }
      if (!job.passes) {
        store(job.gap_bar, slot<1>(chunk, i), result(gap_bar));
      }
    }
    s = before;
  }
  if (job.passes) {
    for (int k = 0; k < kPacked<J>; ++k) {
      job.cov_bars[node + k] = bar[k];
    }
  } else if (B == 1 && job.lengthscale_bars != nullptr) {
    for (int j = 0; j < J; ++j) {
      job.lengthscale_bars[chunk * J + j] = result(lengthscale_bar[j]);
    }
  }
}

/// From the derivatives by gaps to those by anchors; a thread for each point.
struct AnchorsJob {
  GramLine line;
  const double* gap_bar;
  double* anchors;  ///< [lines, n]
};

inline __global__ void __launch_bounds__(kFlatThreads) gram_anchors_kernel(AnchorsJob job) {
  const GramLine& line = job.line;
  const std::int64_t number = thread_number();
  if (number >= line.lines * line.n) {
    return;
  }
  const std::int64_t place = number % line.n;
  const std::int64_t first = number / line.n * line.chunks;
  const auto at = [&](std::int64_t k) { return slot<1>(first + k / kGramChunk, k % kGramChunk); };
  const double after = place + 1 < line.n ? job.gap_bar[at(place + 1)] : 0.0;
  job.anchors[line.entry(first, at(place))] = job.gap_bar[at(place)] - after;
}

}  // namespace laplex::cuda::detail
