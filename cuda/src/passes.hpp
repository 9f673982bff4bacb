/// What products and gradients share: the types of a scan, the first pass over a long line, and the
/// tree of carries between the passes.
#pragma once

#include "kernels/carries.hpp"
#include "kernels/cell_gradients.hpp"
#include "kernels/totals.hpp"
#include "runtime.hpp"
#include "shared_line.hpp"
#include "state.hpp"

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace laplex::cuda::detail {

/// Whether a line takes the path of cells, if its types do: a shorter one is a warp's.
template <class T>
[[nodiscard]] bool is_for_cells(const Line<T>& line) {
  constexpr std::int64_t kShortLine = 256;
  return line.items > kShortLine && line.from.count > 0 && line.to.count > 0;
}

/// Threads of a block over a long line.
inline constexpr int kTileThreads = 256;

/// Items a thread walks. Eight where that fits in registers, four where sums are wider.
template <class S, int P, bool Ties>
inline constexpr int kThreadItems = std::is_same_v<S, double> && P == 0 && !Ties ? 8 : 4;

template <class D_, class S_>
struct ScanTypes {
  using D = D_;  ///< of decays
  using S = S_;  ///< of sums
};

/// Calls f with the types of a kernel that oscillates or not and of values that are complex or not,
/// phases counted in.
template <class F>
void with_types(bool oscillates, bool is_complex, const F& f) {
  if (oscillates) {
    f(ScanTypes<Complex, Complex>{});
  } else if (is_complex) {
    f(ScanTypes<double, Complex>{});
  } else {
    f(ScanTypes<double, double>{});
  }
}

/// Groups that the rows are cut into: few enough that rows share what depends on the anchors alone,
/// and enough that a few tiles do not leave the device idle. A function of the sizes alone.
struct Groups {
  std::int64_t count;
  std::int64_t rows;  ///< of each but the last

  Groups(std::int64_t all, std::int64_t blocks_a_row) {
    constexpr std::int64_t kBlocks = 512;
    const std::int64_t wanted = ceil_div(kBlocks, std::max<std::int64_t>(1, blocks_a_row));
    rows = std::min<std::int64_t>(kMostGroupRows, std::max<std::int64_t>(1, all / wanted));
    count = std::max<std::int64_t>(1, ceil_div(all, rows));
  }
};

/// Workspace of one scan over a long line, and the passes that fill it; by cells or by items.
template <class T, class D, class S, int P, bool Ties, bool ByCells = false>
class LongScan {
 public:
  using Value = Sums<S, P, Ties>;
  static constexpr int kItems = kThreadItems<S, P, Ties>;
  static constexpr std::int64_t kPartItems = Ties ? kGradientPart : kPart;
  static constexpr std::int64_t kTile = ByCells ? kCellTile : std::int64_t(kTileThreads) * kItems;

  /// With a counting cutter, only counts. `is_part`: other processes have more of the line.
  LongScan(Cutter& cut, const Line<T>& line, std::int64_t heads, std::int64_t rows, bool is_part,
           std::int64_t tile_items = kTile)
      : line_(line),
        heads_(heads),
        rows_(rows),
        tile_items_(tile_items),
        tiles_(ceil_div(line.items, tile_items)) {
    for (std::int64_t nodes = tiles_;; nodes = ceil_div(nodes, kNodesPerBlock)) {
      nodes_.push_back(nodes);
      levels_.push_back(cut.take<Value>(heads * rows * nodes * 2));
      if (nodes <= kNodesPerBlock) {
        break;
      }
    }
    if (is_part) {
      ends_ = cut.take<Value>(heads * rows * 2);
    }
    if (ByCells) {
      sent_ = cut.take<Value>(heads * rows * tiles_ * (tile_items / kPartItems) * 2);
    }
    if (line.from.index != nullptr) {
      sorted_ = cut.take<Packed<T, S>>(heads * rows * line.from.count);
    }
  }

  [[nodiscard]] std::int64_t tiles() const { return tiles_; }
  [[nodiscard]] const void* carries() const { return levels_.front(); }
  [[nodiscard]] const void* sent() const { return sent_; }

  /// What tiles send. Afterwards `input` reads sorted values.
  void rise(Input<T>& input, const Lengthscales& lengthscale, const double* frequency,
            Stream stream) {
    input.sorted = sorted_;
    const Groups groups(rows_, heads_ * tiles_);
    const TotalsJob<T> job{line_,       input,  lengthscale, frequency,  rows_, groups.count,
                           groups.rows, tiles_, tile_items_, kPartItems, sent_, levels_[0]};
    if constexpr (ByCells) {
      launch(cell_totals_kernel<Ties>,
             {heads_ * groups.count * tiles_, kCellThreads, cell_totals_shared<Ties>()}, stream,
             job);
    } else {
      launch(totals_kernel<T, D, S, P, Ties, kTileThreads, kItems>,
             {heads_ * rows_ * tiles_, kTileThreads,
              totals_shared<T, D, S, P, Ties, kTileThreads>(kTile)},
             stream, job);
    }
    std::int64_t node_items = tile_items_;
    for (std::size_t level = 0; level < levels_.size(); ++level) {
      if (level + 1 < levels_.size() || ends_ != nullptr) {
        step(level, node_items, true, lengthscale, frequency, stream);
      }
      node_items_.push_back(node_items);
      node_items *= kNodesPerBlock;
    }
  }
  /// After rise(), and put_ends() in a part of a line. Afterwards `carries()` are what comes to
  /// each tile.
  void descend(const Lengthscales& lengthscale, const double* frequency, Stream stream) const {
    for (std::size_t level = levels_.size(); level-- > 0;) {
      step(level, node_items_[level], false, lengthscale, frequency, stream);
    }
  }

  /// What leaves a part of a line, [rows, 2]; after rise().
  void take_ends(Value* ends, Stream stream) const {
    if (line_.items > 0) {
      copy_to_host(ends, ends_, ends_bytes(), stream);
    }
  }
  /// What comes to it.
  void put_ends(const Value* ends, Stream stream) const {
    copy_to_device(ends_, ends, ends_bytes(), stream);
  }

 private:
  [[nodiscard]] std::size_t ends_bytes() const {
    return static_cast<std::size_t>(heads_ * rows_ * 2) * sizeof(Value);
  }
  void step(std::size_t at, std::int64_t node_items, bool upwards, const Lengthscales& lengthscale,
            const double* frequency, Stream stream) const {
    const std::int64_t blocks = ceil_div(nodes_[at], kNodesPerBlock);
    using N = Node<T, D, S, P, Ties>;
    launch(carries_kernel<T, D, S, P, Ties>,
           {heads_ * rows_ * blocks, kCarryThreads, BlockScan<kCarryThreads, N>::kSharedBytes},
           stream,
           CarriesJob<T>{line_, lengthscale, frequency, rows_, nodes_[at], node_items, levels_[at],
                         at + 1 < levels_.size() ? levels_[at + 1] : ends_, upwards});
  }

  Line<T> line_;
  std::int64_t heads_;
  std::int64_t rows_;
  std::int64_t tile_items_;
  std::int64_t tiles_;
  std::vector<std::int64_t> nodes_;
  std::vector<std::int64_t> node_items_;
  std::vector<Value*> levels_;
  Packed<T, S>* sorted_ = nullptr;
  Value* sent_ = nullptr;
  Value* ends_ = nullptr;
};

/// What leaves and what comes to a part of a line, [scans, rows, 2]; see SharedLine::exchange().
template <class Value>
struct Ends {
  std::vector<Value> leaves;
  std::vector<Value> comes;
  LineRate rate;
};

/// Between rise() and descend() of scans over a part of a line: one message for all. The host waits
/// for the stream. Collective.
template <class T, class D, class S, int P, bool Ties, bool ByCells>
Ends<Sums<S, P, Ties>> exchange_ends(const SharedLine& shared,
                                     const std::vector<LongScan<T, D, S, P, Ties, ByCells>*>& scans,
                                     std::int64_t rows, const Lengthscales& lengthscale,
                                     const double* frequency, Stream stream) {
  double ell = 1.0;
  double omega = 0.0;
  if (lengthscale.given != nullptr) {
    copy_to_host(&ell, lengthscale.given, sizeof(ell), stream);
  }
  if (frequency != nullptr) {
    copy_to_host(&omega, frequency, sizeof(omega), stream);
  }
  Ends<Sums<S, P, Ties>> ends;
  ends.rate = read_rate({&ell, lengthscale.lengths}, &omega, 0);
  const auto each = static_cast<std::size_t>(2 * rows);
  ends.leaves.resize(scans.size() * each);
  for (std::size_t k = 0; k < scans.size(); ++k) {
    scans[k]->take_ends(ends.leaves.data() + k * each, stream);
  }
  ends.comes = shared.exchange<T, D>(ends.leaves, ends.rate);
  for (std::size_t k = 0; k < scans.size(); ++k) {
    scans[k]->put_ends(ends.comes.data() + k * each, stream);
  }
  return ends;
}

}  // namespace laplex::cuda::detail
