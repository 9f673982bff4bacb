#include "plan_cache.hpp"

#include <cstring>
#include <utility>

namespace laplex::python {
namespace {

/// What an array takes of a copy: each starts where a double may.
std::size_t padded(std::size_t size) {
  return (size + 7) / 8 * 8;
}

bool same_content(const std::vector<std::byte>& content, const KernelArguments& kernel) {
  const std::byte* at = content.data();
  for (std::size_t k = 0; k < kernel.arrays.size(); ++k) {
    const std::size_t size = kernel.bytes(k);
    if (size != 0 && std::memcmp(at, pointer<const void>(kernel.arrays[k]), size) != 0) {
      return false;
    }
    at += padded(size);
  }
  return true;
}

std::vector<std::byte> copy_content(const KernelArguments& kernel) {
  std::vector<std::byte> content;
  for (std::size_t k = 0; k < kernel.arrays.size(); ++k) {
    const auto* data = pointer<const std::byte>(kernel.arrays[k]);
    const std::size_t size = kernel.bytes(k);
    content.insert(content.end(), data, data + size);
    content.resize(content.size() + padded(size) - size);
  }
  return content;
}

/// The kernel with its arrays in `content`, as copy_content laid them out.
KernelArguments over(const std::vector<std::byte>& content, const KernelArguments& kernel) {
  KernelArguments copied = kernel;
  const std::byte* at = content.data();
  for (std::size_t k = 0; k < kernel.arrays.size(); ++k) {
    const std::size_t size = kernel.bytes(k);
    if (size != 0) {
      copied.arrays[k] = reinterpret_cast<Address>(at);
    }
    at += padded(size);
  }
  return copied;
}

std::int64_t plan_bytes(const AnyPlan& plan) {
  return std::visit([](const auto& p) { return p.nbytes(); }, plan.plan);
}

}  // namespace

std::int64_t PlanCache::Entry::bytes() const {
  return plan_bytes(*plan) + static_cast<std::int64_t>(content.size());
}

std::shared_ptr<AnyPlan> PlanCache::find(const KernelArguments& kernel) {
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (entry->kernel.same_options(kernel) && same_content(entry->content, kernel)) {
      entries_.splice(entries_.begin(), entries_, entry);
      return entry->plan;
    }
  }
  return nullptr;
}

std::shared_ptr<AnyPlan> PlanCache::get(const KernelArguments& kernel, int num_threads) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (auto plan = find(kernel)) {
      ++hits_;
      return plan;
    }
    ++misses_;
  }
  // Built without the lock: sorting may take long. Two threads may build the same plan; one is
  // kept. Built from the copy: the caller's arrays may be written to meanwhile, and a plan kept
  // under a content that is not its own would be wrong for ever.
  std::vector<std::byte> content = copy_content(kernel);
  const KernelArguments copied = over(content, kernel);
  auto plan = std::make_shared<AnyPlan>(make_plan(copied, num_threads));
  static_cast<void>(plan_bytes(*plan));
  std::call_once(registered_, survive_forks_);
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool kept = find(copied) != nullptr;
  Entry entry{kernel, std::move(content), plan};
  if (!kept && entry.bytes() <= max_bytes_) {
    entries_.push_front(std::move(entry));
  }
  shrink();
  return plan;
}

void PlanCache::clear() {
  const std::lock_guard<std::mutex> lock(mutex_);
  entries_.clear();
  hits_ = 0;
  misses_ = 0;
}

void PlanCache::set_max_bytes(std::int64_t max_bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  max_bytes_ = max_bytes;
  shrink();
}

PlanCache::Info PlanCache::info() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return {static_cast<std::int64_t>(entries_.size()), bytes(), max_bytes_, hits_, misses_};
}

std::int64_t PlanCache::bytes() const {
  std::int64_t total = 0;
  for (const Entry& entry : entries_) {
    total += entry.bytes();
  }
  return total;
}

void PlanCache::shrink() {
  // Anchors of a training run change every step, so old plans are never asked for again: a few
  // dozen are enough for the layers of a network, and a longer list would only be compared in vain.
  constexpr std::size_t kMostPlans = 64;
  while (!entries_.empty() && (entries_.size() > kMostPlans || bytes() > max_bytes_)) {
    entries_.pop_back();
  }
}

}  // namespace laplex::python
