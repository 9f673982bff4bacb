/// Transitions of states across short gaps, for each instruction set.
#pragma once

#include <laplex/detail/transition.hpp>

#include <cstdint>

namespace laplex::detail {

/// Eight gaps in units of the lengthscales of a block of 2 or 3 columns; of 3: u alone. They are
/// 2^doublings times what is given, which is at most 1; of 3: once.
struct ShortGaps {
  int size;
  const double* u;
  const double* v;
  double damping;  ///< u / v
  int doublings = 0;
};

/// Writes transitions, and their derivatives by u and v unless these are null: number k of gap l to
/// [k * stride + l].
using TransitionKernel = void (*)(const ShortGaps& gaps, const Terms& terms, std::int64_t stride,
                                  double* values, double* by_u, double* by_v);

/// That of the level in use (instruction_set.hpp).
[[nodiscard]] TransitionKernel transition_kernel();

}  // namespace laplex::detail
