#include "state.hpp"

#include "checks.hpp"
#include "kernels/order.hpp"

#include <laplex/cuda/device.hpp>

#include <algorithm>
#include <vector>

namespace laplex::cuda::detail {

using laplex::detail::invalid;
using laplex::detail::is_self_case;

namespace {

/// Indices within a side take 32 bits, and 2^32 - 1 of them would not leave room to count.
constexpr std::int64_t kMostOfSide = (std::int64_t(1) << 32) - 2;

/// Lines up to here are sorted all at once, by a block each; longer ones by the whole device in
/// turn.
constexpr std::int64_t kLongLine = std::int64_t(1) << 16;

bool by_segments(std::int64_t heads, std::int64_t count) {
  return heads > 1 && count <= kLongLine;
}

Grid one_thread_each(std::int64_t count) {
  return {ceil_div(count, kLookThreads), kLookThreads};
}

enum Found { kTargets, kSources, kTargetPhase, kSourcePhase, kNumFound };

template <class T>
struct SortScratch {
  std::uint32_t* indices;  ///< before the sort
  unsigned char* temporary;
  std::size_t temporary_bytes;

  SortScratch(Cutter& cut, std::int64_t heads, std::int64_t count) {
    const std::int64_t segments = by_segments(heads, count) ? heads : 1;
    indices = cut.take<std::uint32_t>(segments * count);
    temporary_bytes = sort_bytes<T>(segments, count);
    temporary = cut.take<unsigned char>(static_cast<std::int64_t>(temporary_bytes));
  }
};

void check_side(std::int64_t count, const char* name) {
  if (count > kMostOfSide) {
    invalid(std::string(name) + " has " + std::to_string(count) +
            " anchors, more than a plan on a GPU can number, " + std::to_string(kMostOfSide) +
            ": split it into blocks");
  }
}

void check_waits(Stream stream) {
  if (is_capturing(stream)) {
    throw Error(ErrorCode::device,
                "a plan is built or updated while its stream is captured into a graph, and has to "
                "wait for what it finds in the anchors: build it before the capture");
  }
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
  }
}

template <class T>
std::size_t State<T>::storage_bytes(std::int64_t heads, std::int64_t n, std::int64_t m, bool self) {
  State<T> counted(heads, n, m, self);
  Cutter cut;
  counted.lay_out(cut);
  return cut.used();
}

template <class T>
std::size_t State<T>::scratch_bytes(std::int64_t heads, std::int64_t n, std::int64_t m, bool self) {
  Cutter cut;
  cut.take<Findings>(kNumFound);
  const SortScratch<T> of_targets(cut, heads, n);
  std::size_t most = cut.used();
  if (!self) {
    Cutter other;
    other.take<Findings>(kNumFound);
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
      self_(is_self_case(kernel)),
      stream_(stream) {
  laplex::detail::check_sizes(heads_, n_, m_, 2 * kMostOfSide);
  check_side(n_, "targets");
  check_side(m_, "sources");
  if (self_ && n_ != m_) {
    invalid("num_sources must equal num_targets when sources are the targets");
  }
  require_device();
  check_waits(stream);
  const Lent lent(scratch, scratch_bytes(heads_, n_, m_, self_), stream, "scratch");
  auto* const findings = Cutter(lent.data()).take<Findings>(kNumFound);

  // Everything that can be wrong, before any work: one trip to the device and back.
  look("targets", kernel.targets, n_, nullptr, findings + kTargets, stream);
  if (!self_) {
    look("sources", kernel.sources, m_, nullptr, findings + kSources, stream);
  }
  if (kernel.target_phase != nullptr) {
    look("target_phase", kernel.target_phase, n_, nullptr, findings + kTargetPhase, stream);
  }
  if (kernel.source_phase != nullptr) {
    look("source_phase", kernel.source_phase, m_, nullptr, findings + kSourcePhase, stream);
  }
  const auto heads = static_cast<std::size_t>(heads_);
  std::vector<double> lengthscale(heads, 1.0);
  std::vector<double> frequency(heads, 0.0);
  if (kernel.lengthscale != nullptr) {
    fetch(lengthscale.data(), kernel.lengthscale, heads * sizeof(double), stream);
  }
  if (kernel.frequency != nullptr) {
    fetch(frequency.data(), kernel.frequency, heads * sizeof(double), stream);
  }
  for (std::int64_t h = 0; h < heads_; ++h) {
    const auto at = static_cast<std::size_t>(h);
    laplex::detail::check_rate({lengthscale[at], frequency[at]}, h, heads_);
  }
  Findings found[kNumFound];
  fetch(found, findings, sizeof(found), stream);
  const auto check_found = [&](Found which, const char* name, const T* values, std::int64_t count) {
    const unsigned long long bad = found[which].first_bad;
    if (values != nullptr && heads_ * count > 0 && bad != ~0ULL) {
      T value;
      fetch(&value, values + bad, sizeof(T), stream);
      laplex::detail::not_finite(name, heads_, count, static_cast<std::int64_t>(bad),
                                 static_cast<double>(value));
    }
  };
  check_found(kTargets, "targets", kernel.targets, n_);
  check_found(kSources, "sources", self_ ? nullptr : kernel.sources, m_);
  check_found(kTargetPhase, "target_phase", kernel.target_phase, n_);
  check_found(kSourcePhase, "source_phase", kernel.source_phase, m_);

  const std::size_t bytes = storage_bytes(heads_, n_, m_, self_);
  if (storage.data == nullptr) {
    owned_ = allocate(bytes, stream);
    storage = {owned_, bytes};
  } else if (storage.bytes < bytes) {
    invalid("storage has " + std::to_string(storage.bytes) + " bytes, but this plan takes " +
            std::to_string(bytes) + ": see storage_bytes()");
  }
  nbytes_ = static_cast<std::int64_t>(bytes);
  Cutter cut(storage.data);
  lay_out(cut);
  try {
    order(targets_, kernel.targets, n_, false, found[kTargets].descents == 0, lent.data(), stream);
    if (!self_) {
      order(sources_, kernel.sources, m_, false, found[kSources].descents == 0, lent.data(),
            stream);
      interleave(stream);
    }
  } catch (...) {
    release(owned_, stream);
    throw;
  }
}

template <class T>
State<T>::~State() {
  release(owned_, stream_);
}

template <class T>
void State<T>::look(const char* name, const T* values, std::int64_t count,
                    const std::uint32_t* index, void* findings, Stream stream) const {
  if (values == nullptr && heads_ * count > 0) {
    invalid(std::string(name) + " is a null pointer");
  }
  launch(reset_kernel, {1, kWarp}, stream, ResetJob{static_cast<Findings*>(findings)});
  launch(look_kernel<T>, one_thread_each(heads_ * count), stream,
         LookJob<T>{values, index, heads_, count, static_cast<Findings*>(findings)});
}

template <class T>
void State<T>::order(Array& side, const T* given, std::int64_t count, bool keeps, bool in_place,
                     void* scratch, Stream stream) {
  const std::int64_t all = heads_ * count;
  const Grid grid = one_thread_each(all);
  side.in_place = in_place;
  if (all == 0) {
    return;
  }
  if (in_place || keeps) {
    launch(
        gather_kernel<T>, grid, stream,
        GatherJob<T>{given, in_place ? nullptr : side.index, heads_, count, side.position, false});
    return;
  }
  Cutter cut(scratch);
  cut.take<Findings>(kNumFound);
  const SortScratch<T> spare(cut, heads_, count);
  const std::int64_t segments = by_segments(heads_, count) ? heads_ : 1;
  launch(count_kernel, one_thread_each(segments * count), stream,
         CountJob{spare.indices, segments, count});
  for (std::int64_t first = 0; first < all; first += segments * count) {
    sort_pairs(SortJob<T>{given + first, side.position + first, spare.indices, side.index + first,
                          segments, count},
               {spare.temporary, spare.temporary_bytes}, stream);
  }
}

template <class T>
void State<T>::interleave(Stream stream) {
  const std::int64_t blocks = ceil_div(n_ + m_, kBlockItems);
  const InterleaveJob<T> job{
      sources_.position, targets_.position, heads_, m_, n_, split_, is_source_, before_};
  launch(split_kernel<T>, one_thread_each(heads_ * (blocks + 1)), stream, job);
  launch(interleave_kernel<T>,
         {heads_ * blocks, kInterleaveThreads, static_cast<std::size_t>(kBlockItems) * sizeof(T)},
         stream, job);
}

template <class T>
void State<T>::update(const T* targets, const T* sources, Stream stream, Memory scratch) {
  if (self_ && sources != nullptr && m_ > 0) {
    invalid("this plan's sources are its targets: update it with targets alone");
  }
  if (!self_ && sources == nullptr && m_ > 0) {
    invalid("sources are missing: this plan has sources of its own");
  }
  check_waits(stream);
  const Lent lent(scratch, scratch_bytes(heads_, n_, m_, self_), stream, "scratch");
  auto* const findings = Cutter(lent.data()).take<Findings>(kNumFound);
  // In the old order, which hardly moves when a step of the optimiser is small.
  const auto index_of = [](const Array& side) { return side.in_place ? nullptr : side.index; };
  look("targets", targets, n_, index_of(targets_), findings + kTargets, stream);
  if (!self_) {
    look("sources", sources, m_, index_of(sources_), findings + kSources, stream);
  }
  Findings found[2] = {};
  fetch(found, findings, sizeof(found), stream);
  const auto check_found = [&](Found which, const char* name, const T* values, std::int64_t count) {
    const unsigned long long bad = found[which].first_bad;
    if (heads_ * count > 0 && bad != ~0ULL) {
      T value;
      fetch(&value, values + bad, sizeof(T), stream);
      laplex::detail::not_finite(name, heads_, count, static_cast<std::int64_t>(bad),
                                 static_cast<double>(value));
    }
  };
  check_found(kTargets, "targets", targets, n_);
  if (!self_) {
    check_found(kSources, "sources", sources, m_);
  }
  const auto reorder = [&](Array& side, const T* given, std::int64_t count, Found which) {
    const bool keeps = found[which].descents == 0;
    order(side, given, count, keeps, side.in_place && keeps, lent.data(), stream);
  };
  reorder(targets_, targets, n_, kTargets);
  if (!self_) {
    reorder(sources_, sources, m_, kSources);
    interleave(stream);
  }
}

template <class T>
bool State<T>::holds(const T* targets, const T* sources, Stream stream, Memory scratch) const {
  check_waits(stream);
  const Lent lent(scratch, sizeof(Findings), stream, "scratch");
  auto* const findings = static_cast<Findings*>(lent.data());
  launch(reset_kernel, {1, kWarp}, stream, ResetJob{findings});
  const auto compare = [&](const Array& side, const T* values, std::int64_t count) {
    launch(compare_kernel<T>, one_thread_each(heads_ * count), stream,
           CompareJob<T>{values, side.position, side.in_place ? nullptr : side.index, heads_, count,
                         findings});
  };
  compare(targets_, targets, n_);
  if (!self_) {
    compare(sources_, sources, m_);
  }
  Findings found{};
  fetch(&found, findings, sizeof(found), stream);
  return found.descents == 0;
}

template <class T>
void State<T>::anchors(T* targets, T* sources, Stream stream) const {
  const auto give = [&](const Array& side, std::int64_t count, T* out) {
    if (out != nullptr) {
      launch(gather_kernel<T>, one_thread_each(heads_ * count), stream,
             GatherJob<T>{side.position, side.in_place ? nullptr : side.index, heads_, count, out,
                          true});
    }
  };
  give(targets_, n_, targets);
  give(self_ ? targets_ : sources_, m_, sources);
}

template <class T>
Line<T> State<T>::line(bool swapped) const {
  const auto side = [](const Array& array, std::int64_t count) {
    return Side<T>{array.position, array.in_place ? nullptr : array.index, count};
  };
  const Side<T> targets = side(targets_, n_);
  const Side<T> sources = self_ ? targets : side(sources_, m_);
  Line<T> line;
  line.from = swapped ? targets : sources;
  line.to = swapped ? sources : targets;
  line.is_source = is_source_;
  line.before = before_;
  line.split = split_;
  line.items = self_ ? n_ : n_ + m_;
  line.self = self_;
  line.swapped = swapped;
  return line;
}

template class State<float>;
template class State<double>;

}  // namespace laplex::cuda::detail
