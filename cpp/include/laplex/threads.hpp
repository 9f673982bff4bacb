/// How many threads the library uses.
#pragma once

namespace laplex {

/// No call uses more threads than this, whatever it is asked for.
inline constexpr int kMostThreads = 1024;

/// The number used when a caller asks for 0: LAPLEX_NUM_THREADS if that is set, otherwise the
/// number of processors this process may run on. Results never depend on it, bit for bit. Throws
/// Error if LAPLEX_NUM_THREADS is not a positive integer.
[[nodiscard]] int default_num_threads();

}  // namespace laplex
