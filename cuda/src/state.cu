#include "state.hpp"

#include "checks.hpp"
#include "inspection.hpp"
#include "kernels/order.hpp"
#include "sorting.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace laplex::cuda::detail {

using laplex::detail::invalid;
using laplex::detail::is_self_case;

namespace {

/// Indices within a side take 32 bits, and 2^32 - 1 of them would not leave room to count.
constexpr std::int64_t kMostOfSide = (std::int64_t(1) << 32) - 2;

void check_side(std::int64_t count, const char* name) {
  if (count > kMostOfSide) {
    invalid(std::string(name) + " has " + std::to_string(count) +
            " anchors, more than a plan on a GPU can number, " + std::to_string(kMostOfSide) +
            ": split it into blocks");
  }
}

void check_sides(std::int64_t heads, std::int64_t n, std::int64_t m, bool self) {
  laplex::detail::check_sizes(heads, n, m, 2 * kMostOfSide);
  check_side(n, "targets");
  check_side(m, "sources");
  laplex::detail::check_sides(self, n, m);
}

}  // namespace

template <class T>
void State<T>::lay_out(Cutter& cut) {
  found_ = cut.take<unsigned long long>(kMostLooks);
  targets_.position = cut.take<T>(lines_ * n_);
  targets_.index = cut.take<std::uint32_t>(lines_ * n_);
  if (!self_) {
    sources_.position = cut.take<T>(lines_ * m_);
    sources_.index = cut.take<std::uint32_t>(lines_ * m_);
    const std::int64_t items = n_ + m_;
    split_ = cut.take<std::uint32_t>(lines_ * (ceil_div(items, kBlockItems) + 1));
    is_source_ = cut.take<std::uint8_t>(lines_ * ceil_div(items, kByteItems));
    before_ = cut.take<std::uint16_t>(lines_ * ceil_div(items, kByteItems));
    if constexpr (std::is_same_v<T, float>) {
      targets_.rank = cut.take<std::uint16_t>(lines_ * n_);
      sources_.rank = cut.take<std::uint16_t>(lines_ * m_);
      tied_ = cut.take<std::uint8_t>(lines_ * ceil_div(items, kBlockItems));
    }
  }
}

template <class T>
std::size_t State<T>::storage_bytes(std::int64_t lines, std::int64_t n, std::int64_t m, bool self) {
  check_sides(lines, n, m, self);
  State<T> counted(lines, lines, n, m, self);
  Cutter cut;
  counted.lay_out(cut);
  return cut.used();
}

template <class T>
std::size_t State<T>::scratch_bytes(std::int64_t lines, std::int64_t n, std::int64_t m, bool self) {
  check_sides(lines, n, m, self);
  const auto bytes = [&](std::int64_t count) {
    Cutter cut;
    const SortScratch<T> counted(cut, lines, count);
    return cut.used();
  };
  return self ? bytes(n) : std::max(bytes(n), bytes(m));
}

template <class T>
State<T>::State(const Kernel<T>& kernel, Stream stream, Memory storage, const Scratch& scratch,
                Report* report)
    : State(kernel.heads,
            kernel.shared_anchors ? std::min<std::int64_t>(kernel.heads, 1) : kernel.heads,
            kernel.num_targets, kernel.num_sources, is_self_case(kernel)) {
  check_sides(heads_, n_, m_, self_);
  laplex::detail::check_part(kernel);
  if (kernel.part != nullptr && report != nullptr) {
    invalid(
        "a plan of a part of a line waits for the other processes, and takes no report: leave "
        "report out");
  }
  require_device();
  if (kernel.part != nullptr) {
    check_may_wait_for_others(stream);
  }
  const std::size_t bytes = storage_bytes(lines_, n_, m_, self_);
  if (storage.data != nullptr && storage.bytes < bytes) {
    invalid("storage has " + std::to_string(storage.bytes) + " bytes, but this plan takes " +
            std::to_string(bytes) + ": see storage_bytes()");
  }
  check_aligned(storage.data, kLentAlignment, "storage");
  if (storage.data == nullptr) {
    if (is_capturing(stream)) {
      throw Error(ErrorCode::device,
                  "a plan cannot own memory if it is built while its stream is being captured into "
                  "a graph: lend it storage that lives as long as the graph, or build it before "
                  "the capture");
    }
    owned_ = DeviceMemory(bytes, stream);
    storage.data = owned_.data();
  }
  nbytes_ = static_cast<std::int64_t>(bytes);
  Cutter cut(storage.data);
  lay_out(cut);

  // Everything that can be wrong, before any work.
  Inspection<T> inspection(found_, stream, report);
  inspection.look(Looked::targets, kernel.targets, lines_, n_);
  inspection.look(Looked::sources, self_ ? nullptr : kernel.sources, lines_, self_ ? 0 : m_);
  if (kernel.target_phase != nullptr) {
    inspection.look(Looked::target_phase, kernel.target_phase, heads_, n_);
  }
  if (kernel.source_phase != nullptr) {
    inspection.look(Looked::source_phase, kernel.source_phase, heads_, m_);
  }
  inspection.look_at_parameter(Looked::lengthscale, kernel.lengthscale, heads_);
  inspection.look_at_parameter(Looked::frequency, kernel.frequency, heads_);
  inspection.finish();
  order(kernel.targets, kernel.sources, inspection, true, scratch, stream);
  if (kernel.part != nullptr) {
    join(kernel.part, stream);
  }
}

template <class T>
void State<T>::join(const std::shared_ptr<const LinePart>& part, Stream stream) {
  double first = HUGE_VAL;
  double last = -HUGE_VAL;
  const auto look = [&](const Array& side, std::int64_t count) {
    if (count > 0) {
      T ends[2];
      copy_to_host(&ends[0], side.position, sizeof(T), stream);
      copy_to_host(&ends[1], side.position + count - 1, sizeof(T), stream);
      first = std::min(first, static_cast<double>(ends[0]));
      last = std::max(last, static_cast<double>(ends[1]));
    }
  };
  look(targets_, n_);
  look(sources_, self_ ? 0 : m_);
  shared_line_ = std::make_unique<SharedLine>(part, self_ ? n_ : n_ + m_, first, last);
}

template <class T>
void State<T>::order(const T* targets, const T* sources, const Inspection<T>& inspection,
                     bool is_new, const Scratch& scratch, Stream stream) {
  enum class Way { in_place, in_old_order, sorted };
  const auto way_of = [&](const Array& side, int k) {
    return !inspection.ascends(k)    ? Way::sorted
           : is_new || side.in_place ? Way::in_place
                                     : Way::in_old_order;
  };
  const Way ways[] = {way_of(targets_, 0), way_of(sources_, 1)};
  Lent lent;
  if (lines_ > 0 &&
      ((n_ > 0 && ways[0] == Way::sorted) || (!self_ && m_ > 0 && ways[1] == Way::sorted))) {
    lent = Lent(scratch, scratch_bytes(lines_, n_, m_, self_), stream, "scratch");
  }
  const auto put = [&](Array& side, int k, const T* given, std::int64_t count) {
    const std::int64_t all = lines_ * count;
    side.in_place = ways[k] == Way::in_place;
    if (all == 0) {
      return;
    }
    if (ways[k] == Way::sorted) {
      Cutter cut(lent.data());
      sort_lines(SortLines<T>{given, side.position, side.index, lines_, count},
                 SortScratch<T>(cut, lines_, count), stream);
      if (!inspection.waits()) {  // nobody knows what there is
        launch(forbid_kernel<T>, one_thread_each(all), stream, ForbidJob<T>{side.position, all});
      }
      return;
    }
    if (is_new) {
      // Not read, but right, should a captured update that has not run yet say that it is to be
      // read.
      launch(count_kernel, one_thread_each(all), stream, CountJob{side.index, lines_, count});
    }
    launch(gather_kernel<T>, one_thread_each(all), stream,
           GatherJob<T>{given, side.order(), lines_, count, side.position, false});
    if (inspection.has_loose_ties(k)) {
      launch(ties_kernel<T>, one_thread_each(all), stream,
             TiesJob<T>{side.position, side.index, lines_, count});
    }
  };
  put(targets_, 0, targets, n_);
  if (!self_) {
    put(sources_, 1, sources, m_);
    interleave(stream);
  }
}

template <class T>
void State<T>::interleave(Stream stream) {
  const std::int64_t blocks = ceil_div(n_ + m_, kBlockItems);
  const InterleaveJob<T> job{
      sources_.position, targets_.position, lines_,        m_,   n_, split_, is_source_,
      before_,           sources_.rank,     targets_.rank, tied_};
  launch(split_kernel<T>, one_thread_each(lines_ * (blocks + 1)), stream, job);
  launch(interleave_kernel<T>,
         {lines_ * blocks, kInterleaveThreads,
          static_cast<std::size_t>(kBlockItems) * (sizeof(T) + sizeof(std::uint16_t))},
         stream, job);
}

template <class T>
void State<T>::check_given(const T* targets, const T* sources) const {
  laplex::detail::check_sides(self_, sources != nullptr, lines_ * m_);
  check_array(targets, lines_ * n_, "targets");
  if (!self_) {
    check_array(sources, lines_ * m_, "sources");
  }
}

template <class T>
void State<T>::update(const T* targets, const T* sources, Stream stream, const Scratch& scratch,
                      Report* report) {
  laplex::detail::refuse_part(shared_line_ != nullptr, "update");
  check_given(targets, sources);
  // In the old order, which hardly moves when a step of the optimiser is small.
  Inspection<T> inspection(found_, stream, report);
  inspection.look(Looked::targets, targets, lines_, n_, targets_.order());
  inspection.look(Looked::sources, sources, lines_, self_ ? 0 : m_, sources_.order());
  inspection.finish();
  const bool loses_place = (targets_.in_place && !inspection.ascends(0)) ||
                           (!self_ && sources_.in_place && !inspection.ascends(1));
  if (loses_place && captured_in_place_) {
    throw Error(ErrorCode::invalid_argument,
                "a captured graph relies on the ascending order of this plan's anchors, and would "
                "not notice the update: build a new plan, and capture a new graph with it");
  }
  order(targets, sources, inspection, false, scratch, stream);
}

template <class T>
bool State<T>::holds(const T* targets, const T* sources, Stream stream, Memory scratch) const {
  if (is_capturing(stream)) {
    throw Error(ErrorCode::device,
                "a plan's anchors cannot be compared while the stream is being captured into a "
                "graph, because the host has to wait for the answer: ask before the capture");
  }
  check_given(targets, sources);
  unsigned long long answer = kFine;
  const Lent lent(scratch, sizeof(answer), stream, "scratch");
  auto* const found = static_cast<unsigned long long*>(lent.data());
  launch(reset_kernel<unsigned long long>, {1, kWarp}, stream,
         ResetJob<unsigned long long>{found, kFine, 1});
  const auto compare = [&](const Array& side, const T* values, std::int64_t count) {
    launch(compare_kernel<T>, one_thread_each(lines_ * count), stream,
           CompareJob<T>{values, side.position, side.order(), lines_, count, found});
  };
  compare(targets_, targets, n_);
  if (!self_) {
    compare(sources_, sources, m_);
  }
  copy_to_host(&answer, found, sizeof(answer), stream);
  return answer == kFine;
}

template <class T>
void State<T>::anchors(T* targets, T* sources, Stream stream) const {
  const auto give = [&](const Array& side, std::int64_t count, T* out) {
    if (out != nullptr) {
      launch(gather_kernel<T>, one_thread_each(lines_ * count), stream,
             GatherJob<T>{side.position, side.order(), lines_, count, out, true});
    }
  };
  give(targets_, n_, targets);
  give(self_ ? targets_ : sources_, m_, sources);
  used_in(stream);
}

template <class T>
void State<T>::used_in(Stream stream) const {
  if ((targets_.in_place || (!self_ && sources_.in_place)) && is_capturing(stream)) {
    captured_in_place_ = true;
  }
}

template <class T>
Line<T> State<T>::line(bool swapped) const {
  const bool shared = lines_ < heads_;
  const auto side = [=](const Array& array, std::int64_t count) {
    return SideView<T>{array.position, array.order(), array.rank, count, shared};
  };
  const SideView<T> targets = side(targets_, n_);
  const SideView<T> sources = self_ ? targets : side(sources_, m_);
  Line<T> line;
  line.from = swapped ? targets : sources;
  line.to = swapped ? sources : targets;
  line.is_source = is_source_;
  line.before = before_;
  line.split = split_;
  line.tied = tied_;
  line.items = self_ ? n_ : n_ + m_;
  line.shared = shared;
  line.self = self_;
  line.swapped = swapped;
  return line;
}

template class State<float>;
template class State<double>;

}  // namespace laplex::cuda::detail
