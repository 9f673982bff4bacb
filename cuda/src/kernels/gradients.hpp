/// Second pass of the gradients: all seven at once, from both scans in both directions.
///
/// With v' and g' the values and the conjugate cotangent with their phases done, and K the bare
/// kernel:
///   dF/dv_j     = conj(exp(-i phi_j) even_j(g'))       dF/dphi_j   = Im(v'_j even_j(g'))
///   dF/dx_i     = Re(-c g'_i odd_i(v'))                dF/dtheta_i = -Im(g'_i even_i(v'))
///   dF/dy_j     = Re(-c v'_j odd_j(g'))
/// and by lengthscale and frequency from W = sum_ij g'_i |x_i - y_j| K_ij v'_j, the integral along
/// the line of what passes each place: over a gap, (values from the left) x (cotangents from the
/// right) and the reverse are constant, so nothing cancels. See cpp/src/gradients.cpp.
///
/// A block takes a tile and a group of rows; sums over rows stay in its registers. Sums over groups
/// and tiles are made by finish_kernel and scalars_kernel in a fixed order.
#pragma once

#include "block_scan.hpp"
#include "line.hpp"
#include "values.hpp"

namespace laplex::cuda::detail {

/// Gradients of one side that are summed over rows; null: not wanted.
template <class T>
struct AnchorGradients {
  T* position = nullptr;  ///< [heads, count]
  T* phase = nullptr;
};

template <class T>
struct GradientJob {
  Line<T> line;  ///< from sources to targets
  Input<T> values;
  Input<T> grad;       ///< conjugated
  Output<T> d_values;  ///< with the sources' phases; conjugates
  AnchorGradients<T> targets;
  AnchorGradients<T> sources;
  Complex* stretch;  ///< [heads, groups, tiles]: W over the lengthscale, or null
  Lengthscales lengthscale;
  const double* frequency;
  std::int64_t rows;
  std::int64_t tiles;
  std::int64_t tile_items;  ///< for the path of cells
  std::int64_t groups;
  std::int64_t group_rows;  ///< of each but the last
  /// Sums of a group in sorted order, [groups, heads, count]; null where there is one group.
  AnchorGradients<T> target_parts;
  AnchorGradients<T> source_parts;
  const void* value_carries;  ///< [heads, rows, tiles, 2] of Sums, or null for a single tile
  const void* grad_carries;
  const void* value_sent;  ///< of sparse tiles, see TotalsJob
  const void* grad_sent;
};

inline constexpr int kGradientThreads = 256;
inline constexpr int kGradientItems = 4;  ///< a thread
/// Blocks that a multiprocessor should hold at a time, as long as their registers suffice.
template <class T, class S>
inline constexpr int kGradientBlocks = sizeof(T) == 4 && std::is_same_v<S, double> ? 2 : 1;

template <class T, class D, class S, int NT>
struct GradientShared {
  using N = Node<T, D, S, 0, true>;
  static constexpr std::size_t kScan = BlockScan<NT, N>::kSharedBytes;
  static constexpr std::size_t kTile = kGradientThreads * kGradientItems;
  /// Values and cotangents of a tile are as many as its items; in the self case, each.
  static std::size_t bytes(bool self) {
    return kScan + kTile * ((self ? 2 : 1) * sizeof(Packed<T, S>) + sizeof(T));
  }
};

/// Re(a b) and Im(a b).
__host__ __device__ inline double real_product(double a, double b) {
  return a * b;
}
__host__ __device__ inline double real_product(Complex a, Complex b) {
  return (a * b).re;
}
__host__ __device__ inline double imaginary_product(double, double) {
  return 0.0;
}
__host__ __device__ inline double imaginary_product(Complex a, Complex b) {
  return (a * b).im;
}

/// Writes one number of each `from` or `to` item of the tile: to its place if there is one group of
/// rows, otherwise to the group's sums.
template <class T, int K, class W>
__device__ inline void write_sums(const double (&sum)[K], const W& walk, bool of_from,
                                  const SideView<T>& side, std::int64_t first, std::int64_t count,
                                  std::int64_t head, std::int64_t heads, std::int64_t group, T* out,
                                  T* parts, T* shared) {
  if (out == nullptr) {  // the same for all threads
    return;
  }
  __syncthreads();
  for (int k = 0; k < K; ++k) {
    if (k < walk.count && (of_from ? walk.from(k) : walk.to(k))) {
      shared[of_from ? walk.from_slot(k) : walk.to_slot(k)] = static_cast<T>(sum[k]);
    }
  }
  __syncthreads();
  for (std::int64_t k = threadIdx.x; k < count; k += blockDim.x) {
    if (parts != nullptr) {
      parts[(group * heads + head) * side.count + first + k] = shared[k];
    } else {
      out[head * side.count + side.source_of(head, first + k)] = shared[k];
    }
  }
}

/// The work of one block: a tile and a group of rows.
template <class T>
struct GradientWork {
  const LineRate& rate;
  const Tile<T>& tile;
  std::int64_t head;
  std::int64_t heads;
  std::int64_t group;
  std::int64_t first_row;
  std::int64_t end_row;
};

/// Writes what is wanted of one tile, and returns the thread's share of its stretch.
/// `carries(of_values, row, left, right)` gives what comes to the tile from beyond its ends.
template <class T, class D, class S, int NT, class Carries>
__device__ Complex tile_gradients(const GradientJob<T>& job, const GradientWork<T>& work,
                                  const Carries& carries, unsigned char* shared) {
  constexpr int K = kGradientItems;
  using N = Node<T, D, S, 0, true>;
  using Value = typename N::Value;
  const Line<T>& line = job.line;
  const LineRate& rate = work.rate;
  const Tile<T>& tile = work.tile;
  const std::int64_t head = work.head;
  const std::int64_t heads = work.heads;
  const std::int64_t group = work.group;
  auto* const values = reinterpret_cast<Packed<T, S>*>(shared + GradientShared<T, D, S, NT>::kScan);
  Packed<T, S>* const grads = values + tile.num_from;
  T* const places = reinterpret_cast<T*>(grads + tile.num_to);
  load_positions(line, head, tile, places);
  __syncthreads();
  const Walk<T, D, 0, K> walk(line, head, tile, places, rate);

  double d_target[K] = {};
  double d_source[K] = {};
  double d_theta[K] = {};
  double d_phi[K] = {};
  Complex stretch{0.0, 0.0};
  const double ell_inverse = rate.inverse * rate.valid;
  const double omega = rate.rate.frequency;

  for (std::int64_t row = work.first_row; row < work.end_row; ++row) {
    __syncthreads();
    job.values.template load<S>(line.from, head, row, job.rows, tile.first_from, tile.num_from,
                                values);
    job.grad.template load<S>(line.to, head, row, job.rows, tile.first_to, tile.num_to, grads);
    __syncthreads();

    S v[K];
    S g[K];
    Value v_left;
    Value v_right;
    v_left.clear();
    v_right.clear();
    Value g_left = v_left;
    Value g_right = v_right;
    for (int k = 0; k < K; ++k) {
      v[k] = k < walk.count && walk.from(k) ? values[walk.from_slot(k)].wide() : S{};
      g[k] = k < walk.count && walk.to(k) ? grads[walk.to_slot(k)].wide() : S{};
      if (k < walk.count) {
        v_left.cross(walk.gap[k]);
        v_left.add(v[k]);
        g_left.cross(walk.gap[k]);
        g_left.add(g[k]);
      }
    }
    for (int k = K - 1; k >= 0; --k) {
      if (k < walk.count) {
        v_right.add(v[k]);
        v_right.cross(walk.gap[k]);
        g_right.add(g[k]);
        g_right.cross(walk.gap[k]);
      }
    }
    const auto scan = [&](Value& left, Value& right, bool of_values) {
      const BlockScan<NT, N> block(walk.template node<N>(left, walk.end),
                                   walk.template node<N>(right, walk.begin), tile.low, tile.high,
                                   rate, shared);
      carries(of_values, row, left, right);
      block.scan(left, right, walk.begin, walk.end);
    };
    scan(v_left, v_right, true);
    __syncthreads();  // the shared memory of the scan, once more
    scan(g_left, g_right, false);

    S v_before[K];  // from the left: of the places before an item's, and of its own place so far
    S v_here[K];
    S g_before[K];
    S g_here[K];
    for (int k = 0; k < K; ++k) {
      if (k < walk.count) {
        v_left.cross(walk.gap[k]);
        g_left.cross(walk.gap[k]);
        v_left.add(v[k]);
        g_left.add(g[k]);
      }
      v_before[k] = v_left.word[0];
      v_here[k] = v_left.here();
      g_before[k] = g_left.word[0];
      g_here[k] = g_left.here();
    }
    for (int k = K - 1; k >= 0; --k) {
      if (k < walk.count) {
        if (walk.to(k)) {
          const S odd = v_before[k] - v_right.word[0];
          const S even = v_before[k] + v_here[k] + (v_right.word[0] + v_right.here());
          d_target[k] = d_target[k] - (ell_inverse * real_product(g[k], odd) +
                                       omega * imaginary_product(g[k], odd));
          d_theta[k] = d_theta[k] - imaginary_product(g[k], even);
        }
        if (walk.from(k)) {
          const S odd = g_before[k] - g_right.word[0];
          const S even = g_before[k] + g_here[k] + (g_right.word[0] + g_right.here());
          d_source[k] = d_source[k] - (ell_inverse * real_product(v[k], odd) +
                                       omega * imaginary_product(v[k], odd));
          d_phi[k] = d_phi[k] + imaginary_product(v[k], even);
          values[walk.from_slot(k)] = Packed<T, S>::of(even);  // nobody else's slot
        }
        v_right.add(v[k]);
        g_right.add(g[k]);
        const double tau = walk.gap[k].tau;
        if (job.stretch != nullptr && tau > 0.0) {
          const S v_all = v_right.word[0] + v_right.here();
          const S g_all = g_right.word[0] + g_right.here();
          stretch.re = stretch.re +
                       tau * (real_product(v_before[k], g_all) + real_product(g_before[k], v_all));
          stretch.im = stretch.im + tau * (imaginary_product(v_before[k], g_all) +
                                           imaginary_product(g_before[k], v_all));
        }
        v_right.cross(walk.gap[k]);
        g_right.cross(walk.gap[k]);
      }
    }
    __syncthreads();
    if (job.d_values.vectors.data != nullptr) {
      for (std::int64_t k = threadIdx.x; k < tile.num_from; k += blockDim.x) {
        job.d_values.template scatter<S>(line.from, head, row, tile.first_from + k, values[k],
                                         rate.valid);
      }
    }
  }

  write_sums<T>(d_target, walk, false, line.to, tile.first_to, tile.num_to, head, heads, group,
                job.targets.position, job.target_parts.position, places);
  write_sums<T>(d_theta, walk, false, line.to, tile.first_to, tile.num_to, head, heads, group,
                job.targets.phase, job.target_parts.phase, places);
  write_sums<T>(d_source, walk, true, line.from, tile.first_from, tile.num_from, head, heads, group,
                job.sources.position, job.source_parts.position, places);
  write_sums<T>(d_phi, walk, true, line.from, tile.first_from, tile.num_from, head, heads, group,
                job.sources.phase, job.source_parts.phase, places);
  return stretch;
}

/// Writes the sum of the block's shares.
template <class T, int NT>
__device__ inline void write_stretch(const GradientJob<T>& job, Complex share,
                                     unsigned char* shared, std::int64_t at) {
  const double re = block_sum<NT>(share.re, shared);
  const double im = block_sum<NT>(share.im, shared);
  if (threadIdx.x == 0) {
    job.stretch[at] = {re, im};
  }
}

template <class T, class D, class S>
__global__ void __launch_bounds__(kGradientThreads, kGradientBlocks<T, S>)
    gradient_kernel(GradientJob<T> job) {
  constexpr int NT = kGradientThreads;
  using Value = Sums<S, 0, true>;
  const std::int64_t number = block_number() % job.tiles;
  const std::int64_t group = block_number() / job.tiles % job.groups;
  const std::int64_t head = block_number() / job.tiles / job.groups;
  const std::int64_t heads = static_cast<std::int64_t>(gridDim.x) / (job.tiles * job.groups);
  const LineRate rate = read_rate(job.lengthscale, job.frequency, head);
  const Tile<T> tile = tile_of(job.line, head, number, std::int64_t(NT) * kGradientItems);
  const std::int64_t first = group * job.group_rows;
  const std::int64_t end = first + job.group_rows < job.rows ? first + job.group_rows : job.rows;
  const GradientWork<T> work{rate, tile, head, heads, group, first, end};
  const Complex stretch = tile_gradients<T, D, S, NT>(
      job, work,
      [&](bool of_values, std::int64_t row, Value& left, Value& right) {
        const auto* const carries =
            static_cast<const Value*>(of_values ? job.value_carries : job.grad_carries);
        left.clear();
        right.clear();
        if (carries != nullptr) {
          const std::int64_t at = 2 * ((head * job.rows + row) * job.tiles + number);
          left = carries[at];
          right = carries[at + 1];
        }
      },
      shared_memory());
  if (job.stretch != nullptr) {
    write_stretch<T, NT>(job, stretch, shared_memory(),
                         (head * job.groups + group) * job.tiles + number);
  }
}

/// Adds up the groups' sums of one side and puts them in place.
template <class T>
struct FinishJob {
  SideView<T> side;
  std::int64_t heads;
  std::int64_t groups;
  AnchorGradients<T> parts;
  AnchorGradients<T> out;
};

template <class T>
__global__ void __launch_bounds__(kFlatThreads) finish_kernel(FinishJob<T> job) {
  const std::int64_t all = job.heads * job.side.count;
  const std::int64_t entry = thread_number();
  if (entry >= all) {
    return;
  }
  const std::int64_t head = entry / job.side.count;
  const std::int64_t to = head * job.side.count + job.side.source_of(head, entry % job.side.count);
  const auto sum = [&](const T* parts, T* out) {
    if (out != nullptr) {
      double total = 0.0;
      for (std::int64_t g = 0; g < job.groups; ++g) {
        total = total + static_cast<double>(parts[g * all + entry]);
      }
      out[to] = static_cast<T>(total);
    }
  };
  sum(job.parts.position, job.out.position);
  sum(job.parts.phase, job.out.phase);
}

/// From the stretch of all tiles and groups of a head to its two scalars; one block a head.
struct ScalarsJob {
  const Complex* stretch;  ///< [heads, parts]
  std::int64_t parts;
  Lengthscales lengthscale;
  const double* frequency;
  double* d_lengthscale;  ///< [heads] or null
  double* d_frequency;
};

inline constexpr int kScalarThreads = 256;

inline __global__ void __launch_bounds__(kScalarThreads) scalars_kernel(ScalarsJob job) {
  const std::int64_t head = block_number();
  const LineRate rate = read_rate(job.lengthscale, job.frequency, head);
  Complex sum{0.0, 0.0};
  for (std::int64_t k = threadIdx.x; k < job.parts; k += kScalarThreads) {
    sum = sum + job.stretch[head * job.parts + k];
  }
  const double re = block_sum<kScalarThreads>(sum.re, shared_memory());
  const double im = block_sum<kScalarThreads>(sum.im, shared_memory());
  if (threadIdx.x == 0) {
    if (job.d_lengthscale != nullptr) {
      job.d_lengthscale[head] = rate.valid * re * rate.inverse / job.lengthscale.lengths;
    }
    if (job.d_frequency != nullptr) {
      job.d_frequency[head] = -rate.valid * rate.rate.lengthscale * im;
    }
  }
}

}  // namespace laplex::cuda::detail
