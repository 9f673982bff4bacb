/// The Kalman filter over all chunks of a line at once.
///
/// Three steps: what each chunk does to whatever covariance comes to it (pass_kernel), from these
/// the covariance that does come to each (tree), and from there the filter itself (filter_kernel).
#pragma once

#include "gram_tree.hpp"

#include <cmath>

namespace laplex::cuda::detail {

/// What a run of points does to the covariance P of the state before it: P becomes
///
///     cov + map (P^-1 + seen^T seen)^-1 map^T.
///
/// An element of the associative scan of Sarkka and Garcia-Fernandez, "Temporal Parallelization of
/// Bayesian Smoothers" (2021), without its means and with the root of its information. So a passage
/// is a few points itself: its rows of `seen`, each an observation of the state before with noise
/// of variance 1, and a gap, across which the state moves by `map` and gains `cov`. Passages are
/// put together by the filter's own step, and with its errors: they are no worse where points
/// nearly coincide and `seen` is huge, which an inverse of 1 + P seen^T seen would be.
template <int J>
struct Passage {
  double map[J * J];
  double cov[kPacked<J>];   ///< of the state after, given that before
  double seen[kPacked<J>];  ///< upper triangular: entry (r, c) at packed(r, c)
};

/// The filter's observation of s.h with s.noise, from s.cov. Returns 1 / s.d, or 0 if nothing was
/// seen.
///
/// From a state that is known, points that coincide have no variance of their own left, in matrices
/// too that are not singular. A variance far below the rounding of P stands for 0 then; for blocks,
/// whose variance falls with the fifth power of a gap, one far below that of any gap, as a part of
/// `prior`, the point's own variance.
template <int J, int B>
__device__ inline double take(Step<double, J, B>& s, double* cov, double prior = 0.0) {
  laplex::detail::observe<J>(s, cov);
  if (!s.observed()) {
    return 0.0;
  }
  double least = 1e-100 * prior;
  for (int j = 0; B == 1 && j < J && J > 1; ++j) {
    least += 1e-22 * s.h[j] * s.h[j];
  }
  if (s.d > least) {
    return s.inverse;
  }
  for (int k = 0; k < kPacked<J>; ++k) {
    cov[k] = s.cov[k];
  }
  for (int j = 0; j < J; ++j) {
    s.w[j] = 0.0;
  }
  s.inverse = 0.0;
  return least > 0.0 ? 1.0 / least : 0.0;
}

/// What the observation that take() has made means to a passage's map and to what it has seen.
template <int J, int B>
__device__ inline void note(const Step<double, J, B>& s, double inverse, Passage<J>& p) {
  double row[J];  // h^T map: what of the state before the passage was observed
  const double root = std::sqrt(inverse);
  for (int c = 0; c < J; ++c) {
    double sum = 0.0;
    for (int r = 0; r < J; ++r) {
      sum += s.h[r] * p.map[r * J + c];
    }
    for (int r = 0; r < J; ++r) {
      p.map[r * J + c] =
          J == 1 ? p.map[0] * (s.noise * s.inverse) : p.map[r * J + c] - s.w[r] * sum;
    }
    row[c] = root * sum;
  }
  for (int c = 0; c < J; ++c) {  // rotations turn the row into zeros
    if (row[c] == 0.0) {
      continue;
    }
    double* const seen = p.seen;
    const double length = std::hypot(seen[packed(c, c)], row[c]);
    const double cosine = seen[packed(c, c)] / length;
    const double sine = row[c] / length;
    seen[packed(c, c)] = length;
    for (int k = c + 1; k < J; ++k) {
      const double above = seen[packed(c, k)];
      seen[packed(c, k)] = cosine * above + sine * row[k];
      row[k] = cosine * row[k] - sine * above;
    }
  }
}

/// Through another passage: the covariance `cov`, and unless null the passage that it belongs to.
template <int J, int B>
__device__ inline void cross(const Passage<J>& next, double* cov, Passage<J>* whole) {
  Step<double, J, B> s;
  for (int r = 0; r < J; ++r) {
    for (int c = 0; c < J; ++c) {
      s.h[c] = c < r ? 0.0 : next.seen[packed(r, c)];
    }
    for (int k = 0; k < kPacked<J>; ++k) {
      s.cov[k] = cov[k];
    }
    s.noise = 1.0;
    const double inverse = take(s, cov);
    if (whole != nullptr) {
      note(s, inverse, *whole);
    }
  }
  Congruence<double, J>::move(next.map, false, cov);
  for (int k = 0; k < kPacked<J>; ++k) {
    cov[k] += next.cov[k];
  }
  if (whole != nullptr) {
    for (int c = 0; c < J; ++c) {
      double column[J];
      for (int r = 0; r < J; ++r) {
        column[r] = 0.0;
        for (int k = 0; k < J; ++k) {
          column[r] += next.map[r * J + k] * whole->map[k * J + c];
        }
      }
      for (int r = 0; r < J; ++r) {
        whole->map[r * J + c] = column[r];
      }
    }
  }
}

template <int J>
__device__ inline void clear(Passage<J>& p) {
  for (int k = 0; k < kPacked<J>; ++k) {
    p.cov[k] = 0.0;
    p.seen[k] = 0.0;
  }
  for (int k = 0; k < J * J; ++k) {
    p.map[k] = k % (J + 1) == 0 ? 1.0 : 0.0;
  }
}

template <int J>
struct PassageJob {
  GramLine line;
  Passage<J>* passages;  ///< [lines, tree]
  int level;
};

/// The variance of a point without its noise.
template <int J, int B>
__device__ inline double prior_variance(const GramLine& line, std::int64_t chunk,
                                        const Step<double, J, B>& s) {
  if constexpr (B > 1) {
    constexpr int kCount = kBlockPacked<J, B>;
    return laplex::detail::variance_of<J, B>(line.state_variance + chunk / line.chunks * kCount,
                                             s.h);
  }
  double prior = 0.0;
  for (int j = 0; j < J; ++j) {
    prior += s.h[j] * s.h[j];
  }
  return prior;
}

/// The passages of chunks. Each begins with the gap before it, which a state that is known enters.
template <int J, int B>
__global__ void __launch_bounds__(kWalkThreads) pass_kernel(PassageJob<J> job) {
  const std::int64_t chunk = walk_number();
  if (chunk >= job.line.all_chunks()) {
    return;
  }
  Passage<J> p;
  clear(p);
  Step<double, J, B> s;
  const int size = job.line.size(chunk);
  for (int i = 0; i < size; ++i) {
    load(job.line, chunk, i, s);
    laplex::detail::predict<J>(p.cov, s);
    if constexpr (B == 1) {
      for (int k = 0; k < J * J; ++k) {
        p.map[k] = s.decay[k / J] * p.map[k];
      }
    } else {
      for (int c = 0; c < J; ++c) {
        laplex::detail::carry_state<J, B>(s.decay, p.map + c, J);
      }
    }
    const double inverse = take(s, p.cov, B == 1 ? 0.0 : prior_variance(job.line, chunk, s));
    if (s.observed()) {
      note(s, inverse, p);
    }
  }
  job.passages[job.line.node(chunk)] = p;
}

/// The passages of the level above job.level.
template <int J, int B>
__global__ void __launch_bounds__(kWalkThreads) join_kernel(PassageJob<J> job) {
  const GramTree& tree = job.line.tree;
  const std::int64_t above = tree.nodes[job.level + 1];
  const std::int64_t number = walk_number();
  if (number >= job.line.lines * above) {
    return;
  }
  const std::int64_t line = number / above;
  Passage<J> p;
  clear(p);
  for_children(tree, job.level, number % above, false, [&](std::int64_t child) {
    cross<J, B>(job.passages[tree.at(line, job.level, child)], p.cov, &p);
  });
  job.passages[tree.at(line, job.level + 1, number % above)] = p;
}

/// From the covariance before a node of the level above job.level, or nothing known above the top,
/// those before its children.
template <int J, int B>
__global__ void __launch_bounds__(kWalkThreads) start_kernel(PassageJob<J> job) {
  const GramTree& tree = job.line.tree;
  const bool top = job.level + 1 == tree.levels;
  const std::int64_t above = top ? 1 : tree.nodes[job.level + 1];
  const std::int64_t number = walk_number();
  if (number >= job.line.lines * above) {
    return;
  }
  const std::int64_t line = number / above;
  const std::int64_t node = number % above;
  double cov[kPacked<J>];
  for (int k = 0; k < kPacked<J>; ++k) {
    cov[k] = top ? 0.0 : job.line.before[tree.at(line, job.level + 1, node) * kPacked<J> + k];
  }
  for_children(tree, job.level, node, false, [&](std::int64_t child) {
    const std::int64_t at = tree.at(line, job.level, child);
    for (int k = 0; k < kPacked<J>; ++k) {
      job.line.before[at * kPacked<J> + k] = cov[k];
    }
    if (child + 1 < tree.nodes[job.level]) {  // nobody asks what comes out of the last
      cross<J, B>(job.passages[at], cov, nullptr);
    }
  });
}

/// The same without passages, a thread for each line: from a known state, the variances of a sum
/// with negative weights may be negative, and then they have no roots.
template <int J, int B>
__global__ void __launch_bounds__(kWalkThreads) start_in_turn_kernel(PassageJob<J> job) {
  const GramLine& line = job.line;
  const std::int64_t number = walk_number();
  if (number >= line.lines) {
    return;
  }
  double filtered[kPacked<J>];
  for (double& x : filtered) {
    x = 0.0;
  }
  Step<double, J, B> s;
  for (std::int64_t chunk = number * line.chunks; chunk < (number + 1) * line.chunks; ++chunk) {
    for (int k = 0; k < kPacked<J>; ++k) {
      line.before[line.node(chunk) * kPacked<J> + k] = filtered[k];
    }
    const int size = line.size(chunk);
    for (int i = 0; i < size; ++i) {
      load(line, chunk, i, s);
      laplex::detail::predict<J>(filtered, s);
      laplex::detail::observe<J>(s, filtered);
    }
  }
}

/// map <- (1 - w h^T) A map: what a point that was observed leaves of an error.
template <int J, int B, class N>
__device__ inline void extend(const Step<N, J, B>& s, N* map) {
  for (int c = 0; c < J; ++c) {
    N seen = N(0.0);
    if constexpr (B > 1) {
      laplex::detail::carry_state<J, B>(s.decay, map + c, J);
    }
    for (int r = 0; r < J; ++r) {
      if constexpr (B == 1) {
        map[r * J + c] = s.decay[r] * map[r * J + c];
      }
      seen += s.h[r] * map[r * J + c];
    }
    for (int r = 0; r < J; ++r) {
      map[r * J + c] =
          J == 1 && s.observed() ? map[0] * (s.noise * s.inverse) : map[r * J + c] - s.w[r] * seen;
    }
  }
}

struct FilterJob {
  GramLine line;
  unsigned long long* singular;  ///< becomes the first point at which a matrix is, in sorted order
  unsigned long long* doubtful;  ///< becomes 1 if growth_kernel has to say where that is
};

__device__ inline void report(const FilterJob& job, std::int64_t chunk, int i) {
  const GramLine& line = job.line;
  const std::int64_t at = chunk / line.chunks * line.n + chunk % line.chunks * kGramChunk + i;
  atomicMin(job.singular, static_cast<unsigned long long>(at));
}

template <int J, int B>
__global__ void __launch_bounds__(kWalkThreads) filter_kernel(FilterJob job) {
  const GramLine& line = job.line;
  const std::int64_t chunk = walk_number();
  if (chunk >= line.all_chunks()) {
    return;
  }
  const std::int64_t node = line.node(chunk);
  double filtered[kPacked<J>];
  for (int k = 0; k < kPacked<J>; ++k) {
    filtered[k] = line.before[node * kPacked<J> + k];
  }
  double decays[J * B];
  double map[J * J];
  for (int k = 0; k < J * J; ++k) {
    map[k] = k % (J + 1) == 0 ? 1.0 : 0.0;
  }
  clear_decays<J, B>(decays);
  const double part = laplex::detail::safe_part<J>();
  Step<double, J, B> s;
  const int size = line.size(chunk);
  for (int i = 0; i < size; ++i) {
    load(line, chunk, i, s);
    laplex::detail::predict<J>(filtered, s);
    laplex::detail::observe<J>(s, filtered);
    extend(s, map);
    double prior = B == 1 ? 0.0 : prior_variance(line, chunk, s);
    for (int j = 0; j < J; ++j) {
      line.gain[slot<J>(chunk, i, j)] = s.w[j];
      if (j % B == 0) {
        follow<B>(s.decay + j * B, decays + j * B);
      }
      if (B == 1) {
        prior += s.h[j] * s.h[j];
      }
    }
    line.variance[slot<1>(chunk, i)] = s.d;
    if (s.observed() && !(s.d > part * prior)) {
      if (J == 1) {
        report(job, chunk, i);
        break;
      }
      atomicOr(job.doubtful, 1ULL);
      if (!(s.d > 0.0)) {
        break;
      }
    }
  }
  for (int k = 0; k < J * B; ++k) {
    line.decays[node * J * B + k] = decays[k];
  }
  for (int k = 0; k < J * J; ++k) {
    line.maps[node * J * J + k] = map[k];
  }
}

/// Where filter_kernel was in doubt: as the CPU's first_singular(), from the chunk before on. What
/// is farther away would have to grow through kGramChunk points more.
template <int J, int B>
__global__ void __launch_bounds__(kWalkThreads) growth_kernel(FilterJob job) {
  const GramLine& line = job.line;
  const std::int64_t own = walk_number();
  if (own >= line.all_chunks()) {
    return;
  }
  laplex::detail::Growth<J, B> growth;
  Step<double, J, B> s;
  for (std::int64_t chunk = own % line.chunks > 0 ? own - 1 : own; chunk <= own; ++chunk) {
    const int size = line.size(chunk);
    for (int i = 0; i < size; ++i) {
      load(line, chunk, i, s);
      for (int j = 0; j < J; ++j) {
        s.w[j] = line.gain[slot<J>(chunk, i, j)];
      }
      const double least =
          laplex::detail::kSingular<J> * growth.next(s, prior_variance(line, chunk, s));
      if (s.observed() && !(line.variance[slot<1>(chunk, i)] > least)) {
        report(job, chunk, i);  // in the chunk before: it reports the same or an earlier point
        return;
      }
    }
  }
}

}  // namespace laplex::cuda::detail
