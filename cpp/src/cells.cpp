#include "cells.hpp"

#include "parallel.hpp"

#include <algorithm>
#include <limits>
#include <vector>

namespace laplex::detail {
namespace {

/// Anchors of a segment: what is cut by one task. A multiple of kCell; fixed, so that the cells do
/// not depend on the threads.
constexpr std::int64_t kSegment = LinePart::segment;
static_assert(kSegment % kCell == 0);

}  // namespace

/// A run of the merged order, cut into cells by itself.
template <class T>
struct Cells<T>::Segment {
  std::int64_t begin = 0;  ///< in merged order; the first of its tie
  std::int64_t end = 0;
  std::int64_t num_sources = 0;
  std::int64_t first_source = 0;
  std::int64_t first_target = 0;
  std::vector<std::uint32_t> first_sources;  ///< of its cells
  std::vector<std::uint32_t> first_targets;
  std::vector<double> centre;
  std::vector<double> gap_after;
  std::vector<std::uint8_t> point;
};

template <class T>
SideView<T> Cells<T>::view(std::int64_t offset, SideOrder order, bool targets) const {
  const auto at = [&](const auto& array) -> decltype(array.data()) {
    return array.empty() ? nullptr : array.data() + offset;
  };
  SideView<T> side;
  side.first = targets ? first_target_.data() : first_source_.data();
  side.point = point_.empty() ? nullptr : point_.data();
  side.index = order == SideOrder::as_given ? nullptr : at(ordered().index_);
  side.position = at(ordered().position_);
  side.grow = at(grow_);
  side.shrink = at(shrink_);
  side.gap = at(gap_);
  side.turn_re = at(turn_re_);
  side.turn_im = at(turn_im_);
  side.phase_re = at(phase_re_);
  side.phase_im = at(phase_im_);
  side.split = at(split_);
  const std::uint16_t* const other = at(other_);
  side.below = targets ? other : side.split;
  side.upto = targets ? side.split : other;
  return side;
}

template <class T>
SideView<T> Cells<T>::sources() const {
  if (!self_) {
    return view(0, source_order_, false);
  }
  SideView<T> side = targets();
  if (!phase_re_.empty()) {
    side.phase_re += num_targets_;
    side.phase_im += num_targets_;
  }
  return side;
}

template <class T>
void Cells<T>::build(const Anchors<T>& anchors, const Sorting<T>& sorting, const Factors& factors,
                     const Cells* same, int threads) {
  same_ = same;
  self_ = anchors.self;
  num_targets_ = anchors.num_targets;
  num_sources_ = anchors.num_sources;
  rate_ = factors.rate;
  const std::int64_t count = anchors.count();
  index_.reset(same == nullptr ? count : 0);
  position_.reset(same == nullptr ? count : 0);
  grow_.reset(count);
  shrink_.reset(count);
  gap_.reset(count);
  split_.reset(count);
  other_.reset(count);

  const Record<T>* const records = sorting.records.data();
  const LinePart* const part = factors.part.get();
  // Segments are those of the whole line.
  const std::int64_t offset = part != nullptr ? part->offset : 0;
  const std::int64_t first_segment = offset / kSegment;
  const auto num_segments = (offset + count + kSegment - 1) / kSegment - first_segment;
  std::vector<Segment> segments(static_cast<std::size_t>(num_segments));
  const auto boundary = [&](std::int64_t s) {
    std::int64_t k = std::clamp<std::int64_t>((first_segment + s) * kSegment - offset, 0, count);
    while (k > 0 && k < count && records[k].key == records[k - 1].key) {
      ++k;
    }
    return k;
  };
  const auto each_segment = [&](const auto& body) {
    parallel_tasks(threads, num_segments,
                   [&](std::int64_t s) { body(segments[static_cast<std::size_t>(s)], s); });
  };
  each_segment([&](Segment& segment, std::int64_t s) {
    segment.begin = boundary(s);
    segment.end = boundary(s + 1);
    const auto first_target = static_cast<std::uint32_t>(num_sources_);
    const Record<T>* const end = records + segment.end;
    std::uint32_t sources = 0;
    for (const Record<T>* r = records + segment.begin; r < end; ++r) {
      sources += r->id < first_target ? 1 : 0;
    }
    segment.num_sources = sources;
  });
  std::int64_t sources = 0;
  for (Segment& segment : segments) {
    segment.first_source = sources;
    segment.first_target = segment.begin - sources;
    sources += segment.num_sources;
  }
  each_segment([&](Segment& segment, std::int64_t) { cut(sorting, part, segment); });

  std::int64_t cells = 0;
  bool has_points = false;
  for (const Segment& segment : segments) {
    cells += static_cast<std::int64_t>(segment.centre.size());
    has_points = has_points ||
                 std::find(segment.point.begin(), segment.point.end(), 1) != segment.point.end();
  }
  source_order_ = sorting.sources_as_given ? SideOrder::as_given : SideOrder::permuted;
  target_order_ = sorting.targets_as_given ? SideOrder::as_given : SideOrder::permuted;

  centre_.reset(cells);
  gap_after_.reset(cells);
  first_target_.reset(cells + 1);
  first_source_.reset(self_ ? 0 : cells + 1);
  point_.reset(has_points ? cells : 0);
  std::int64_t cell = 0;
  for (const Segment& segment : segments) {
    std::copy(segment.centre.begin(), segment.centre.end(), centre_.data() + cell);
    std::copy(segment.gap_after.begin(), segment.gap_after.end(), gap_after_.data() + cell);
    std::copy(segment.first_targets.begin(), segment.first_targets.end(),
              first_target_.data() + cell);
    if (!self_) {
      std::copy(segment.first_sources.begin(), segment.first_sources.end(),
                first_source_.data() + cell);
    }
    if (has_points) {
      std::copy(segment.point.begin(), segment.point.end(), point_.data() + cell);
    }
    cell += static_cast<std::int64_t>(segment.centre.size());
  }
  first_target_[cells] = static_cast<std::uint32_t>(num_targets_);
  if (!self_) {
    first_source_[cells] = static_cast<std::uint32_t>(num_sources_);
  }

  turn_and_phase(factors, threads);
  shared_.reset();
  std::int64_t first_cell = 0;
  std::int64_t all_cells = cells;
  if (part != nullptr) {
    shared_ =
        std::make_unique<const SharedLine>(factors.part, cells, num_targets() + num_sources());
    far_ = shared_->far_points(centre_.data(), centre_.data());
    first_cell = shared_->first();
    all_cells = shared_->total();
  }
  const std::int64_t end = first_cell + cells;
  tree_[0] = LineTree(first_cell, end, all_cells, part != nullptr);
  tree_[1] = LineTree(all_cells - end, all_cells - first_cell, all_cells, part != nullptr);
  if (factors.oscillates) {
    complex_decays_ = make_decays<Complex>(points(), rate_, threads);
  } else {
    real_decays_ = make_decays<double>(points(), rate_, threads);
  }
}

/// Cuts a segment into cells, greedily from its start.
template <class T>
void Cells<T>::cut(const Sorting<T>& sorting, const LinePart* part, Segment& segment) {
  const Record<T>* const records = sorting.records.data();
  // Distances and lengthscales may be beyond the largest number: such a cell is too wide.
  const double widest =
      std::min(kCellWidth * rate_.lengthscale, std::numeric_limits<double>::max());
  std::int64_t begin = segment.begin;
  std::int64_t source = segment.first_source;
  std::int64_t target = segment.first_target;
  while (begin < segment.end) {
    std::int64_t end = std::min(segment.end, begin + kCell);
    const auto first = static_cast<double>(value_of<T>(records[begin].key));
    const auto fits = [&](std::int64_t k) {
      return static_cast<double>(value_of<T>(records[k].key)) - first <= widest;
    };
    if (!fits(end - 1)) {
      std::int64_t low = begin;  // fits
      std::int64_t high = end - 1;
      while (high - low > 1) {
        const std::int64_t middle = low + (high - low) / 2;
        (fits(middle) ? low : high) = middle;
      }
      end = high;
    }
    if (end < segment.end && records[end].key == records[end - 1].key) {
      std::int64_t start = end - 1;
      while (start > begin && records[start - 1].key == records[end].key) {
        --start;
      }
      if (start > begin) {
        end = start;
      } else {  // one point fills the cell
        while (end < segment.end && records[end].key == records[begin].key) {
          ++end;
        }
      }
    }
    const bool point = end - begin > kCell;
    const auto last = static_cast<double>(value_of<T>(records[end - 1].key));
    segment.first_sources.push_back(static_cast<std::uint32_t>(source));
    segment.first_targets.push_back(static_cast<std::uint32_t>(target));
    segment.centre.push_back(point ? first : 0.5 * first + 0.5 * last);
    segment.point.push_back(point ? 1 : 0);
    double after = 0.0;
    if (end < sorting.records.size()) {
      after = scaled_distance(static_cast<double>(value_of<T>(records[end].key)), last, rate_);
    } else if (part != nullptr && part->has_next) {
      after = scaled_distance(part->next, last, rate_);
    }
    segment.gap_after.push_back(after);
    std::int64_t next_source = source;
    std::int64_t next_target = target;
    for (std::int64_t piece = begin; piece < end; piece += kCell) {
      place(records, piece, std::min(end, piece + kCell), next_source, next_target);
    }
    const std::int64_t sources = next_source - source;
    const std::int64_t targets = next_target - target;
    const double centre = segment.centre.back();
    const Kernels<T>& kernel = kernels<T>();
    if (point) {
      for (std::int64_t k = 0; k < sources; ++k) {
        grow_[source + k] = shrink_[source + k] = T(1);
        split_[source + k] = 0;
        other_[source + k] = targets > 0 ? 1 : 0;
      }
      for (std::int64_t k = 0; k < targets; ++k) {
        const std::int64_t at = num_sources_ + target + k;
        grow_[at] = shrink_[at] = T(1);
        split_[at] = 1;
        other_[at] = 0;
      }
    } else {
      kernel.exponentials(position() + source, sources, centre, rate_.lengthscale,
                          grow_.data() + source, shrink_.data() + source);
      const std::int64_t at = num_sources_ + target;
      kernel.exponentials(position() + at, targets, centre, rate_.lengthscale, grow_.data() + at,
                          shrink_.data() + at);
    }
    source = next_source;
    target = next_target;
    begin = end;
  }
}

/// Puts the records [begin, end), at most kCell of one cell, to the next places of both sides.
template <class T>
void Cells<T>::place(const Record<T>* records, std::int64_t begin, std::int64_t end,
                     std::int64_t& source, std::int64_t& target) {
  const auto side = [&](std::int64_t at) -> PlacedSide<T> {
    const bool own = same_ == nullptr;
    return {own ? index_.data() + at : nullptr, own ? position_.data() + at : nullptr,
            gap_.data() + at, split_.data() + at, other_.data() + at};
  };
  const std::int64_t first_target = num_sources_ + target;
  const std::int64_t sources =
      kernels<T>().place(records + begin, end - begin, static_cast<std::uint32_t>(num_sources_),
                         1.0 / rate_.lengthscale, side(source), side(first_target));
  source += sources;
  target += end - begin - sources;
  if (self_) {
    place_own_ties(records, begin, end, first_target);
  }
}

/// The self case: every anchor is tied with itself.
template <class T>
void Cells<T>::place_own_ties(const Record<T>* records, std::int64_t begin, std::int64_t end,
                              std::int64_t first) {
  for (std::int64_t k = begin; k < end;) {
    std::int64_t tie_end = k + 1;
    while (tie_end < end && records[tie_end].key == records[k].key) {
      ++tie_end;
    }
    for (std::int64_t i = k; i < tie_end; ++i) {
      split_[first + i - begin] = static_cast<std::uint16_t>(tie_end - begin);
      other_[first + i - begin] = static_cast<std::uint16_t>(k - begin);
    }
    k = tie_end;
  }
}

/// The tables of kernels with a frequency or phases.
template <class T>
void Cells<T>::turn_and_phase(const Factors& factors, int threads) {
  const std::int64_t count = split_.size();
  const T* const position = this->position();
  const std::uint32_t* const index = this->index();
  const std::int64_t turned = factors.oscillates ? count : 0;
  // In the self case one anchor has two phases: the sources' stand behind the targets'.
  const std::int64_t phases = self_ ? 2 * count : count;
  const std::int64_t phased = factors.target != nullptr || factors.source != nullptr ? phases : 0;
  turn_re_.reset(turned);
  turn_im_.reset(turned);
  phase_re_.reset(phased);
  phase_im_.reset(phased);
  if (turned > 0) {
    parallel_ranges(threads, this->count(), 16, [&](std::int64_t begin, std::int64_t end) {
      const auto turn = [&](std::int64_t from, std::int64_t to, double centre) {
        for (std::int64_t k = from; k < to; ++k) {
          const Complex z =
              rotation(distance(static_cast<double>(position[k]), centre), factors.rate.frequency);
          turn_re_[k] = static_cast<T>(z.re);
          turn_im_[k] = static_cast<T>(z.im);
        }
      };
      for (std::int64_t c = begin; c < end; ++c) {
        turn(num_sources_ + first_target_[c], num_sources_ + first_target_[c + 1], centre_[c]);
        if (!self_) {
          turn(first_source_[c], first_source_[c + 1], centre_[c]);
        }
      }
    });
  }
  if (phased > 0) {
    constexpr std::int64_t kGrain = 8192;
    parallel_ranges(threads, phases, kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t k = begin; k < end; ++k) {
        const bool source = self_ ? k >= count : k < num_sources_;
        const Complex* const factor = source ? factors.source : factors.target;
        const Complex z =
            factor != nullptr ? factor[index[k < count ? k : k - count]] : Complex{1.0, 0.0};
        phase_re_[k] = static_cast<T>(z.re);
        phase_im_[k] = static_cast<T>(z.im);
      }
    });
  }
}

template <class T>
bool Cells<T>::nearly_sorts(const Anchors<T>& anchors) const {
  // Measured: a repair takes as long as a sort where most anchors pass some ten others. In a random
  // order every second pair descends, whatever lies between. Beyond the caches, fetching the new
  // values in the old order takes longer than the sort, which reads them as they stand.
  constexpr std::int64_t kMost = std::int64_t(1) << 20;
  static_assert(kMost <= std::int64_t(1) << kRepairIdBits, "a word holds an id");
  constexpr std::int64_t kApart = 4;
  constexpr std::int64_t kSample = 16;
  if (anchors.count() > kMost || count() == 0) {
    return false;
  }
  const std::int64_t samples = std::clamp<std::int64_t>(count() / 16, 1, kSample);
  const auto nearly = [&](const T* values, const std::uint32_t* index,
                          const Array<std::uint32_t>& first) {
    std::int64_t pairs = 0;
    std::int64_t descents = 0;
    for (std::int64_t s = 0; s < samples; ++s) {
      const std::int64_t c = count() * s / samples;
      const std::int64_t begin = first[c];
      const std::int64_t end = std::min<std::int64_t>(first[c + 1], begin + kCell);
      for (std::int64_t k = begin + kApart; k < end; ++k) {
        descents += values[index[k]] < values[index[k - kApart]] ? 1 : 0;
      }
      pairs += std::max<std::int64_t>(0, end - begin - kApart);
    }
    return 10 * descents <= pairs;
  };
  return nearly(anchors.targets, index() + num_sources_, first_target_) &&
         (self_ || nearly(anchors.sources, index(), first_source_));
}

template <class T>
void Cells<T>::records(const Anchors<T>* anchors, std::int64_t begin, std::int64_t end,
                       Record<T>* all) const {
  const T* const position = this->position();
  const std::uint32_t* const index = this->index();
  const auto write = [&](const auto& source, const auto& target) {
    for (std::int64_t c = begin; c < end; ++c) {
      const std::int64_t sources = self_ ? 0 : first_source_[c + 1] - first_source_[c];
      const std::int64_t targets = first_target_[c + 1] - first_target_[c];
      // Sources, then targets, where `split` does not tell how they alternate.
      const bool point = !point_.empty() && point_[c] != 0;
      const bool runs = self_ || point;
      Record<T>* const to = all + first_record(c);
      const std::int64_t first_source = self_ ? 0 : first_source_[c];
      const std::int64_t first_target = num_sources_ + first_target_[c];
      const auto first_id = static_cast<std::uint32_t>(num_sources_);
      for (std::int64_t j = 0; j < sources; ++j) {
        const std::int64_t k = first_source + j;
        to[j + (runs ? 0 : split_[k])] = {key_of(source(k)), index[k]};
      }
      for (std::int64_t i = 0; i < targets; ++i) {
        const std::int64_t k = first_target + i;
        to[i + (runs ? sources : split_[k])] = {key_of(target(k)), first_id + index[k]};
      }
    }
  };
  const auto here = [&](std::int64_t k) { return position[k]; };
  if (anchors == nullptr) {
    write(here, here);
  } else {
    write([&](std::int64_t k) { return anchors->sources[index[k]]; },
          [&](std::int64_t k) { return anchors->targets[index[k]]; });
  }
}

template <class T>
std::int64_t Cells<T>::nbytes() const {
  return index_.nbytes() + position_.nbytes() + grow_.nbytes() + shrink_.nbytes() + gap_.nbytes() +
         turn_re_.nbytes() + turn_im_.nbytes() + phase_re_.nbytes() + phase_im_.nbytes() +
         split_.nbytes() + other_.nbytes() + first_target_.nbytes() + first_source_.nbytes() +
         point_.nbytes() + centre_.nbytes() + gap_after_.nbytes() + real_decays_.nbytes() +
         complex_decays_.nbytes();
}

template class Cells<float>;
template class Cells<double>;

}  // namespace laplex::detail
