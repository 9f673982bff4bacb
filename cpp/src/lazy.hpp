/// Tables of an immutable state that are made by the first call that needs them.
///
/// Without a lock: making them takes long, and a lock held all the while would hang a child that is
/// forked meanwhile, and a signal handler that uses the plan (Python's run inside the interrupt
/// check). Calls that come at the same time may make the tables twice; one of them is kept.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace laplex::detail {

template <class Table>
class Lazy {
 public:
  Lazy() = default;
  ~Lazy() { delete kept_.load(); }
  Lazy(const Lazy&) = delete;
  Lazy& operator=(const Lazy&) = delete;

  /// Forgets the table: of a state that nobody uses yet.
  void clear() { delete kept_.exchange(nullptr); }

  /// The table, or null if it has not been made.
  [[nodiscard]] const Table* peek() const { return kept_.load(std::memory_order_acquire); }

  /// Returns the table; adds its size to `nbytes` when it is new. `make` may throw.
  template <class Make>
  const Table& get(const Make& make, std::atomic<std::int64_t>& nbytes) const {
    const Table* kept = peek();
    if (kept == nullptr) {
      std::unique_ptr<const Table> made(new Table(make()));
      if (kept_.compare_exchange_strong(kept, made.get(), std::memory_order_acq_rel)) {
        kept = made.release();
        nbytes += kept->nbytes();
      }
    }
    return *kept;
  }

 private:
  mutable std::atomic<const Table*> kept_{nullptr};
};

}  // namespace laplex::detail
