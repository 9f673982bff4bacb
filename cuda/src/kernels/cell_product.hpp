/// Both passes of a product over a dense line of float anchors; see cells.hpp.
///
/// Only the scanned side is scanned: the anchors that are read off look up the sums of the cell
/// they fall into, by their rank. A block takes a tile and a group of rows, and finds the anchors'
/// factors once for all rows of the group.
#pragma once

#include "cells.hpp"
#include "product.hpp"
#include "totals.hpp"

namespace laplex::cuda::detail {

/// Items of the parts that a tile is cut into where it is too sparse for cells.
inline constexpr int kPartThreadItems = 8;
inline constexpr std::int64_t kPart = 2048;
static_assert(kPart <= std::int64_t(kPartThreadItems) * kCellThreads);

/// What comes to the parts of a sparse tile from beyond their ends, by a scan over the parts.
template <bool Ties>
class Parts {
 public:
  using Value = Sums<double, 0, Ties>;

  /// `sent` is what the parts send, from send_parts().
  __device__ Parts(const Line<float>& line, const BlockWork& work, std::int64_t part_items,
                   const Value* sent)
      : line_(line), work_(work), items_(part_items), sent_(sent) {}
  [[nodiscard]] __device__ int count() const {
    return static_cast<int>(ceil_div(work_.tile.items, items_));
  }
  [[nodiscard]] __device__ Tile<float> part(int k) const {
    return tile_of(line_, work_.head, work_.tile.item / items_ + k, items_);
  }
  /// What comes to part k from the left, if `sums` comes to the tile.
  [[nodiscard]] __device__ Value from_left(int k, Value sums) const {
    for (int p = 0; p < k; ++p) {
      sums.append(across(p), sent_[2 * p]);
    }
    return sums;
  }
  [[nodiscard]] __device__ Value from_right(int k, Value sums) const {
    for (int p = count() - 1; p > k; --p) {
      sums.append(across(p), sent_[2 * p + 1]);
    }
    return sums;
  }
  /// Both for every part, by as many threads. `ends` are what comes to the tile, or null.
  __device__ void arrive(const Value* ends, Value* to) const {
    const auto k = static_cast<int>(threadIdx.x);
    if (k < 2 * count()) {
      Value sums;
      sums.clear();
      if (ends != nullptr) {
        sums = ends[k % 2];
      }
      to[k] = k % 2 == 0 ? from_left(k / 2, sums) : from_right(k / 2, sums);
    }
  }

 private:
  [[nodiscard]] __device__ Gap<float, double, 0> across(int k) const {
    const Tile<float> tile = part(k);
    return gap_between<float, double, 0>(tile.high, tile.low, work_.rate);
  }
  const Line<float>& line_;
  const BlockWork& work_;
  std::int64_t items_;
  const Value* sent_;
};

/// Fills `sent`, to the right and to the left for each part of a tile.
template <bool Ties>
__device__ inline void send_parts(const TotalsJob<float>& job, const BlockWork& work,
                                  std::int64_t row, std::int64_t part_items,
                                  Sums<double, 0, Ties>* sent, unsigned char* shared) {
  const Parts<Ties> parts(job.line, work, part_items, sent);
  for (int k = 0; k < parts.count(); ++k) {
    tile_totals<float, double, double, 0, Ties, kCellThreads>(job, work.rate, work.head, row,
                                                              parts.part(k), shared, sent + 2 * k);
    __syncthreads();
  }
}

// --- first pass ----------------------------------------------------------------------------------

template <bool Ties>
std::size_t cell_totals_shared() {
  return kWorkBytes + totals_shared<float, double, double, 0, Ties, kCellThreads>(kPart);
}

/// The same for a tile that is too sparse. Not inlined, nor are its like: their registers are not
/// those of the path of cells.
template <bool Ties>
__device__ __noinline__ void sparse_totals(const TotalsJob<float>& job, const BlockWork& work,
                                           std::int64_t row, unsigned char* shared) {
  using Value = Sums<double, 0, Ties>;
  const std::int64_t at = entry_of(job, work, row);
  Value* const sent = static_cast<Value*>(job.sent) + 2 * at * (job.tile_items / job.part_items);
  send_parts<Ties>(job, work, row, job.part_items, sent, shared);
  if (threadIdx.x == 0) {
    const Parts<Ties> parts(job.line, work, job.part_items, sent);
    Value none;
    none.clear();
    Value* const out = static_cast<Value*>(job.totals) + 2 * at;
    out[0] = parts.from_left(parts.count(), none);
    out[1] = parts.from_right(-1, none);
  }
}

/// What each tile sends to its right and to its left. With ties, what is at the very end of the
/// tile is apart.
template <bool Ties>
__global__ void __launch_bounds__(kCellThreads, 2)
    cell_totals_kernel(const __grid_constant__ TotalsJob<float> job) {
  using Value = Sums<double, 0, Ties>;
  const BlockWork& work = find_work(job, job.tile_items);
  unsigned char* const rest = shared_memory() + kWorkBytes;
  auto* const sums = reinterpret_cast<double*>(rest);
  const Tile<float>& tile = work.tile;
  const SideView<float>& from = job.line.from;
  const float* const position = from.positions(work.head);
  const Cells cells(tile.first_from, tile.num_from);
  Cell cell;
  bool fits = work.fits;
  if (cells.mine()) {
    fits = cell.load(position, from.count, cells, tile, work.rate) && fits;
  }
  const bool is_sparse = __syncthreads_or(fits ? 0 : 1) != 0;
  const int at = static_cast<int>(threadIdx.x) * kCell;
  const bool at_end = cells.mine() && (cell.end == tile.high || cell.begin == tile.low);
  const bool has_ties = Ties && !is_sparse && __syncthreads_or(at_end ? 1 : 0) != 0;
  for (std::int64_t row = work.first_row; row < work.end_row; ++row) {
    Value* const out = static_cast<Value*>(job.totals) + 2 * entry_of(job, work, row);
    if (is_sparse) {
      sparse_totals<Ties>(job, work, row, rest);
      __syncthreads();
      continue;
    }
    double to_right = 0.0;
    double to_left = 0.0;
    double at_high = 0.0;
    double at_low = 0.0;
    if (cells.mine()) {
      float value[kCell];
      Input<float> input = job.input;
      input.sorted = nullptr;
      load_values(input, from, work.head, row, job.rows, cells, value);
      if (job.input.sorted != nullptr) {
        float* const sorted = reinterpret_cast<float*>(
            job.input.template sorted_row<double>(from, work.head, row, job.rows));
        store_values(sorted + cells.begin + at, at, cells, value);
      }
      float right = 0.0F;
      float left = 0.0F;
      if (Ties && at_end) {
        unsigned own = cells.own_of(at);
        LAPLEX_UNROLL
        for (int k = 0; k < kCell; ++k, own >>= 1U) {
          if ((own & 1U) != 0) {
            const float place = position[cells.begin + at + k];
            const bool high = place == tile.high;
            const bool low = place == tile.low;
            at_high = at_high + (high ? static_cast<double>(value[k]) : 0.0);
            at_low = at_low + (low ? static_cast<double>(value[k]) : 0.0);
            right = std::fma(high ? 0.0F : value[k], cell.up[k], right);
            left = std::fma(low ? 0.0F : value[k], cell.down[k], left);
          }
        }
      } else {
        LAPLEX_UNROLL
        for (int k = 0; k < kCell; ++k) {
          right = std::fma(value[k], cell.up[k], right);
          left = std::fma(value[k], cell.down[k], left);
        }
      }
      to_right = static_cast<double>(right) * cell.factors.up;
      to_left = static_cast<double>(left) * cell.factors.down;
    }
    block_sums(cells, to_right, to_left, sums);
    if (threadIdx.x == 0) {
      out[0].clear();
      out[1].clear();
      out[0].word[0] = CellScan::all(sums, false) * work.across;
      out[1].word[0] = CellScan::all(sums, true);
    }
    if constexpr (Ties) {
      if (has_ties) {
        __syncthreads();
        block_sums(cells, at_high, at_low, sums);
        if (threadIdx.x == 0) {
          out[0].here() = CellScan::all(sums, false);
          out[1].here() = CellScan::all(sums, true);
        }
      }
    }
    __syncthreads();
  }
}

// --- second pass ---------------------------------------------------------------------------------

/// Most anchors that a thread reads off.
inline constexpr int kReadings = static_cast<int>((kCellTile + kCellThreads - 1) / kCellThreads);

inline constexpr std::size_t kPartsBytes = kCellTile / kPart * 2 * sizeof(Sums<double, 0, false>);

inline std::size_t cell_product_shared(std::int64_t anchors) {
  const std::size_t cells = CellScan::kSharedBytes + cell_bytes(anchors);
  const std::size_t sparse =
      2 * kPartsBytes +
      std::max(totals_shared<float, double, double, 0, false, kCellThreads>(kPart),
               product_shared<float, double, double, 0, false, kCellThreads>(kPart, 0, false));
  return kWorkBytes + std::max(cells, sparse);
}

/// The same by the scan that takes any line, for a tile that is too sparse.
__device__ __noinline__ inline void sparse_product(const ProductJob<float>& job,
                                                   const BlockWork& work, unsigned char* shared) {
  using Value = Sums<double, 0, false>;
  auto* const sent_here = reinterpret_cast<Value*>(shared);
  Value* const arriving = sent_here + kPartsBytes / sizeof(Value);
  unsigned char* const rest = shared + 2 * kPartsBytes;
  TotalsJob<float> totals{};
  totals.line = job.line;
  totals.input = job.input;
  totals.rows = job.rows;
  for (std::int64_t row = work.first_row; row < work.end_row; ++row) {
    const std::int64_t at = 2 * entry_of(job, work, row);
    const Value* sent = sent_here;
    if (job.sent != nullptr) {
      sent = static_cast<const Value*>(job.sent) + at * (kCellTile / kPart);
    } else if (work.tile.items > kPart) {  // one part alone has nobody to send to
      send_parts<false>(totals, work, row, kPart, sent_here, rest);
    }
    const Parts<false> parts(job.line, work, kPart, sent);
    const auto* const carries = static_cast<const Value*>(job.carries);
    parts.arrive(carries == nullptr ? nullptr : carries + at, arriving);
    __syncthreads();
    for (int k = 0; k < parts.count(); ++k) {
      tile_product<float, double, double, 0, false, kCellThreads, kPartThreadItems>(
          job, work.rate, work.head, row, parts.part(k), arriving[2 * k], arriving[2 * k + 1],
          rest);
      __syncthreads();
    }
  }
}

/// The even sum alone. `Many`: some group has more than one row.
template <bool Many>
__global__ void __launch_bounds__(kCellThreads, 2)
    cell_product_kernel(const __grid_constant__ ProductJob<float> job) {
  using Value = Sums<double, 0, false>;
  const BlockWork& work = find_work(job, kCellTile);
  unsigned char* const rest = shared_memory() + kWorkBytes;
  const Tile<float>& tile = work.tile;
  const LineRate& rate = work.rate;
  const Cells cells(tile.first_from, tile.num_from);
  Cell cell;
  bool fits = work.fits;
  if (cells.mine()) {
    fits = cell.load(job.line.from.positions(work.head), job.line.from.count, cells, tile, rate) &&
           fits;
  }
  if (__syncthreads_or(fits ? 0 : 1) != 0) {
    sparse_product(job, work, rest);
    return;
  }
  auto* const scanned = reinterpret_cast<double*>(rest);
  auto* const ends = reinterpret_cast<CellEnds*>(rest + CellScan::kSharedBytes);
  auto* const sums = reinterpret_cast<CellSums*>(ends + cells.count);
  const int at = static_cast<int>(threadIdx.x) * kCell;
  const auto num_to = static_cast<int>(tile.num_to);
  const auto factor = static_cast<float>(job.output.scale * rate.valid);
  const auto inverse = static_cast<float>(rate.inverse);
  const float* const places = job.line.to.positions(work.head) + tile.first_to;
  const std::uint16_t* const ranks =
      job.line.self ? nullptr : job.line.to.ranks(work.head) + tile.first_to;

  int rank[Many ? kReadings : 1];
  float up[Many ? kReadings : 1];
  float down[Many ? kReadings : 1];
  const std::int64_t first_row = work.first_row;
  const std::int64_t end_row = Many ? work.end_row : first_row + 1;
  for (std::int64_t row = first_row; row < end_row; ++row) {
    CellTotals own;
    if (cells.mine()) {
      float value[kCell];
      load_values(job.input, job.line.from, work.head, row, job.rows, cells, value);
      own = sum_cell<false>(cell, value, sums + cell_slot(at));
    }
    const CellScan scan(cells, own, scanned);
    if (cells.mine()) {
      double left = 0.0;
      double right = 0.0;
      if (job.carries != nullptr) {
        const auto* const carries =
            static_cast<const Value*>(job.carries) + 2 * entry_of(job, work, row);
        left = carries[0].word[0];
        right = carries[1].word[0] * work.across;
      }
      ends[threadIdx.x] = {cell.centre,
                           static_cast<float>((left + scan.before) * cell.factors.down),
                           static_cast<float>((right + scan.after) * cell.factors.up), 0.0F};
    }
    __syncthreads();
    const auto read_off = [&](const auto& put) {
      LAPLEX_UNROLL
      for (int i = 0; i < kReadings; ++i) {
        const int k = static_cast<int>(threadIdx.x) + i * kCellThreads;
        if (k >= num_to) {
          break;
        }
        const int j = Many ? i : 0;
        if (!Many || row == first_row) {
          rank[j] = cells.first + (job.line.self ? k : ranks[k] % kTiedRank);
        }
        const CellEnds end = ends[cell_of(rank[j])];
        if (!Many || row == first_row) {
          const Reading reading(places[k], end.centre, inverse);
          up[j] = reading.up;
          down[j] = reading.down;
        }
        const CellSums sum = sums[cell_slot(rank[j])];
        put(k, factor * std::fma(down[j], end.left + sum.before, up[j] * (end.right + sum.after)));
      }
    };
    const Vectors& out = job.output.vectors;
    const std::int64_t start = work.head * out.strides.head + row * out.strides.row;
    if (job.line.to.index == nullptr && out.storage == Storage::single_or_double) {
      float* const to = static_cast<float*>(out.data) + start + tile.first_to;
      read_off([&](int k, float result) { to[k] = result; });
    } else {
      read_off([&](int k, float result) {
        write<float>(out.data, start + job.line.to.source_of(work.head, tile.first_to + k),
                     out.storage, result);
      });
    }
    if (Many) {
      __syncthreads();
    }
  }
}

}  // namespace laplex::cuda::detail
