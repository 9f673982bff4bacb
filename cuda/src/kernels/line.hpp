/// The line of a head in device memory: both sides sorted, and how they interleave.
///
/// The merged line is never stored. Its items are in ascending order, sources before targets where
/// they tie; for every eight items there is a byte that says which are sources, and how many
/// sources lie before them in their block of 1024; for every such block, how many lie before it.
#pragma once

#include "gap.hpp"

#include <cstdint>

namespace laplex::cuda::detail {

inline constexpr std::int64_t kBlockItems = 1024;  ///< items between two entries of `split`
inline constexpr std::int64_t kByteItems = 8;      ///< items of a byte of `is_source`
inline constexpr std::int64_t kRankTile = 4 * kBlockItems;  ///< items within which ranks count
inline constexpr int kTiedRank =
    1 << 15;                         ///< in the rank of an anchor that equals one of the other side
inline constexpr int kLongTie = 16;  ///< equal anchors, from which on they are summed up by scans

/// Targets or sources of all heads. Kernels read positions and index through the functions, which
/// know how heads lie in memory.
template <class T>
struct SideView {
  const T* position = nullptr;           ///< [lines, count] ascending
  const std::uint32_t* index = nullptr;  ///< [lines, count] where each was; null: in place
  const std::uint16_t* rank = nullptr;   ///< [lines, count], see State; null where there is none
  std::int64_t count = 0;
  bool shared = false;  ///< all heads have the same line; otherwise each has its own

  /// The first of a head's positions.
  __device__ const T* positions(std::int64_t head) const { return position + first(head); }
  /// Where anchor k in ascending order was given.
  __device__ std::int64_t source_of(std::int64_t head, std::int64_t k) const {
    return index == nullptr ? k : static_cast<std::int64_t>(index[first(head) + k]);
  }
  /// The first of a head's indices, if there are any.
  __device__ const std::uint32_t* indices(std::int64_t head) const { return index + first(head); }
  /// How many anchors of the other side come before each, within its tile of kRankTile items; and
  /// kTiedRank.
  __device__ const std::uint16_t* ranks(std::int64_t head) const { return rank + first(head); }

 private:
  __device__ std::int64_t first(std::int64_t head) const { return shared ? 0 : head * count; }
};

/// One scan: sources are scanned (`from`) and targets read off (`to`), or the reverse.
template <class T>
struct Line {
  SideView<T> from;
  SideView<T> to;
  const std::uint8_t* is_source = nullptr;  ///< [lines, chunks]
  const std::uint16_t* before = nullptr;    ///< [lines, chunks]
  const std::uint32_t* split = nullptr;     ///< [lines, blocks + 1]
  const std::uint8_t* tied = nullptr;       ///< [lines, blocks] whether some item has a long tie
  std::int64_t items = 0;
  bool shared = false;   ///< all heads have the same line
  bool self = false;     ///< one set of anchors on both sides: an item is both
  bool swapped = false;  ///< `from` are the targets

  __host__ __device__ std::int64_t chunks() const { return ceil_div(items, kByteItems); }
  __host__ __device__ std::int64_t splits() const { return ceil_div(items, kBlockItems) + 1; }
  /// The first of a head's entries of `is_source` and `before`.
  __device__ std::int64_t first_chunk(std::int64_t head) const {
    return shared ? 0 : head * chunks();
  }
  /// The first of a head's entries of `split`.
  __device__ std::int64_t first_split(std::int64_t head) const {
    return shared ? 0 : head * splits();
  }

  /// The same line in the other direction.
  __host__ __device__ Line reversed() const {
    Line line = *this;
    line.from = to;
    line.to = from;
    line.swapped = !swapped;
    return line;
  }
  /// Whether some item of a block has kLongTie ties or more. Not for the self case.
  __device__ bool has_long_ties(std::int64_t head, std::int64_t block) const {
    return tied[(shared ? 0 : head * ceil_div(items, kBlockItems)) + block] != 0;
  }

  /// How many of `from` are among the first `item` items, a multiple of kBlockItems or all.
  __device__ std::int64_t from_before_block(std::int64_t head, std::int64_t item) const {
    if (self) {
      return item;
    }
    const std::int64_t sources =
        static_cast<std::int64_t>(split[first_split(head) + ceil_div(item, kBlockItems)]);
    return swapped ? item - sources : sources;
  }
  __device__ std::int64_t to_before_block(std::int64_t item, std::int64_t from_before) const {
    return self ? item : item - from_before;
  }
  /// The same at a multiple of kByteItems / 2 that is not behind the end.
  __device__ std::int64_t from_before(std::int64_t head, std::int64_t item) const {
    if (self) {
      return item;
    }
    const std::int64_t chunk = first_chunk(head) + item / kByteItems;
    const unsigned earlier = is_source[chunk] & ((1U << (item % kByteItems)) - 1U);
    const std::int64_t sources =
        static_cast<std::int64_t>(split[first_split(head) + item / kBlockItems]) + before[chunk] +
        __popc(earlier);
    return swapped ? item - sources : sources;
  }
  /// Bit k: whether item + k is of `from`. Not for the self case.
  __device__ unsigned from_bits(std::int64_t head, std::int64_t item) const {
    const unsigned bits = static_cast<unsigned>(is_source[first_chunk(head) + item / kByteItems]) >>
                          (item % kByteItems);
    return swapped ? ~bits : bits;
  }
  /// The place just before an item: that of the last item before it; at the start, the first's.
  __device__ T place_before(std::int64_t head, std::int64_t from_before,
                            std::int64_t to_before) const {
    const T* const f = from.positions(head);
    const T* const t = to.positions(head);
    if (self) {
      return f[from_before > 0 ? from_before - 1 : 0];
    }
    if (from_before == 0 && to_before == 0) {
      return from.count == 0 ? t[0] : to.count == 0 ? f[0] : (f[0] < t[0] ? f[0] : t[0]);
    }
    if (from_before == 0) {
      return t[to_before - 1];
    }
    if (to_before == 0) {
      return f[from_before - 1];
    }
    const T a = f[from_before - 1];
    const T b = t[to_before - 1];
    return a > b ? a : b;
  }
};

/// The items of a tile, and the places where it begins and ends.
template <class T>
struct Tile {
  std::int64_t item;  ///< the first
  std::int64_t items;
  std::int64_t first_from;
  std::int64_t first_to;
  std::int64_t num_from;
  std::int64_t num_to;
  T low;   ///< of the last item of the tile before
  T high;  ///< of the last item
};

template <class T>
__device__ inline Tile<T> tile_of(const Line<T>& line, std::int64_t head, std::int64_t number,
                                  std::int64_t size) {
  Tile<T> tile{};
  tile.item = number * size;
  const std::int64_t end = tile.item + size < line.items ? tile.item + size : line.items;
  tile.items = end - tile.item;
  tile.first_from = line.from_before_block(head, tile.item);
  tile.first_to = line.to_before_block(tile.item, tile.first_from);
  const std::int64_t end_from = line.from_before_block(head, end);
  const std::int64_t end_to = line.to_before_block(end, end_from);
  tile.num_from = end_from - tile.first_from;
  tile.num_to = end_to - tile.first_to;
  tile.low = line.place_before(head, tile.first_from, tile.first_to);
  tile.high = line.place_before(head, end_from, end_to);
  return tile;
}

/// Positions of a tile in shared memory: of `from`, then (but in the self case) of `to`.
template <class T>
__device__ inline void load_positions(const Line<T>& line, std::int64_t head, const Tile<T>& tile,
                                      T* shared) {
  const T* const f = line.from.positions(head) + tile.first_from;
  for (std::int64_t k = threadIdx.x; k < tile.num_from; k += blockDim.x) {
    shared[k] = f[k];
  }
  if (!line.self) {
    const T* const t = line.to.positions(head) + tile.first_to;
    for (std::int64_t k = threadIdx.x; k < tile.num_to; k += blockDim.x) {
      shared[tile.num_from + k] = t[k];
    }
  }
}

/// A thread's share of a tile: up to K neighbouring items, in registers.
template <class T, class D, int P, int K>
struct Walk {
  int count = 0;
  int first_from = 0;  ///< within the tile
  int first_to = 0;
  unsigned is_from = 0;  ///< bit k: item k is of `from`
  unsigned is_to = 0;
  T begin;              ///< where the item before is
  T end;                ///< where the last one is
  Gap<T, D, P> gap[K];  ///< into each item

  /// `shared` as load_positions left it, after a barrier.
  __device__ Walk(const Line<T>& line, std::int64_t head, const Tile<T>& tile, const T* shared,
                  const LineRate& rate)
      : begin(tile.high), end(tile.high) {
    const std::int64_t offset = static_cast<std::int64_t>(threadIdx.x) * K;
    for (int k = 0; k < K; ++k) {
      gap[k] = Gap<T, D, P>{};
    }
    if (offset >= tile.items) {
      return;
    }
    count = tile.items - offset < K ? static_cast<int>(tile.items - offset) : K;
    const std::int64_t item = tile.item + offset;
    const T* const f = shared;
    const T* const t = line.self ? shared : shared + tile.num_from;
    first_from = static_cast<int>(line.from_before(head, item) - tile.first_from);
    first_to = line.self ? first_from
                         : static_cast<int>(item - tile.first_to - tile.first_from) - first_from;
    const unsigned all = (1U << count) - 1U;
    is_from = line.self ? all : line.from_bits(head, item) & all;
    is_to = line.self ? all : ~is_from & all;
    begin = tile.low;
    if (first_from > 0) {
      begin = f[first_from - 1];
    }
    if (first_to > 0 && (first_from == 0 || t[first_to - 1] > begin)) {
      begin = t[first_to - 1];
    }
    T here = begin;
    int a = first_from;
    int b = first_to;
    for (int k = 0; k < K; ++k) {
      if (k < count) {
        const bool from = ((is_from >> k) & 1U) != 0;
        const T place = from ? f[a] : t[b];
        a += from ? 1 : 0;
        b += from ? 0 : 1;
        gap[k] = gap_between<T, D, P>(place, here, rate);
        here = place;
      }
    }
    end = here;
  }

  [[nodiscard]] __device__ bool from(int k) const { return ((is_from >> k) & 1U) != 0; }
  [[nodiscard]] __device__ bool to(int k) const { return ((is_to >> k) & 1U) != 0; }
  /// Places within the tile, of item k.
  [[nodiscard]] __device__ int from_slot(int k) const {
    return first_from + __popc(is_from & ((1U << k) - 1U));
  }
  [[nodiscard]] __device__ int to_slot(int k) const {
    return first_to + __popc(is_to & ((1U << k) - 1U));
  }

  /// The decay across all items, as a node wants it.
  template <class N>
  __device__ N node(const typename N::Value& sums, T place) const {
    N node = N::empty(place);
    node.sums = sums;
    if constexpr (N::kProducts) {
      for (int k = 0; k < K; ++k) {
        if (k < count) {
          node.travel = node.travel * gap[k].decay();
        }
      }
    }
    return node;
  }
};

}  // namespace laplex::cuda::detail
