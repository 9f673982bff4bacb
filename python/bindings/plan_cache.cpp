#include "plan_cache.hpp"

#include <array>
#include <cstring>
#include <utility>

namespace laplex::python {
namespace {

struct Bytes {
  const std::byte* data;
  std::size_t size;
};

/// What an array takes of a copy: each starts where a double may.
std::size_t padded(std::size_t size) {
  return (size + 7) / 8 * 8;
}

/// The arrays that describe a kernel.
std::array<Bytes, 6> arrays(const Description& d) {
  const std::size_t scalar = d.is_double ? 8 : 4;
  const auto heads = static_cast<std::size_t>(d.heads);
  const std::size_t n = heads * static_cast<std::size_t>(d.n) * scalar;
  const std::size_t m = heads * static_cast<std::size_t>(d.m) * scalar;
  const auto array = [](std::uintptr_t address, std::size_t size) {
    return Bytes{pointer<const std::byte>(address), address != 0 ? size : 0};
  };
  return {array(d.targets, n),           array(d.sources, m),      array(d.lengthscale, heads * 8),
          array(d.frequency, heads * 8), array(d.target_phase, n), array(d.source_phase, m)};
}

bool same_options(const Description& a, const Description& b) {
  return a.is_double == b.is_double && a.heads == b.heads && a.n == b.n && a.m == b.m &&
         a.real_part == b.real_part && (a.sources == 0) == (b.sources == 0) &&
         (a.frequency == 0) == (b.frequency == 0) &&
         (a.target_phase == 0) == (b.target_phase == 0) &&
         (a.source_phase == 0) == (b.source_phase == 0);
}

bool same_content(const std::vector<std::byte>& content, const Description& d) {
  const std::byte* at = content.data();
  for (const Bytes& array : arrays(d)) {
    if (array.size != 0 && std::memcmp(at, array.data, array.size) != 0) {
      return false;
    }
    at += padded(array.size);
  }
  return true;
}

std::vector<std::byte> copy_content(const Description& d) {
  std::vector<std::byte> content;
  for (const Bytes& array : arrays(d)) {
    content.insert(content.end(), array.data, array.data + array.size);
    content.resize(content.size() + padded(array.size) - array.size);
  }
  return content;
}

/// The description `d` with its arrays in `content`, as copy_content laid them out.
Description over(const std::vector<std::byte>& content, const Description& d) {
  Description copied = d;
  const std::array<std::uintptr_t*, 6> addresses = {&copied.targets,      &copied.sources,
                                                    &copied.lengthscale,  &copied.frequency,
                                                    &copied.target_phase, &copied.source_phase};
  const auto given = arrays(d);
  const std::byte* at = content.data();
  for (std::size_t k = 0; k < given.size(); ++k) {
    if (given[k].size != 0) {
      *addresses[k] = reinterpret_cast<std::uintptr_t>(at);
      at += padded(given[k].size);
    }
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

std::shared_ptr<AnyPlan> PlanCache::find(const Description& description) {
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (same_options(entry->description, description) &&
        same_content(entry->content, description)) {
      entries_.splice(entries_.begin(), entries_, entry);
      return entry->plan;
    }
  }
  return nullptr;
}

std::shared_ptr<AnyPlan> PlanCache::get(const Description& description) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (auto plan = find(description)) {
      ++hits_;
      return plan;
    }
    ++misses_;
  }
  // Built without the lock: sorting may take long. Two threads may build the same plan; one is
  // kept. Built from the copy: the caller's arrays may be written to meanwhile, and a plan kept
  // under a content that is not its own would be wrong for ever.
  std::vector<std::byte> content = copy_content(description);
  const Description copied = over(content, description);
  auto plan = std::make_shared<AnyPlan>(make_plan(copied));
  const std::lock_guard<std::mutex> lock(mutex_);
  const bool kept = find(copied) != nullptr;
  Entry entry{description, std::move(content), plan};
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
