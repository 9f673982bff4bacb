#include "state.hpp"

#include "parallel.hpp"

#include <algorithm>
#include <type_traits>

namespace laplex::detail {
namespace {

/// Cells whose records a task writes and repairs while they are in a near cache.
constexpr std::int64_t kTask = 64;

/// The records of anchors that did not move: those of `before`.
template <class T>
void keep_order(const Cells<T>& before, Sorting<T>& sorting, int threads) {
  sorting.targets_as_given = before.targets().index == nullptr;
  sorting.sources_as_given = before.sources().index == nullptr;
  sorting.records.reset(before.first_record(before.count()));
  parallel_ranges(threads, before.count(), kTask, [&](std::int64_t begin, std::int64_t end) {
    before.records(nullptr, begin, end, sorting.records.data());
  });
}

/// Sorts anchors that stand nearly in the order of `before`.
template <class T>
void repair_order_of(const Cells<T>& before, const Anchors<T>& anchors, Sorting<T>& sorting,
                     int threads) {
  find_order_given(anchors, sorting);
  const std::int64_t count = anchors.count();
  sorting.records.reset(count);
  sorting.other.reset(count);
  Record<T>* const records = sorting.records.data();
  parallel_ranges(threads, before.count(), kTask, [&](std::int64_t begin, std::int64_t end) {
    before.records(&anchors, begin, end, records);
    const std::int64_t first = before.first_record(begin);
    repair_order(records + first, sorting.other.data() + first, before.first_record(end) - first);
  });
  for (std::int64_t c = kTask; c < before.count(); c += kTask) {
    join_runs(records, before.first_record(c),
              before.first_record(std::min(before.count(), c + kTask)));
  }
}

}  // namespace

template <class T>
State<T>::State(std::int64_t heads) : heads_(static_cast<std::size_t>(heads)) {
  for (auto& head : heads_) {
    head = std::make_unique<Head<T>>();
  }
}

template <class T>
void State<T>::build(std::shared_ptr<const Fixed<T>> fixed, const Changes<T>& changes,
                     const State* previous, Sorting<T>& sorting, int num_threads) {
  fixed_ = std::move(fixed);
  const Fixed<T>& f = *fixed_;
  const std::int64_t anchors = f.n + (f.self ? 0 : f.m);
  const int threads = threads_for(f.heads * anchors, num_threads);
  const bool side_by_side = f.heads >= threads;
  const int outer = side_by_side ? threads : 1;
  const int inner = side_by_side ? 1 : threads;
  const auto anchors_of = [&](std::int64_t h) -> Anchors<T> {
    const std::int64_t set = f.shared_anchors ? 0 : h;
    const auto of_set = [set](const T* all, std::int64_t count) {
      return all == nullptr ? nullptr : all + set * count;
    };
    return {of_set(changes.targets, f.n), of_set(changes.sources, f.m), f.n, f.self ? 0 : f.m,
            f.self};
  };
  const auto sort = [&](std::int64_t h, Sorting<T>& into, int some_threads) {
    const Anchors<T> given = anchors_of(h);
    const Cells<T>* const before = previous == nullptr ? nullptr : &previous->cells(h);
    if (!changes.moves_anchors()) {
      keep_order(*before, into, some_threads);
    } else if (before != nullptr && before->nearly_sorts(given)) {
      repair_order_of(*before, given, into, some_threads);
    } else {
      sort_anchors(given, into, some_threads);
    }
  };
  const auto build_tables = [&](std::int64_t h, const Sorting<T>& sorted, int some_threads) {
    Head<T>& head = *heads_[static_cast<std::size_t>(h)];
    head.real_moments.clear();
    head.complex_moments.clear();
    for (int k = 0; k < 2; ++k) {
      head.permutation[k].clear();
      head.permuted[k] = 0;
    }
    Factors factors;
    factors.rate = f.rate[static_cast<std::size_t>(h)];
    factors.oscillates = f.oscillates;
    factors.target = f.target_factor.empty() ? nullptr : f.target_factor.data() + h * f.n;
    factors.source = f.source_factor.empty() ? nullptr : f.source_factor.data() + h * f.m;
    const Cells<T>* const same = f.shared_anchors && h > 0 ? &heads_.front()->cells : nullptr;
    factors.part = f.part;
    head.cells.build(anchors_of(h), sorted, factors, same, some_threads);
  };
  if (f.shared_anchors) {
    sort(0, sorting, threads);
    build_tables(0, sorting, threads);  // the others refer to its order
    parallel_workers(outer, f.heads - 1,
                     [&](std::int64_t others, int) { build_tables(1 + others, sorting, inner); });
  } else {
    std::vector<Sorting<T>> more(static_cast<std::size_t>(outer - 1));
    parallel_workers(outer, f.heads, [&](std::int64_t h, int worker) {
      Sorting<T>& mine = worker == 0 ? sorting : more[static_cast<std::size_t>(worker - 1)];
      sort(h, mine, inner);
      build_tables(h, mine, inner);
    });
  }
  std::int64_t bytes = static_cast<std::int64_t>(sizeof(*this)) +
                       f.heads * static_cast<std::int64_t>(sizeof(Head<T>) + sizeof(Rate)) +
                       static_cast<std::int64_t>((f.target_factor.size() + f.source_factor.size()) *
                                                 sizeof(Complex));
  for (const auto& head : heads_) {
    bytes += head->cells.nbytes();
  }
  nbytes_ = bytes;
}

template <class T>
template <class D>
const MomentLine<D>& State<T>::moments(std::int64_t h, int num_threads) const {
  const Head<T>& head = at(h);
  const auto make = [&] {
    return make_moment_line<T, D>(head.cells, threads_for(fixed_->n + fixed_->m, num_threads));
  };
  if constexpr (std::is_same_v<D, double>) {
    return head.real_moments.get(make, nbytes_);
  } else {
    return head.complex_moments.get(make, nbytes_);
  }
}

template <class T>
SideView<T> State<T>::permuted_side(std::int64_t h, Role role, int num_threads) const {
  // A permutation costs what some two uses save, so a step of training, with its new anchors, does
  // without.
  constexpr int kUsesBefore = 2;
  const Head<T>& head = at(fixed_->shared_anchors ? 0 : h);
  SideView<T> view = side(h, role);
  const std::int64_t count = role == Role::targets ? fixed_->n : fixed_->m;
  if (view.index == nullptr || !Permutation::pays(count)) {
    return view;
  }
  const std::size_t which = role == Role::sources && !fixed_->self ? 1 : 0;
  const Lazy<Permutation>& permutation = head.permutation[which];
  if (permutation.peek() != nullptr || head.permuted[which]++ >= kUsesBefore) {
    view.permutation = &permutation.get(
        [&] { return Permutation(view.index, count, threads_for(count, num_threads)); }, nbytes_);
  }
  return view;
}

template class State<float>;
template class State<double>;
template const MomentLine<double>& State<float>::moments<double>(std::int64_t, int) const;
template const MomentLine<Complex>& State<float>::moments<Complex>(std::int64_t, int) const;
template const MomentLine<double>& State<double>::moments<double>(std::int64_t, int) const;
template const MomentLine<Complex>& State<double>::moments<Complex>(std::int64_t, int) const;

}  // namespace laplex::detail
