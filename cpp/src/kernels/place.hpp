/// The anchors of a cell, from sorted records to the tables of their sides.
#pragma once

#include "pack.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

/// What is known of a byte as a set of lanes.
struct LaneSets {
  std::uint8_t count[256];
  std::uint8_t lane[256][8];      ///< its lanes in ascending order, then zeros
  std::uint16_t skipped[256][8];  ///< how many lanes below each of these are not in the set
};

constexpr LaneSets make_lane_sets() {
  LaneSets sets{};
  for (int set = 0; set < 256; ++set) {
    int count = 0;
    for (int lane = 0; lane < 8; ++lane) {
      if ((set >> lane & 1) != 0) {
        sets.lane[set][count] = static_cast<std::uint8_t>(lane);
        sets.skipped[set][count] = static_cast<std::uint16_t>(lane - count);
        ++count;
      }
    }
    sets.count[set] = static_cast<std::uint8_t>(count);
  }
  return sets;
}

constexpr LaneSets kLaneSets = make_lane_sets();

/// One side of a cell while it is being filled. Eight places are written at a time, however many
/// are needed of them, so there is room for eight more.
template <class T>
struct CellSide {
  static constexpr std::int64_t kRoom = kCell + 8;
  std::uint32_t index[kRoom];
  T position[kRoom];
  T gap[kRoom];
  std::uint16_t split[kRoom];
  std::uint16_t other[kRoom];

  LAPLEX_INLINE void copy_to(const PlacedSide<T>& side, std::int64_t size) const {
    const auto count = static_cast<std::size_t>(size);
    if (side.index != nullptr) {
      std::memcpy(side.index, index, count * sizeof(*index));
      std::memcpy(side.position, position, count * sizeof(*position));
    }
    std::memcpy(side.gap, gap, count * sizeof(*gap));
    std::memcpy(side.split, split, count * sizeof(*split));
    std::memcpy(side.other, other, count * sizeof(*other));
  }
};

/// Without a branch on which side a record is: they alternate at random, and a wrong guess costs
/// more than all the rest.
template <class T>
std::int64_t place(const Record<T>* records, std::int64_t count, std::uint32_t num_sources,
                   double per_lengthscale, const PlacedSide<T>& to_sources,
                   const PlacedSide<T>& to_targets) {
  T position[kCell + 9];
  std::uint32_t id[kCell + 8];
  for (std::int64_t k = 0; k < count; ++k) {
    position[k] = value_of<T>(records[k].key);
    id[k] = records[k].id;
  }
  for (std::int64_t k = count; k < count + 9; ++k) {
    position[k] = position[count - 1];
  }
  for (std::int64_t k = count; k < count + 8; ++k) {
    id[k] = num_sources;
  }
  CellSide<T> sources;
  CellSide<T> targets;
  std::uint8_t source_set[kCell / 8];
  std::uint8_t tie_set[kCell / 8];  // those at the same point as the next
  std::uint16_t before[kCell / 8];  // sources before each group
  std::uint32_t any_tie = 0;
  const Pack<double> per = splat(per_lengthscale);
  const Pack<std::uint32_t> first_target = splat(num_sources);
  std::int64_t s = 0;
  for (std::int64_t g = 0; 8 * g < count; ++g) {
    const std::int64_t k = 8 * g;
    const Pack<T> here = load(position + k);
    const Pack<T> gap = narrow<T>((widen(load(position + k + 1)) - widen(here)) * per);
    const Pack<std::uint32_t> ids = load(id + k);
    const std::uint32_t set = less_mask(id + k, num_sources);
    const std::uint32_t tied = equal_mask(position + k, position + k + 1);
    source_set[g] = static_cast<std::uint8_t>(set);
    tie_set[g] = static_cast<std::uint8_t>(tied);
    before[g] = static_cast<std::uint16_t>(s);
    any_tie |= k + 8 < count ? tied : tied & ((1U << (count - 1 - k)) - 1U);
    const auto put = [&](CellSide<T>& side, std::int64_t at, const Pack<std::uint32_t>& index,
                         std::uint32_t lanes) {
      const std::uint8_t* const lane = kLaneSets.lane[lanes];
      store_lanes(side.index + at, index, lane);
      store_lanes(side.position + at, here, lane);
      store_lanes(side.gap + at, gap, lane);
      const std::uint16_t* const skipped = kLaneSets.skipped[lanes];
      const auto offset = static_cast<std::uint16_t>(k - at);
      for (std::int64_t j = 0; j < 8; ++j) {
        side.split[at + j] = side.other[at + j] = static_cast<std::uint16_t>(skipped[j] + offset);
      }
    };
    put(sources, s, ids, set);
    put(targets, k - s, ids - first_target, 255U & ~set);
    s += kLaneSets.count[set];
  }
  if (any_tie != 0) {
    // Anchors at one point: in the order, sources stand before targets there, so that `split` is
    // right already, and `other` is not.
    const auto sources_before = [&](std::int64_t k) {
      return before[k / 8] + kLaneSets.count[source_set[k / 8] & ((1U << (k % 8)) - 1U)];
    };
    for (std::int64_t g = 0; 8 * g < count; ++g) {
      for (std::int64_t j = 0; j < kLaneSets.count[tie_set[g]]; ++j) {
        const std::int64_t first = 8 * g + kLaneSets.lane[tie_set[g]][j];
        if (first + 1 >= count || (first > 0 && position[first - 1] == position[first])) {
          continue;  // beyond the end, or not the first of its tie
        }
        std::int64_t end = first + 2;
        while (end < count && position[end] == position[first]) {
          ++end;
        }
        const std::int64_t below = sources_before(first);
        const std::int64_t upto = end < count ? sources_before(end) : s;
        for (std::int64_t r = below; r < upto; ++r) {
          sources.other[r] = static_cast<std::uint16_t>(end - upto);
        }
        for (std::int64_t r = first - below; r < end - upto; ++r) {
          targets.other[r] = static_cast<std::uint16_t>(below);
        }
      }
    }
  }
  sources.copy_to(to_sources, s);
  targets.copy_to(to_targets, count - s);
  return s;
}

}  // namespace laplex::detail::LAPLEX_LEVEL
