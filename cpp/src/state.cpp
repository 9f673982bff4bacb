#include "state.hpp"

#include "parallel.hpp"

#include <type_traits>

namespace laplex::detail {

template <class T>
State<T>::State(std::shared_ptr<const Fixed<T>> fixed, const T* targets, const T* sources,
                const State* previous, int num_threads)
    : fixed_(std::move(fixed)), heads_(static_cast<std::size_t>(fixed_->heads)) {
  const Fixed<T>& f = *fixed_;
  const int threads = threads_for(f.heads * (f.n + f.m), num_threads);
  parallel_tasks(threads, f.heads, [&](std::int64_t h) {
    const Head* old = previous != nullptr ? &previous->at(h) : nullptr;
    auto head = std::make_unique<Head>();
    head->targets = sort_anchors(targets + h * f.n, f.n, old ? &old->targets : nullptr);
    if (!f.self) {
      head->sources = sort_anchors(sources + h * f.m, f.m, old ? &old->sources : nullptr);
    }
    nbytes_ += head->targets.nbytes() + head->sources.nbytes();
    heads_[static_cast<std::size_t>(h)] = std::move(head);
  });
  nbytes_ += static_cast<std::int64_t>(sizeof(*this)) +
             f.heads * static_cast<std::int64_t>(sizeof(Head) + sizeof(Rate)) +
             static_cast<std::int64_t>((f.target_factor.size() + f.source_factor.size()) *
                                       sizeof(Complex));
}

template <class T>
template <class D>
Line<D> State<T>::line(std::int64_t h, bool transposed, int num_threads) const {
  const Head& head = at(h);
  const SortedAnchors& from = transposed ? targets(h) : sources(h);
  const SortedAnchors& to = transposed ? sources(h) : targets(h);
  const Rate rate = fixed_->rate[static_cast<std::size_t>(h)];
  const std::size_t which =
      transposed && !fixed_->self ? 1 : 0;  // the self case is its own transpose
  const auto make = [&] {
    return make_direction<D>(from, to, fixed_->self, rate,
                             threads_for(from.size() + to.size(), num_threads));
  };
  const Direction<D>* direction = nullptr;
  if constexpr (std::is_same_v<D, double>) {
    direction = &head.real_decays[which].get(make, nbytes_);
  } else {
    direction = &head.complex_decays[which].get(make, nbytes_);
  }
  return {from.position.data(), from.size(), direction, rate};
}

template class State<float>;
template class State<double>;
template Line<double> State<float>::line<double>(std::int64_t, bool, int) const;
template Line<Complex> State<float>::line<Complex>(std::int64_t, bool, int) const;
template Line<double> State<double>::line<double>(std::int64_t, bool, int) const;
template Line<Complex> State<double>::line<Complex>(std::int64_t, bool, int) const;

}  // namespace laplex::detail
