/// One block of lanes on its way through the cells: values in, carries between the cells, results
/// out.
#pragma once

#include "array.hpp"
#include "lanes.hpp"
#include "parallel.hpp"
#include "state.hpp"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace laplex::detail {

/// A side as a block of this shape reads or writes it: a wide one permutes whole tiles.
template <class T>
[[nodiscard]] SideView<T> side_for(PassShape shape, const State<T>& state, std::int64_t head,
                                   Side side, int threads) {
  return shape.wide ? state.side(head, side) : state.permuted_side(head, side, threads);
}

/// Values of a block of lanes on one side of a head: where the kernels find them, and what they sum
/// up to in front of each cell. The memory is kept for the next block.
template <class T>
class Carried {
 public:
  /// Lays the values out and scans them over the cells.
  void set(PassShape shape, const Cells<T>& cells, const SideView<T>& side, std::int64_t count,
           const Vectors<const T>& values, Block block, bool conjugate, Array<std::byte>& scratch,
           int threads);

  [[nodiscard]] const Input<T>& input() const { return input_; }
  [[nodiscard]] Carries carries() const {
    return {left_.empty() ? grown_.data() : left_.data(), shrunk_.data(), grown_.data()};
  }

 private:
  bool permute_values(const SideView<T>& side, std::int64_t count, int threads);
  void sort_values(PassShape shape, const SideView<T>& side, const Input<T>& given,
                   std::pair<std::int64_t, std::int64_t> places);
  [[nodiscard]] double* entering_left() { return left_.empty() ? grown_.data() : left_.data(); }
  template <class D>
  void scan(PassShape shape, const Cells<T>& cells, int threads);

  Array<T> tile_;  ///< values of a wide block, or sorted ones of a narrow block
  // What enters a cell replaces its total, for fresh memory costs as much as the scan; only a line
  // with point cells needs the totals with `grow` once more.
  Array<double> grown_;
  Array<double> shrunk_;
  Array<double> left_;  ///< empty without point cells
  Array<double> sums_;  ///< of chunks of cells, from the left and from the right
  Input<T> input_{};
};

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
  /// Where to write them, numbers or pairs, instead of `out`.
  T* open(const SideView<T>& side, std::int64_t count, T* out, bool pairs = false) {
    side_ = side;
    count_ = count;
    out_ = out;
    pairs_ = pairs;
    sorted_.reset(pairs ? 2 * count : count);
    return sorted_.data();
  }
  /// Whether a fast permutation takes them all at once.
  [[nodiscard]] bool waits() const { return side_.permutation != nullptr; }
  /// Brings those at some sorted places to `out`.
  void scatter(std::int64_t begin, std::int64_t end);
  /// Brings all to `out`, if it has been opened.
  void close(int threads);

 private:
  SideView<T> side_;
  std::int64_t count_ = 0;
  T* out_ = nullptr;
  bool pairs_ = false;
  Array<T> sorted_;
};

/// Where a block's results are written before they go to the caller's rows.
template <class T>
class Delivered {
 public:
  /// Prepares for results of `count` entries at `side`.
  void open(PassShape shape, const SideView<T>& side, std::int64_t count, const Vectors<T>& results,
            Block block, bool conjugate, double scale);
  /// Hands those at some sorted places over, if that need not wait for all: while they are near.
  void deliver(std::int64_t begin, std::int64_t end) {
    if (output_.sorted && !permuted_.waits()) {
      permuted_.scatter(begin, end);
    }
  }
  /// Hands the others over.
  void close(int threads);

  [[nodiscard]] const Output<T>& output() const { return output_; }

 private:
  PassShape shape_{};
  std::int64_t count_ = 0;
  Array<T> tile_;
  Permuted<T> permuted_;
  Output<T> output_{};
  T* rows_[kRows] = {};
  std::int64_t step_ = 1;
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
  if (scratch.size() < workers * scratch_size) {
    scratch.reset(workers * scratch_size);
  }
  parallel_workers(workers, tasks, [&](std::int64_t task, int worker) {
    body(task * grain, std::min(count, (task + 1) * grain),
         static_cast<void*>(scratch.data() + worker * scratch_size));
  });
}

}  // namespace laplex::detail
