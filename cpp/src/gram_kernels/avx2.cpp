// Transitions of states, compiled for the level "avx2".
#define LAPLEX_LEVEL level_avx2
#define LAPLEX_VECTOR_BYTES 32
#include "body.hpp"
