#include "state.hpp"

#include "checks.hpp"
#include "inspection.hpp"
#include "kernels/order.hpp"
#include "sorting.hpp"

#include <algorithm>
#include <vector>

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
  targets_.position = cut.take<T>(heads_ * n_);
  targets_.index = cut.take<std::uint32_t>(heads_ * n_);
  if (!self_) {
    sources_.position = cut.take<T>(heads_ * m_);
    sources_.index = cut.take<std::uint32_t>(heads_ * m_);
    const std::int64_t items = n_ + m_;
    split_ = cut.take<std::uint32_t>(heads_ * (ceil_div(items, kBlockItems) + 1));
    is_source_ = cut.take<std::uint8_t>(heads_ * ceil_div(items, kByteItems));
    before_ = cut.take<std::uint16_t>(heads_ * ceil_div(items, kByteItems));
    if constexpr (std::is_same_v<T, float>) {
      targets_.rank = cut.take<std::uint16_t>(heads_ * n_);
      sources_.rank = cut.take<std::uint16_t>(heads_ * m_);
      tied_ = cut.take<std::uint8_t>(heads_ * ceil_div(items, kBlockItems));
    }
  }
}

template <class T>
std::size_t State<T>::storage_bytes(std::int64_t heads, std::int64_t n, std::int64_t m, bool self) {
  check_sides(heads, n, m, self);
  State<T> counted(heads, n, m, self);
  Cutter cut;
  counted.lay_out(cut);
  return cut.used();
}

template <class T>
std::size_t State<T>::scratch_bytes(std::int64_t heads, std::int64_t n, std::int64_t m, bool self) {
  check_sides(heads, n, m, self);
  Cutter cut;
  cut.take<Findings>(kMostLooks);
  const SortScratch<T> of_targets(cut, heads, n);
  std::size_t most = cut.used();
  if (!self) {
    Cutter other;
    other.take<Findings>(kMostLooks);
    const SortScratch<T> of_sources(other, heads, m);
    most = std::max(most, other.used());
  }
  return most;
}

template <class T>
State<T>::State(const Kernel<T>& kernel, Stream stream, Memory storage, Memory scratch)
    : heads_(kernel.heads),
      n_(kernel.num_targets),
      m_(kernel.num_sources),
      self_(is_self_case(kernel)) {
  check_sides(heads_, n_, m_, self_);
  require_device();
  const std::size_t bytes = storage_bytes(heads_, n_, m_, self_);
  if (storage.data != nullptr && storage.bytes < bytes) {
    invalid("storage has " + std::to_string(storage.bytes) + " bytes, but this plan takes " +
            std::to_string(bytes) + ": see storage_bytes()");
  }
  check_aligned(storage.data, kLentAlignment, "storage");
  if (storage.data == nullptr && bytes > 0 && is_capturing(stream)) {
    throw Error(ErrorCode::device,
                "a plan cannot own memory if it is built while its stream is being captured into a "
                "graph: lend it storage that lives as long as the graph, or build it before the "
                "capture");
  }
  const Lent lent(scratch, scratch_bytes(heads_, n_, m_, self_), stream, "scratch");

  // Everything that can be wrong, before any work.
  Inspection<T> inspection(heads_, lent.data(), stream);
  inspection.look("targets", kernel.targets, n_);
  if (!self_) {
    inspection.look("sources", kernel.sources, m_);
  }
  if (kernel.target_phase != nullptr) {
    inspection.look("target_phase", kernel.target_phase, n_);
  }
  if (kernel.source_phase != nullptr) {
    inspection.look("source_phase", kernel.source_phase, m_);
  }
  const auto heads = static_cast<std::size_t>(heads_);
  std::vector<double> lengthscale(heads, 1.0);
  std::vector<double> frequency(heads, 0.0);
  const auto fetch = [&](std::vector<double>& to, const double* from, const char* name) {
    if (from == nullptr || heads == 0) {
      return;
    }
    check_aligned(from, sizeof(double), name);
    if (!inspection.captured()) {
      copy_to_host(to.data(), from, heads * sizeof(double), stream);
    }
  };
  fetch(lengthscale, kernel.lengthscale, "lengthscale");
  fetch(frequency, kernel.frequency, "frequency");
  for (std::int64_t h = 0; h < heads_; ++h) {
    const auto at = static_cast<std::size_t>(h);
    laplex::detail::check_rate({lengthscale[at], frequency[at]}, h, heads_);
  }
  inspection.finish();

  if (storage.data == nullptr) {
    owned_ = DeviceMemory(bytes, stream);
    storage.data = owned_.data();
  }
  nbytes_ = static_cast<std::int64_t>(bytes);
  Cutter cut(storage.data);
  lay_out(cut);
  order(targets_, kernel.targets, n_, false, inspection.ascends(0), lent.data(), stream);
  if (!self_) {
    order(sources_, kernel.sources, m_, false, inspection.ascends(1), lent.data(), stream);
    interleave(stream);
  }
}

template <class T>
void State<T>::order(Array& side, const T* given, std::int64_t count, bool keeps, bool in_place,
                     void* scratch, Stream stream) {
  const std::int64_t all = heads_ * count;
  side.in_place = in_place;
  if (all == 0) {
    return;
  }
  if (in_place && !keeps) {
    // Not read, but right, should a captured update that has not run yet say that it is to be read.
    launch(count_kernel, one_thread_each(all), stream, CountJob{side.index, heads_, count});
  }
  if (in_place || keeps) {
    launch(gather_kernel<T>, one_thread_each(all), stream,
           GatherJob<T>{given, side.order(), heads_, count, side.position, false});
    return;
  }
  Cutter cut(scratch);
  cut.take<Findings>(kMostLooks);
  sort_lines(SortLines<T>{given, side.position, side.index, heads_, count},
             SortScratch<T>(cut, heads_, count), stream);
  if (is_capturing(stream)) {  // nobody has looked
    launch(forbid_kernel<T>, one_thread_each(all), stream, ForbidJob<T>{side.position, all});
  }
}

template <class T>
void State<T>::interleave(Stream stream) {
  const std::int64_t blocks = ceil_div(n_ + m_, kBlockItems);
  const InterleaveJob<T> job{
      sources_.position, targets_.position, heads_,        m_,   n_, split_, is_source_,
      before_,           sources_.rank,     targets_.rank, tied_};
  launch(split_kernel<T>, one_thread_each(heads_ * (blocks + 1)), stream, job);
  launch(interleave_kernel<T>,
         {heads_ * blocks, kInterleaveThreads, static_cast<std::size_t>(kBlockItems) * sizeof(T)},
         stream, job);
}

template <class T>
void State<T>::check_given(const T* targets, const T* sources) const {
  laplex::detail::check_sides(self_, sources != nullptr, heads_ * m_);
  check_array(targets, heads_ * n_, "targets");
  if (!self_) {
    check_array(sources, heads_ * m_, "sources");
  }
}

template <class T>
void State<T>::update(const T* targets, const T* sources, Stream stream, Memory scratch) {
  check_given(targets, sources);
  const Lent lent(scratch, scratch_bytes(heads_, n_, m_, self_), stream, "scratch");
  // In the old order, which hardly moves when a step of the optimiser is small.
  Inspection<T> inspection(heads_, lent.data(), stream);
  inspection.look("targets", targets, n_, targets_.order());
  if (!self_) {
    inspection.look("sources", sources, m_, sources_.order());
  }
  inspection.finish();
  const bool loses_place = (targets_.in_place && !inspection.ascends(0)) ||
                           (!self_ && sources_.in_place && !inspection.ascends(1));
  if (loses_place && captured_in_place_) {
    throw Error(ErrorCode::invalid_argument,
                "a captured graph relies on the ascending order of this plan's anchors, and would "
                "not notice the update: build a new plan, and capture a new graph with it");
  }
  const auto reorder = [&](Array& side, const T* given, std::int64_t count, bool keeps) {
    order(side, given, count, keeps, side.in_place && keeps, lent.data(), stream);
  };
  reorder(targets_, targets, n_, inspection.ascends(0));
  if (!self_) {
    reorder(sources_, sources, m_, inspection.ascends(1));
    interleave(stream);
  }
}

template <class T>
bool State<T>::holds(const T* targets, const T* sources, Stream stream, Memory scratch) const {
  if (is_capturing(stream)) {
    throw Error(ErrorCode::device,
                "a plan's anchors cannot be compared while the stream is being captured into a "
                "graph, because the host has to wait for the answer: ask before the capture");
  }
  check_given(targets, sources);
  const Lent lent(scratch, sizeof(Findings), stream, "scratch");
  auto* const findings = static_cast<Findings*>(lent.data());
  launch(reset_kernel, {1, kWarp}, stream, ResetJob{findings, 1});
  const auto compare = [&](const Array& side, const T* values, std::int64_t count) {
    launch(compare_kernel<T>, one_thread_each(heads_ * count), stream,
           CompareJob<T>{values, side.position, side.order(), heads_, count, findings});
  };
  compare(targets_, targets, n_);
  if (!self_) {
    compare(sources_, sources, m_);
  }
  Findings found{};
  copy_to_host(&found, findings, sizeof(found), stream);
  return found.descents == 0;
}

template <class T>
void State<T>::anchors(T* targets, T* sources, Stream stream) const {
  const auto give = [&](const Array& side, std::int64_t count, T* out) {
    if (out != nullptr) {
      launch(gather_kernel<T>, one_thread_each(heads_ * count), stream,
             GatherJob<T>{side.position, side.order(), heads_, count, out, true});
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
  const auto side = [](const Array& array, std::int64_t count) {
    return Side<T>{array.position, array.order(), array.rank, count, false};
  };
  const Side<T> targets = side(targets_, n_);
  const Side<T> sources = self_ ? targets : side(sources_, m_);
  Line<T> line;
  line.from = swapped ? targets : sources;
  line.to = swapped ? sources : targets;
  line.is_source = is_source_;
  line.before = before_;
  line.split = split_;
  line.tied = tied_;
  line.items = self_ ? n_ : n_ + m_;
  line.self = self_;
  line.swapped = swapped;
  return line;
}

template class State<float>;
template class State<double>;

}  // namespace laplex::cuda::detail
