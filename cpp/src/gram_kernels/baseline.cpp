// Transitions of states, compiled for the level "baseline".
#define LAPLEX_LEVEL level_baseline
#define LAPLEX_VECTOR_BYTES 16
#include "body.hpp"
