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
inline constexpr std::size_t kSentBytes =
    2 * kMostGroupRows * kGradientParts * 2 * sizeof(Sums<double, 0, true>);

inline std::size_t cell_gradient_shared(bool self) {
  // Both sides of a tile have as many anchors as it has items; in the self case, each.
  const std::size_t cells = 2 * (CellScan::kSharedBytes + cell_bytes(kCellTile / 2) + 512) +
                            static_cast<std::size_t>(kCellTile) * sizeof(float);
  const std::size_t sparse =
      kSentBytes +
      std::max(totals_shared<float, double, double, 0, true, kCellThreads>(kGradientPart),
               GradientShared<float, double, double, kCellThreads>::bytes(self));
  return kWorkBytes + std::max(cells, sparse);
}

/// One side of a tile, scanned.
class ScannedSide {
 public:
  /// The layout of `shared`, and the side's own part of it.
  __device__ ScannedSide(const Side<float>& side, const Input<float>& input,
                         std::int64_t first_anchor, std::int64_t num_anchors, const BlockWork& work,
                         std::int64_t rows, bool self, unsigned char*& shared)
      : cells(first_anchor, num_anchors),
        side_(side),
        input_(input),
        work_(work),
        rows_(rows),
        self_(self) {
    scan_ = reinterpret_cast<double*>(shared);
    ends_ = reinterpret_cast<CellEnds*>(shared + CellScan::kSharedBytes);
    sums_ = reinterpret_cast<CellSums*>(ends_ + cells.count);
    shared = reinterpret_cast<unsigned char*>(sums_ + cell_slot(cells.count * kCell));
    shared += (16 - reinterpret_cast<std::uintptr_t>(shared) % 16) % 16;
  }

  /// Whether the thread's cell, if it has one, can be scanned; in the self case, without long ties.
  [[nodiscard]] __device__ bool fits() const {
    if (!cells.mine()) {
      return true;
    }
    const float* const position = side_.positions(work_.head);
    Cell cell;
    bool result = cell.load(position, side_.count, cells, work_.tile, work_.rate);
    if (self_) {
      const std::int64_t begin = cells.begin + static_cast<std::int64_t>(threadIdx.x) * kCell;
      for (int k = 0; k < kCell + kLongTie; ++k) {
        const std::int64_t at = begin + k;
        result = result &&
                 !(at >= kLongTie && at < side_.count && position[at] == position[at - kLongTie]);
      }
    }
    return result;
  }

  /// Scans one row. `to_left` and `to_right` come to the tile from beyond its ends.
  __device__ void scan(std::int64_t row, const void* carries) {
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
    double to_right = 0.0;
    double to_left = 0.0;
    if (cells.mine()) {
      cell.load(side_.positions(work_.head), side_.count, cells, work_.tile, work_.rate);
      float value[kCell];
      load_values(input_, side_, work_.head, row, rows_, cells, value);
      float after[kCell];
      float left = 0.0F;
      LAPLEX_UNROLL
      for (int k = kCell - 1; k >= 0; --k) {
        const float behind = left;
        left = std::fma(value[k], cell.down[k], left);
        after[k] = self_ ? behind : left;
      }
      float right = 0.0F;
      CellSums* const mine = sums_ + cell_slot(at);
      LAPLEX_UNROLL
      for (int k = 0; k < kCell; ++k) {
        mine[k] = {right, after[k]};
        right = std::fma(value[k], cell.up[k], right);
      }
      to_right = static_cast<double>(right) * cell.factors.up;
      to_left = static_cast<double>(left) * cell.factors.down;
    }
    const CellScan scan(cells, to_right, to_left, scan_);
    left_ = 0.0;
    right_ = 0.0;
    if (carries != nullptr) {
      const auto* const ends = static_cast<const Sums<double, 0, true>*>(carries);
      left_ = ends[0].word[0] + ends[0].here();
      right_ = ends[1].word[0] + ends[1].here();
    }
    if (cells.mine()) {
      ends_[threadIdx.x] = {
          cell.centre, static_cast<float>((left_ + scan.before) * cell.factors.down),
          static_cast<float>((right_ * work_.across + scan.after) * cell.factors.up)};
    }
  }

  [[nodiscard]] __device__ const CellEnds& ends(int k) const { return ends_[cell_of(k)]; }
  [[nodiscard]] __device__ float centre(int cell) const { return ends_[cell].centre; }
  /// What is before anchor k of the cells and the rest, in units of its cell.
  [[nodiscard]] __device__ CellSums sums(int k) const {
    const CellEnds& end = ends(k);
    const CellSums sum = sums_[cell_slot(k)];
    return {end.left + sum.before, end.right + sum.after};
  }
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
  /// The values of the anchors that equal `place`, from one on upwards or downwards.
  [[nodiscard]] __device__ float tied(float place, std::int64_t from, int step) const {
    const float* const position = side_.positions(work_.head);
    float sum = 0.0F;
#if !defined(LAPLEX_CUDA_EMULATION)
#pragma unroll 1
#endif
    for (std::int64_t k = from; k >= 0 && k < side_.count && position[k] == place; k += step) {
      sum += value(k);
    }
    return sum;
  }

  const Cells cells;

 private:
  const Side<float>& side_;
  const Input<float>& input_;
  const BlockWork& work_;
  std::int64_t rows_;
  bool self_;
  std::int64_t row_ = 0;
  const float* direct_ = nullptr;  ///< its values, where they are floats in the order of the line
  double left_ = 0.0;
  double right_ = 0.0;
  double* scan_;
  CellEnds* ends_;
  CellSums* sums_;
};

/// A tile that is too sparse, or where anchors of the two sides tie, by the scans that take any.
__device__ inline void sparse_gradients(const GradientJob<float>& job, const BlockWork& work,
                                        std::int64_t heads, unsigned char* shared) {
  using Value = Sums<double, 0, true>;
  constexpr int kRowOfParts = kGradientParts * 2;
  auto* const sent = reinterpret_cast<Value*>(shared);
  unsigned char* const rest = shared + kSentBytes;
  TotalsJob<float> totals[2] = {};
  for (int k = 0; k < 2; ++k) {
    totals[k].line = k == 0 ? job.line : job.line.reversed();
    totals[k].input = k == 0 ? job.values : job.grad;
    totals[k].rows = job.rows;
  }
  const auto sent_of = [&](int k, std::int64_t row) {
    return sent + (k * kMostGroupRows + (row - work.first_row)) * kRowOfParts;
  };
  for (std::int64_t row = work.first_row; row < work.end_row; ++row) {
    for (int k = 0; k < 2; ++k) {
      send_parts<true>(totals[k], work, row, kGradientPart, sent_of(k, row), rest);
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
          const void* const all = of_values ? job.value_carries : job.grad_carries;
          left.clear();
          right.clear();
          if (all != nullptr) {
            const auto* const carries =
                static_cast<const Value*>(all) +
                2 * ((work.head * job.rows + row) * job.tiles + work.number);
            left = carries[0];
            right = carries[1];
          }
          const Parts<true> parts(job.line, work, kGradientPart, sent_of(of_values ? 0 : 1, row));
          left = parts.from_left(p, left);
          right = parts.from_right(p, right);
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

inline __global__ void __launch_bounds__(kCellThreads, 2)
    cell_gradient_kernel(GradientJob<float> job) {
  unsigned char* shared = shared_memory();
  BlockWork& work = *reinterpret_cast<BlockWork*>(shared);
  shared += kWorkBytes;
  find_work(job, job.tile_items, work);
  __syncthreads();
  const Tile<float>& tile = work.tile;
  const Line<float>& line = job.line;
  const std::int64_t head = work.head;
  const std::int64_t heads = static_cast<std::int64_t>(gridDim.x) / (job.tiles * job.groups);
  unsigned char* space = shared;
  ScannedSide sources(line.from, job.values, tile.first_from, tile.num_from, work, job.rows,
                      line.self, space);
  ScannedSide targets(line.to, job.grad, tile.first_to, tile.num_to, work, job.rows, line.self,
                      space);
  const std::int64_t block = tile.item / kBlockItems + threadIdx.x;
  bool fits = tile_width(tile, work.rate) <= kWidestTile && sources.fits();
  if (!line.self) {
    fits = fits && targets.fits() &&
           !(threadIdx.x < kCellTile / kBlockItems && block * kBlockItems < line.items &&
             line.has_long_ties(head, block));
  }
  if (__syncthreads_or(fits ? 0 : 1) != 0) {
    sparse_gradients(job, work, heads, shared);
    return;
  }
  const auto inverse = static_cast<float>(work.rate.inverse);
  const auto num_from = static_cast<int>(tile.num_from);
  const auto num_to = static_cast<int>(tile.num_to);
  const float* const source_place = line.from.positions(head) + tile.first_from;
  const float* const target_place = line.to.positions(head) + tile.first_to;
  const std::uint16_t* const source_rank =
      line.self ? nullptr : line.from.ranks(head) + tile.first_from;
  const std::uint16_t* const target_rank =
      line.self ? nullptr : line.to.ranks(head) + tile.first_to;
  // Values at the place of an anchor itself are part of its even sum alone. In the self case those
  // before it are in the sum from the left, and those behind it in the other.
  const auto self_ties = [&](const ScannedSide& side, float place, std::int64_t anchor) {
    return side.tied(place, anchor - 1, -1) - side.tied(place, anchor + 1, 1);
  };
  // Sums of an anchor over the rows so far are in shared memory, and at the last row come out.
  auto* const target_sums = reinterpret_cast<float*>(space);
  float* const source_sums = target_sums + num_to;
  const auto factor = static_cast<float>(-work.rate.inverse * work.rate.valid);
  const auto put = [&](float sum, const Side<float>& side, std::int64_t entry, float* out,
                       float* parts) {
    if (parts != nullptr) {
      parts[(work.group * heads + head) * side.count + entry] = factor * sum;
    } else if (out != nullptr) {
      out[head * side.count + side.source_of(head, entry)] = factor * sum;
    }
  };
  const Vectors& d_values = job.d_values.vectors;
  const auto d_value_factor = static_cast<float>(job.d_values.scale * work.rate.valid);

  double stretch = 0.0;
  const std::int64_t first_row = work.first_row;
  const std::int64_t end_row = work.end_row;
  for (std::int64_t row = first_row; row < end_row; ++row) {
    const std::int64_t at = 2 * ((head * job.rows + row) * job.tiles + work.number);
    const auto carries_of = [&](const void* carries) -> const void* {
      return carries == nullptr ? nullptr : static_cast<const Sums<double, 0, true>*>(carries) + at;
    };
    sources.scan(row, carries_of(job.value_carries));
    targets.scan(row, carries_of(job.grad_carries));
    __syncthreads();

    float local = 0.0F;  // of the stretch, from this row
    for (int k = static_cast<int>(threadIdx.x); k < num_to; k += kCellThreads) {
      const float place = target_place[k];
      const int rank = line.self ? k : target_rank[k];
      const int slot = sources.cells.first + rank % kTiedRank;
      const Reading reading(place, sources.ends(slot).centre, inverse);
      const CellSums sums = sources.sums(slot);
      const float value = targets.value(tile.first_to + k);
      const float odd = reading.odd(sums.before, sums.after);
      local = std::fma(reading.distance, value * odd, local);
      float ties = 0.0F;
      if (line.self) {
        ties = self_ties(sources, place, tile.first_to + k);
      } else if (rank >= kTiedRank) {
        ties = sources.tied(place, tile.first_from + rank % kTiedRank - 1, -1);
      }
      const float sum = std::fma(value, odd - ties, row > first_row ? target_sums[k] : 0.0F);
      if (row + 1 < end_row) {
        target_sums[k] = sum;
      } else {
        put(sum, line.to, tile.first_to + k, job.targets.position, job.target_parts.position);
      }
    }
    for (int k = static_cast<int>(threadIdx.x); k < num_from; k += kCellThreads) {
      const float place = source_place[k];
      const int rank = line.self ? k : source_rank[k];
      const int slot = targets.cells.first + rank % kTiedRank;
      const Reading reading(place, targets.ends(slot).centre, inverse);
      const CellSums sums = targets.sums(slot);
      if (d_values.data != nullptr) {
        float even = reading.even(sums.before, sums.after);
        if (line.self) {
          even += targets.value(tile.first_to + k);
        }
        static_cast<float*>(
            d_values.data)[head * d_values.strides.head + row * d_values.strides.row +
                           line.from.source_of(head, tile.first_from + k)] = d_value_factor * even;
      }
      const float value = sources.value(tile.first_from + k);
      const float odd = reading.odd(sums.before, sums.after);
      const float centre = sources.ends(sources.cells.first + k).centre;
      local = std::fma((place - centre) * inverse, value * odd, local);
      float ties = 0.0F;
      if (line.self) {
        ties = self_ties(targets, place, tile.first_from + k);
      } else if (rank >= kTiedRank) {
        ties = -targets.tied(place, tile.first_to + rank % kTiedRank, 1);
      }
      const float sum = std::fma(value, odd - ties, row > first_row ? source_sums[k] : 0.0F);
      if (row + 1 < end_row) {
        source_sums[k] = sum;
      } else {
        put(sum, line.from, tile.first_from + k, job.sources.position, job.source_parts.position);
      }
    }
    stretch += static_cast<double>(local);

    // The step from the thread's cell of sources to the next one, behind its last source.
    if (static_cast<int>(threadIdx.x) + 1 < sources.cells.count) {
      const auto cell = static_cast<int>(threadIdx.x);
      const int last = cell * kCell + kCell - 1;
      const int k = last - sources.cells.first;
      const float place = source_place[k];
      const Reading own(place, sources.centre(cell), inverse);
      const CellEnds& end = sources.ends(last);
      const float v_left =
          std::fma(own.down, sources.sums(last).before, sources.value(tile.first_from + k));
      const float v_right = own.up * end.right;
      const int slot = targets.cells.first + (line.self ? k : source_rank[k] % kTiedRank);
      const Reading other(place, targets.ends(slot).centre, inverse);
      const CellSums sums = targets.sums(slot);
      float g_left = other.down * sums.before;
      if (line.self) {
        g_left += targets.value(tile.first_to + k);
      }
      const float g_right = other.up * sums.after;
      stretch += static_cast<double>((sources.centre(cell + 1) - sources.centre(cell)) * inverse) *
                 static_cast<double>(std::fma(v_left, g_right, g_left * v_right));
    }
    if (threadIdx.x == 0) {  // the steps from the tile's ends
      const auto add = [&](double from, double to, const ScannedSide::Flow& v,
                           const ScannedSide::Flow& g) {
        stretch += (to - from) * work.rate.inverse * (v.left * g.right + g.left * v.right);
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
