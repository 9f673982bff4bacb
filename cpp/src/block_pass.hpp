/// One block of lanes on its way through the cells: values in, carries between the cells, results
/// out.
#pragma once

#include "array.hpp"
#include "lanes.hpp"
#include "parallel.hpp"
#include "shared_line.hpp"
#include "state.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace laplex::detail {

/// A side as a block of this shape reads or writes it: a wide one permutes whole tiles.
template <class T>
[[nodiscard]] SideView<T> side_for(PassShape shape, const State<T>& state, std::int64_t head,
                                   Role side, int threads) {
  return shape.wide ? state.side(head, side) : state.permuted_side(head, side, threads);
}

/// Values of a block of lanes on one side of a head, where the kernels find them. The memory is
/// kept for the next block.
template <class T>
class LaidOut {
 public:
  void set(PassShape shape, const SideView<T>& side, std::int64_t count,
           const Vectors<const T>& values, Block block, bool conjugate, Array<std::byte>& scratch,
           int threads);

  /// Brings the values at these sorted places there, phases in, if they have not come by a
  /// permutation: once, and just before they are used.
  void sort(const SideView<T>& side, std::int64_t begin, std::int64_t end);

  [[nodiscard]] const Input<T>& input() const { return input_; }
  /// The values of a real lane in sorted order, where results may take their places once they have
  /// been used; null if they are not there.
  [[nodiscard]] T* sorted() { return sorted_ ? tile_.data() : nullptr; }

 private:
  /// Brings the values of a single lane into sorted order by the side's permutation, if it has one
  /// and they are next to each other. Phases are left for the kernels.
  bool permute(const SideView<T>& side, std::int64_t count, Array<std::byte>& scratch, int threads);

  Array<T> tile_;  ///< values of a wide block, or sorted ones of a narrow block
  Input<T> input_{};
  Input<T> given_{};
  bool sorted_ = false;
  bool waits_ = false;  ///< for sort()
};

/// Values with what they sum up to in front of each cell.
template <class T>
class Carried {
 public:
  /// Lays the values out and sums them up over the cells.
  void set(PassShape shape, const Cells<T>& cells, const SideView<T>& side, std::int64_t count,
           const Vectors<const T>& values, Block block, bool conjugate, Array<std::byte>& scratch,
           int threads);
  /// On a line that other processes share: the totals that they need.
  void send(PassShape shape, const Cells<T>& cells, std::int64_t slot, Round& round);
  /// Goes down again to what enters each cell. `round` is null if the line is not shared.
  void enter(PassShape shape, const Cells<T>& cells, std::int64_t slot, const Round* round,
             int threads);

  /// Sums real values themselves up along the line, from its left or (`reverse`) from its right.
  void run_along(PassShape shape, const Cells<T>& cells, const SideView<T>& side, bool reverse,
                 Array<std::byte>& scratch, int threads);

  [[nodiscard]] const Input<T>& input() const { return values_.input(); }
  [[nodiscard]] T* sorted() { return values_.sorted(); }
  [[nodiscard]] Carries carries() const {
    return {left_.empty() ? grown_.data() : left_.data(), shrunk_.data(), grown_.data()};
  }
  /// The same with the running sums.
  [[nodiscard]] Carries running_carries() const {
    Carries all = carries();
    all.running = {running_.data(), reverse_};
    return all;
  }

 private:
  template <class D>
  void sum_up(PassShape shape, const Line<D>& line, int threads);
  template <class D>
  void spread_down(PassShape shape, const Line<D>& line, int threads);
  template <class D>
  void receive(PassShape shape, const Cells<T>& cells, std::int64_t slot, const Round& round);
  /// Calls body(level, first and last chunk, parents' numbers, where results go) for ranges of
  /// chunks in both directions.
  template <class D, class Body>
  void each_range(PassShape shape, const Line<D>& line, std::size_t level, int threads,
                  const Body& body);
  /// The numbers of a leaf of the skeleton; `of_cells` are those of the cells.
  [[nodiscard]] double* leaf(const Cells<T>& cells, const Skeleton::Node& node, bool reverse,
                             double* of_cells, std::int64_t carry);
  /// Those of the own nodes of a level above the cells.
  [[nodiscard]] double* sums(const LineTree* const* trees, std::size_t level, bool reverse,
                             std::int64_t carry);
  [[nodiscard]] double* entering(bool reverse) {
    return reverse ? shrunk_.data() : left_.empty() ? grown_.data() : left_.data();
  }

  LaidOut<T> values_;
  // What enters a cell replaces its total, for fresh memory costs as much as the scan; only a line
  // with point cells needs the totals with `grow` once more.
  Array<double> grown_;
  Array<double> shrunk_;
  Array<double> left_;  ///< empty without point cells
  Array<double> sums_;  ///< of chunks of cells, from the left and from the right
  Array<double> running_;
  bool reverse_ = false;  ///< of running_
  bool scanned_ = false;  ///< not so if there is one cell alone
};

/// Blocks whose values are in memory at a time where processes share a line: a message has its
/// price.
inline constexpr std::int64_t kBlocksAtOnce = 8;

/// Takes every block through the two halves of a pass, up(block, place, round) and down(...); what
/// processes that share the line tell each other goes between. `place` is that of the block among
/// those in memory; it has `slots` slots of the round, from `slots * place` on, in which a leaf has
/// `numbers`.
template <class Up, class Down>
void in_two_halves(const SharedLine& line, std::int64_t blocks, std::int64_t slots,
                   std::int64_t numbers, const Up& up, const Down& down) {
  for (std::int64_t first = 0; first < blocks; first += kBlocksAtOnce) {
    const std::int64_t count = std::min(kBlocksAtOnce, blocks - first);
    Round round(line, count * slots, numbers);
    for (std::int64_t k = 0; k < count; ++k) {
      up(first + k, k, round);
    }
    round.gather();
    for (std::int64_t k = 0; k < count; ++k) {
      down(first + k, k, round);
    }
  }
}

/// Results of a single lane that are written in sorted order and permuted at the end: several
/// arrays written in random order at a time would fight for the caches and page tables.
template <class T>
class Permuted {
 public:
  /// Whether that pays for so many results of a side.
  [[nodiscard]] static bool pays(const SideView<T>& side, std::int64_t count) {
    constexpr std::int64_t kLeast = std::int64_t(1) << 17;
    return side.index != nullptr && count >= kLeast;
  }
  /// Where to write them, numbers or pairs, instead of `out`: at `room` unless that is null.
  T* open(const SideView<T>& side, std::int64_t count, T* out, T* room, bool pairs = false) {
    side_ = side;
    count_ = count;
    out_ = out;
    pairs_ = pairs;
    if (room == nullptr) {
      own_.reset(pairs ? 2 * count : count);
    }
    sorted_ = room != nullptr ? room : own_.data();
    return sorted_;
  }
  /// Whether a fast permutation takes them all at once.
  [[nodiscard]] bool waits() const { return side_.permutation != nullptr; }
  /// Brings those at some sorted places to `out`.
  void scatter(std::int64_t begin, std::int64_t end);
  /// Brings all to `out`, if it has been opened.
  void close(Array<std::byte>& scratch, int threads);

 private:
  SideView<T> side_;
  std::int64_t count_ = 0;
  T* out_ = nullptr;
  bool pairs_ = false;
  T* sorted_ = nullptr;
  Array<T> own_;
};

/// Where a block's results are written before they go to the caller's rows.
template <class T>
class Delivered {
 public:
  /// Prepares for results of `count` entries at `side`; `in_rows`: rows in sorted order need no
  /// tile; `room` as in Permuted.
  void open(PassShape shape, const SideView<T>& side, std::int64_t count, const Vectors<T>& results,
            Block block, bool conjugate, double scale, bool in_rows = false, T* room = nullptr);
  /// Hands those at some sorted places over, if that need not wait for all: while they are near.
  void deliver(std::int64_t begin, std::int64_t end) {
    if (output_.sorted && !permuted_.waits()) {
      permuted_.scatter(begin, end);
    }
  }
  /// Hands the others over.
  void close(Array<std::byte>& scratch, int threads);

  [[nodiscard]] const Output<T>& output() const { return output_; }

 private:
  PassShape shape_{};
  Array<T> tile_;
  Permuted<T> permuted_;
  Output<T> output_{};
};

/// Runs body(begin, end, scratch) over the cells.
template <class T, class Body>
void over_cells(const Cells<T>& cells, Array<std::byte>& scratch, std::int64_t scratch_size,
                int threads, const Body& body) {
  // Cells a task: enough to hide the cost of handing it out, which of small ones takes more. A
  // quarter of these made products of 10^6 sorted anchors 5 to 10% slower on one thread.
  constexpr std::int64_t kFewest = 64;
  constexpr std::int64_t kAnchors = kFewest * kCell;
  const std::int64_t count = cells.count();
  const std::int64_t anchors = cells.num_targets() + cells.num_sources();
  const std::int64_t grain =
      std::clamp(kAnchors * count / std::max<std::int64_t>(anchors, 1), kFewest, kAnchors);
  const std::int64_t tasks = (count + grain - 1) / grain;
  const int workers =
      static_cast<int>(std::min<std::int64_t>(threads, std::max<std::int64_t>(tasks, 1)));
  scratch.reset_to_hold(workers * scratch_size);
  parallel_workers(workers, tasks, [&](std::int64_t task, int worker) {
    body(task * grain, std::min(count, (task + 1) * grain),
         static_cast<void*>(scratch.data() + worker * scratch_size));
  });
}

}  // namespace laplex::detail
