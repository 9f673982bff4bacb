/// What makes a kernel's description illegal, and the sentences that say so; for every backend.
#pragma once

#include <laplex/detail/decay.hpp>
#include <laplex/gram.hpp>
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

/// Throws unless self cases have one size, and others sources of their own.
void check_sides(bool self, std::int64_t n, std::int64_t m);
/// The same of the anchors for an update; `given`: whether there are sources among them.
void check_sides(bool self, bool given, std::int64_t sources);

/// Throws if an array of so many entries has no address.
inline void check_array(const char* name, const void* array, std::int64_t entries) {
  if (array == nullptr && entries > 0) {
    invalid(std::string(name) + " is a null pointer, but the sizes of this call say that it has " +
            std::to_string(entries) + " entries");
  }
}

/// Throws for fewer rows than none, and for arrays [heads, rows, count] that are beyond any memory.
void check_rows(std::int64_t heads, std::int64_t rows, std::int64_t count);

/// Throws for numbers that are no enumerators.
void check_options(Profile profile, Side side);
void check_mode(Mode mode);
void check_factor(Factor factor);

/// Throws for an array (the result, a cotangent) of the wrong type.
void check_type(const char* name, bool complex, bool should_be_complex);

/// Throws for a cumulative sum that is another member of the family too, or of a kernel that has
/// none.
void check_cumulative(const Term& term, bool real_laplace, bool values_complex);

/// Throws unless all levels [heads, count] lie between 0 and the number of anchors, and the kernel
/// has quantiles.
void check_levels(const double* levels, std::int64_t heads, std::int64_t count,
                  std::int64_t anchors, bool real_laplace_of_itself);

/// Throws unless the lengthscale is positive, finite and normal, and the frequency finite.
void check_rate(Rate rate, std::int64_t head, std::int64_t heads);

/// " of matrix 3" where there are others.
[[nodiscard]] std::string of_matrix(std::int64_t matrix, std::int64_t batch);

/// Entry `entry` of noise [batch, n] is `value`, which is NaN or below 0.
[[noreturn]] void not_a_variance(std::int64_t batch, std::int64_t n, std::int64_t entry,
                                 double value);

/// Where a filter along a line found that a covariance matrix has no inverse.
struct SingularPoint {
  std::int64_t matrix;
  std::int64_t batch;
  std::int64_t anchor;
  std::int64_t tied_with;  ///< the anchor before it at the same place, or -1
  double place;
  double variance;
};
[[noreturn]] void singular(const SingularPoint& point);

/// Whether sums take complex numbers, even where `real_part` then takes their real parts.
template <class T>
[[nodiscard]] bool has_complex_entries(const Kernel<T>& kernel) {
  return kernel.frequency != nullptr || kernel.target_phase != nullptr ||
         kernel.source_phase != nullptr;
}

/// No sources at all may come as a null pointer too, and are not the targets.
template <class T>
[[nodiscard]] bool is_self_case(const Kernel<T>& kernel) {
  return kernel.sources == nullptr && (kernel.num_sources > 0 || kernel.num_targets == 0);
}

/// Throws unless a plan with so many anchors a head can be that of a part of a line.
void check_part(const LinePart& part, std::int64_t heads, std::int64_t anchors);
template <class T>
void check_part(const Kernel<T>& kernel) {
  if (kernel.part != nullptr) {
    check_part(*kernel.part, kernel.heads,
               kernel.num_targets + (is_self_case(kernel) ? 0 : kernel.num_sources));
  }
}
/// Throws for a member that a plan of a part of a line does not have.
void refuse_part(bool is_part, const char* member);

}  // namespace laplex::detail
