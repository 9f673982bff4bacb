#include "parallel.hpp"

#include <laplex/error.hpp>
#include <laplex/interrupt.hpp>
#include <laplex/threads.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace laplex {
namespace {

thread_local InterruptCheck interrupt_check;
thread_local std::chrono::steady_clock::time_point last_poll;

}  // namespace

InterruptScope::InterruptScope(InterruptCheck check) : previous_(std::move(interrupt_check)) {
  interrupt_check = std::move(check);
  last_poll = std::chrono::steady_clock::now();
}

InterruptScope::~InterruptScope() {
  interrupt_check = std::move(previous_);
}

int default_num_threads() {
  const char* text = std::getenv("LAPLEX_NUM_THREADS");
  if (text == nullptr || *text == '\0') {
    return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  }
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*end != '\0' || value < 1) {
    throw Error(ErrorCode::invalid_argument,
                std::string("the environment variable LAPLEX_NUM_THREADS must be a positive "
                            "integer, got \"") +
                    text + "\": set it to a number of threads or unset it");
  }
  return static_cast<int>(std::min<long>(value, kMostThreads));
}

namespace detail {

int threads_for(std::int64_t work, int requested) {
  constexpr std::int64_t kWorkPerThread = 1 << 16;
  const std::int64_t useful = std::max<std::int64_t>(work / kWorkPerThread, 1);
  if (useful == 1 && std::getenv("LAPLEX_NUM_THREADS") == nullptr) {
    return 1;  // to ask how many processors there are takes longer than a small product
  }
  const int limit = requested > 0 ? requested : default_num_threads();
  return static_cast<int>(std::min<std::int64_t>(useful, limit));
}

void poll_interrupt() {
  constexpr auto kInterval = std::chrono::milliseconds(20);
  if (!interrupt_check) {
    return;
  }
  const auto now = std::chrono::steady_clock::now();
  if (now - last_poll < kInterval) {
    return;
  }
  last_poll = now;
  if (interrupt_check()) {
    throw Error(ErrorCode::interrupted, "interrupted");
  }
}

void parallel_tasks(int threads, std::int64_t count,
                    const std::function<void(std::int64_t)>& task) {
  parallel_workers(threads, count, [&](std::int64_t k, int) { task(k); });
}

void parallel_workers(int threads, std::int64_t count,
                      const std::function<void(std::int64_t, int)>& task) {
  if (threads <= 1 || count <= 1) {
    for (std::int64_t k = 0; k < count; ++k) {
      poll_interrupt();
      task(k, 0);
    }
    return;
  }
  std::atomic<std::int64_t> next{0};
  std::atomic<bool> stop{false};
  std::exception_ptr failure;
  std::mutex failure_mutex;
  const auto work = [&](int worker) {
    try {
      while (!stop.load(std::memory_order_relaxed)) {
        if (worker == 0) {  // the calling thread
          poll_interrupt();
        }
        const std::int64_t k = next.fetch_add(1, std::memory_order_relaxed);
        if (k >= count) {
          return;
        }
        task(k, worker);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(failure_mutex);
      if (!failure) {
        failure = std::current_exception();
      }
      stop.store(true, std::memory_order_relaxed);
    }
  };
  std::vector<std::thread> helpers;
  const auto wanted = static_cast<std::size_t>(std::min<std::int64_t>(threads, count) - 1);
  helpers.reserve(wanted);
  for (std::size_t k = 0; k < wanted; ++k) {
    try {
      helpers.emplace_back(work, static_cast<int>(k) + 1);
    } catch (...) {
      break;  // no thread, or no memory for one, is left to give: the others do the work
    }
  }
  work(0);
  for (std::thread& helper : helpers) {
    helper.join();
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
}

void parallel_ranges(int threads, std::int64_t count, std::int64_t grain,
                     const std::function<void(std::int64_t, std::int64_t)>& body) {
  const std::int64_t tasks = (count + grain - 1) / grain;
  parallel_tasks(threads, tasks, [&](std::int64_t k) {
    const std::int64_t begin = k * grain;
    body(begin, std::min(count, begin + grain));
  });
}

}  // namespace detail
}  // namespace laplex
