/// How many threads the library uses.
#pragma once

namespace laplex {

/// The number used when a caller asks for 0: LAPLEX_NUM_THREADS if set to a positive integer,
/// otherwise the number of processors this process may run on. Results never depend on it, bit for
/// bit.
[[nodiscard]] int default_num_threads();

}  // namespace laplex
