/// \file
/// A line of anchors that several processes share: what each of them has to know of the others.
#pragma once

#include <cstdint>
#include <functional>

namespace laplex {

/// Where the anchors of one process lie in the line of all processes; see Kernel::part.
///
/// The processes are numbered from left to right: all anchors of one are below those of the next,
/// and equal anchors are never on two of them. A process may have none.
///
/// Results have the same bits for any number of processes if every part begins at an anchor that
/// is, in the merged order of all targets and sources, number `k * segment` for some k, or that
/// follows the anchors which are equal to that one.
struct LinePart {
  static constexpr std::int64_t segment = 16384;  ///< Anchors between two places for a cut.

  int rank = 0;             ///< The number of this process.
  int size = 1;             ///< The number of processes.
  std::int64_t offset = 0;  ///< The anchors, targets and sources, on the processes before.
  std::int64_t total = 0;   ///< The anchors on all processes.
  bool has_next = false;    ///< Whether a process behind this one has anchors.
  double next = 0.0;        ///< The first of those.

  /// Sends numbers from every process to all: those of process r, `counts[r]` many, stand behind
  /// those of process r - 1 in `all`. Collective: every process calls it the same number of times.
  /// It may throw, and what it throws passes through the plan's member.
  std::function<void(const double* mine, const std::int64_t* counts, double* all)> gather;
};

}  // namespace laplex
