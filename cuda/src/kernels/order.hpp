/// Kernels of the order: looking at anchors, and how two sorted sides interleave.
#pragma once

#include "line.hpp"

#include <cmath>

namespace laplex::cuda::detail {

/// The head of an entry of arrays [heads, count]. A division of 64 bits takes longer than the
/// memory that most of these kernels move.
__device__ inline std::int64_t head_of(std::int64_t entry, std::int64_t heads, std::int64_t count) {
  return heads == 1 ? 0 : entry / count;
}

/// Where entry `entry` of arrays [heads, count] in the order of `index` lies in them; null: there.
__device__ inline std::int64_t unsorted(const std::uint32_t* index, std::int64_t heads,
                                        std::int64_t count, std::int64_t entry) {
  return index == nullptr ? entry : head_of(entry, heads, count) * count + index[entry];
}

/// Flags and the first of something that kernels find.
struct Findings {
  unsigned long long first_bad;  ///< ~0: there is none
  /// As wide as its neighbour: no byte of this stays unwritten.
  unsigned long long descents;
};

template <class V>
struct ResetJob {
  V* to;
  V value;
  int count;  ///< at most kWarp
};

template <class V>
__global__ void __launch_bounds__(kWarp) reset_kernel(ResetJob<V> job) {
  if (static_cast<int>(threadIdx.x) < job.count) {
    job.to[threadIdx.x] = job.value;
  }
}

/// What can be looked at, and its name.
enum class Looked {
  targets,
  sources,
  target_phase,
  source_phase,
  lengthscale,
  frequency,
  anchors,
  loadings
};
inline constexpr const char* kLookedNames[] = {"targets",      "sources",     "target_phase",
                                               "source_phase", "lengthscale", "frequency",
                                               "anchors",      "loadings"};

/// Arrays of one inspection, at most: all six of a kernel.
inline constexpr int kMostLooks = 6;

/// What is found about an array: the least of what is found about its entries. A number below these
/// is the first entry that is not legal.
inline constexpr unsigned long long kFine = ~0ULL;
/// Some entry equals the one before it in the order looked at, where a sort would exchange the two.
inline constexpr unsigned long long kLooseTies = kFine - 1;
/// Some entry should come before the one before it.
inline constexpr unsigned long long kDescends = kFine - 2;

/// Loose ties among more entries than this take a sort.
inline constexpr std::int64_t kFewTies = 32;

struct Look {
  const void* values = nullptr;  ///< [lines, count] of T, or of double for a parameter
  const std::uint32_t* index =
      nullptr;  ///< the order to look in, [lines, count]; null: as they are
  std::int64_t lines = 0;
  std::int64_t count = 0;
  Looked what = Looked::targets;

  __host__ __device__ std::int64_t blocks() const { return ceil_div(lines * count, kFlatThreads); }
  __host__ __device__ bool is_parameter() const {
    return what == Looked::lengthscale || what == Looked::frequency;
  }
  /// Whether the entries' order matters.
  __device__ bool is_ordered() const { return what == Looked::targets || what == Looked::sources; }
};

template <class T>
struct LookJob {
  Look look[kMostLooks];
  unsigned long long* found;  ///< for each array
  std::uint64_t* report;      ///< null: only `found` is written; otherwise only this, see Report
};

/// What a report says, in the one word that is sure to arrive whole: 4 bits for what is wrong, from
/// 1 on; 1, whether there are several heads; 27 and 32, the head and the entry of the head.
__device__ inline std::uint64_t reported(const Look& look, std::int64_t at) {
  constexpr std::int64_t kLastHead = (std::int64_t(1) << 27) - 1;
  const std::int64_t head = at / look.count;
  return (static_cast<std::uint64_t>(look.what) + 1) << 60 |
         static_cast<std::uint64_t>(look.lines > 1) << 59 |
         static_cast<std::uint64_t>(head < kLastHead ? head : kLastHead) << 32 |
         static_cast<std::uint64_t>(at % look.count);
}

template <class V>
__device__ inline unsigned long long found_at(const Look& look, std::int64_t entry, bool ordered) {
  const V* const values = static_cast<const V*>(look.values);
  const std::int64_t at = unsorted(look.index, look.lines, look.count, entry);
  const V value = values[at];
  // 1/lengthscale is finite from the smallest normal number on, and so is that of the exponential
  // of a Matern kernel, which has been divided by up to sqrt(5).
  if (!std::isfinite(value) ||
      (look.what == Looked::lengthscale && !(static_cast<double>(value) >= 0x1p-1022 / 2.25))) {
    return static_cast<unsigned long long>(at);
  }
  const std::int64_t first = head_of(entry, look.lines, look.count) * look.count;
  if (!ordered || entry == first) {
    return kFine;
  }
  const std::int64_t before = unsorted(look.index, look.lines, look.count, entry - 1);
  if (values[before] > value) {
    return kDescends;
  }
  if (values[before] < value || before < at) {
    return kFine;
  }
  const auto equals = [&](std::int64_t other) {
    return other >= first && other < first + look.count &&
           values[unsorted(look.index, look.lines, look.count, other)] == value;
  };
  return equals(entry - kFewTies) || equals(entry + kFewTies) ? kDescends : kLooseTies;
}

/// The least value of a block of kFlatThreads, for thread 0. `shared` has room for one a warp.
__device__ inline unsigned long long block_min(unsigned long long value, unsigned char* shared) {
  auto* const of_warps = reinterpret_cast<unsigned long long*>(shared);
  for (unsigned step = kWarp / 2; step > 0; step /= 2) {
    const unsigned long long other = __shfl_down_sync(~0U, value, step);
    value = other < value ? other : value;
  }
  if (threadIdx.x % kWarp == 0) {
    of_warps[threadIdx.x / kWarp] = value;
  }
  __syncthreads();
  for (int warp = 0; warp < kFlatThreads / kWarp; ++warp) {
    value = of_warps[warp] < value ? of_warps[warp] : value;
  }
  return value;
}

/// Looks at all arrays, each in blocks of its own. Random anchors descend in every block: an atomic
/// for each entry would take longer than their sort, so there is at most one a block, and none once
/// the outcome is known.
template <class T>
__global__ void __launch_bounds__(kFlatThreads) look_kernel(LookJob<T> job) {
  std::int64_t block = block_number();
  int k = 0;
  for (; block >= job.look[k].blocks(); ++k) {
    block -= job.look[k].blocks();
  }
  const Look& look = job.look[k];
  const std::int64_t entry = block * kFlatThreads + static_cast<std::int64_t>(threadIdx.x);
  unsigned long long found = kFine;
  if (entry < look.lines * look.count) {
    found = look.is_parameter()
                ? found_at<double>(look, entry, false)
                : found_at<T>(look, entry, job.report == nullptr && look.is_ordered());
  }
  if (__syncthreads_or(found != kFine) == 0) {
    return;
  }
  found = block_min(found, shared_memory());
  if (threadIdx.x != 0) {
    return;
  }
  if (job.report != nullptr) {
    *job.report = reported(look, static_cast<std::int64_t>(found));
  } else if (found < *static_cast<volatile unsigned long long*>(job.found + k)) {
    atomicMin(job.found + k, found);
  }
}

/// Puts the indices of equal entries in ascending order, as a sort would, where there are few.
template <class T>
struct TiesJob {
  const T* position;  ///< [lines, count] ascending
  std::uint32_t* index;
  std::int64_t lines;
  std::int64_t count;
};

template <class T>
__global__ void __launch_bounds__(kFlatThreads) ties_kernel(TiesJob<T> job) {
  const std::int64_t entry = thread_number();
  if (entry >= job.lines * job.count) {
    return;
  }
  const std::int64_t first = head_of(entry, job.lines, job.count) * job.count;
  const T place = job.position[entry];
  if (entry > first && job.position[entry - 1] == place) {
    return;  // not the first of them
  }
  // As the look found, those that are out of order are fewer than twice kFewTies.
  const std::int64_t end =
      first + job.count < entry + 2 * kFewTies ? first + job.count : entry + 2 * kFewTies;
  for (std::int64_t k = entry + 1; k < end && job.position[k] == place; ++k) {
    const std::uint32_t index = job.index[k];
    std::int64_t to = k;
    for (; to > entry && job.index[to - 1] > index; --to) {
      job.index[to] = job.index[to - 1];
    }
    job.index[to] = index;
  }
}

/// Puts values in the order of an index, in place of a sort.
template <class T>
struct GatherJob {
  const T* values;  ///< [heads, count]
  const std::uint32_t* index;
  std::int64_t heads;
  std::int64_t count;
  T* out;
  bool inverse;  ///< out[index[k]] = values[k]
};

template <class T>
__global__ void __launch_bounds__(kFlatThreads) gather_kernel(GatherJob<T> job) {
  const std::int64_t entry = thread_number();
  if (entry >= job.heads * job.count) {
    return;
  }
  const std::int64_t other = unsorted(job.index, job.heads, job.count, entry);
  job.out[job.inverse ? other : entry] = job.values[job.inverse ? entry : other];
}

/// Each line from its last entry to its first.
struct TurnJob {
  const double* values;  ///< [lines, count]
  std::int64_t lines;
  std::int64_t count;
  double* out;
};

inline __global__ void __launch_bounds__(kFlatThreads) turn_kernel(TurnJob job) {
  const std::int64_t entry = thread_number();
  if (entry < job.lines * job.count) {
    const std::int64_t first = head_of(entry, job.lines, job.count) * job.count;
    job.out[first + job.count - 1 - (entry - first)] = job.values[entry];
  }
}

/// Whether values are still those that were sorted; `found` becomes less than kFine if one is not.
template <class T>
struct CompareJob {
  const T* values;    ///< [heads, count]
  const T* position;  ///< the same in order
  const std::uint32_t* index;
  std::int64_t heads;
  std::int64_t count;
  unsigned long long* found;
};

template <class T>
__global__ void __launch_bounds__(kFlatThreads) compare_kernel(CompareJob<T> job) {
  const std::int64_t entry = thread_number();
  const bool differs =
      entry < job.heads * job.count &&
      !(job.values[unsorted(job.index, job.heads, job.count, entry)] == job.position[entry]);
  if (__syncthreads_or(differs) != 0 && threadIdx.x == 0) {
    atomicMin(job.found, 0ULL);
  }
}

/// 0, 1, 2, ... for every head, or backwards.
struct CountJob {
  std::uint32_t* index;
  std::int64_t heads;
  std::int64_t count;
  bool backwards = false;
};

inline __global__ void __launch_bounds__(kFlatThreads) count_kernel(CountJob job) {
  const std::int64_t entry = thread_number();
  if (entry < job.heads * job.count) {
    const std::int64_t k = entry - head_of(entry, job.heads, job.count) * job.count;
    job.index[entry] = static_cast<std::uint32_t>(job.backwards ? job.count - 1 - k : k);
  }
}

/// a <= b as the sort sees it: NaN lies beyond infinity, on the side of its sign. In a captured
/// stream nobody looks for NaN before anchors are merged, and no count may leave its range then.
template <class T>
__host__ __device__ inline bool at_or_below(T a, T b) {
  if (a <= b) {
    return true;
  }
  if (a > b) {
    return false;
  }
  const auto beyond = [](T z) { return z == z ? 0 : std::signbit(z) ? -1 : 1; };
  return beyond(a) <= beyond(b);
}

/// Makes NaN of infinities, which have no distance to one another. NaN then spreads to all results.
template <class T>
struct ForbidJob {
  T* position;
  std::int64_t count;
};

template <class T>
__global__ void __launch_bounds__(kFlatThreads) forbid_kernel(ForbidJob<T> job) {
  const std::int64_t entry = thread_number();
  if (entry < job.count) {
    const T place = job.position[entry];
    if (std::isinf(place)) {
      job.position[entry] = std::copysign(place - place, place);
    }
  }
}

/// How many sources are among the first `item` items: the merge path's crossing of a diagonal.
template <class T>
__device__ inline std::int64_t merge_path(const T* sources, std::int64_t m, const T* targets,
                                          std::int64_t n, std::int64_t item) {
  std::int64_t least = item > n ? item - n : 0;
  std::int64_t most = item < m ? item : m;
  while (least < most) {
    const std::int64_t middle = least + (most - least) / 2;
    // Source `middle` is among them if it is not above the target it would displace.
    if (at_or_below(sources[middle], targets[item - 1 - middle])) {
      least = middle + 1;
    } else {
      most = middle;
    }
  }
  return least;
}

template <class T>
struct InterleaveJob {
  const T* sources;  ///< [heads, m] ascending
  const T* targets;  ///< [heads, n]
  std::int64_t heads;
  std::int64_t m;
  std::int64_t n;
  std::uint32_t* split;
  std::uint8_t* is_source;
  std::uint16_t* before;
  std::uint16_t* source_rank;  ///< null, like the next two, where nobody asks for them
  std::uint16_t* target_rank;
  std::uint8_t* tied;
};

template <class T>
__global__ void __launch_bounds__(kFlatThreads) split_kernel(InterleaveJob<T> job) {
  const std::int64_t items = job.m + job.n;
  const std::int64_t splits = ceil_div(items, kBlockItems) + 1;
  const std::int64_t entry = thread_number();
  if (entry >= job.heads * splits) {
    return;
  }
  const std::int64_t head = entry / splits;
  const std::int64_t item = entry % splits * kBlockItems;
  job.split[entry] = static_cast<std::uint32_t>(merge_path(job.sources + head * job.m, job.m,
                                                           job.targets + head * job.n, job.n,
                                                           item < items ? item : items));
}

inline constexpr int kInterleaveThreads = kBlockItems / kByteItems;

/// A block merges the kBlockItems items between two splits, a thread the eight of one byte.
template <class T>
__global__ void __launch_bounds__(kInterleaveThreads) interleave_kernel(InterleaveJob<T> job) {
  const std::int64_t items = job.m + job.n;
  const std::int64_t blocks = ceil_div(items, kBlockItems);
  const std::int64_t head = block_number() / blocks;
  const std::int64_t number = block_number() % blocks;
  const std::uint32_t* const split = job.split + head * (blocks + 1) + number;
  const std::int64_t first = number * kBlockItems;
  const std::int64_t count = items - first < kBlockItems ? items - first : kBlockItems;
  const std::int64_t first_source = split[0];
  const std::int64_t num_sources = split[1] - first_source;
  const std::int64_t num_targets = count - num_sources;

  T* const sources = reinterpret_cast<T*>(shared_memory());
  T* const targets = sources + num_sources;
  auto* const ranks = reinterpret_cast<std::uint16_t*>(sources + kBlockItems);
  const T* const y = job.sources + head * job.m + first_source;
  const T* const x = job.targets + head * job.n + (first - first_source);
  for (std::int64_t k = threadIdx.x; k < num_sources; k += blockDim.x) {
    sources[k] = y[k];
  }
  for (std::int64_t k = threadIdx.x; k < num_targets; k += blockDim.x) {
    targets[k] = x[k];
  }
  __syncthreads();
  const std::int64_t item = static_cast<std::int64_t>(threadIdx.x) * kByteItems;
  bool tied = false;
  if (item < count) {
    std::int64_t s = merge_path(sources, num_sources, targets, num_targets, item);
    const std::int64_t chunk =
        head * ceil_div(items, kByteItems) + first / kByteItems + threadIdx.x;
    job.before[chunk] = static_cast<std::uint16_t>(s);
    std::int64_t t = item - s;
    // Ranks count from the beginning of a tile, some blocks before this one.
    const std::int64_t blocks_before = number % (kRankTile / kBlockItems);
    const std::int64_t sources_before = first_source - split[-blocks_before];
    const std::int64_t targets_before = blocks_before * kBlockItems - sources_before;
    const std::int64_t first_target = first - first_source;
    unsigned bits = 0;
    for (int k = 0; k < kByteItems && item + k < count; ++k) {
      const bool source =
          t >= num_targets || (s < num_sources && at_or_below(sources[s], targets[t]));
      bits |= (source ? 1U : 0U) << k;
      if (job.tied != nullptr) {
        // A source's ties are the targets behind it, a target's the sources before it.
        const std::int64_t behind = job.n - (first_target + t);
        const std::int64_t before = first_source + s;
        const bool has_tie =
            source ? behind > 0 && x[t] == sources[s] : before > 0 && y[s - 1] == targets[t];
        const auto rank = static_cast<std::uint16_t>(
            (source ? targets_before + t : sources_before + s) + (has_tie ? kTiedRank : 0));
        ranks[source ? s : num_sources + t] = rank;
        tied = tied || (has_tie && (source ? behind >= kLongTie && x[t + kLongTie - 1] == sources[s]
                                           : before >= kLongTie && y[s - kLongTie] == targets[t]));
      }
      s += source ? 1 : 0;
      t += source ? 0 : 1;
    }
    job.is_source[chunk] = static_cast<std::uint8_t>(bits);
  }
  if (job.tied != nullptr) {
    const bool some = __syncthreads_or(tied ? 1 : 0) != 0;
    for (std::int64_t k = threadIdx.x; k < count; k += blockDim.x) {
      if (k < num_sources) {
        job.source_rank[head * job.m + first_source + k] = ranks[k];
      } else {
        job.target_rank[head * job.n + (first - first_source) + (k - num_sources)] = ranks[k];
      }
    }
    if (threadIdx.x == 0) {
      job.tied[head * blocks + number] = some ? 1 : 0;
    }
  }
}

}  // namespace laplex::cuda::detail
