// Quantiles of sums of Laplace distributions: the sums at the anchors, a search, a closed form.
#include "array.hpp"
#include "boundary.hpp"
#include "checks.hpp"
#include "parallel.hpp"
#include "product_pass.hpp"
#include "state.hpp"

#include <laplex/detail/quantile.hpp>
#include <laplex/plan.hpp>

#include <algorithm>

namespace laplex {

using namespace detail;

namespace {

/// The sums of exp(-distance / ell) at the sorted anchors of one head.
template <class T>
struct SortedSums {
  const T* position;
  const T* left;   ///< over the anchors at or below
  const T* right;  ///< over the anchors above
  const std::uint32_t* upto;
  std::int64_t n;
  double lengthscale;

  [[nodiscard]] QuantileAnchor at(std::int64_t k) const {
    return {static_cast<double>(position[k]), static_cast<double>(upto[k]),
            static_cast<double>(left[k]), static_cast<double>(right[k])};
  }
  /// Whether anchor k is above the quantile.
  [[nodiscard]] bool above(std::int64_t k, double level) const { return level_at(at(k)) > level; }

  /// The first anchor above the quantile, from a place that may be near.
  [[nodiscard]] std::int64_t find(double level, std::int64_t near) const {
    std::int64_t low = near;  // anchors before it are not above
    std::int64_t high = near;
    if (near == n || above(near, level)) {
      for (std::int64_t step = 1; low > 0 && above(low - 1, level); step *= 2) {
        high = low - 1;
        low = std::max<std::int64_t>(0, low - step);
      }
    } else {
      for (std::int64_t step = 1; high < n && !above(high, level); step *= 2) {
        low = high + 1;
        high = std::min(n, high + step);
      }
    }
    while (low < high) {
      const std::int64_t middle = low + (high - low) / 2;
      if (above(middle, level)) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }

  [[nodiscard]] double quantile(double level, std::int64_t next) const {
    if (next == 0) {
      return quantile_below(at(0), level, lengthscale);
    }
    if (next == n) {
      return quantile_above(at(n - 1), level, lengthscale);
    }
    return quantile_between(at(next - 1), at(next), level, lengthscale);
  }
};

/// How many anchors are at or below each.
template <class T>
void count_upto(const T* position, std::int64_t n, std::uint32_t* upto) {
  for (std::int64_t k = n; k-- > 0;) {
    const bool tied = k + 1 < n && position[k] == position[k + 1];
    upto[k] = tied ? upto[k + 1] : static_cast<std::uint32_t>(k + 1);
  }
}

}  // namespace

template <class T>
void Plan<T>::quantiles(const double* levels, std::int64_t count, double* result,
                        int num_threads) const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  const std::int64_t n = fixed.n;
  check_levels(levels, fixed.heads, count, n, fixed.self && fixed.cumulates());
  check_array("result", result, fixed.heads * count);
  if (fixed.heads * count == 0) {
    return;
  }
  guarded([&] {
    const int given = num_threads > 0 ? num_threads : fixed.num_threads;
    Array<T> ones;
    ones.reset(n);
    std::fill(ones.begin(), ones.end(), T(1));
    Array<T> left;
    Array<T> right;
    left.reset(fixed.heads * n);
    right.reset(fixed.heads * n);
    const auto half = [&](Combine side, Array<T>& to) -> Result<T> {
      return {Parity::even, {1.0}, {to.data(), false, {n, n}, 1}, side};
    };
    run<T>(*snapshot, {ones.data(), false, {0, n}, 1}, 1, false, false,
           {half(Combine::left, left), half(Combine::right, right)}, given, Order::sorted);
    Array<std::uint32_t> upto;
    upto.reset(fixed.anchor_sets() * n);
    const int threads = threads_for(fixed.heads * (n + count), given);
    parallel_tasks(threads, fixed.anchor_sets(), [&](std::int64_t h) {
      count_upto(snapshot->cells(h).target_positions(), n, upto.data() + h * n);
    });
    constexpr std::int64_t kGrain = 4096;
    const std::int64_t ranges = (count + kGrain - 1) / kGrain;
    parallel_tasks(threads, fixed.heads * ranges, [&](std::int64_t task) {
      const std::int64_t h = task / ranges;
      const std::int64_t begin = task % ranges * kGrain;
      const SortedSums<T> line{snapshot->cells(h).target_positions(),
                               left.data() + h * n,
                               right.data() + h * n,
                               upto.data() + (fixed.shared_anchors ? 0 : h * n),
                               n,
                               fixed.rate[static_cast<std::size_t>(h)].lengthscale};
      std::int64_t next = n / 2;
      for (std::int64_t q = h * count + begin; q < h * count + std::min(count, begin + kGrain);
           ++q) {
        next = line.find(levels[q], next);
        result[q] = line.quantile(levels[q], next);
      }
    });
    // Two levels that differ in the last digits may have results that differ in the last the wrong
    // way round.
    parallel_tasks(threads, fixed.heads, [&](std::int64_t h) {
      for (std::int64_t q = h * count + 1; q < (h + 1) * count; ++q) {
        if (levels[q] >= levels[q - 1]) {
          result[q] = std::max(result[q], result[q - 1]);
        }
      }
    });
  });
}

template void Plan<float>::quantiles(const double*, std::int64_t, double*, int) const;
template void Plan<double>::quantiles(const double*, std::int64_t, double*, int) const;

}  // namespace laplex
