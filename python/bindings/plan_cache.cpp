#include "plan_cache.hpp"

#include <algorithm>
#include <cmath>
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

/// Anchors of a training run change every step, so old plans are never asked for again: a few dozen
/// are enough for the layers of a network, and a longer list would only be compared in vain.
constexpr std::size_t kMostPlans = 64;

constexpr std::size_t kTargetsArray = 0;
constexpr std::size_t kSourcesArray = 1;
constexpr std::size_t kLengthscaleArray = 2;

bool same_array(const KernelArguments& a, const KernelArguments& b, std::size_t array) {
  const std::size_t size = a.bytes(array);
  return size == 0 || std::memcmp(pointer<const void>(a.arrays[array]),
                                  pointer<const void>(b.arrays[array]), size) == 0;
}

/// Whether some anchors of an array moved by little, compared with how far apart they are.
template <class T>
bool nearby(const T* before, const T* now, std::size_t count) {
  constexpr std::size_t kSample = 32;
  const std::size_t samples = std::min(count, kSample);
  double moved = 0.0;
  double apart = 0.0;
  for (std::size_t s = 0; s < samples; ++s) {
    const std::size_t k = count * s / samples;
    const std::size_t other = count * ((s + 1) % samples) / samples;
    moved += std::fabs(static_cast<double>(now[k]) - static_cast<double>(before[k]));
    apart += std::fabs(static_cast<double>(now[k]) - static_cast<double>(now[other]));
  }
  return 4 * moved <= apart;
}

/// Whether an update makes a plan of kernel `b` from one of kernel `a`.
bool updates_to(const KernelArguments& a, const KernelArguments& b) {
  if (!a.same_options(b)) {
    return false;
  }
  for (std::size_t k = kLengthscaleArray + 1; k < a.arrays.size(); ++k) {
    if (!same_array(a, b, k)) {
      return false;
    }
  }
  return true;
}

/// Whether kernel `b` is what a step of training may make of kernel `a`.
bool follows(const KernelArguments& a, const KernelArguments& b) {
  if (!updates_to(a, b)) {
    return false;
  }
  return with_precision(a.is_double, [&](auto zero) {
    using T = decltype(zero);
    const auto near = [&](std::size_t k) {
      return nearby(pointer<const T>(a.arrays[k]), pointer<const T>(b.arrays[k]),
                    a.bytes(k) / sizeof(T));
    };
    return near(kTargetsArray) && near(kSourcesArray);
  });
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
      entry->found = true;
      return entry->plan;
    }
  }
  return nullptr;
}

/// Takes out an entry whose kernel a step of training has left behind: gradients were computed with
/// its plan, no later call has found it, nobody holds the plan, and `kernel` is close to it. The
/// least recently used one: with several layers alike, each then finds its own.
std::optional<PlanCache::Entry> PlanCache::take_predecessor(const KernelArguments& kernel) {
  for (auto entry = entries_.end(); entry != entries_.begin();) {
    --entry;
    if (entry->plan->differentiated && !entry->found && entry->plan.use_count() == 1 &&
        follows(over(entry->content, entry->kernel), kernel)) {
      std::optional<Entry> taken(std::move(*entry));
      entries_.erase(entry);
      return taken;
    }
  }
  return std::nullopt;
}

/// Takes out an entry whose place a new one needs, so that the new plan uses its memory again:
/// clearing fresh pages takes longer than sorting. The least recently used one of those that nobody
/// holds and that an update can make the new one; none while there is room for one more.
std::optional<PlanCache::Entry> PlanCache::take_memory(const KernelArguments& kernel) {
  for (auto entry = entries_.end(); entry != entries_.begin();) {
    --entry;
    if (entry->plan.use_count() == 1 && updates_to(over(entry->content, entry->kernel), kernel)) {
      if (entries_.size() < kMostPlans && bytes() + entry->bytes() <= max_bytes_) {
        return std::nullopt;
      }
      std::optional<Entry> taken(std::move(*entry));
      entries_.erase(entry);
      return taken;
    }
  }
  return std::nullopt;
}

std::shared_ptr<AnyPlan> PlanCache::get(const KernelArguments& kernel, int num_threads) {
  std::optional<Entry> before;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (auto plan = find(kernel)) {
      ++hits_;
      return plan;
    }
    ++misses_;
    before = take_predecessor(kernel);
    if (!before) {
      before = take_memory(kernel);
    }
  }
  // Built without the lock: sorting may take long. Two threads may build the same plan; one is
  // kept. Built from the copy: the caller's arrays may be written to meanwhile, and a plan kept
  // under a content that is not its own would be wrong for ever.
  std::vector<std::byte> content = copy_content(kernel);
  const KernelArguments copied = over(content, kernel);
  std::shared_ptr<AnyPlan> plan;
  // The copy may not be what was compared under the lock, for the same reason.
  const KernelArguments old = before ? over(before->content, before->kernel) : KernelArguments{};
  if (before && updates_to(old, copied)) {
    plan = std::move(before->plan);
    plan->differentiated = false;
    const bool stay = copied.arrays[kLengthscaleArray] != 0 &&
                      same_array(old, copied, kTargetsArray) &&
                      same_array(old, copied, kSourcesArray);
    update_plan(*plan, stay ? 0 : copied.arrays[kTargetsArray],
                stay ? 0 : copied.arrays[kSourcesArray], copied.arrays[kLengthscaleArray],
                num_threads);
  } else {
    plan = make_plan(copied, num_threads);
  }
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
  while (!entries_.empty() && (entries_.size() > kMostPlans || bytes() > max_bytes_)) {
    entries_.pop_back();
  }
}

}  // namespace laplex::python
