#include <laplex/instruction_set.hpp>

#include "kernels/kernels.hpp"

#include <laplex/error.hpp>

#include <cstdlib>
#include <string>

namespace laplex {
namespace detail {

// One table a level; each is defined in a file compiled for that level, and nothing else of such a
// file is called or initialised before the level is chosen.
#define LAPLEX_DECLARE(level)                  \
  namespace level {                            \
  extern const Kernels<float> float_kernels;   \
  extern const Kernels<double> double_kernels; \
  }
LAPLEX_DECLARE(level_baseline)
#if defined(LAPLEX_HAS_AVX2)
LAPLEX_DECLARE(level_avx2)
#endif
#if defined(LAPLEX_HAS_AVX512)
LAPLEX_DECLARE(level_avx512)
#endif
#undef LAPLEX_DECLARE

namespace {

bool runs_here(InstructionSet level) {
#if defined(LAPLEX_HAS_AVX2) || defined(LAPLEX_HAS_AVX512)
  __builtin_cpu_init();
#endif
  switch (level) {
#if defined(LAPLEX_HAS_AVX2)
    case InstructionSet::avx2:
      return __builtin_cpu_supports("avx2") != 0;
#endif
#if defined(LAPLEX_HAS_AVX512)
    case InstructionSet::avx512:
      return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
             __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0;
#endif
    case InstructionSet::baseline:
      return true;
    default:
      return false;
  }
}

InstructionSet choose() {
  const char* const text = std::getenv("LAPLEX_ISA");
  if (text == nullptr || *text == '\0') {
    return available_instruction_sets().back();
  }
  std::string names;
  for (const InstructionSet level : available_instruction_sets()) {
    if (text == std::string(name_of(level))) {
      return level;
    }
    names += (names.empty() ? "" : ", ") + std::string(name_of(level));
  }
  throw Error(ErrorCode::invalid_argument, "LAPLEX_ISA is \"" + std::string(text) +
                                               "\", which this machine or build does not " +
                                               "offer: set it to one of " + names + " or unset it");
}

}  // namespace

#define LAPLEX_CASE(level, T) \
  case InstructionSet::level: \
    return level_##level::T##_kernels;
#if defined(LAPLEX_HAS_AVX2)
#define LAPLEX_CASE_AVX2(T) LAPLEX_CASE(avx2, T)
#else
#define LAPLEX_CASE_AVX2(T)
#endif
#if defined(LAPLEX_HAS_AVX512)
#define LAPLEX_CASE_AVX512(T) LAPLEX_CASE(avx512, T)
#else
#define LAPLEX_CASE_AVX512(T)
#endif
#define LAPLEX_KERNELS(T)                   \
  template <>                               \
  const Kernels<T>& kernels<T>() {          \
    switch (instruction_set()) {            \
      LAPLEX_CASE_AVX2(T)                   \
      LAPLEX_CASE_AVX512(T)                 \
      default:                              \
        return level_baseline::T##_kernels; \
    }                                       \
  }
LAPLEX_KERNELS(float)
LAPLEX_KERNELS(double)

}  // namespace detail

const char* name_of(InstructionSet level) noexcept {
  switch (level) {
    case InstructionSet::avx2:
      return "avx2";
    case InstructionSet::avx512:
      return "avx512";
    default:
      return "baseline";
  }
}

std::vector<InstructionSet> available_instruction_sets() {
  std::vector<InstructionSet> levels;
  for (const InstructionSet level :
       {InstructionSet::baseline, InstructionSet::avx2, InstructionSet::avx512}) {
    if (detail::runs_here(level)) {
      levels.push_back(level);
    }
  }
  return levels;
}

InstructionSet instruction_set() {
  static const InstructionSet chosen = detail::choose();
  return chosen;
}

}  // namespace laplex
