/// One block of lanes on its way through the cells: values in, carries between the cells, results
/// out.
#pragma once

#include "array.hpp"
#include "lanes.hpp"
#include "parallel.hpp"
#include "state.hpp"

#include <algorithm>
#include <cstdint>

namespace laplex::detail {

/// A side as a block of this shape reads or writes it: a wide one permutes whole tiles.
template <class T>
[[nodiscard]] SideView<T> side_for(PassShape shape, const State<T>& state, std::int64_t head,
                                   Side side, int threads) {
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

  [[nodiscard]] const Input<T>& input() const { return input_; }
  /// The values of a real lane in sorted order, where results may take their places once they have
  /// been used; null if they are not there.
  [[nodiscard]] T* sorted() { return sorted_ ? tile_.data() : nullptr; }

 private:
  void sort_values(PassShape shape, const SideView<T>& side, std::int64_t count,
                   Array<std::byte>& scratch, int threads);

  Array<T> tile_;  ///< values of a wide block, or sorted ones of a narrow block
  Input<T> input_{};
  bool sorted_ = false;
};

/// Values with what they sum up to in front of each cell.
template <class T>
class Carried {
 public:
  /// Lays the values out and scans them over the cells.
  void set(PassShape shape, const Cells<T>& cells, const SideView<T>& side, std::int64_t count,
           const Vectors<const T>& values, Block block, bool conjugate, Array<std::byte>& scratch,
           int threads);

  [[nodiscard]] const Input<T>& input() const { return values_.input(); }
  [[nodiscard]] T* sorted() { return values_.sorted(); }
  [[nodiscard]] Carries carries() const { return {left_.data(), right_.data(), grown_.data()}; }

 private:
  template <class D>
  void scan(PassShape shape, const Cells<T>& cells, int threads);

  LaidOut<T> values_;
  Array<double> grown_;
  Array<double> shrunk_;
  Array<double> left_;
  Array<double> right_;
  Array<double> sums_;  ///< of chunks of cells, from the left and from the right
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
  /// Where to write them instead of `out`: at `room` unless that is null.
  T* open(const SideView<T>& side, std::int64_t count, T* out, T* room) {
    side_ = side;
    count_ = count;
    out_ = out;
    if (room == nullptr) {
      own_.reset(count);
    }
    sorted_ = room != nullptr ? room : own_.data();
    return sorted_;
  }
  /// Brings them to `out`, if it has been opened.
  void close(Array<std::byte>& scratch, int threads);

 private:
  SideView<T> side_;
  std::int64_t count_ = 0;
  T* out_ = nullptr;
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
  /// Hands them over.
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
  // Cells a task: long enough to hide the cost of handing it out, which is small cells beyond
  // count.
  constexpr std::int64_t kFewest = 64;
  constexpr std::int64_t kAnchors = 64 * kCell;
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
