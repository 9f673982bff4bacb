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
  const std::size_t cells = 2 * (CellScan::kSharedBytes + cell_bytes(kCellTile / 2) + 1024);
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

  /// Whether the thread's cell, if it has one, can be scanned; in the self case ties cannot.
  [[nodiscard]] __device__ bool fits() const {
    if (!cells.mine()) {
      return true;
    }
    const float* const position = side_.positions(work_.head);
    Cell cell;
    bool result = cell.load(position, side_.count, cells, work_.tile, work_.rate);
    if (self_) {
      const std::int64_t begin = cells.begin + static_cast<std::int64_t>(threadIdx.x) * kCell;
      for (int k = 0; k <= kCell; ++k) {
        const std::int64_t at = begin + k;
        result = result && !(at > 0 && at < side_.count && position[at] == position[at - 1]);
      }
    }
    return result;
  }

  /// Scans one row. `to_left` and `to_right` come to the tile from beyond its ends.
  __device__ void scan(std::int64_t row, const void* carries) {
    const int at = static_cast<int>(threadIdx.x) * kCell;
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
  /// The value of an anchor of the line.
  [[nodiscard]] __device__ float value(std::int64_t row, std::int64_t anchor) const {
    return input_.sorted != nullptr
               ? input_.template sorted_row<double>(side_, work_.head, row, rows_)[anchor].re
               : input_.template gather<double>(side_, work_.head, row, anchor).re;
  }

  const Cells cells;

 private:
  const Side<float>& side_;
  const Input<float>& input_;
  const BlockWork& work_;
  std::int64_t rows_;
  bool self_;
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
             line.has_ties(head, block));
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
  const auto rank = [&](const Side<float>& side, std::int64_t first, int k) {
    return line.self ? k : static_cast<int>(side.ranks(head)[first + k]);
  };
  // The target or the source of a thread is the k-th of its tile's.
  const auto nth = [](int i) { return static_cast<int>(threadIdx.x) + i * kCellThreads; };

  float d_target[kReadings] = {};
  float d_source[kReadings] = {};
  double stretch = 0.0;
  for (std::int64_t row = work.first_row; row < work.end_row; ++row) {
    const std::int64_t at = 2 * ((head * job.rows + row) * job.tiles + work.number);
    const auto carries_of = [&](const void* carries) -> const void* {
      return carries == nullptr ? nullptr : static_cast<const Sums<double, 0, true>*>(carries) + at;
    };
    sources.scan(row, carries_of(job.value_carries));
    targets.scan(row, carries_of(job.grad_carries));
    __syncthreads();

    float local = 0.0F;  // of the stretch, from this row
    LAPLEX_UNROLL
    for (int i = 0; i < kReadings; ++i) {
      const int k = nth(i);
      if (k >= num_to) {
        break;
      }
      const int slot = sources.cells.first + rank(line.to, tile.first_to, k);
      const Reading reading(target_place[k], sources.ends(slot).centre, inverse);
      const CellSums sums = sources.sums(slot);
      const float odd =
          targets.value(row, tile.first_to + k) * reading.odd(sums.before, sums.after);
      d_target[i] += odd;
      local = std::fma(reading.distance, odd, local);
    }
    LAPLEX_UNROLL
    for (int i = 0; i < kReadings; ++i) {
      const int k = nth(i);
      if (k >= num_from) {
        break;
      }
      const int slot = targets.cells.first + rank(line.from, tile.first_from, k);
      const Reading reading(source_place[k], targets.ends(slot).centre, inverse);
      const CellSums sums = targets.sums(slot);
      float even = reading.even(sums.before, sums.after);
      if (line.self) {
        even += targets.value(row, tile.first_to + k);
      }
      if (job.d_values.vectors.data != nullptr) {
        job.d_values.template scatter<double>(line.from, head, row, tile.first_from + k, {even},
                                              work.rate.valid);
      }
      const float odd =
          sources.value(row, tile.first_from + k) * reading.odd(sums.before, sums.after);
      d_source[i] += odd;
      const float centre = sources.ends(sources.cells.first + k).centre;
      local = std::fma((source_place[k] - centre) * inverse, odd, local);
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
          std::fma(own.down, sources.sums(last).before, sources.value(row, tile.first_from + k));
      const float v_right = own.up * end.right;
      const int slot = targets.cells.first + rank(line.from, tile.first_from, k);
      const Reading other(place, targets.ends(slot).centre, inverse);
      const CellSums sums = targets.sums(slot);
      float g_left = other.down * sums.before;
      if (line.self) {
        g_left += targets.value(row, tile.first_to + k);
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

  const auto factor = static_cast<float>(-work.rate.inverse * work.rate.valid);
  const auto put = [&](const float (&sum)[kReadings], const Side<float>& side, std::int64_t first,
                       int count, float* out, float* parts) {
    if (out == nullptr) {
      return;
    }
    LAPLEX_UNROLL
    for (int i = 0; i < kReadings; ++i) {
      const int k = nth(i);
      if (k >= count) {
        break;
      }
      const std::int64_t entry = first + k;
      float* const to = parts != nullptr ? parts + (work.group * heads + head) * side.count + entry
                                         : out + head * side.count + side.source_of(head, entry);
      *to = factor * sum[i];
    }
  };
  put(d_target, line.to, tile.first_to, num_to, job.targets.position, job.target_parts.position);
  put(d_source, line.from, tile.first_from, num_from, job.sources.position,
      job.source_parts.position);
  if (job.stretch != nullptr) {
    write_stretch<float, kCellThreads>(job, {work.rate.valid * stretch, 0.0}, shared,
                                       (head * job.groups + work.group) * job.tiles + work.number);
  }
}

}  // namespace laplex::cuda::detail
