/// The lines of a Gram in device memory, cut into chunks, each of which one thread walks.
#pragma once

#include "../device.hpp"

#include <laplex/detail/filter.hpp>

#include <type_traits>

namespace laplex::cuda::detail {

using laplex::detail::Dual;
using laplex::detail::kBlockPacked;
using laplex::detail::kPacked;
using laplex::detail::packed;
using laplex::detail::Step;

/// The numbers of a point's transition: A and Q as Step has them.
template <int J, int B>
inline constexpr int kTransitionStride = J * B + kBlockPacked<J, B>;

/// Points that a thread walks. Half as many would be twice the threads, of which a line of 10^5
/// points has 1600, and twice the work between chunks, a seventh of all with eight columns. The
/// choice is not measured.
inline constexpr int kGramChunk = 64;

/// Threads walk for long and in registers by the hundred: a block is one warp, so that even few of
/// them are spread over the device.
inline constexpr int kWalkThreads = kWarp;

[[nodiscard]] inline Grid one_walk_each(std::int64_t count) {
  return {ceil_div(count, kWalkThreads), kWalkThreads};
}
__device__ __forceinline__ std::int64_t walk_number() {
  return block_number() * kWalkThreads + static_cast<std::int64_t>(threadIdx.x);
}

/// Where number k of K of point i of a chunk lies. Chunks are numbered through all lines, and 32 of
/// them lie side by side, as the threads that walk them do.
template <int K>
__host__ __device__ inline std::int64_t slot(std::int64_t chunk, std::int64_t i, int k = 0) {
  return ((chunk / kWarp * kGramChunk + i) * K + k) * kWarp + chunk % kWarp;
}

/// The same of K that is not compiled in.
__device__ inline std::int64_t slot_of(int K, std::int64_t chunk, std::int64_t i, int k) {
  return ((chunk / kWarp * kGramChunk + i) * K + k) * kWarp + chunk % kWarp;
}

/// How chunks are summed up: kFanout of them, or fewer at the line's end, are a node of level 1, as
/// many of these one of level 2, until one sum takes in all.
inline constexpr std::int64_t kFanout = 32;

struct GramTree {
  static constexpr int kMostLevels = 8;
  int levels = 0;
  std::int64_t nodes[kMostLevels] = {};  ///< of a line; level 0: chunks
  std::int64_t first[kMostLevels] = {};  ///< of a level, among all of a line
  std::int64_t all = 0;

  explicit GramTree(std::int64_t chunks) {
    for (std::int64_t count = chunks;; count = ceil_div(count, kFanout)) {
      nodes[levels] = count;
      first[levels] = all;
      all += count;
      ++levels;
      if (count <= kFanout) {
        return;
      }
    }
  }
  [[nodiscard]] __host__ __device__ std::int64_t at(std::int64_t line, int level,
                                                    std::int64_t node) const {
    return line * all + first[level] + node;
  }
};

/// Where a block of columns is.
struct Part {
  int size;
  int column;  ///< its first one of the caller's
  int first;   ///< its first one as compiled
};

/// Where blocks of columns are as compiled: in groups of `block` columns each.
struct GramBlocks {
  static constexpr int kMost = 8;
  int block = 1;      ///< B
  int columns = 0;    ///< J
  int num_parts = 0;  ///< 0 for B = 1, where columns are in the order of the caller's
  Part parts[kMost] = {};
  int column[kMost] = {};  ///< of the caller's arrays; -1 where there is none
};

/// In sorted order. Columns that fill up the compiled width J have loadings of 0.
struct GramLine {
  std::int64_t lines = 0;
  std::int64_t n = 0;
  std::int64_t width = 0;   ///< of the caller's arrays
  std::int64_t chunks = 0;  ///< of a line
  GramTree tree;
  GramBlocks blocks;
  double* lengthscale = nullptr;     ///< [lines, J]
  double* weights = nullptr;         ///< [lines, J]; B > 1
  double* state_variance = nullptr;  ///< [lines, kBlockPacked<J, B>], of weights' sizes; B > 1
  std::uint32_t* order = nullptr;    ///< numbers of the anchors; this and what follows in slots
  double* anchors = nullptr;
  double* fall = nullptr;        ///< J, see fall_across(); of the first point: -1; B = 1
  double* transition = nullptr;  ///< kTransitionStride<J, B>, as in Step; B > 1
  double* loadings = nullptr;    ///< J
  double* noise = nullptr;
  double* gain = nullptr;  ///< J
  double* variance = nullptr;
  double* before = nullptr;  ///< [lines, tree, kPacked<J>]: the state's, given the points before
  double* decays = nullptr;  ///< [lines, tree, J, B]: across the node
  double* maps = nullptr;    ///< [lines, tree, J, J]: from the state's error before to that after

  GramLine() : GramLine(0, 0, 1, {}) {}
  GramLine(std::int64_t lines_, std::int64_t n_, std::int64_t width_, const GramBlocks& blocks_)
      : lines(lines_),
        n(n_),
        width(width_),
        chunks(ceil_div(n_, kGramChunk)),
        tree(chunks),
        blocks(blocks_) {}

  [[nodiscard]] __host__ __device__ std::int64_t all_chunks() const { return lines * chunks; }
  /// The caller's column of one as compiled, or -1.
  template <int B>
  [[nodiscard]] __device__ int column(int j) const {
    return B > 1 ? blocks.column[j] : j < width ? j : -1;
  }
  /// Points of a chunk.
  [[nodiscard]] __device__ int size(std::int64_t chunk) const {
    const std::int64_t rest = n - chunk % chunks * kGramChunk;
    return static_cast<int>(rest < kGramChunk ? rest : kGramChunk);
  }
  [[nodiscard]] __device__ bool is_first(std::int64_t chunk, int i) const {
    return i == 0 && chunk % chunks == 0;
  }
  /// The slot of the point before, which there is unless is_first().
  [[nodiscard]] __device__ std::int64_t slot_before(std::int64_t chunk, int i) const {
    return i > 0 ? slot<1>(chunk, i - 1) : slot<1>(chunk - 1, kGramChunk - 1);
  }
  /// The chunk's place among the nodes of the tree.
  [[nodiscard]] __device__ std::int64_t node(std::int64_t chunk) const {
    return tree.at(chunk / chunks, 0, chunk % chunks);
  }
  /// Where the anchor of a slot lies in the caller's arrays [lines, n].
  [[nodiscard]] __device__ std::int64_t entry(std::int64_t chunk, std::int64_t at) const {
    return chunk / chunks * n + order[at];
  }
};

/// Numbers in slots of K for all chunks.
[[nodiscard]] __host__ __device__ inline std::int64_t slots(const GramLine& line, int k) {
  return ceil_div(line.all_chunks(), kWarp) * kWarp * kGramChunk * k;
}

/// A gap in lengthscales; beyond 1000, its decay and every derivative of it are 0.
__device__ inline double scaled_gap(double here, double before, double lengthscale) {
  const double x = laplex::detail::scaled_distance(here, before, {lengthscale, 0.0});
  return x < 1e3 ? x : 1e3;
}

/// A transition in slots, as Step has it.
template <class N, int J, int B>
__device__ inline void load_transition(const N* transition, std::int64_t chunk, int i,
                                       Step<N, J, B>& s) {
  constexpr int kStride = kTransitionStride<J, B>;
  for (int k = 0; k < J * B; ++k) {
    s.decay[k] = transition[slot<kStride>(chunk, i, k)];
  }
  for (int k = 0; k < kBlockPacked<J, B>; ++k) {
    s.gain[k] = transition[slot<kStride>(chunk, i, J * B + k)];
  }
}

template <int J, int B>
__device__ inline void load(const GramLine& line, std::int64_t chunk, int i,
                            Step<double, J, B>& s) {
  if constexpr (B > 1) {
    load_transition(line.transition, chunk, i, s);
  }
  for (int j = 0; j < J; ++j) {
    if constexpr (B == 1) {
      const double fall = line.fall[slot<J>(chunk, i, j)];
      s.decay[j] = laplex::detail::decay_of(fall);
      s.gain[j] = laplex::detail::gain_of(fall);
    }
    s.h[j] = line.loadings[slot<J>(chunk, i, j)];
  }
  s.noise = line.noise[slot<1>(chunk, i)];
}

/// Everything of the caller's in sorted order, and the gaps' decays; a thread for each point.
struct FillJob {
  GramLine line;
  const std::uint32_t* index;  ///< [lines, n], sorted
  const double* position;      ///< [lines, n], sorted
  const double* lengthscale;   ///< the caller's, as in laplex::Covariance
  const double* weights;
  const double* loadings;
  const double* noise;
  unsigned long long* ties;  ///< becomes 1 if there are any
};

template <int J, int B>
__global__ void __launch_bounds__(kFlatThreads) fill_kernel(FillJob job) {
  const GramLine& line = job.line;
  // Threads side by side write slots side by side.
  const std::int64_t number = thread_number();
  const std::int64_t lane = number % kWarp;
  const std::int64_t chunk = number / (kWarp * kGramChunk) * kWarp + lane;
  const auto i = static_cast<int>(number / kWarp % kGramChunk);
  bool tied = false;
  if (chunk < line.all_chunks() && i < line.size(chunk)) {
    const std::int64_t b = chunk / line.chunks;
    const std::int64_t at = b * line.n + chunk % line.chunks * kGramChunk + i;
    const std::int64_t id = b * line.n + job.index[at];
    const double here = job.position[at];
    const bool first = line.is_first(chunk, i);
    const double before = first ? here : job.position[at - 1];
    tied = !first && here == before;
    line.order[slot<1>(chunk, i)] = job.index[at];
    line.anchors[slot<1>(chunk, i)] = here;
    line.noise[slot<1>(chunk, i)] = job.noise == nullptr ? 0.0 : job.noise[id];
    for (int j = 0; j < J; ++j) {
      const int column = line.column<B>(j);
      const bool given = column >= 0;
      const double lengthscale = !given ? HUGE_VAL
                                 : job.lengthscale == nullptr
                                     ? 1.0
                                     : job.lengthscale[b * line.width + column];
      if (first) {
        line.lengthscale[b * J + j] = lengthscale;
        if constexpr (B > 1) {
          line.weights[b * J + j] = given ? job.weights[b * line.width + column] : 0.0;
        }
      }
      line.loadings[slot<J>(chunk, i, j)] = !given ? 0.0
                                            : job.loadings == nullptr
                                                ? 1.0
                                                : job.loadings[id * line.width + column];
      if constexpr (B == 1) {
        // The line begins with processes that know of nothing before.
        line.fall[slot<J>(chunk, i, j)] =
            first ? -1.0 : laplex::detail::fall_across(here, before, lengthscale);
      }
    }
  }
  if (__syncthreads_or(tied) != 0 && threadIdx.x == 0) {  // one atomic a block
    atomicOr(job.ties, 1ULL);
  }
}

}  // namespace laplex::cuda::detail
