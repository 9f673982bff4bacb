/// Transitions of states across short gaps, for each instruction set.
#pragma once

#include <laplex/detail/transition.hpp>

#include <cstdint>

namespace laplex::detail {

/// Eight gaps of at most 1 in units of the lengthscales of a block of 2 or 3 columns; of 3: u
/// alone.
struct ShortGaps {
  int size = 2;
  const double* u = nullptr;
  const double* v = nullptr;
  double damping;     ///< u / v
  int doublings = 0;  ///< of 2 columns: how often to double the gaps
};

/// Writes transitions, and their derivatives by u and v unless these are null: number k of gap l to
/// [k * stride + l]. Those of gaps doubled m times go to [(10 m + k) * stride + l]; their
/// derivatives are those by the u and v that are given.
using TransitionKernel = void (*)(const ShortGaps& gaps, const Terms& terms, std::int64_t stride,
                                  double* values, double* by_u, double* by_v);

/// That of the level in use (instruction_set.hpp).
[[nodiscard]] TransitionKernel transition_kernel();

}  // namespace laplex::detail
