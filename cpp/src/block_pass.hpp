/// One block of lanes on its way through the cells: values in, carries between the cells, results
/// out.
#pragma once

#include "array.hpp"
#include "lanes.hpp"
#include "parallel.hpp"
#include "scan.hpp"
#include "state.hpp"

#include <cstdint>

namespace laplex::detail {

/// Cells a task: long enough to hide the cost of handing it out.
inline constexpr std::int64_t kCellGrain = 64;

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
  /// The values of a real lane in sorted order, where results may take their places once they have
  /// been used; null if they are not there.
  [[nodiscard]] T* sorted() { return sorted_ ? tile_.data() : nullptr; }
  [[nodiscard]] Carries carries() const { return {left_.data(), right_.data(), grown_.data()}; }

 private:
  void sort_values(PassShape shape, const SideView<T>& side, std::int64_t count,
                   Array<std::byte>& scratch, int threads);
  template <class D, int L>
  void scan(const Cells<T>& cells, int threads);

  Array<T> tile_;  ///< values of a wide block, or sorted ones of a narrow block
  Array<double> grown_;
  Array<double> shrunk_;
  Array<double> left_;
  Array<double> right_;
  Array<double> sums_;
  Input<T> input_{};
  bool sorted_ = false;
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
  /// Prepares for results of `count` entries at `side`; `room` as in Permuted.
  void open(PassShape shape, const SideView<T>& side, std::int64_t count, const Vectors<T>& results,
            Block block, bool conjugate, double scale, T* room = nullptr);
  /// Hands them over.
  void close(Array<std::byte>& scratch, int threads);

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
template <class Body>
void over_cells(std::int64_t cells, Array<std::byte>& scratch, std::int64_t scratch_size,
                int threads, const Body& body) {
  const std::int64_t tasks = (cells + kCellGrain - 1) / kCellGrain;
  const int workers =
      static_cast<int>(std::min<std::int64_t>(threads, std::max<std::int64_t>(tasks, 1)));
  scratch.reset_to_hold(workers * scratch_size);
  parallel_workers(workers, tasks, [&](std::int64_t task, int worker) {
    body(task * kCellGrain, std::min(cells, (task + 1) * kCellGrain),
         static_cast<void*>(scratch.data() + worker * scratch_size));
  });
}

}  // namespace laplex::detail
