#include <laplex/instruction_set.hpp>
#include <laplex/plan.hpp>

#include "boundary.hpp"
#include "checks.hpp"
#include "parallel.hpp"
#include "profile.hpp"
#include "state.hpp"
#include "state_mutex.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <mutex>
#include <string>

namespace laplex {

/// Memory that update() uses again: fresh memory costs more than sorting does. Guarded by
/// state_mutex().
template <class T>
struct detail::Spare {
  std::unique_ptr<State<T>> state;
  Sorting<T> sorting;

  [[nodiscard]] std::int64_t nbytes() const {
    return (state ? state->nbytes() : 0) + sorting.nbytes();
  }
};

using namespace detail;

namespace {

template <class T>
void check_finite(const char* name, const T* values, std::int64_t heads, std::int64_t count) {
  // 0 * v is 0 for finite values alone. In eight places, so that it is done many at a time.
  constexpr std::int64_t kPlaces = 8;
  const std::int64_t all = heads * count;
  check_array(name, values, all);
  T zeros[kPlaces] = {};
  std::int64_t looked_at = 0;
  for (; looked_at + kPlaces <= all; looked_at += kPlaces) {
    for (std::int64_t j = 0; j < kPlaces; ++j) {
      zeros[j] += T(0) * values[looked_at + j];
    }
  }
  for (; looked_at < all; ++looked_at) {
    zeros[0] += T(0) * values[looked_at];
  }
  const bool finite = std::all_of(zeros, zeros + kPlaces, [](T z) { return z == T(0); });
  for (std::int64_t k = 0; k < (finite ? 0 : all); ++k) {
    if (!std::isfinite(values[k])) {
      not_finite(name, heads, count, k, static_cast<double>(values[k]));
    }
  }
}

template <class T>
std::vector<Complex> phase_factors(const T* phase, std::int64_t count, double sign) {
  std::vector<Complex> factors(static_cast<std::size_t>(phase != nullptr ? count : 0));
  for (std::size_t k = 0; k < factors.size(); ++k) {
    const auto angle = static_cast<double>(phase[k]);
    factors[k] = {std::cos(angle), sign * std::sin(angle)};
  }
  return factors;
}

/// Lends a state to a plan and the products that run with it. The last one to be done gives it back
/// to the plan's spare memory.
template <class T>
std::shared_ptr<State<T>> lend(std::unique_ptr<State<T>> state,
                               const std::shared_ptr<Spare<T>>& spare) {
  const auto give_back = [owner = std::weak_ptr<Spare<T>>(spare)](State<T>* used) {
    std::unique_ptr<State<T>> returned(used);
    const std::shared_ptr<Spare<T>> to = owner.lock();
    if (to) {
      const std::lock_guard<std::mutex> lock(state_mutex());
      to->state.swap(returned);  // what was there dies after the lock
    }
  };
  State<T>* const raw = state.release();  // give_back deletes it, also if shared_ptr can't be made
  return {raw, give_back};
}

template <class T>
std::shared_ptr<const Fixed<T>> make_fixed(const Kernel<T>& kernel) {
  auto fixed = std::make_shared<Fixed<T>>();
  fixed->heads = kernel.heads;
  fixed->n = kernel.num_targets;
  fixed->m = kernel.num_sources;
  fixed->part = kernel.part;
  fixed->self = is_self_case(kernel);
  fixed->oscillates = kernel.frequency != nullptr;
  fixed->real_part = kernel.real_part;
  fixed->shared_anchors = kernel.shared_anchors && kernel.heads > 1;
  fixed->profile = kernel.profile;
  fixed->side = kernel.side;
  fixed->num_threads = kernel.num_threads;
  fixed->lengthscale.reserve(static_cast<std::size_t>(kernel.heads));
  fixed->rate.reserve(static_cast<std::size_t>(kernel.heads));
  for (std::int64_t h = 0; h < kernel.heads; ++h) {
    const Rate rate{kernel.lengthscale ? kernel.lengthscale[h] : 1.0,
                    kernel.frequency ? kernel.frequency[h] : 0.0};
    check_rate(rate, h, kernel.heads);
    fixed->lengthscale.push_back(rate.lengthscale);
    fixed->rate.push_back({rate.lengthscale / lengths_of(kernel.profile), rate.frequency});
  }
  if (kernel.target_phase) {
    check_finite("target_phase", kernel.target_phase, kernel.heads, kernel.num_targets);
  }
  if (kernel.source_phase) {
    check_finite("source_phase", kernel.source_phase, kernel.heads, kernel.num_sources);
  }
  fixed->target_factor = phase_factors(kernel.target_phase, kernel.heads * kernel.num_targets, 1.0);
  fixed->source_factor =
      phase_factors(kernel.source_phase, kernel.heads * kernel.num_sources, -1.0);
  // A phase of no entries is still a phase: the form of the kernel must not depend on the sizes.
  if (kernel.target_phase || kernel.source_phase) {
    fixed->phased = true;
  }
  return fixed;
}

/// The rank of one head from its merged order; see Plan::rank.
template <class T>
std::int64_t rank_of(const T* x, std::int64_t n, const T* y, std::int64_t m) {
  enum class Pending { none, target, source };
  Pending pending = Pending::none;
  std::int64_t rank = 0;
  std::int64_t i = 0;
  std::int64_t j = 0;
  const auto skip_equal = [](const T* z, std::int64_t count, std::int64_t k) {
    const T here = z[k];
    while (k < count && z[k] == here) {
      ++k;
    }
    return k;  // equal anchors make equal rows or columns: they count once
  };
  const auto take = [&](Pending mine, Pending partner) {
    if (pending == partner) {
      ++rank;
      pending = Pending::none;
    } else {
      pending = mine;
    }
  };
  while (i < n || j < m) {
    if (i < n && j < m && x[i] == y[j]) {
      ++rank;  // K restricted to either side of a common point splits off: K - K(.,z) K(z,.) is
               // block diagonal
      pending = Pending::none;
      i = skip_equal(x, n, i);
      j = skip_equal(y, m, j);
    } else if (j == m || (i < n && x[i] < y[j])) {
      take(Pending::target, Pending::source);
      i = skip_equal(x, n, i);
    } else {
      take(Pending::source, Pending::target);
      j = skip_equal(y, m, j);
    }
  }
  return rank;
}

}  // namespace

template <class T>
Plan<T>::Plan(const Kernel<T>& kernel) {
  const Kernel<T>& k = kernel;
  check_sizes(k.heads, k.num_targets, k.num_sources, kMostAnchors);
  check_sides(is_self_case(k), k.num_targets, k.num_sources);
  check_options(k.profile, k.side);
  check_part(k);
  const std::int64_t sets = k.shared_anchors && k.heads > 1 ? 1 : k.heads;
  check_finite("targets", k.targets, sets, k.num_targets);
  if (!is_self_case(k)) {
    check_finite("sources", k.sources, sets, k.num_sources);
  }
  guarded([&] {
    // A wrong LAPLEX_ISA is refused before any work, and not by several threads at a time.
    static_cast<void>(instruction_set());
    const auto fixed = make_fixed(k);
    auto built = std::make_unique<State<T>>(k.heads);
    Sorting<T> sorting;
    built->build(fixed, {k.targets, k.sources}, nullptr, sorting, k.num_threads);
    spare_ = std::make_shared<Spare<T>>();
    state_ = lend(std::move(built), spare_);
  });
}

template <class T>
void Plan<T>::update(const Changes<T>& changes, int num_threads) {
  const auto old = state();
  const Fixed<T>& fixed = old->fixed();
  refuse_part(fixed.part != nullptr, "update");
  if (changes.moves_anchors()) {
    check_sides(fixed.self, changes.sources != nullptr, fixed.m);
    check_finite("targets", changes.targets, fixed.anchor_sets(), fixed.n);
    if (!fixed.self) {
      check_finite("sources", changes.sources, fixed.anchor_sets(), fixed.m);
    }
  }
  guarded([&] {
    std::shared_ptr<const Fixed<T>> described = old->shared_fixed();
    if (changes.lengthscale != nullptr) {
      auto changed = std::make_shared<Fixed<T>>(fixed);
      for (std::size_t h = 0; h < changed->rate.size(); ++h) {
        const double given = changes.lengthscale[h];
        check_rate({given, fixed.rate[h].frequency}, static_cast<std::int64_t>(h), fixed.heads);
        changed->lengthscale[h] = given;
        changed->rate[h].lengthscale = given / lengths_of(fixed.profile);
      }
      described = std::move(changed);
    }
    std::unique_ptr<State<T>> next;
    Sorting<T> sorting;
    {
      const std::lock_guard<std::mutex> lock(state_mutex());
      next.swap(spare_->state);
      std::swap(sorting, spare_->sorting);
    }
    if (!next) {  // the first update, or another is on its way
      next = std::make_unique<State<T>>(fixed.heads);
    }
    next->build(described, changes, old.get(), sorting,
                num_threads > 0 ? num_threads : fixed.num_threads);
    std::shared_ptr<State<T>> lent = lend(std::move(next), spare_);
    const std::lock_guard<std::mutex> lock(state_mutex());
    state_.swap(lent);  // the old state is given back with `lent` and `old`, after the lock
    std::swap(sorting, spare_->sorting);
  });
}

template <class T>
std::shared_ptr<const State<T>> Plan<T>::state() const {
  const std::lock_guard<std::mutex> lock(state_mutex());
  if (state_ == nullptr) {
    invalid("this plan was moved from: use the one that it was moved to");
  }
  return state_;
}

template <class T>
void Plan<T>::anchors(T* targets, T* sources, double* lengthscale) const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  const auto scatter = [](const T* position, const std::uint32_t* index, std::int64_t count,
                          T* out) {
    for (std::int64_t k = 0; k < count; ++k) {
      out[index != nullptr ? index[k] : k] = position[k];
    }
  };
  for (std::int64_t h = 0; h < fixed.anchor_sets(); ++h) {
    const Cells<T>& cells = snapshot->cells(h);
    if (targets != nullptr) {
      scatter(cells.target_positions(), cells.targets().index, fixed.n, targets + h * fixed.n);
    }
    if (sources != nullptr) {
      scatter(cells.source_positions(), cells.sources().index, fixed.m, sources + h * fixed.m);
    }
  }
  if (lengthscale != nullptr) {
    std::copy(fixed.lengthscale.begin(), fixed.lengthscale.end(), lengthscale);
  }
}

template <class T>
std::vector<std::int64_t> Plan<T>::rank() const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  refuse_part(fixed.part != nullptr, "rank");
  if (fixed.profile != Profile::matern12) {
    invalid("rank is known in O(n) for the Laplace kernel alone (matern12)");
  }
  if (fixed.side != Side::both) {
    invalid("rank is known in O(n) for side both alone, not for one-sided sums");
  }
  if (fixed.real_part && fixed.complex_kernel()) {
    invalid("rank is not known in O(n) for the cosine form (real_part with phases or a frequency)");
  }
  return guarded([&] {
    std::vector<std::int64_t> ranks;
    for (std::int64_t h = 0; h < fixed.anchor_sets(); ++h) {
      const Cells<T>& cells = snapshot->cells(h);
      ranks.push_back(
          rank_of(cells.target_positions(), fixed.n, cells.source_positions(), fixed.m));
    }
    ranks.resize(static_cast<std::size_t>(fixed.heads), ranks.empty() ? 0 : ranks.front());
    return ranks;
  });
}

template <class T>
void Plan<T>::to_dense_any(T* matrix, bool matrix_complex) const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  refuse_part(fixed.part != nullptr, "to_dense");
  if (matrix_complex != kernel_is_complex()) {
    invalid("the matrix must be complex exactly if the kernel is");
  }
  check_rows(fixed.heads, fixed.n, fixed.m);
  check_array("matrix", matrix, fixed.heads * fixed.n * fixed.m);
  const int threads = threads_for(fixed.heads * fixed.n * fixed.m, fixed.num_threads);
  const bool shaped = fixed.profile != Profile::matern12;
  const Polynomial polynomial = polynomial_of(fixed.profile);
  guarded([&] {
    parallel_tasks(threads, fixed.heads * fixed.n, [&](std::int64_t task) {
      const std::int64_t h = task / std::max<std::int64_t>(1, fixed.n);
      const std::int64_t k = task % std::max<std::int64_t>(1, fixed.n);
      const Cells<T>& cells = snapshot->cells(h);
      const std::uint32_t* const targets = cells.targets().index;
      const std::uint32_t* const sources = cells.sources().index;
      const Rate rate = fixed.rate[static_cast<std::size_t>(h)];
      const std::int64_t i = targets != nullptr ? targets[k] : k;
      const double x = static_cast<double>(cells.target_positions()[k]);
      T* row = matrix + (h * fixed.n + i) * fixed.m * (matrix_complex ? 2 : 1);
      for (std::int64_t l = 0; l < fixed.m; ++l) {
        const double y = static_cast<double>(cells.source_positions()[l]);
        const std::int64_t j = sources != nullptr ? sources[l] : l;
        const double far = std::max(x, y);
        const double near = std::min(x, y);
        if ((fixed.side == Side::left && y > x) || (fixed.side == Side::right && y < x)) {
          std::fill_n(row + (matrix_complex ? 2 * j : j), matrix_complex ? 2 : 1, T(0));
          continue;
        }
        Complex entry = fixed.oscillates ? decay<Complex>(far, near, rate)
                                         : Complex{decay<double>(far, near, rate), 0.0};
        if (shaped) {
          const double r = scaled_distance(far, near, rate);
          double value = polynomial.back();
          for (std::size_t q = polynomial.size() - 1; q > 0; --q) {
            value = value * r + polynomial[q - 1];
          }
          // Where the exponential is 0, the distance may be infinite.
          entry = entry.re == 0.0 && entry.im == 0.0 ? entry : value * entry;
        }
        if (!fixed.target_factor.empty()) {
          entry = fixed.target_factor[static_cast<std::size_t>(h * fixed.n + i)] * entry;
        }
        if (!fixed.source_factor.empty()) {
          entry = fixed.source_factor[static_cast<std::size_t>(h * fixed.m + j)] * entry;
        }
        if (matrix_complex) {
          row[2 * j] = static_cast<T>(entry.re);
          row[2 * j + 1] = static_cast<T>(entry.im);
        } else {
          row[j] = static_cast<T>(entry.re);
        }
      }
    });
  });
}

template <class T>
std::int64_t Plan<T>::heads() const noexcept {
  return spare_ == nullptr ? 0 : state()->fixed().heads;
}
template <class T>
std::int64_t Plan<T>::num_targets() const noexcept {
  return spare_ == nullptr ? 0 : state()->fixed().n;
}
template <class T>
std::int64_t Plan<T>::num_sources() const noexcept {
  return spare_ == nullptr ? 0 : state()->fixed().m;
}
template <class T>
bool Plan<T>::is_self() const noexcept {
  return spare_ != nullptr && state()->fixed().self;
}
template <class T>
bool Plan<T>::kernel_is_complex() const noexcept {
  if (spare_ == nullptr) {
    return false;
  }
  const auto snapshot = state();
  return snapshot->fixed().complex_kernel() && !snapshot->fixed().real_part;
}
template <class T>
std::int64_t Plan<T>::nbytes() const noexcept {
  const std::lock_guard<std::mutex> lock(state_mutex());
  return spare_ == nullptr ? 0 : state_->nbytes() + spare_->nbytes();
}

template class Plan<float>;
template class Plan<double>;

}  // namespace laplex
