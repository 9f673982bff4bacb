/// Cells: sums along a dense line of float anchors, in a fifth of the instructions of a recurrence.
///
/// Within a cell, sixteen neighbours of the scanned side, the kernel factorises about the middle c:
/// exp(-(x - y)) = exp(-(x - c)) exp(y - c). So each anchor takes one exponential and its
/// reciprocal, and what a scan carries are plain sums. Those within a cell are in float, with at
/// most sixteen roundings; those between cells in double, where the two factors of a cell are
/// powers relative to the ends of the tile. See docs/explanation/gpu.md for the error.
///
/// This needs cells that are at most two lengthscales wide, and tiles at most kWidestTile. What is
/// sparser is left to the scans of block_scan.hpp.
#pragma once

#include "block_scan.hpp"
#include "line.hpp"
#include "values.hpp"

#include <cmath>
#include <cstring>

namespace laplex::cuda::detail {

inline constexpr int kCell = 16;                 ///< scanned anchors of a cell, and of a thread
inline constexpr std::int64_t kCellTile = 4096;  ///< items of a tile
inline constexpr int kCellThreads = 288;         ///< a cell each, if all items are scanned
inline constexpr double kWidestTile = 600.0;     ///< lengthscales: exp() of it is far from the end
/// Lengthscales between neighbouring cells. Sums are kept in float at the middle of a cell: from
/// further away, they would be subnormal there where results are not.
inline constexpr double kWidestStep = 2.0;

/// Whether a kernel takes the path of cells: the type of anchors, of decays and of sums.
template <class T, class D, class S>
inline constexpr bool kHasCells =
    std::is_same_v<T, float> && std::is_same_v<D, double> && std::is_same_v<S, double>;

/// exp(t) for |t| <= 1, to 1.5e-7 of itself, roundings included; near 0 to 6e-8.
__device__ inline float small_exp(float t) {
  float p = 2.41961625e-05F;
  p = std::fma(p, t, 0.000204241383F);
  p = std::fma(p, t, 0.00139074819F);
  p = std::fma(p, t, 0.00832940359F);
  p = std::fma(p, t, 0.0416654907F);
  p = std::fma(p, t, 0.166667581F);
  p = std::fma(p, t, 0.500000179F);
  p = std::fma(p, t, 0.99999994F);
  return std::fma(p, t, 1.0F);
}

/// 1 / x to one unit in the last place, for ordinary x.
__device__ __forceinline__ float reciprocal(float x) {
#if defined(LAPLEX_CUDA_EMULATION)
  return 1.0F / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

/// exp(t) and exp(-t), each to the precision of float.
struct Factors {
  double up;
  double down;
};
__device__ inline double times_power_of_two(double value, int power) {
  std::uint64_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits += static_cast<std::uint64_t>(static_cast<std::int64_t>(power)) << 52;
  std::memcpy(&value, &bits, sizeof(bits));
  return value;
}
/// For |t| <= 700.
__device__ inline Factors factors(double t) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: its last bits are an integer
  const double scaled = t * 1.4426950408889634;
  const double shifted = scaled + kRound;
  std::uint64_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  const int power = static_cast<int>(static_cast<std::uint32_t>(bits));
  const auto rest = static_cast<float>(scaled - (shifted - kRound));
  const float up = small_exp(rest * 0.693147181F);
  return {times_power_of_two(static_cast<double>(up), power),
          times_power_of_two(static_cast<double>(reciprocal(up)), -power)};
}

/// For the rare anchor far from the middle of its cell.
__device__ __noinline__ inline Factors far_factors(float place, float centre, float inverse) {
  return factors((static_cast<double>(place) - static_cast<double>(centre)) *
                 static_cast<double>(inverse));
}

/// Sixteen bytes, read at once.
template <class V>
struct alignas(16) Vector {
  V lane[16 / sizeof(V)];
};
/// Sixteen entries of a line of `count` from `first` on, in as few requests as their address
/// allows; beyond the end the last one, if there is one.
template <class V, class F>
__device__ inline void load_cell(const V* line, std::int64_t first, std::int64_t count,
                                 const F& take) {
  constexpr int kLanes = static_cast<int>(16 / sizeof(V));
  const V* const from = line + first;
  if (first + kCell <= count && reinterpret_cast<std::uintptr_t>(from) % 16 == 0) {
    LAPLEX_UNROLL
    for (int k = 0; k < kCell; k += kLanes) {
      const auto vector = *reinterpret_cast<const Vector<V>*>(from + k);
      LAPLEX_UNROLL
      for (int l = 0; l < kLanes; ++l) {
        take(k + l, vector.lane[l]);
      }
    }
  } else {
    LAPLEX_UNROLL
    for (int k = 0; k < kCell; ++k) {
      take(k, line[first + k < count ? first + k : count - 1]);
    }
  }
}

/// What a block does, which one of its threads finds out for all.
struct BlockWork {
  Tile<float> tile;
  LineRate rate;
  double across;        ///< the decay across the tile
  bool fits;            ///< whether it is at most kWidestTile wide
  std::int64_t number;  ///< of the tile
  std::int64_t head;
  std::int64_t group;
  std::int64_t first_row;
  std::int64_t end_row;
};
inline constexpr std::size_t kWorkBytes = (sizeof(BlockWork) + 15) / 16 * 16;

/// Of a grid of heads * groups * tiles blocks, at the beginning of shared memory. Waits for the
/// block.
template <class Job>
__device__ inline const BlockWork& find_work(const Job& job, std::int64_t tile_items) {
  BlockWork& work = *reinterpret_cast<BlockWork*>(shared_memory());
  if (threadIdx.x == 0) {
    // Divisions of 64 bits would take longer than all else here, and grids have 31.
    const auto tiles = static_cast<unsigned>(job.tiles);
    const auto groups = static_cast<unsigned>(job.groups);
    const unsigned vector = blockIdx.x / tiles;
    work.number = blockIdx.x - vector * tiles;
    work.head = vector / groups;
    work.group = vector - static_cast<unsigned>(work.head) * groups;
    work.first_row = work.group * job.group_rows;
    work.end_row =
        work.first_row + job.group_rows < job.rows ? work.first_row + job.group_rows : job.rows;
    work.rate = read_rate(job.lengthscale, nullptr, work.head);
    work.tile = tile_of(job.line, work.head, work.number, tile_items);
    const double width =
        (static_cast<double>(work.tile.high) - static_cast<double>(work.tile.low)) *
        work.rate.inverse;
    work.across = factors(width).down;
    work.fits = width <= kWidestTile;
  }
  __syncthreads();
  return work;
}

/// The entry of a block's tile in arrays [heads, rows, tiles].
template <class Job>
__device__ inline std::int64_t entry_of(const Job& job, const BlockWork& work, std::int64_t row) {
  return (work.head * job.rows + row) * job.tiles + work.number;
}

/// The side of a tile that is scanned, cut into cells: cell 0 begins at or before its first anchor,
/// and the last one, which may be empty, at or before its end.
struct Cells {
  std::int64_t begin;  ///< the first anchor of cell 0
  int first;           ///< the tile's own: from here, within cell 0,
  int end;             ///< to here
  int count;           ///< of cells

  __device__ Cells(std::int64_t first_anchor, std::int64_t num_anchors)
      : begin(first_anchor & ~std::int64_t(kCell - 1)),
        first(static_cast<int>(first_anchor) & (kCell - 1)),
        end(first + static_cast<int>(num_anchors)),
        count(static_cast<int>(static_cast<unsigned>(end) / kCell) + 1) {}

  /// Whether this thread has a cell, and whether some thread of its warp has.
  [[nodiscard]] __device__ bool mine() const { return static_cast<int>(threadIdx.x) < count; }
  [[nodiscard]] __device__ bool in_warp() const {
    return static_cast<int>(threadIdx.x / kWarp * kWarp) < count;
  }
  /// Whether the cell from `at` on has anchors that are not the tile's own.
  [[nodiscard]] __device__ bool has_edge(int at) const { return at < first || at + kCell > end; }
  /// Bit k: whether anchor `at` + k of a cell is the tile's own.
  [[nodiscard]] __device__ unsigned own_of(int at) const {
    constexpr unsigned kAll = (1U << kCell) - 1U;
    const unsigned from = at < first ? kAll << (first - at) : kAll;
    return at + kCell <= end ? from : at < end ? from & ((1U << (end - at)) - 1U) : 0U;
  }
};

/// What is known of a cell after the scan: its middle, and the sums that come to it from beyond,
/// at the middle.
struct alignas(16) CellEnds {
  float centre;
  float left;
  float right;
  float unused;  ///< so that all are read at once
};
/// Sums within a cell, at its middle: of what is before an anchor, and of the rest. In the self
/// case neither has the anchor's own value.
struct alignas(8) CellSums {
  float before;
  float after;
};
/// The cell of anchor k of the cells, and where its sums are; a gap of one a cell keeps banks
/// apart.
__device__ inline unsigned cell_of(int k) {
  return static_cast<unsigned>(k) / kCell;
}
__device__ inline unsigned cell_slot(int k) {
  return static_cast<unsigned>(k) + cell_of(k);
}

/// Shared memory for the sums and the ends of cells over a tile with at most `anchors` scanned.
__host__ __device__ inline std::size_t cell_bytes(std::int64_t anchors) {
  const auto most = static_cast<std::size_t>(anchors + 2 * kCell);
  return (most / kCell + 1) * sizeof(CellEnds) + (most + most / kCell) * sizeof(CellSums);
}

/// A thread's cell.
struct Cell {
  float up[kCell];    ///< exp((y - centre) / lengthscale)
  float down[kCell];  ///< exp(-(y - centre) / lengthscale)
  float centre;
  float begin;      ///< the place of its first anchor
  float end;        ///< and of its last
  Factors factors;  ///< exp(+-(centre - low) / lengthscale)

  /// False if the cell is too wide, or the step to it, or the one from the last to the tile's end.
  __device__ bool load(const float* position, std::int64_t count, const Cells& cells,
                       const Tile<float>& tile, const LineRate& rate) {
    const int at = static_cast<int>(threadIdx.x) * kCell;
    float place[kCell];
    load_cell(position, cells.begin + at, count, [&](int k, float p) { place[k] = p; });
    begin = place[0];
    end = place[kCell - 1];
    if (cells.has_edge(at)) {  // what is not the tile's own, at the nearest place that is
      begin = end = tile.low;
      if (cells.end > cells.first) {
        const int last = cells.end - 1;
        begin = position[cells.begin + (at < cells.first ? cells.first : at < last ? at : last)];
        end = position[cells.begin + (at + kCell > last ? last : at + kCell - 1)];
      }
      LAPLEX_UNROLL
      for (int k = 0; k < kCell; ++k) {
        place[k] = std::fmin(std::fmax(place[k], begin), end);
      }
    }
    centre = 0.5F * begin + 0.5F * end;
    const auto inverse = static_cast<float>(rate.inverse);
    LAPLEX_UNROLL
    for (int k = 0; k < kCell; ++k) {
      up[k] = small_exp((place[k] - centre) * inverse);
      down[k] = reciprocal(up[k]);
    }
    const double from_low =
        (static_cast<double>(centre) - static_cast<double>(tile.low)) * rate.inverse;
    factors = detail::factors(from_low);
    const float before = at > cells.first ? position[cells.begin + at - 1] : tile.low;
    const float behind = at + kCell > cells.end ? tile.high : end;
    constexpr float kStep = kWidestStep;
    constexpr float kLeastInverse = 1.17549435e-38F;  // a subnormal one has too few digits
    return inverse >= kLeastInverse && (end - centre) * inverse <= 1.0F &&
           (begin - before) * inverse <= kStep && (behind - end) * inverse <= kStep &&
           from_low <= kWidestTile;
  }
};

/// What a cell sends to its right and to its left, at the low end of the tile.
struct CellTotals {
  double to_right = 0.0;
  double to_left = 0.0;
};
/// Adds up the values of a thread's cell, and writes the sums of each of its anchors.
template <bool Self>
__device__ inline CellTotals sum_cell(const Cell& cell, const float (&value)[kCell],
                                      CellSums* sums) {
  float after[kCell];
  float left = 0.0F;
  LAPLEX_UNROLL
  for (int k = kCell - 1; k >= 0; --k) {
    const float behind = left;
    left = std::fma(value[k], cell.down[k], left);
    after[k] = Self ? behind : left;
  }
  float right = 0.0F;
  LAPLEX_UNROLL
  for (int k = 0; k < kCell; ++k) {
    sums[k] = {right, after[k]};
    right = std::fma(value[k], cell.up[k], right);
  }
  return {static_cast<double>(right) * cell.factors.up,
          static_cast<double>(left) * cell.factors.down};
}

/// exp(t) and exp(-t) of t = (place - centre) / lengthscale, for an anchor that is read off.
struct Reading {
  float distance;  ///< t
  float up;
  float down;

  __device__ Reading(float place, float centre, float inverse)
      : distance((place - centre) * inverse) {
    if (std::fabs(distance) <= 1.0F) {
      up = small_exp(distance);
      down = reciprocal(up);
    } else {  // in a wide step between two cells
      const Factors far = far_factors(place, centre, inverse);
      up = static_cast<float>(far.up);
      down = static_cast<float>(far.down);
    }
  }
};

/// Plain sums over the cells of a tile, in both directions and in a fixed order.
struct CellScan {
  double before = 0.0;  ///< of the cells before the thread's
  double after = 0.0;   ///< of the cells behind it

  static constexpr int kWarps = kCellThreads / kWarp;
  /// For the warps' sums, one set for each scan that runs at a time.
  static constexpr std::size_t kSharedBytes = 2 * kWarps * sizeof(double);

  /// `own` is the thread's, 0 where it has no cell. Waits for the block.
  __device__ CellScan(const Cells& cells, const CellTotals& own, double* shared) {
    const int lane = static_cast<int>(threadIdx.x % kWarp);
    const int warp = static_cast<int>(threadIdx.x / kWarp);
    double right = own.to_right;
    double left = own.to_left;
    if (cells.in_warp()) {
      for (int delta = 1; delta < kWarp; delta *= 2) {
        const double r = shuffled<true>(right, static_cast<unsigned>(delta));
        const double l = shuffled<false>(left, static_cast<unsigned>(delta));
        right = right + (lane >= delta ? r : 0.0);
        left = left + (lane + delta < kWarp ? l : 0.0);
      }
      before = shuffled<true>(right, 1);
      after = shuffled<false>(left, 1);
      before = lane == 0 ? 0.0 : before;
      after = lane == kWarp - 1 ? 0.0 : after;
    }
    if (lane == kWarp - 1) {
      shared[warp] = right;
    }
    if (lane == 0) {
      shared[kWarps + warp] = left;
    }
    __syncthreads();
    if (cells.in_warp()) {
      double others = 0.0;
      for (int w = 0; w < warp; ++w) {
        others = others + shared[w];
      }
      before = before + others;
      others = 0.0;
      for (int w = kWarps - 1; w > warp; --w) {
        others = others + shared[kWarps + w];
      }
      after = after + others;
    }
  }
  /// The sums of all cells, after the scan.
  __device__ static double all(const double* shared, bool to_left) {
    double sum = 0.0;
    for (int w = 0; w < kWarps; ++w) {
      sum = sum + shared[(to_left ? kWarps : 0) + w];
    }
    return sum;
  }
};

/// The sums alone: CellScan::all() of `shared`, for thread 0. Waits for the block.
__device__ inline void block_sums(const Cells& cells, double to_right, double to_left,
                                  double* shared) {
  if (cells.in_warp()) {
    for (unsigned delta = kWarp / 2; delta > 0; delta /= 2) {
      to_right = to_right + shuffled<false>(to_right, delta);
      to_left = to_left + shuffled<false>(to_left, delta);
    }
  }
  if (threadIdx.x % kWarp == 0) {
    shared[threadIdx.x / kWarp] = to_right;
    shared[CellScan::kWarps + threadIdx.x / kWarp] = to_left;
  }
  __syncthreads();
}

/// Values of the thread's cell, 0 where they are not the tile's own.
__device__ inline void load_values(const Input<float>& input, const SideView<float>& side,
                                   std::int64_t head, std::int64_t row, std::int64_t rows,
                                   const Cells& cells, float (&value)[kCell]) {
  const int at = static_cast<int>(threadIdx.x) * kCell;
  const std::int64_t first = cells.begin + at;
  const auto take = [&](int k, float v) { value[k] = v; };
  const ConstVectors& from = input.vectors;
  const std::int64_t start = head * from.strides.head + row * from.strides.row;
  if (input.sorted != nullptr) {
    const auto* const sorted = input.template sorted_row<double>(side, head, row, rows);
    load_cell(reinterpret_cast<const float*>(sorted), first, side.count, take);
  } else if (side.index != nullptr) {
    load_cell(side.indices(head), first, side.count, [&](int k, std::uint32_t index) {
      value[k] = read<float>(from.data, start + index, from.storage);
    });
  } else if (from.storage == Storage::single_or_double) {
    load_cell(static_cast<const float*>(from.data) + start, first, side.count, take);
  } else {
    const bool half = from.storage == Storage::half;
    load_cell(static_cast<const std::uint16_t*>(from.data) + start, first, side.count,
              [&](int k, std::uint16_t bits) {
                value[k] = half ? half_to_float(bits) : bfloat16_to_float(bits);
              });
  }
  if (cells.has_edge(at)) {
    const unsigned own = cells.own_of(at);
    LAPLEX_UNROLL
    for (int k = 0; k < kCell; ++k) {
      value[k] = (own & (1U << k)) != 0 ? value[k] : 0.0F;
    }
  }
}

/// Values of the thread's cell to `to`, those that are the tile's own.
__device__ inline void store_values(float* to, int at, const Cells& cells,
                                    const float (&value)[kCell]) {
  if (!cells.has_edge(at) && reinterpret_cast<std::uintptr_t>(to) % 16 == 0) {
    LAPLEX_UNROLL
    for (int k = 0; k < kCell; k += 4) {
      *reinterpret_cast<Vector<float>*>(to +
                                        k) = {{value[k], value[k + 1], value[k + 2], value[k + 3]}};
    }
    return;
  }
  unsigned own = cells.own_of(at);
  LAPLEX_UNROLL
  for (int k = 0; k < kCell; ++k, own >>= 1U) {
    if ((own & 1U) != 0) {
      to[k] = value[k];
    }
  }
}

}  // namespace laplex::cuda::detail
