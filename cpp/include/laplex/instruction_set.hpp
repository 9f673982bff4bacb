/// \file
/// The vector instructions that the inner loops use.
#pragma once

#include <vector>

namespace laplex {

/// The levels of vector instructions that the inner loops are compiled for, in ascending order.
/// Results have the same bits at every level.
enum class InstructionSet {
  baseline,  ///< What every processor of the architecture has: SSE2 on x86-64, NEON on ARM.
  avx2,      ///< AVX2, on x86-64.
  avx512,    ///< AVX-512, on x86-64.
};

/// The name of a level, as in the environment variable LAPLEX_ISA.
/// \param level the level
/// \return "baseline", "avx2" or "avx512"
[[nodiscard]] const char* name_of(InstructionSet level) noexcept;

/// The levels that this build contains and this processor supports, in ascending order.
[[nodiscard]] std::vector<InstructionSet> available_instruction_sets();

/// The level in use: the highest available one, or the one that the environment variable LAPLEX_ISA
/// names. The variable is read once.
/// \throws Error `invalid_argument` if LAPLEX_ISA does not name an available level
[[nodiscard]] InstructionSet instruction_set();

}  // namespace laplex
