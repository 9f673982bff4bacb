/// Which vector instructions the inner loops use.
#pragma once

#include <vector>

namespace laplex {

/// The levels that inner loops exist for, in ascending order. "baseline" is what every processor of
/// the architecture has (SSE2, NEON). Results do not depend on the level, bit for bit.
enum class InstructionSet { baseline, avx2, avx512 };

[[nodiscard]] const char* name_of(InstructionSet level) noexcept;

/// The levels that this build contains and this processor runs.
[[nodiscard]] std::vector<InstructionSet> available_instruction_sets();

/// The level in use: the highest available one, or that of LAPLEX_ISA ("baseline", "avx2",
/// "avx512"), read once. Throws Error if that names no available level.
[[nodiscard]] InstructionSet instruction_set();

}  // namespace laplex
