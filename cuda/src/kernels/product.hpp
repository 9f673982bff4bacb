/// Second pass of a product, and the only one over a line of a single tile: the sums that reach
/// each anchor of the side that is read off.
///
/// Positions and values come through shared memory, so that global memory is read in whole lines;
/// each thread walks K neighbouring items of the merged line, from the left and from the right.
#pragma once

#include "block_scan.hpp"
#include "line.hpp"
#include "values.hpp"

namespace laplex::cuda::detail {

/// Blocks that a multiprocessor should hold at a time: enough that some read while others reckon,
/// as long as their registers suffice.
template <class T, class S, int P, bool Ties, int NT>
inline constexpr int kProductBlocks = NT != 256 || P > 0                                     ? 1
                                      : sizeof(T) == 4 && std::is_same_v<S, double> && !Ties ? 3
                                                                                             : 2;

/// What is asked of the two halves: their sum, or one alone (which takes kernels with ties apart):
/// the sources at a place or below it, at it or above it, or above it. Of a cumulative sum, the
/// side whose sources count whole where they are far.
enum class Part { both, left, right, above };

template <class T>
struct ProductJob {
  Line<T> line;
  Input<T> input;
  Output<T> output;
  Lengthscales lengthscale;
  const double* frequency;
  std::int64_t rows;
  std::int64_t groups;      ///< of rows, for the path of cells,
  std::int64_t group_rows;  ///< and the rows of each but the last
  std::int64_t tiles;
  const void* sent;     ///< of sparse tiles, see TotalsJob; null for a single tile
  const void* carries;  ///< [heads, rows, tiles, 2] of Sums, or null for a single tile
  Part part;
  Parity parity;
  double coefficient[laplex::detail::kMaxMoment + 1];  ///< of the moments; unused if P is 0
};

/// Shared memory for tiles of at most `from` and `to` anchors.
template <class T, class D, class S, int P, bool Ties, int NT>
std::size_t product_shared(std::int64_t from, std::int64_t to, bool self) {
  using N = Node<T, D, S, P, Ties>;
  const auto in = static_cast<std::size_t>(from) * (sizeof(Packed<T, S>) + sizeof(T)) +
                  (self ? 0 : static_cast<std::size_t>(to) * sizeof(T));
  const auto out = static_cast<std::size_t>(to) * sizeof(Packed<T, S>);
  return BlockScan<NT, N>::kSharedBytes + (in > out ? in : out);
}

/// One tile: `from_left` and `from_right` are what comes to it from beyond its ends.
template <class T, class D, class S, int P, bool Ties, int NT, int K>
__device__ void tile_product(const ProductJob<T>& job, const LineRate& rate, std::int64_t head,
                             std::int64_t row, const Tile<T>& tile,
                             const Sums<S, P, Ties>& from_left, const Sums<S, P, Ties>& from_right,
                             unsigned char* shared) {
  using N = Node<T, D, S, P, Ties>;
  using Value = typename N::Value;
  auto* const values = reinterpret_cast<Packed<T, S>*>(shared + BlockScan<NT, N>::kSharedBytes);
  T* const places = reinterpret_cast<T*>(values + tile.num_from);
  job.input.template load<S>(job.line.from, head, row, job.rows, tile.first_from, tile.num_from,
                             values);
  load_positions(job.line, head, tile, places);
  __syncthreads();

  const Walk<T, D, P, K> walk(job.line, head, tile, places, rate);
  Packed<T, S> value[K];
  Value left;
  Value right;
  left.clear();
  right.clear();
  for (int k = 0; k < K; ++k) {
    value[k] = k < walk.count && walk.from(k) ? values[walk.from_slot(k)] : Packed<T, S>{};
    if (k < walk.count) {
      left.cross(walk.gap[k]);
      left.add(value[k].wide());
    }
  }
  for (int k = K - 1; k >= 0; --k) {
    if (k < walk.count) {
      right.add(value[k].wide());
      right.cross(walk.gap[k]);
    }
  }
  const N to_right = walk.template node<N>(left, walk.end);
  const N to_left = walk.template node<N>(right, walk.begin);
  const BlockScan<NT, N> scan(to_right, to_left, tile.low, tile.high, rate, shared);
  left = from_left;
  right = from_right;
  scan.scan(left, right, walk.begin, walk.end);

  std::conditional_t<kIsCumulative<S>, double, S> result[K];
  const auto sum_of = [&](const Value& sums, bool with_here = true) {
    S sum = sums.word[0];
    if constexpr (Ties) {
      if (job.parity == Parity::even && with_here) {
        sum = sum + sums.here();
      }
    }
    if constexpr (P > 0) {
      sum = job.coefficient[0] * sum;
      for (int q = 1; q <= P; ++q) {
        sum = sum + job.coefficient[q] * sums.word[q];
      }
    }
    return sum;
  };
  const auto at_the_place = [&](const Value& sums) {
    if constexpr (Ties) {
      if (job.parity == Parity::even) {
        return P > 0 ? job.coefficient[0] * sums.here() : sums.here();
      }
    }
    return S{};
  };
  for (int k = 0; k < K; ++k) {
    result[k] = {};
    if (k < walk.count) {
      left.cross(walk.gap[k]);
      left.add(value[k].wide());
      if constexpr (kIsCumulative<S>) {
        result[k] = contribution(left.word[0], left.here(), job.part == Part::left);
      } else if (job.part == Part::both || job.part == Part::left) {
        result[k] = sum_of(left);
      } else if (job.part == Part::right) {
        result[k] = at_the_place(left);
      }
    }
  }
  for (int k = K - 1; k >= 0; --k) {
    if (k < walk.count) {
      if constexpr (kIsCumulative<S>) {
        result[k] += contribution(right.word[0], right.here(), job.part == Part::right);
      } else {
        // Sources at the place itself belong to the left half, wherever they are in the order.
        const S behind = job.part == Part::left    ? at_the_place(right)
                         : job.part == Part::above ? sum_of(right, false)
                                                   : sum_of(right);
        result[k] = job.parity == Parity::odd ? result[k] - behind : result[k] + behind;
      }
      right.add(value[k].wide());
      right.cross(walk.gap[k]);
    }
  }

  // Out again through shared memory, which nobody reads any more.
  __syncthreads();
  for (int k = 0; k < K; ++k) {
    if (k < walk.count && walk.to(k)) {
      values[walk.to_slot(k)] = Packed<T, S>::of(result[k]);
    }
  }
  __syncthreads();
  for (std::int64_t k = threadIdx.x; k < tile.num_to; k += blockDim.x) {
    job.output.template scatter<S>(job.line.to, head, row, tile.first_to + k, values[k],
                                   rate.valid);
  }
}

template <class T, class D, class S, int P, bool Ties, int NT, int K>
__global__ void __launch_bounds__(NT, kProductBlocks<T, S, P, Ties, NT>)
    product_kernel(ProductJob<T> job) {
  using Value = Sums<S, P, Ties>;
  const std::int64_t number = block_number() % job.tiles;
  const std::int64_t vector = block_number() / job.tiles;
  const std::int64_t head = vector / job.rows;
  const LineRate rate = read_rate(job.lengthscale, job.frequency, head);
  const Tile<T> tile = tile_of(job.line, head, number, std::int64_t(NT) * K);
  Value left;
  Value right;
  left.clear();
  right.clear();
  if (job.carries != nullptr) {
    const Value* const carries = static_cast<const Value*>(job.carries) + 2 * block_number();
    left = carries[0];
    right = carries[1];
  }
  tile_product<T, D, S, P, Ties, NT, K>(job, rate, head, vector % job.rows, tile, left, right,
                                        shared_memory());
}

}  // namespace laplex::cuda::detail
