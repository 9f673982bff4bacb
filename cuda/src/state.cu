#include "state.hpp"

#include "checks.hpp"
#include "kernels/order.hpp"

#include <algorithm>
#include <vector>

namespace laplex::cuda::detail {

using laplex::detail::invalid;
using laplex::detail::is_self_case;

namespace {

/// Indices within a side take 32 bits, and 2^32 - 1 of them would not leave room to count.
constexpr std::int64_t kMostOfSide = (std::int64_t(1) << 32) - 2;

/// How many heads are sorted at a time: by a block each where they are many or short, by the whole
/// device in turn else. A block takes some 10 ns an anchor, and the device some 40 us a line, by
/// what the sorts move: the two meet where lines are 4096 anchors long for each of them.
std::int64_t heads_at_a_time(std::int64_t heads, std::int64_t count) {
  constexpr std::int64_t kLongestLine = std::int64_t(1) << 16;
  constexpr std::int64_t kMostItems = std::int64_t(1) << 30;  // CUB's of CUDA 12 counts in 31 bits
  if (count > kLongestLine || count > heads * 4096) {
    return 1;
  }
  return std::min(heads, kMostItems / std::max<std::int64_t>(count, 1));
}

/// Targets, sources and both phases.
constexpr int kMostLooks = 4;

template <class T>
struct SortScratch {
  std::uint32_t* indices;  ///< before the sort
  unsigned char* temporary;
  std::size_t temporary_bytes;

  SortScratch(Cutter& cut, std::int64_t heads, std::int64_t count) {
    const std::int64_t segments = heads_at_a_time(heads, count);
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

void check_sides(std::int64_t heads, std::int64_t n, std::int64_t m, bool self) {
  laplex::detail::check_sizes(heads, n, m, 2 * kMostOfSide);
  check_side(n, "targets");
  check_side(m, "sources");
  if (self && n != m) {
    invalid("num_sources must equal num_targets when sources are the targets");
  }
}

template <class T>
void check_array(const T* values, std::int64_t count, const char* name) {
  if (count > 0) {
    if (values == nullptr) {
      invalid(std::string(name) + " is a null pointer");
    }
    check_aligned(values, sizeof(T), name);
  }
}

/// Looks at arrays [heads, count] on the device, at all of them before it waits for what was found.
/// In a stream that is captured nothing can be waited for, and nothing is looked at.
template <class T>
class Inspection {
 public:
  /// `scratch` begins with room for kMostLooks findings.
  Inspection(std::int64_t heads, void* scratch, Stream stream)
      : heads_(heads),
        stream_(stream),
        captured_(is_capturing(stream)),
        on_device_(Cutter(scratch).take<Findings>(kMostLooks)) {
    if (!captured_) {
      launch(reset_kernel, {1, kWarp}, stream, ResetJob{on_device_, kMostLooks});
    }
  }

  [[nodiscard]] bool captured() const { return captured_; }

  /// Looks at one more, in the order of `index` if there is one.
  void look(const char* name, const T* values, std::int64_t count,
            const std::uint32_t* index = nullptr) {
    check_array(values, heads_ * count, name);
    if (captured_) {
      return;
    }
    launch(look_kernel<T>, one_thread_each(heads_ * count), stream_,
           LookJob<T>{values, index, heads_, count, on_device_ + looked_.size()});
    looked_.push_back({name, values, count});
  }

  /// Waits. Throws for the first array with an entry that is NaN or infinite.
  void finish() {
    if (captured_) {
      return;
    }
    copy_to_host(found_, on_device_, sizeof(found_), stream_);
    for (std::size_t k = 0; k < looked_.size(); ++k) {
      const Looked& array = looked_[k];
      const unsigned long long bad = found_[k].first_bad;
      if (bad != ~0ULL) {
        T value;
        copy_to_host(&value, array.values + bad, sizeof(T), stream_);
        laplex::detail::not_finite(array.name, heads_, array.count, static_cast<std::int64_t>(bad),
                                   static_cast<double>(value));
      }
    }
  }

  /// Whether the k-th array looked at is known to ascend; after finish().
  [[nodiscard]] bool ascends(std::size_t k) const { return !captured_ && found_[k].descents == 0; }

 private:
  struct Looked {
    const char* name;
    const T* values;
    std::int64_t count;
  };
  std::int64_t heads_;
  Stream stream_;
  bool captured_;
  Findings* on_device_;
  Findings found_[kMostLooks] = {};
  std::vector<Looked> looked_;
};

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
                "a plan is built while its stream is captured into a graph, and can own no memory "
                "there: lend it storage that lives as long as the graph, or build it before the "
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
  const SortScratch<T> spare(cut, heads_, count);
  const std::int64_t at_a_time = heads_at_a_time(heads_, count);
  launch(count_kernel, one_thread_each(at_a_time * count), stream,
         CountJob{spare.indices, at_a_time, count});
  for (std::int64_t head = 0; head < heads_; head += at_a_time) {
    const std::int64_t first = head * count;
    sort_pairs(SortJob<T>{given + first, side.position + first, spare.indices, side.index + first,
                          std::min(at_a_time, heads_ - head), count},
               {spare.temporary, spare.temporary_bytes}, stream);
  }
  if (is_capturing(stream)) {  // nobody has looked
    launch(forbid_kernel<T>, one_thread_each(all), stream, ForbidJob<T>{side.position, all});
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
void State<T>::check_given(const T* targets, const T* sources) const {
  if (self_ && sources != nullptr && m_ > 0) {
    invalid("this plan's sources are its targets: give targets alone");
  }
  if (!self_ && sources == nullptr && heads_ * m_ > 0) {
    invalid("sources are missing: this plan has sources of its own");
  }
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
                "a graph was captured while this plan's anchors ascended, and would go on taking "
                "them for sorted: build a plan, and capture it, anew");
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
                "whether a plan's anchors are these is asked while the stream is captured into a "
                "graph, and the answer has to be waited for: ask before the capture");
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
    return Side<T>{array.position, array.order(), count};
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
