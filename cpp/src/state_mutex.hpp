/// The lock of every plan's pointer to its state.
#pragma once

#include <mutex>

namespace laplex::detail {

/// Held for the nanoseconds in which a pointer is copied or exchanged, and around every fork, so
/// that a child does not inherit it locked by a thread it does not have. (The locks inside
/// std::atomic_load of a shared_ptr are inherited so: 3 of 1500 children hung that were forked
/// while other threads updated a plan.)
[[nodiscard]] std::mutex& state_mutex();

}  // namespace laplex::detail
