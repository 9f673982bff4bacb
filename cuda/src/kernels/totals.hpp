/// First pass of a product over a long line: what each tile sends to its right and to its left.
///
/// Reads the scanned side alone. Values that lie in random order are gathered here, once, into
/// sorted order for the pass that follows.
#pragma once

#include "block_scan.hpp"
#include "line.hpp"
#include "values.hpp"

namespace laplex::cuda::detail {

template <class T>
struct TotalsJob {
  Line<T> line;
  Input<T> input;  ///< its `sorted`, where there is one, is filled here
  Lengthscales lengthscale;
  const double* frequency;
  std::int64_t rows;
  std::int64_t groups;      ///< of rows, for the path of cells,
  std::int64_t group_rows;  ///< and the rows of each but the last
  std::int64_t tiles;
  std::int64_t tile_items;
  std::int64_t part_items;  ///< of the parts that the path of cells cuts a sparse tile into
  void* sent;               ///< [heads, rows, tiles, parts, 2] of Sums, what those parts send
  void* totals;             ///< [heads, rows, tiles, 2] of Sums: to the right, to the left
};

/// Shared memory for a tile with at most `anchors` of the scanned side.
template <class T, class D, class S, int P, bool Ties, int NT>
__host__ __device__ constexpr std::size_t totals_shared(std::int64_t anchors) {
  return BlockScan<NT, Node<T, D, S, P, Ties>>::kSharedBytes +
         static_cast<std::size_t>(anchors) * (sizeof(Packed<T, S>) + sizeof(T));
}

/// Writes what one tile sends, to its right and to its left.
template <class T, class D, class S, int P, bool Ties, int NT>
__device__ void tile_totals(const TotalsJob<T>& job, const LineRate& rate, std::int64_t head,
                            std::int64_t row, const Tile<T>& tile, unsigned char* shared,
                            Sums<S, P, Ties>* out) {
  using N = Node<T, D, S, P, Ties>;
  using Value = typename N::Value;
  auto* const values = reinterpret_cast<Packed<T, S>*>(shared + BlockScan<NT, N>::kSharedBytes);
  T* const places = reinterpret_cast<T*>(values + tile.num_from);
  Input<T> input = job.input;
  input.sorted = nullptr;
  input.template load<S>(job.line.from, head, row, job.rows, tile.first_from, tile.num_from,
                         values);
  const T* const positions = job.line.from.positions(head) + tile.first_from;
  for (std::int64_t k = threadIdx.x; k < tile.num_from; k += blockDim.x) {
    places[k] = positions[k];
  }
  __syncthreads();
  if (job.input.sorted != nullptr) {
    Packed<T, S>* const sorted =
        job.input.template sorted_row<S>(job.line.from, head, row, job.rows) + tile.first_from;
    for (std::int64_t k = threadIdx.x; k < tile.num_from; k += blockDim.x) {
      sorted[k] = values[k];
    }
  }

  // Evenly many sources a thread; the last that has any walks on to the end of the tile.
  const int all = static_cast<int>(tile.num_from);
  const int share = (all + NT - 1) / NT;
  const int first =
      static_cast<int>(threadIdx.x) * share < all ? static_cast<int>(threadIdx.x) * share : all;
  const int count = all - first < share ? all - first : share;
  Value left;
  Value right;
  left.clear();
  right.clear();
  D travel = D{};
  if constexpr (N::kProducts) {
    travel = 1.0;
  }
  T begin = tile.high;
  T end = tile.high;
  if (count > 0) {
    begin = first > 0 ? places[first - 1] : tile.low;
    T here = begin;
    for (int k = 0; k < count; ++k) {
      const T place = places[first + k];
      const Gap<T, D, P> gap = gap_between<T, D, P>(place, here, rate);
      left.cross(gap);
      left.add(values[first + k].wide());
      if constexpr (N::kProducts) {
        travel = travel * gap.decay();
      }
      here = place;
    }
    end = here;
    if (first + count == all) {
      const Gap<T, D, P> rest = gap_between<T, D, P>(tile.high, here, rate);
      left.cross(rest);
      if constexpr (N::kProducts) {
        travel = travel * rest.decay();
      }
      end = tile.high;
    }
    here = places[first + count - 1];
    for (int k = count - 1; k >= 0; --k) {
      right.add(values[first + k].wide());
      const T place = k > 0 ? places[first + k - 1] : begin;
      right.cross(gap_between<T, D, P>(here, place, rate));
      here = place;
    }
  }
  N to_right = N::empty(end);
  to_right.sums = left;
  to_right.travel = travel;
  N to_left = N::empty(begin);
  to_left.sums = right;
  to_left.travel = travel;
  if (all == 0) {  // nothing to send: and no thread that walks across
    to_right = N::empty(tile.high);
    to_left = N::empty(tile.low);
  }
  const BlockScan<NT, N> scan(to_right, to_left, tile.low, tile.high, rate, shared);
  scan.totals(out);
}

template <class T, class D, class S, int P, bool Ties, int NT, int K>
__global__ void __launch_bounds__(NT, P == 0 ? 3 : 1) totals_kernel(TotalsJob<T> job) {
  const std::int64_t number = block_number() % job.tiles;
  const std::int64_t vector = block_number() / job.tiles;
  const std::int64_t head = vector / job.rows;
  const LineRate rate = read_rate(job.lengthscale, job.frequency, head);
  const Tile<T> tile = tile_of(job.line, head, number, std::int64_t(NT) * K);
  tile_totals<T, D, S, P, Ties, NT>(
      job, rate, head, vector % job.rows, tile, shared_memory(),
      static_cast<Sums<S, P, Ties>*>(job.totals) + 2 * block_number());
}

}  // namespace laplex::cuda::detail
