/// \file
/// The number of threads that the library uses.
#pragma once

namespace laplex {

/// The largest number of threads of a call. Requests for more are reduced to it.
inline constexpr int kMostThreads = 1024;

/// The number of threads that a call uses if it is asked for 0: the value of the environment
/// variable LAPLEX_NUM_THREADS if that is set, otherwise the number of processors that this process
/// may run on. Results have the same bits for any number of threads.
/// \throws Error `invalid_argument` if LAPLEX_NUM_THREADS is not a positive integer
[[nodiscard]] int default_num_threads();

}  // namespace laplex
