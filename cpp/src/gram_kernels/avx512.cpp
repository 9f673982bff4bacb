// Transitions of states, compiled for the level "avx512".
#define LAPLEX_LEVEL level_avx512
#define LAPLEX_VECTOR_BYTES 64
#include "body.hpp"
