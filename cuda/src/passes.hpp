/// What products and gradients share: the types of a scan, the first pass over a long line, and the
/// tree of carries between the passes.
#pragma once

#include "kernels/carries.hpp"
#include "kernels/totals.hpp"
#include "runtime.hpp"
#include "state.hpp"

#include <cstdint>
#include <type_traits>
#include <vector>

namespace laplex::cuda::detail {

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

/// Workspace of one scan over a long line, and the passes that fill it.
template <class T, class D, class S, int P, bool Ties>
class LongScan {
 public:
  using Value = Sums<S, P, Ties>;
  static constexpr int kItems = kThreadItems<S, P, Ties>;
  static constexpr std::int64_t kTile = std::int64_t(kTileThreads) * kItems;

  /// With a counting cutter, only counts.
  LongScan(Cutter& cut, const Line<T>& line, std::int64_t heads, std::int64_t rows)
      : line_(line), heads_(heads), rows_(rows), tiles_(ceil_div(line.items, kTile)) {
    for (std::int64_t nodes = tiles_;; nodes = ceil_div(nodes, kNodesPerBlock)) {
      nodes_.push_back(nodes);
      levels_.push_back(cut.take<Value>(heads * rows * nodes * 2));
      if (nodes <= kNodesPerBlock) {
        break;
      }
    }
    if (line.from.index != nullptr) {
      sorted_ = cut.take<Packed<T, S>>(heads * rows * line.from.count);
    }
  }

  [[nodiscard]] std::int64_t tiles() const { return tiles_; }
  [[nodiscard]] const void* carries() const { return levels_.front(); }

  /// Afterwards `carries()` are what comes to each tile, and `input` reads sorted values.
  void run(Input<T>& input, const double* lengthscale, const double* frequency, Stream stream) {
    input.sorted = sorted_;
    launch(totals_kernel<T, D, S, P, Ties, kTileThreads, kItems>,
           {heads_ * rows_ * tiles_, kTileThreads,
            TotalsShared<T, D, S, P, Ties, kTileThreads, kItems>::kBytes},
           stream, TotalsJob<T>{line_, input, lengthscale, frequency, rows_, tiles_, levels_[0]});
    const auto top = static_cast<int>(levels_.size()) - 1;
    std::int64_t node_items = kTile;
    for (int level = 0; level < top; ++level) {
      step(level, node_items, true, lengthscale, frequency, stream);
      node_items *= kNodesPerBlock;
    }
    for (int level = top; level >= 0; --level) {
      step(level, node_items, false, lengthscale, frequency, stream);
      node_items /= kNodesPerBlock;
    }
  }

 private:
  void step(int level, std::int64_t node_items, bool upwards, const double* lengthscale,
            const double* frequency, Stream stream) const {
    const auto at = static_cast<std::size_t>(level);
    const std::int64_t blocks = ceil_div(nodes_[at], kNodesPerBlock);
    using N = Node<T, D, S, P, Ties>;
    launch(carries_kernel<T, D, S, P, Ties>,
           {heads_ * rows_ * blocks, kCarryThreads, BlockScan<kCarryThreads, N>::kSharedBytes},
           stream,
           CarriesJob<T>{line_, lengthscale, frequency, rows_, nodes_[at], node_items, levels_[at],
                         at + 1 < levels_.size() ? levels_[at + 1] : nullptr, upwards});
  }

  Line<T> line_;
  std::int64_t heads_;
  std::int64_t rows_;
  std::int64_t tiles_;
  std::vector<std::int64_t> nodes_;
  std::vector<Value*> levels_;
  Packed<T, S>* sorted_ = nullptr;
};

}  // namespace laplex::cuda::detail
