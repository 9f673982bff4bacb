/// Looking at what is on the device before it is used.
#pragma once

#include "checks.hpp"
#include "device.hpp"
#include "kernels/order.hpp"
#include "runtime.hpp"

#include <cstdint>
#include <string>

namespace laplex::cuda::detail {

template <class T>
void check_array(const T* values, std::int64_t count, const char* name) {
  if (count > 0) {
    laplex::detail::check_array(name, values, count);
    check_aligned(values, sizeof(T), name);
  }
}

/// Looks at arrays on the device, at all of them at once, and waits for what was found.
///
/// With a report it does not wait: what is wrong is written there when the device comes to it. In a
/// stream that is captured nothing can be waited for, and without a report nothing is looked at.
template <class T>
class Inspection {
 public:
  /// `found` has room for kMostLooks numbers on the device.
  Inspection(unsigned long long* found, Stream stream, Report* report = nullptr)
      : stream_(stream), waits_(report == nullptr && !is_capturing(stream)) {
    job_.found = found;
    job_.report = report == nullptr ? nullptr : &report->found;
  }

  /// Whether finish() waits, so that what the arrays are like is known after it.
  [[nodiscard]] bool waits() const { return waits_; }

  /// Adds an array [lines, count], in the order of `index` if there is one.
  void look(Looked what, const T* values, std::int64_t lines, std::int64_t count,
            const std::uint32_t* index = nullptr) {
    check_array(values, lines * count, kLookedNames[static_cast<int>(what)]);
    add({values, waits_ ? index : nullptr, lines, count, what});  // in order only if it matters
  }
  /// Adds a parameter [heads]; null: it is not given.
  void look_at_parameter(Looked what, const double* values, std::int64_t heads) {
    if (values != nullptr) {
      check_array(values, heads, kLookedNames[static_cast<int>(what)]);
      add({values, nullptr, heads, 1, what});
    }
  }

  /// Runs what was added. Throws, if it waits, for the first array with an illegal entry.
  void finish() {
    if (!waits_ && job_.report == nullptr) {
      return;
    }
    if (waits_) {
      launch(reset_kernel<unsigned long long>, {1, kWarp}, stream_,
             ResetJob<unsigned long long>{job_.found, kFine, kMostLooks});
    }
    std::int64_t blocks = 0;
    for (int k = 0; k < looks_; ++k) {
      blocks += job_.look[k].blocks();
    }
    launch(look_kernel<T>, {blocks, kFlatThreads, kFlatThreads / kWarp * sizeof(kFine)}, stream_,
           job_);
    if (waits_) {
      copy_to_host(found_, job_.found, sizeof(found_), stream_);
      for (int k = 0; k < looks_; ++k) {
        if (found_[k] < kDescends) {
          refuse(job_.look[k], static_cast<std::int64_t>(found_[k]));
        }
      }
    }
  }

  /// Whether the k-th array looked at is known to ascend; after finish().
  [[nodiscard]] bool ascends(int k) const { return waits_ && found_[k] > kDescends; }
  /// Whether it does, but for equal entries that a sort would have in another order.
  [[nodiscard]] bool has_loose_ties(int k) const { return waits_ && found_[k] == kLooseTies; }

 private:
  void add(const Look& look) { job_.look[looks_++] = look; }

  [[noreturn]] void refuse(const Look& look, std::int64_t entry) const {
    const auto fetch = [&](auto value) {
      copy_to_host(&value, static_cast<const decltype(value)*>(look.values) + entry, sizeof(value),
                   stream_);
      return static_cast<double>(value);
    };
    if (look.is_parameter()) {
      const double value = fetch(0.0);
      laplex::detail::check_rate(look.what == Looked::frequency ? laplex::detail::Rate{1.0, value}
                                                                : laplex::detail::Rate{value, 0.0},
                                 entry, look.lines);
    }
    laplex::detail::not_finite(kLookedNames[static_cast<int>(look.what)], look.lines, look.count,
                               entry, fetch(T{}));
  }

  Stream stream_;
  bool waits_;
  LookJob<T> job_;
  int looks_ = 0;
  unsigned long long found_[kMostLooks] = {};
};

}  // namespace laplex::cuda::detail
