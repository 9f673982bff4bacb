/// Plans by the content of their anchors, so that a backward pass finds the plan of its forward
/// pass.
#pragma once

#include "any_plan.hpp"

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace laplex::python {

/// The least recently used plans go first. Two requests are the same if every byte that describes
/// the kernel is the same: comparing costs a tenth of a nanosecond a byte, sorting again a thousand
/// times that.
class PlanCache {
 public:
  struct Info {
    std::int64_t plans = 0;
    std::int64_t bytes = 0;
    std::int64_t max_bytes = 0;
    std::int64_t hits = 0;
    std::int64_t misses = 0;
  };

  /// `survive_forks` is called when the first plan is there: of the handlers of a fork the last one
  /// that is registered runs first, and this cache is to be locked before the lock of the plans,
  /// which a plan's size takes while the cache is locked.
  PlanCache(std::int64_t max_bytes, void (*survive_forks)())
      : max_bytes_(max_bytes), survive_forks_(survive_forks) {}

  std::shared_ptr<AnyPlan> get(const KernelArguments& kernel, int num_threads);
  void clear();
  /// Around a fork, so that the child does not inherit the lock of a thread it does not have.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }
  void set_max_bytes(std::int64_t max_bytes);
  [[nodiscard]] Info info() const;

 private:
  struct Entry {
    KernelArguments kernel;  ///< sizes and options; addresses tell only which arrays were given
    std::vector<std::byte> content;
    std::shared_ptr<AnyPlan> plan;
    bool found = false;  ///< by a call after the one that made it
    [[nodiscard]] std::int64_t bytes() const;
  };

  std::shared_ptr<AnyPlan> find(const KernelArguments& kernel);
  std::optional<Entry> take_predecessor(const KernelArguments& kernel);
  std::optional<Entry> take_memory(const KernelArguments& kernel);
  void shrink();
  [[nodiscard]] std::int64_t bytes() const;

  mutable std::mutex mutex_;
  std::list<Entry> entries_;  ///< most recently used first
  std::int64_t max_bytes_;
  void (*survive_forks_)();
  std::once_flag registered_;
  std::int64_t hits_ = 0;
  std::int64_t misses_ = 0;
};

}  // namespace laplex::python
