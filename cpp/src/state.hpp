/// What a plan holds: one immutable snapshot, replaced as a whole by update().
#pragma once

#include "cells.hpp"
#include "direction.hpp"
#include "order.hpp"

#include <laplex/plan.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace laplex::detail {

/// What does not change when the anchors move.
template <class T>
struct Fixed {
  std::int64_t heads = 0;
  std::int64_t n = 0;
  std::int64_t m = 0;
  bool self = false;
  bool oscillates = false;
  bool phased = false;
  bool real_part = false;
  int num_threads = 0;
  std::vector<Rate> rate;              ///< [heads]
  std::vector<Complex> target_factor;  ///< [heads, n] exp(i theta), or empty
  std::vector<Complex> source_factor;  ///< [heads, m] exp(-i phi), or empty

  [[nodiscard]] bool has_phases() const { return phased; }
  [[nodiscard]] bool complex_kernel() const { return oscillates || has_phases(); }
};

/// The tables of one direction that moments need, made by the first call that asks for one.
///
/// Without a lock: making them takes long, and a lock held all the while would hang a child that is
/// forked meanwhile, and a signal handler that uses the plan (Python's run inside the interrupt
/// check). Calls that come at the same time may make the tables twice; one of them is kept.
template <class D>
class LazyDirection {
 public:
  LazyDirection() = default;
  ~LazyDirection() { delete kept_.load(); }
  LazyDirection(const LazyDirection&) = delete;
  LazyDirection& operator=(const LazyDirection&) = delete;

  /// Forgets the tables: of a state that nobody uses yet.
  void clear() { delete kept_.exchange(nullptr); }

  /// Returns the direction; adds its size to `nbytes` when it is new. `make` may throw.
  template <class Make>
  const Direction<D>& get(const Make& make, std::atomic<std::int64_t>& nbytes) const {
    const Direction<D>* kept = kept_.load(std::memory_order_acquire);
    if (kept == nullptr) {
      auto made = std::make_unique<const Direction<D>>(make());
      if (kept_.compare_exchange_strong(kept, made.get(), std::memory_order_acq_rel)) {
        kept = made.release();
        nbytes += kept->nbytes();
      }
    }
    return *kept;
  }

 private:
  mutable std::atomic<const Direction<D>*> kept_{nullptr};
};

/// The tables of one head. Moments are for derivatives by lengthscale and frequency: index 0 scans
/// sources and reads at targets, index 1 the reverse.
template <class T>
struct Head {
  Cells<T> cells;
  LazyDirection<double> real_moments[2];      ///< used when the kernel does not oscillate
  LazyDirection<Complex> complex_moments[2];  ///< used when it does
};

template <class T>
class State {
 public:
  explicit State(std::shared_ptr<const Fixed<T>> fixed);

  /// Sorts the anchors and builds the tables, in memory that is there already where it fits;
  /// `previous`, another state, gives hints. `sorting` is memory to sort in.
  void build(const T* targets, const T* sources, const State* previous, Sorting<T>& sorting,
             int num_threads);

  [[nodiscard]] const Fixed<T>& fixed() const { return *fixed_; }
  [[nodiscard]] std::shared_ptr<const Fixed<T>> shared_fixed() const { return fixed_; }

  [[nodiscard]] const Cells<T>& cells(std::int64_t head) const { return at(head).cells; }

  /// What moments need of the line of sources read at targets, or (transposed) of targets read at
  /// sources; made on first use.
  template <class D>
  [[nodiscard]] const Direction<D>& moments(std::int64_t head, bool transposed,
                                            int num_threads) const;

  [[nodiscard]] std::int64_t nbytes() const { return nbytes_.load(); }

 private:
  [[nodiscard]] const Head<T>& at(std::int64_t head) const {
    return *heads_[static_cast<std::size_t>(head)];
  }

  std::shared_ptr<const Fixed<T>> fixed_;
  std::vector<std::unique_ptr<Head<T>>> heads_;
  mutable std::atomic<std::int64_t> nbytes_{0};
};

}  // namespace laplex::detail
