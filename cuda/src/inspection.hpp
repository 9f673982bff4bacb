/// Looking at what is on the device before it is used.
#pragma once

#include "checks.hpp"
#include "device.hpp"
#include "kernels/order.hpp"
#include "runtime.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace laplex::cuda::detail {

/// Arrays of one inspection, at most: targets, sources and both phases.
inline constexpr int kMostLooks = 4;

template <class T>
void check_array(const T* values, std::int64_t count, const char* name) {
  if (count > 0) {
    if (values == nullptr) {
      laplex::detail::invalid(std::string(name) + " is a null pointer");
    }
    check_aligned(values, sizeof(T), name);
  }
}

/// Looks at arrays [heads, count] on the device, at all of them before it waits for what was found.
/// In a stream that is captured nothing can be waited for, and nothing is looked at.
template <class T>
class Inspection {
 public:
  /// `scratch` begins with room for kMostLooks findings.
  Inspection(std::int64_t heads, void* scratch, Stream stream)
      : heads_(heads),
        stream_(stream),
        captured_(is_capturing(stream)),
        on_device_(Cutter(scratch).take<Findings>(kMostLooks)) {
    if (!captured_) {
      launch(reset_kernel, {1, kWarp}, stream, ResetJob{on_device_, kMostLooks});
    }
  }

  [[nodiscard]] bool captured() const { return captured_; }

  /// Looks at one more, in the order of `index` if there is one.
  void look(const char* name, const T* values, std::int64_t count,
            const std::uint32_t* index = nullptr) {
    check_array(values, heads_ * count, name);
    if (captured_) {
      return;
    }
    launch(look_kernel<T>, one_thread_each(heads_ * count), stream_,
           LookJob<T>{values, index, heads_, count, on_device_ + looked_.size()});
    looked_.push_back({name, values, count});
  }

  /// Waits. Throws for the first array with an entry that is NaN or infinite.
  void finish() {
    if (captured_) {
      return;
    }
    copy_to_host(found_, on_device_, sizeof(found_), stream_);
    for (std::size_t k = 0; k < looked_.size(); ++k) {
      const Looked& array = looked_[k];
      const unsigned long long bad = found_[k].first_bad;
      if (bad != ~0ULL) {
        T value;
        copy_to_host(&value, array.values + bad, sizeof(T), stream_);
        laplex::detail::not_finite(array.name, heads_, array.count, static_cast<std::int64_t>(bad),
                                   static_cast<double>(value));
      }
    }
  }

  /// Whether the k-th array looked at is known to ascend; after finish().
  [[nodiscard]] bool ascends(std::size_t k) const { return !captured_ && found_[k].descents == 0; }

 private:
  struct Looked {
    const char* name;
    const T* values;
    std::int64_t count;
  };
  std::int64_t heads_;
  Stream stream_;
  bool captured_;
  Findings* on_device_;
  Findings found_[kMostLooks] = {};
  std::vector<Looked> looked_;
};

}  // namespace laplex::cuda::detail
