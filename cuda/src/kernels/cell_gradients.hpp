/// Second pass of the gradients over a dense line of float anchors; see cells.hpp.
///
/// Both sides are scanned, and each reads off the sums of the other. The integral along the line
/// that the lengthscale needs (see gradients.hpp) is taken apart: with c(p) the middle of the cell
/// of sources that a place p falls into, |x - y| = (x - c(x)) - (y - c(y)) + (c(x) - c(y)) for y
/// before x. The first two go with the odd sums of each anchor, and the third is a sum over the
/// steps between cells, of what passes there in both directions.
#pragma once

#include "cell_product.hpp"
#include "gradients.hpp"

namespace laplex::cuda::detail {

/// Rows that a group has at most: their sums by anchor are added up in float.
inline constexpr int kMostGroupRows = 16;
/// Items of a tile: in the self case each has sums of both sides.
[[nodiscard]] __host__ __device__ constexpr std::int64_t gradient_tile(bool self) {
  return self ? kCellTile / 2 : kCellTile;
}

inline constexpr std::int64_t kGradientPart = 1024;
inline constexpr int kGradientParts = static_cast<int>(kCellTile / kGradientPart);
inline constexpr std::size_t kSentBytes = kGradientParts * 2 * sizeof(Sums<double, 0, true>);
inline constexpr std::size_t kArrivingBytes = 2 * kMostGroupRows * kSentBytes;

inline std::size_t cell_gradient_shared(bool self) {
  // Both sides of a tile have as many anchors as it has items; in the self case, each.
  const std::size_t cells = 2 * (CellScan::kSharedBytes + cell_bytes(kCellTile / 2) + 512) +
                            static_cast<std::size_t>(kCellTile) * sizeof(float);
  const std::size_t sparse =
      kSentBytes + kArrivingBytes +
      std::max(totals_shared<float, double, double, 0, true, kCellThreads>(kGradientPart),
               GradientShared<float, double, double, kCellThreads>::bytes(self));
  return kWorkBytes + std::max(cells, sparse);
}

/// One side of a tile, scanned. In the self case no sum has an anchor's own value.
template <bool Self>
class ScannedSide {
 public:
  /// The layout of `shared`, and the side's own part of it.
  __device__ ScannedSide(const SideView<float>& side, const Input<float>& input,
                         std::int64_t first_anchor, std::int64_t num_anchors, const BlockWork& work,
                         std::int64_t rows, unsigned char*& shared)
      : cells(first_anchor, num_anchors), side_(side), input_(input), work_(work), rows_(rows) {
    scan_ = reinterpret_cast<double*>(shared);
    ends_ = reinterpret_cast<CellEnds*>(shared + CellScan::kSharedBytes);
    sums_ = reinterpret_cast<CellSums*>(ends_ + cells.count);
    shared = reinterpret_cast<unsigned char*>(sums_ + cell_slot(cells.count * kCell));
    shared += (16 - reinterpret_cast<std::uintptr_t>(shared) % 16) % 16;
  }

  /// Scans one row; `carries` are what comes to the tile from beyond its ends, or null. False if
  /// the thread's cell is too sparse.
  __device__ bool scan(std::int64_t row, const void* carries) {
    bool fits = true;
    const int at = static_cast<int>(threadIdx.x) * kCell;
    row_ = row;
    const ConstVectors& from = input_.vectors;
    direct_ = nullptr;
    if (input_.sorted != nullptr) {
      direct_ = reinterpret_cast<const float*>(
          input_.template sorted_row<double>(side_, work_.head, row, rows_));
    } else if (side_.index == nullptr && from.storage == Storage::single_or_double) {
      direct_ = static_cast<const float*>(from.data) + work_.head * from.strides.head +
                row * from.strides.row;
    }
    Cell cell;
    CellTotals own;
    if (cells.mine()) {
      fits = cell.load(side_.positions(work_.head), side_.count, cells, work_.tile, work_.rate);
      has_long_ties_ = Self && !cells.has_edge(at) && cell.begin == cell.end;
      float value[kCell];
      load_values(input_, side_, work_.head, row, rows_, cells, value);
      own = sum_cell<Self>(cell, value, sums_ + cell_slot(at));
    }
    const CellScan scan(cells, own, scan_);
    left_ = 0.0;
    right_ = 0.0;
    if (carries != nullptr) {
      const auto* const ends = static_cast<const Sums<double, 0, true>*>(carries);
      left_ = ends[0].word[0] + ends[0].here();
      right_ = ends[1].word[0] + ends[1].here();
      strictly_left_ = static_cast<float>(ends[0].word[0]);
      strictly_right_ = static_cast<float>(ends[1].word[0]);
    }
    if (cells.mine()) {
      ends_[threadIdx.x] = {
          cell.centre, static_cast<float>((left_ + scan.before) * cell.factors.down),
          static_cast<float>((right_ * work_.across + scan.after) * cell.factors.up), 0.0F};
    }
    return fits;
  }

  /// What an anchor finds at slot k: the sums of all before it and of all the rest, as its reading
  /// of the slot's cell takes them.
  struct Found {
    Reading reading;
    float before;
    float after;
    [[nodiscard]] __device__ float left() const { return reading.down * before; }
    [[nodiscard]] __device__ float right() const { return reading.up * after; }
  };
  [[nodiscard]] __device__ Found find(int slot, float place, float inverse) const {
    const CellEnds end = ends_[cell_of(slot)];
    const CellSums sum = sums_[cell_slot(slot)];
    return {Reading(place, end.centre, inverse), end.left + sum.before, end.right + sum.after};
  }
  /// In the self case: whether the thread's cell is one place alone.
  [[nodiscard]] __device__ bool has_long_ties() const { return has_long_ties_; }
  [[nodiscard]] __device__ float centre(unsigned cell) const { return ends_[cell].centre; }
  /// What comes to a cell from the right, at its middle.
  [[nodiscard]] __device__ float from_right(int cell) const { return ends_[cell].right; }
  /// All that comes from the left and from the right, at the tile's low end and at its high end.
  struct Flow {
    double left;
    double right;
  };
  [[nodiscard]] __device__ Flow at_low() const {
    return {left_, CellScan::all(scan_, true) + right_ * work_.across};
  }
  [[nodiscard]] __device__ Flow at_high() const {
    return {(left_ + CellScan::all(scan_, false)) * work_.across, right_};
  }
  /// The value of an anchor of the line, in the row that was scanned.
  [[nodiscard]] __device__ float value(std::int64_t anchor) const {
    return direct_ != nullptr ? direct_[anchor]
                              : input_.template gather<double>(side_, work_.head, row_, anchor).re;
  }
  /// Those from an anchor on, or null where value() has to find them.
  [[nodiscard]] __device__ const float* row_of_tile(std::int64_t anchor) const {
    return direct_ == nullptr ? nullptr : direct_ + anchor;
  }
  /// How many anchors equal `place`, from one on upwards or downwards.
  [[nodiscard]] __device__ int ties(float place, std::int64_t from, int step) const {
    const float* const position = side_.positions(work_.head);
    int count = 0;
    for (std::int64_t k = from; k >= 0 && k < side_.count && position[k] == place; k += step) {
      ++count;
    }
    return count;
  }
  /// The sum from the left without the `ties` anchors before slot k, which are at `place` itself.
  [[nodiscard]] __device__ float left_without(int ties, int k, float place, float inverse) const {
    return ties <= k - cells.first ? find(k - ties, place, inverse).left() : strictly_left_;
  }
  /// The sum from the right without the `ties` anchors from slot k on; in the self case, behind k,
  /// where the sum at a slot is without its anchor.
  [[nodiscard]] __device__ float right_without(int ties, int k, float place, float inverse) const {
    return ties < cells.end - k + (Self ? 0 : 1) ? find(k + ties, place, inverse).right()
                                                 : strictly_right_;
  }

  const Cells cells;

 private:
  const SideView<float>& side_;
  const Input<float>& input_;
  const BlockWork& work_;
  std::int64_t rows_;
  std::int64_t row_ = 0;
  bool has_long_ties_ = false;
  const float* direct_ = nullptr;  ///< its values, where they are floats in the order of the line
  double left_ = 0.0;
  double right_ = 0.0;
  float strictly_left_ = 0.0F;  ///< of them, without what is at the very end of the tile
  float strictly_right_ = 0.0F;
  double* scan_;
  CellEnds* ends_;
  CellSums* sums_;
};

/// A tile that is too sparse, or where anchors of the two sides tie, by the scans that take any.
__device__ __noinline__ inline void sparse_gradients(const GradientJob<float>& job,
                                                     const BlockWork& work, std::int64_t heads,
                                                     bool v_sent, bool g_sent,
                                                     unsigned char* shared) {
  using Value = Sums<double, 0, true>;
  constexpr int kRowOfParts = kGradientParts * 2;
  auto* const sent = reinterpret_cast<Value*>(shared);
  unsigned char* const rest = shared + kSentBytes + kArrivingBytes;
  TotalsJob<float> totals[2] = {};
  for (int k = 0; k < 2; ++k) {
    totals[k].line = k == 0 ? job.line : job.line.reversed();
    totals[k].input = k == 0 ? job.values : job.grad;
    totals[k].rows = job.rows;
  }
  const auto arriving = [&](int k, std::int64_t row) {
    return reinterpret_cast<Value*>(shared + kSentBytes) +
           (k * kMostGroupRows + (row - work.first_row)) * kRowOfParts;
  };
  for (std::int64_t row = work.first_row; row < work.end_row; ++row) {
    const std::int64_t at = 2 * entry_of(job, work, row);
    for (int k = 0; k < 2; ++k) {
      const auto* const all = static_cast<const Value*>(
          k == 0 ? (v_sent ? job.value_sent : nullptr) : (g_sent ? job.grad_sent : nullptr));
      const auto* const carries =
          static_cast<const Value*>(k == 0 ? job.value_carries : job.grad_carries);
      if (all == nullptr && work.tile.items > kGradientPart) {
        send_parts<true>(totals[k], work, row, kGradientPart, sent, rest);
      }
      const Parts<true> parts(job.line, work, kGradientPart,
                              all == nullptr ? sent : all + at * (job.tile_items / kGradientPart));
      parts.arrive(carries == nullptr ? nullptr : carries + at, arriving(k, row));
      __syncthreads();
    }
  }
  Complex stretch{0.0, 0.0};
  const auto count = static_cast<int>(ceil_div(work.tile.items, kGradientPart));
  for (int p = 0; p < count; ++p) {
    const Tile<float> part =
        tile_of(job.line, work.head, work.tile.item / kGradientPart + p, kGradientPart);
    const GradientWork<float> its{work.rate,  part,           work.head,   heads,
                                  work.group, work.first_row, work.end_row};
    const Complex share = tile_gradients<float, double, double, kCellThreads>(
        job, its,
        [&](bool of_values, std::int64_t row, Value& left, Value& right) {
          left = arriving(of_values ? 0 : 1, row)[2 * p];
          right = arriving(of_values ? 0 : 1, row)[2 * p + 1];
        },
        rest);
    stretch = stretch + share;
    __syncthreads();
  }
  if (job.stretch != nullptr) {
    write_stretch<float, kCellThreads>(
        job, stretch, rest, (work.head * job.groups + work.group) * job.tiles + work.number);
  }
}

/// Where one number of each anchor of a tile goes.
struct AnchorOutput {
  float* to;                   ///< null: nowhere
  const std::uint32_t* index;  ///< where each was given, or null where they are in place

  __device__ AnchorOutput(float* line, const SideView<float>& side, std::int64_t head,
                          std::int64_t first, bool in_order)
      : to(line), index(nullptr) {
    if (line != nullptr && (in_order || side.index == nullptr)) {
      to = line + first;
    } else if (line != nullptr) {
      index = side.indices(head) + first;
    }
  }
  __device__ void put(int k, float value) const {
    if (index != nullptr) {
      to[index[k]] = value;
    } else if (to != nullptr) {
      to[k] = value;
    }
  }
};

template <bool Self>
__global__ void __launch_bounds__(kCellThreads, 2)
    cell_gradient_kernel(const __grid_constant__ GradientJob<float> job) {
  using Ends = Sums<double, 0, true>;
  const BlockWork& work = find_work(job, job.tile_items);
  unsigned char* const shared = shared_memory() + kWorkBytes;
  const Tile<float>& tile = work.tile;
  const Line<float>& line = job.line;
  const std::int64_t head = work.head;
  const std::int64_t heads = static_cast<std::int64_t>(gridDim.x) / (job.tiles * job.groups);
  unsigned char* space = shared;
  ScannedSide<Self> sources(line.from, job.values, tile.first_from, tile.num_from, work, job.rows,
                            space);
  ScannedSide<Self> targets(line.to, job.grad, tile.first_to, tile.num_to, work, job.rows, space);
  bool fits = work.fits;
  if constexpr (!Self) {
    const std::int64_t block = tile.item / kBlockItems + threadIdx.x;
    fits = fits && !(threadIdx.x < kCellTile / kBlockItems && block * kBlockItems < line.items &&
                     line.has_long_ties(head, block));
  }
  const auto inverse = static_cast<float>(work.rate.inverse);
  const auto num_from = static_cast<int>(tile.num_from);
  const auto num_to = static_cast<int>(tile.num_to);
  const std::int64_t first_from = tile.first_from;
  const std::int64_t first_to = tile.first_to;
  const float* const source_place = line.from.positions(head) + first_from;
  const float* const target_place = line.to.positions(head) + first_to;
  const std::uint16_t* const source_rank = Self ? nullptr : line.from.ranks(head) + first_from;
  const std::uint16_t* const target_rank = Self ? nullptr : line.to.ranks(head) + first_to;
  const int source_slot = sources.cells.first;
  const int target_slot = targets.cells.first;
  // Values at the place of an anchor itself are part of its even sum alone: its odd sum is read off
  // again, before and behind them. In the self case they are on both sides.
  const auto odd_without_self_ties = [&](const ScannedSide<Self>& side, int k, std::int64_t anchor,
                                         float place, float odd) {
    const int before = side.ties(place, anchor - 1, -1);
    const int behind = side.ties(place, anchor + 1, 1);
    if (before + behind == 0) {
      return odd;
    }
    return side.left_without(before, k, place, inverse) -
           side.right_without(behind, k, place, inverse);
  };
  // Sums of an anchor over the rows so far are in shared memory, and come out after the last row.
  auto* const target_sums = reinterpret_cast<float*>(space);
  float* const source_sums = target_sums + num_to;
  const auto factor = static_cast<float>(-work.rate.inverse * work.rate.valid);
  const auto output_of = [&](const SideView<float>& side, std::int64_t first, float* out,
                             float* parts) {
    if (out != nullptr && parts != nullptr) {
      return AnchorOutput(parts + (work.group * heads + head) * side.count, side, head, first,
                          true);
    }
    return AnchorOutput(out == nullptr ? nullptr : out + head * side.count, side, head, first,
                        false);
  };
  const AnchorOutput d_target =
      output_of(line.to, first_to, job.targets.position, job.target_parts.position);
  const AnchorOutput d_source =
      output_of(line.from, first_from, job.sources.position, job.source_parts.position);
  const auto d_value_factor = static_cast<float>(job.d_values.scale * work.rate.valid);

  double stretch = 0.0;
  const std::int64_t first_row = work.first_row;
  const std::int64_t end_row = work.end_row;
  for (std::int64_t row = first_row; row < end_row; ++row) {
    const std::int64_t at = 2 * entry_of(job, work, row);
    const auto ends_of = [&](const void* carries) -> const void* {
      return carries == nullptr ? nullptr : static_cast<const Ends*>(carries) + at;
    };
    const bool v_fits = sources.scan(row, ends_of(job.value_carries));
    const bool g_fits = targets.scan(row, ends_of(job.grad_carries));
    fits = fits && !sources.has_long_ties();
    if (__syncthreads_or(fits && v_fits && g_fits ? 0 : 1) != 0) {  // at the first row
      // The first pass over a side cut the tile into parts if this side was too sparse.
      const bool v_sent = __syncthreads_or(work.fits && v_fits ? 0 : 1) != 0;
      const bool g_sent = __syncthreads_or(work.fits && g_fits ? 0 : 1) != 0;
      sparse_gradients(job, work, heads, v_sent, g_sent, shared);
      return;
    }
    const Vectors& d_values = job.d_values.vectors;
    float* const values_of_row = d_values.data == nullptr ? nullptr
                                                          : static_cast<float*>(d_values.data) +
                                                                head * d_values.strides.head +
                                                                row * d_values.strides.row;
    const AnchorOutput d_value(values_of_row, line.from, head, first_from, false);
    const float* const v = sources.row_of_tile(first_from);
    const float* const g = targets.row_of_tile(first_to);

    float local = 0.0F;  // of the stretch, from this row
    for (int k = static_cast<int>(threadIdx.x); k < num_to; k += kCellThreads) {
      const float place = target_place[k];
      const int rank = Self ? k : target_rank[k];
      const auto found = sources.find(source_slot + rank % kTiedRank, place, inverse);
      const float value = g != nullptr ? g[k] : targets.value(first_to + k);
      float odd = found.left() - found.right();
      local = std::fma(found.reading.distance, value * odd, local);
      if (Self) {
        odd = odd_without_self_ties(sources, source_slot + k, first_to + k, place, odd);
      } else if (rank >= kTiedRank) {
        const int at_place = sources.ties(place, first_from + rank % kTiedRank - 1, -1);
        odd = sources.left_without(at_place, source_slot + rank % kTiedRank, place, inverse) -
              found.right();
      }
      const float sum = std::fma(value, odd, row > first_row ? target_sums[k] : 0.0F);
      if (row + 1 < end_row) {
        target_sums[k] = sum;
      } else {
        d_target.put(k, factor * sum);
      }
    }
    for (int k = static_cast<int>(threadIdx.x); k < num_from; k += kCellThreads) {
      const float place = source_place[k];
      const int rank = Self ? k : source_rank[k];
      const auto found = targets.find(target_slot + rank % kTiedRank, place, inverse);
      const float left = found.left();
      const float right = found.right();
      float even = left + right;
      if (Self) {
        even += g != nullptr ? g[k] : targets.value(first_to + k);
      }
      d_value.put(k, d_value_factor * even);
      const float value = v != nullptr ? v[k] : sources.value(first_from + k);
      float odd = left - right;
      local = std::fma((place - sources.centre(cell_of(source_slot + k))) * inverse, value * odd,
                       local);
      if (Self) {
        odd = odd_without_self_ties(targets, target_slot + k, first_from + k, place, odd);
      } else if (rank >= kTiedRank) {
        const int at_place = targets.ties(place, first_to + rank % kTiedRank, 1);
        odd =
            left - targets.right_without(at_place, target_slot + rank % kTiedRank, place, inverse);
      }
      const float sum = std::fma(value, odd, row > first_row ? source_sums[k] : 0.0F);
      if (row + 1 < end_row) {
        source_sums[k] = sum;
      } else {
        d_source.put(k, factor * sum);
      }
    }
    stretch += static_cast<double>(local);

    // The step from the thread's cell of sources to the next one, behind its last source.
    if (static_cast<int>(threadIdx.x) + 1 < sources.cells.count) {
      const auto cell = static_cast<int>(threadIdx.x);
      const int last = cell * kCell + kCell - 1;
      const int k = last - source_slot;
      const float place = source_place[k];
      const auto own = sources.find(last, place, inverse);
      const int rank = Self ? k : source_rank[k] % kTiedRank;
      const auto other = targets.find(target_slot + rank, place, inverse);
      const float value = sources.value(first_from + k);
      const float v_left = own.left() + value;
      const float v_right = own.reading.up * sources.from_right(cell);
      const float g_left = other.left() + (Self ? targets.value(first_to + k) : 0.0F);
      stretch += static_cast<double>((sources.centre(cell + 1) - sources.centre(cell)) * inverse) *
                 static_cast<double>(std::fma(v_left, other.right(), g_left * v_right));
    }
    if (threadIdx.x == 0) {  // the steps from the tile's ends
      const auto add = [&](double from, double to, const auto& v_flow, const auto& g_flow) {
        stretch += (to - from) * work.rate.inverse *
                   (v_flow.left * g_flow.right + g_flow.left * v_flow.right);
      };
      add(tile.low, sources.centre(0), sources.at_low(), targets.at_low());
      add(sources.centre(sources.cells.count - 1), tile.high, sources.at_high(), targets.at_high());
    }
    __syncthreads();
  }
  if (job.stretch != nullptr) {
    write_stretch<float, kCellThreads>(job, {work.rate.valid * stretch, 0.0}, shared,
                                       (head * job.groups + work.group) * job.tiles + work.number);
  }
}

}  // namespace laplex::cuda::detail
