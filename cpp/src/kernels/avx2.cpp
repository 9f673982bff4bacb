// The inner loops, compiled for the level "avx2".
#define LAPLEX_LEVEL level_avx2
#define LAPLEX_VECTOR_BYTES 32
#include "body.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

extern const Kernels<float> float_kernels;
extern const Kernels<double> double_kernels;
const Kernels<float> float_kernels = table<float>();
const Kernels<double> double_kernels = table<double>();

}  // namespace laplex::detail::LAPLEX_LEVEL
