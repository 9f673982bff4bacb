/// Sorting many lines of anchors.
#pragma once

#include "device.hpp"
#include "kernels/order.hpp"
#include "runtime.hpp"

#include <algorithm>
#include <cstdint>

namespace laplex::cuda::detail {

/// How many heads are sorted at a time: by a block each where they are many or short, by the whole
/// device in turn else. A block takes some 10 ns an anchor, and the device some 40 us a line, by
/// what the sorts move: the two meet where lines are 4096 anchors long for each of them.
inline std::int64_t heads_at_a_time(std::int64_t heads, std::int64_t count) {
  constexpr std::int64_t kLongestLine = std::int64_t(1) << 16;
  constexpr std::int64_t kMostItems = std::int64_t(1) << 30;  // CUB's of CUDA 12 counts in 31 bits
  if (count > kLongestLine || count > heads * 4096) {
    return 1;
  }
  return std::min(heads, kMostItems / std::max<std::int64_t>(count, 1));
}

template <class T>
struct SortScratch {
  std::uint32_t* indices;  ///< before the sort
  unsigned char* temporary;
  std::size_t temporary_bytes;

  SortScratch(Cutter& cut, std::int64_t heads, std::int64_t count) {
    const std::int64_t segments = heads_at_a_time(heads, count);
    indices = cut.take<std::uint32_t>(segments * count);
    temporary_bytes = sort_bytes<T>(segments, count);
    temporary = cut.take<unsigned char>(static_cast<std::int64_t>(temporary_bytes));
  }
};

/// Keys [lines, count] to ascending order, ties by their numbers or against them.
template <class T>
struct SortLines {
  const T* keys;
  T* sorted;
  std::uint32_t* index;
  std::int64_t lines;
  std::int64_t count;
  bool backwards = false;  ///< `keys` are those of each line from its last to its first
};

template <class T>
void sort_lines(const SortLines<T>& job, const SortScratch<T>& spare, Stream stream) {
  const std::int64_t at_a_time = heads_at_a_time(job.lines, job.count);
  launch(count_kernel, one_thread_each(at_a_time * job.count), stream,
         CountJob{spare.indices, at_a_time, job.count, job.backwards});
  for (std::int64_t line = 0; line < job.lines; line += at_a_time) {
    const std::int64_t first = line * job.count;
    sort_pairs(SortJob<T>{job.keys + first, job.sorted + first, spare.indices, job.index + first,
                          std::min(at_a_time, job.lines - line), job.count},
               {spare.temporary, spare.temporary_bytes}, stream);
  }
}

}  // namespace laplex::cuda::detail
