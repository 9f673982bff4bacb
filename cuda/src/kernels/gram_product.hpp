/// Products with a Gram's factor: the recurrences of the CPU, a thread for each chunk of each row.
#pragma once

#include "block_scan.hpp"
#include "gram_line.hpp"

#include <cmath>

namespace laplex::cuda::detail {

struct GramProductJob {
  GramLine line;
  std::int64_t rows;
  const double* in;
  double* out;
  bool scaled;
  double* states;  ///< [lines, rows, tree, J]: that come to the chunks; null: nothing does
  bool passes;     ///< only those that leave them are wanted
  double* squares = nullptr;  ///< [lines, rows, chunks] of |out|^2, in place of out; or null
};

/// Upwards: y = L^T z or z = L^-T y, where the state is what the points above hand down; else y = L
/// z or z = L^-1 y, where it is the filter's mean given the points so far. See cpp/src.
template <int J, int B, bool kUpwards, bool kInverse>
__global__ void __launch_bounds__(kWalkThreads) gram_product_kernel(GramProductJob job) {
  const GramLine& line = job.line;
  const std::int64_t number = walk_number();
  if (number >= line.lines * job.rows * line.chunks) {
    return;
  }
  const std::int64_t vector = number / line.chunks;
  const std::int64_t chunk = vector / job.rows * line.chunks + number % line.chunks;
  const std::int64_t node = line.tree.at(vector, 0, number % line.chunks);
  double state[J];
  for (int j = 0; j < J; ++j) {
    state[j] = job.passes || job.states == nullptr ? 0.0 : job.states[node * J + j];
  }
  double square = 0.0;
  const int size = line.size(chunk);
  for (int k = 0; k < size; ++k) {
    const int i = kUpwards ? size - 1 - k : k;
    const std::int64_t at = vector * line.n + line.order[slot<1>(chunk, i)];
    const double root = job.scaled ? std::sqrt(line.variance[slot<1>(chunk, i)]) : 1.0;
    double z = job.in[at];
    double seen = 0.0;
    double transition[J * B];
    for (int j = 0; B > 1 && j < J * B; ++j) {
      transition[j] = line.transition[slot<kTransitionStride<J, B>>(chunk, i, j)];
    }
    if constexpr (B > 1 && !kUpwards) {
      laplex::detail::carry_state<J, B>(transition, state);
    }
    for (int j = 0; j < J; ++j) {
      if (kUpwards) {
        seen += line.gain[slot<J>(chunk, i, j)] * state[j];
      } else {
        if constexpr (B == 1) {
          state[j] *= laplex::detail::decay_of(line.fall[slot<J>(chunk, i, j)]);
        }
        seen += line.loadings[slot<J>(chunk, i, j)] * state[j];
      }
    }
    double y;
    if (kUpwards) {
      z = kInverse ? z / root - seen : z;
      y = kInverse ? z : (z + seen) * root;
    } else {
      z = kInverse ? z - seen : z * root;
      y = kInverse ? z / root : z + seen;
    }
    for (int j = 0; j < J; ++j) {
      if constexpr (kUpwards && B == 1) {
        state[j] = laplex::detail::decay_of(line.fall[slot<J>(chunk, i, j)]) *
                   (state[j] + line.loadings[slot<J>(chunk, i, j)] * z);
      } else if constexpr (kUpwards) {
        state[j] += line.loadings[slot<J>(chunk, i, j)] * z;
      } else {
        state[j] += line.gain[slot<J>(chunk, i, j)] * z;
      }
    }
    if constexpr (B > 1 && kUpwards) {
      laplex::detail::carry_state<J, B, true>(transition, state);
    }
    if (job.squares != nullptr) {
      square += y * y;
    } else if (!job.passes) {
      job.out[at] = y;
    }
  }
  if (job.squares != nullptr) {
    job.squares[number] = square;
  }
  for (int j = 0; job.passes && j < J; ++j) {
    job.states[node * J + j] = state[j];
  }
}

/// Numbers of points to the caller's order; a thread for each point.
struct GramPointsJob {
  GramLine line;
  double* log_variances;  ///< [lines, n] in the caller's numbers, or null
  std::int64_t* order;    ///< [lines, n] in sorted order, or null
};

inline __global__ void __launch_bounds__(kFlatThreads) gram_points_kernel(GramPointsJob job) {
  const GramLine& line = job.line;
  const std::int64_t number = thread_number();
  if (number >= line.lines * line.n) {
    return;
  }
  const std::int64_t place = number % line.n;
  const std::int64_t chunk = number / line.n * line.chunks + place / kGramChunk;
  const std::int64_t at = slot<1>(chunk, place % kGramChunk);
  if (job.log_variances != nullptr) {
    job.log_variances[line.entry(chunk, at)] = std::log(line.variance[at]);
  }
  if (job.order != nullptr) {
    job.order[number] = line.order[at];
  }
}

/// The logarithms of each chunk's variances, summed up.
struct GramLogsJob {
  GramLine line;
  double* sums;  ///< [lines, chunks]
};

inline __global__ void __launch_bounds__(kWalkThreads) gram_logs_kernel(GramLogsJob job) {
  const std::int64_t chunk = walk_number();
  if (chunk >= job.line.all_chunks()) {
    return;
  }
  double sum = 0.0;
  const int size = job.line.size(chunk);
  for (int i = 0; i < size; ++i) {
    sum += std::log(job.line.variance[slot<1>(chunk, i)]);
  }
  job.sums[chunk] = sum;
}

/// From |S^-1 v|^2 to the log density at v; a thread for each v.
struct LogProbJob {
  std::int64_t vectors;
  std::int64_t rows;
  double same;           ///< n log(2 pi)
  const double* logdet;  ///< [lines]
  double* out;           ///< [lines, rows]
};

inline __global__ void __launch_bounds__(kFlatThreads) gram_log_prob_kernel(LogProbJob job) {
  const std::int64_t vector = thread_number();
  if (vector < job.vectors) {
    job.out[vector] = -0.5 * (job.out[vector] + job.logdet[vector / job.rows] + job.same);
  }
}

/// Sums over the chunks of each line, of the first of K columns; a block each.
struct GramTotalsJob {
  const double* parts;  ///< [lines, chunks, K]
  std::int64_t chunks;
  int columns;          ///< K
  std::int64_t wanted;  ///< columns of the result
  double* out;          ///< [lines, wanted]
};

[[nodiscard]] inline Grid gram_totals_grid(std::int64_t sums) {
  return {sums, kFlatThreads, kFlatThreads / kWarp * sizeof(double)};
}

inline __global__ void __launch_bounds__(kFlatThreads) gram_totals_kernel(GramTotalsJob job) {
  const std::int64_t line = block_number() / job.wanted;
  const std::int64_t column = block_number() % job.wanted;
  double sum = 0.0;
  for (std::int64_t k = threadIdx.x; k < job.chunks; k += kFlatThreads) {
    sum += job.parts[(line * job.chunks + k) * job.columns + column];
  }
  sum = block_sum<kFlatThreads>(sum, shared_memory());
  if (threadIdx.x == 0) {
    job.out[block_number()] = sum;
  }
}

}  // namespace laplex::cuda::detail
