/// Runs independent tasks on a few threads. What a task computes never depends on who runs it.
#pragma once

#include <cstdint>
#include <functional>

namespace laplex::detail {

/// `work` is about the number of elements touched: small calls stay on the calling thread, because
/// a thread costs tens of microseconds. `requested` 0 means default_num_threads().
[[nodiscard]] int threads_for(std::int64_t work, int requested);

/// Calls task(0) .. task(count - 1), each once, in any order. Threads live for the duration of the
/// call: there is no pool to survive a fork or to compete with another library's. Polls the
/// interrupt check of the calling thread between tasks. The first exception stops the rest and is
/// rethrown here.
void parallel_tasks(int threads, std::int64_t count, const std::function<void(std::int64_t)>& task);

/// The same, telling each task which of the threads, 0 .. threads - 1, runs it: what a thread keeps
/// from task to task is its own.
void parallel_workers(int threads, std::int64_t count,
                      const std::function<void(std::int64_t, int)>& task);

/// Cuts [0, count) into ranges of `grain` and calls body(begin, end) for each.
void parallel_ranges(int threads, std::int64_t count, std::int64_t grain,
                     const std::function<void(std::int64_t, std::int64_t)>& body);

/// Asks the calling thread's interrupt check, at most every few tens of milliseconds.
void poll_interrupt();

}  // namespace laplex::detail
