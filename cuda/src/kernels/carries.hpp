/// Between the two passes of a product: from what each tile sends to what each tile gets.
///
/// A tree with kNodesPerBlock children a node, so that neither a row of a million tiles waits for
/// one block, nor a sum goes through a million roundings. Carries replace totals in place.
#pragma once

#include "block_scan.hpp"
#include "line.hpp"

namespace laplex::cuda::detail {

inline constexpr int kCarryThreads = 256;
inline constexpr int kNodesPerThread = 4;
inline constexpr std::int64_t kNodesPerBlock = kCarryThreads * kNodesPerThread;

template <class T>
struct CarriesJob {
  Line<T> line;
  Lengthscales lengthscale;
  const double* frequency;
  std::int64_t rows;
  std::int64_t nodes;       ///< of this level, a row
  std::int64_t node_items;  ///< items of the line that a node spans
  void* totals;             ///< [heads, rows, nodes, 2] of Sums
  void* upper;              ///< the same of the level above, or null at the top
  bool upwards;             ///< sum to the level above; otherwise spread what it gets
};

/// The place where the first `item` items end.
template <class T>
__device__ inline T place_at(const Line<T>& line, std::int64_t head, std::int64_t item) {
  const std::int64_t at = item < line.items ? item : line.items;
  const std::int64_t from_before = line.from_before_block(head, at);
  return line.place_before(head, from_before, line.to_before_block(at, from_before));
}

template <class T, class D, class S, int P, bool Ties>
__global__ void __launch_bounds__(kCarryThreads) carries_kernel(CarriesJob<T> job) {
  using N = Node<T, D, S, P, Ties>;
  using Value = typename N::Value;
  const std::int64_t blocks = ceil_div(job.nodes, kNodesPerBlock);
  const std::int64_t number = block_number() % blocks;
  const std::int64_t vector = block_number() / blocks;
  const std::int64_t head = vector / job.rows;
  const LineRate rate = read_rate(job.lengthscale, job.frequency, head);
  const std::int64_t block_first = number * kNodesPerBlock;
  const std::int64_t block_end =
      block_first + kNodesPerBlock < job.nodes ? block_first + kNodesPerBlock : job.nodes;
  const T low = place_at(job.line, head, block_first * job.node_items);
  const T high = place_at(job.line, head, block_end * job.node_items);

  Value* const mine = static_cast<Value*>(job.totals) + 2 * vector * job.nodes;
  const std::int64_t first = block_first + std::int64_t(threadIdx.x) * kNodesPerThread;
  const int count = first >= block_end                    ? 0
                    : block_end - first < kNodesPerThread ? static_cast<int>(block_end - first)
                                                          : kNodesPerThread;
  T place[kNodesPerThread + 1];  // where node k begins; the last: where all end
  Gap<T, D, P> gap[kNodesPerThread];
  Value to_right[kNodesPerThread];
  Value to_left[kNodesPerThread];
  Value left;
  Value right;
  left.clear();
  right.clear();
  D travel = D{};
  if constexpr (N::kProducts) {
    travel = 1.0;
  }
  place[0] = count > 0 ? place_at(job.line, head, first * job.node_items) : high;
  T end = place[0];
  for (int k = 0; k < kNodesPerThread; ++k) {
    place[k + 1] = end;
    gap[k] = Gap<T, D, P>{};
    if (k < count) {
      place[k + 1] = place_at(job.line, head, (first + k + 1) * job.node_items);
      end = place[k + 1];
      gap[k] = gap_between<T, D, P>(place[k + 1], place[k], rate);
      to_right[k] = mine[2 * (first + k)];
      to_left[k] = mine[2 * (first + k) + 1];
      left.append(gap[k], to_right[k]);
      if constexpr (N::kProducts) {
        travel = travel * gap[k].decay();
      }
    }
  }
  for (int k = kNodesPerThread - 1; k >= 0; --k) {
    if (k < count) {
      right.append(gap[k], to_left[k]);
    }
  }
  N l = N::empty(end);
  l.sums = left;
  l.travel = travel;
  N r = N::empty(place[0]);
  r.sums = right;
  r.travel = travel;
  const BlockScan<kCarryThreads, N> scan(l, r, low, high, rate, shared_memory());

  Value* const upper = static_cast<Value*>(job.upper);
  if (job.upwards) {
    scan.totals(upper + 2 * block_number());
    return;
  }
  left.clear();
  right.clear();
  if (upper != nullptr) {
    left = upper[2 * block_number()];
    right = upper[2 * block_number() + 1];
  }
  scan.scan(left, right, place[0], end);
  for (int k = 0; k < kNodesPerThread; ++k) {
    if (k < count) {
      mine[2 * (first + k)] = left;
      left.append(gap[k], to_right[k]);
    }
  }
  for (int k = kNodesPerThread - 1; k >= 0; --k) {
    if (k < count) {
      mine[2 * (first + k) + 1] = right;
      right.append(gap[k], to_left[k]);
    }
  }
}

}  // namespace laplex::cuda::detail
