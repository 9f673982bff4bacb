/// What makes a kernel's description illegal, and the sentences that say so; for every backend.
#pragma once

#include <laplex/detail/decay.hpp>
#include <laplex/plan.hpp>

#include <cstdint>
#include <string>

namespace laplex::detail {

[[noreturn]] void invalid(const std::string& message);

/// Entry `entry` of an array [heads, count] is `value`, which is NaN or infinite.
[[noreturn]] void not_finite(const char* name, std::int64_t heads, std::int64_t count,
                             std::int64_t entry, double value);

/// Throws for sizes below 0, for more than `most` anchors a head, and for those beyond any memory.
void check_sizes(std::int64_t heads, std::int64_t n, std::int64_t m, std::int64_t most);

/// Throws unless the lengthscale is positive, finite and normal, and the frequency finite.
void check_rate(Rate rate, std::int64_t head, std::int64_t heads);

/// No sources at all may come as a null pointer too, and are not the targets.
template <class T>
[[nodiscard]] bool is_self_case(const Kernel<T>& kernel) {
  return kernel.sources == nullptr && (kernel.num_sources > 0 || kernel.num_targets == 0);
}

}  // namespace laplex::detail
