#include "shared_line.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace laplex::detail {
namespace {

/// The skeleton of a scan over elements that are cut into runs at `bounds` [processes + 1], of
/// which `rank_of(r)` is the process that has run r.
template <class RankOf>
Skeleton make_skeleton(const std::vector<std::int64_t>& bounds, const RankOf& rank_of) {
  const std::int64_t total = bounds.back();
  const std::vector<std::int64_t> sizes = level_sizes(total);
  Skeleton skeleton;
  skeleton.leaves.resize(bounds.size() - 1);
  const auto add_family = [&](std::int64_t parent, std::size_t level, std::int64_t begin,
                              std::int64_t end) {
    const std::int64_t span = span_of(level);
    skeleton.families.push_back(
        {parent, static_cast<std::int64_t>(skeleton.nodes.size()), end - begin});
    for (std::int64_t node = begin; node < end; ++node) {
      const std::int64_t last = last_element(node, span, total);
      // The first bound beyond the node's first element is the end of the run that has it.
      const auto run_end = std::upper_bound(bounds.begin(), bounds.end(), node * span);
      const bool whole = last < *run_end;
      const int owner = whole ? rank_of(static_cast<int>(run_end - bounds.begin()) - 1) : -1;
      skeleton.nodes.push_back({level, node, owner,
                                whole ? skeleton.leaves[static_cast<std::size_t>(owner)]++ : 0,
                                node * span - 1, last});
    }
  };
  if (total == 0) {
    return skeleton;
  }
  add_family(-1, sizes.size() - 1, 0, sizes.back());
  for (std::size_t k = 0; k < skeleton.nodes.size(); ++k) {
    const Skeleton::Node node = skeleton.nodes[k];
    if (node.owner < 0) {
      const std::size_t below = node.level - 1;
      const std::int64_t first = node.node * chunk_size(below);
      add_family(static_cast<std::int64_t>(k), below, first,
                 std::min(sizes[below], first + chunk_size(below)));
    }
  }
  return skeleton;
}

}  // namespace

SharedLine::SharedLine(std::shared_ptr<const LinePart> part, std::int64_t cells,
                       std::int64_t anchors)
    : part_(std::move(part)) {
  constexpr std::int64_t kNumbers = 2;
  std::vector<double> all;
  gather({static_cast<double>(cells), static_cast<double>(anchors)},
         std::vector<std::int64_t>(static_cast<std::size_t>(size()), kNumbers), all);
  bounds_ = {0};
  for (std::size_t r = 0; r < all.size(); r += kNumbers) {
    bounds_.push_back(bounds_.back() + static_cast<std::int64_t>(all[r]));
    anchors_ += static_cast<std::int64_t>(all[r + 1]);
  }
  skeleton_[0] = make_skeleton(bounds_, [](int run) { return run; });
  std::vector<std::int64_t> mirrored;
  for (auto bound = bounds_.rbegin(); bound != bounds_.rend(); ++bound) {
    mirrored.push_back(total() - *bound);
  }
  skeleton_[1] = make_skeleton(mirrored, [this](int run) { return size() - 1 - run; });
}

void SharedLine::gather(const std::vector<double>& mine, const std::vector<std::int64_t>& counts,
                        std::vector<double>& all) const {
  all.resize(
      static_cast<std::size_t>(std::accumulate(counts.begin(), counts.end(), std::int64_t(0))));
  if (!all.empty()) {
    part_->gather(mine.data(), counts.data(), all.data());
  }
}

/// The cells whose places the steps of a skeleton need, in ascending order.
std::vector<std::int64_t> SharedLine::places_of(bool reverse) const {
  std::vector<std::int64_t> cells;
  for (const Skeleton::Node& node : skeleton(reverse).nodes) {
    for (const std::int64_t element : {node.before, node.last}) {
      if (element >= 0) {
        cells.push_back(reverse ? total() - 1 - element : element);
      }
    }
  }
  std::sort(cells.begin(), cells.end());
  cells.erase(std::unique(cells.begin(), cells.end()), cells.end());
  return cells;
}

FarPoints SharedLine::far_points(const double* left_to_right, const double* right_to_left) const {
  const std::vector<std::int64_t> wanted[2] = {places_of(false), places_of(true)};
  std::vector<std::int64_t> counts(static_cast<std::size_t>(size()));
  std::vector<double> mine;
  for (const bool reverse : {false, true}) {
    for (const std::int64_t cell : wanted[reverse ? 1 : 0]) {
      const auto owner =
          std::upper_bound(bounds_.begin(), bounds_.end(), cell) - bounds_.begin() - 1;
      ++counts[static_cast<std::size_t>(owner)];
      if (owner == rank()) {
        mine.push_back((reverse ? right_to_left : left_to_right)[cell - first()]);
      }
    }
  }
  std::vector<double> all;
  gather(mine, counts, all);
  // Every process sends those of both directions together.
  std::vector<std::size_t> next(static_cast<std::size_t>(size()), 0);
  for (std::size_t r = 1; r < next.size(); ++r) {
    next[r] = next[r - 1] + static_cast<std::size_t>(counts[r - 1]);
  }
  FarPoints far;
  for (const bool reverse : {false, true}) {
    const std::vector<std::int64_t>& cells = wanted[reverse ? 1 : 0];
    std::vector<double> places;
    for (const std::int64_t cell : cells) {
      const auto owner =
          std::upper_bound(bounds_.begin(), bounds_.end(), cell) - bounds_.begin() - 1;
      places.push_back(all[next[static_cast<std::size_t>(owner)]++]);
    }
    const auto place_of = [&](std::int64_t cell) {
      const auto found = std::lower_bound(cells.begin(), cells.end(), cell);
      return found != cells.end() && *found == cell
                 ? places[static_cast<std::size_t>(found - cells.begin())]
                 : std::numeric_limits<double>::quiet_NaN();
    };
    const auto place_of_element = [&](std::int64_t element) {
      return place_of(element >= 0 && reverse ? total() - 1 - element : element);
    };
    for (const Skeleton::Node& node : skeleton(reverse).nodes) {
      far.skeleton[reverse ? 1 : 0].push_back(
          {place_of_element(node.before), place_of_element(node.last)});
    }
    const std::int64_t end = bounds_[static_cast<std::size_t>(rank()) + 1];
    far.neighbour[reverse ? 1 : 0] = place_of(reverse ? (end < total() ? end : -1) : first() - 1);
  }
  return far;
}

Round::Round(const SharedLine& line, std::int64_t slots, std::int64_t numbers)
    : line_(line), numbers_(numbers), begins_{0} {
  for (int r = 0; r < line.size(); ++r) {
    counts_.push_back(slots * leaves_of(r) * numbers);
    begins_.push_back(begins_.back() + counts_.back());
  }
  mine_.resize(static_cast<std::size_t>(counts_[static_cast<std::size_t>(line.rank())]));
}

std::int64_t Round::leaves_of(int rank) const {
  const auto r = static_cast<std::size_t>(rank);
  return line_.skeleton(false).leaves[r] + line_.skeleton(true).leaves[r];
}

std::int64_t Round::place(int rank, std::int64_t slot, bool reverse, std::int64_t leaf) const {
  const std::int64_t before =
      reverse ? line_.skeleton(false).leaves[static_cast<std::size_t>(rank)] : 0;
  return (slot * leaves_of(rank) + before + leaf) * numbers_;
}

double* Round::mine(std::int64_t slot, bool reverse, std::int64_t leaf) {
  return mine_.data() + place(line_.rank(), slot, reverse, leaf);
}

void Round::gather() {
  line_.gather(mine_, counts_, all_);
}

const double* Round::total(std::int64_t slot, bool reverse, const Skeleton::Node& leaf) const {
  return all_.data() + begins_[static_cast<std::size_t>(leaf.owner)] +
         place(leaf.owner, slot, reverse, leaf.leaf);
}

}  // namespace laplex::detail
