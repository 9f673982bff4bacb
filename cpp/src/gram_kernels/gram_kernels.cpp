#include "gram_kernels.hpp"

#include <laplex/instruction_set.hpp>

namespace laplex::detail {

#define LAPLEX_DECLARE(level)                                                                      \
  namespace level {                                                                                \
  void transitions(const ShortGaps& gaps, const Terms& terms, std::int64_t stride, double* values, \
                   double* by_u, double* by_v);                                                    \
  }
LAPLEX_DECLARE(level_baseline)
#if defined(LAPLEX_HAS_AVX2)
LAPLEX_DECLARE(level_avx2)
#endif
#if defined(LAPLEX_HAS_AVX512)
LAPLEX_DECLARE(level_avx512)
#endif
#undef LAPLEX_DECLARE

TransitionKernel transition_kernel() {
  switch (instruction_set()) {
#if defined(LAPLEX_HAS_AVX2)
    case InstructionSet::avx2:
      return level_avx2::transitions;
#endif
#if defined(LAPLEX_HAS_AVX512)
    case InstructionSet::avx512:
      return level_avx512::transitions;
#endif
    default:
      return level_baseline::transitions;
  }
}

}  // namespace laplex::detail
