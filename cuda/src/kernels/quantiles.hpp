/// Where the smoothed number of anchors below a place reaches given levels: a thread has a level.
#pragma once

#include "gap.hpp"
#include "line.hpp"

#include <laplex/detail/quantile.hpp>

namespace laplex::cuda::detail {

template <class T>
struct OnesJob {
  T* to;
  std::int64_t count;
};

template <class T>
__global__ void __launch_bounds__(kFlatThreads) ones_kernel(OnesJob<T> job) {
  if (thread_number() < job.count) {
    job.to[thread_number()] = T(1);
  }
}

template <class T>
struct QuantilesJob {
  SideView<T> anchors;
  Lengthscales lengthscale;
  std::int64_t heads;
  std::int64_t count;    ///< of levels, a head
  const T* left;         ///< [heads, n] half sums of ones, in the order of the anchors
  const T* right;        ///< likewise
  const double* levels;  ///< [heads, count]
  double* result;        ///< likewise
};

/// The sorted anchors of a head, and the half sums of ones at each.
template <class T>
struct AnchorCounts {
  const T* position;
  const T* left;
  const T* right;
  std::int64_t n;

  __device__ laplex::detail::QuantileAnchor at(std::int64_t k) const {
    const bool is_tied = k + 1 < n && position[k + 1] == position[k];
    const std::int64_t upto =
        is_tied ? first(k + 1, [&](std::int64_t l) { return position[l] > position[k]; }) : k + 1;
    return {static_cast<double>(position[k]), static_cast<double>(upto),
            static_cast<double>(left[k]), static_cast<double>(right[k])};
  }
  /// NaN unless 0 < level < n.
  __device__ double quantile(double level, double lengthscale) const {
    if (!(level > 0.0 && level < static_cast<double>(n))) {
      return std::nan("");
    }
    const std::int64_t above =
        first(0, [&](std::int64_t k) { return laplex::detail::level_at(at(k)) > level; });
    if (above == 0) {
      return laplex::detail::quantile_below(at(0), level, lengthscale);
    }
    if (above == n) {
      return laplex::detail::quantile_above(at(n - 1), level, lengthscale);
    }
    return laplex::detail::quantile_between(at(above - 1), at(above), level, lengthscale);
  }

 private:
  /// The first anchor from `begin` on for which something holds that holds for all after it; n if
  /// there is none.
  template <class Holds>
  __device__ std::int64_t first(std::int64_t begin, const Holds& holds) const {
    std::int64_t end = n;
    while (begin < end) {
      const std::int64_t middle = begin + (end - begin) / 2;
      if (holds(middle)) {
        end = middle;
      } else {
        begin = middle + 1;
      }
    }
    return begin;
  }
};

template <class T>
__global__ void __launch_bounds__(kFlatThreads) quantiles_kernel(QuantilesJob<T> job) {
  const std::int64_t entry = thread_number();
  if (entry >= job.heads * job.count) {
    return;
  }
  const std::int64_t head = entry / job.count;
  const std::int64_t n = job.anchors.count;
  const LineRate rate = read_rate(job.lengthscale, nullptr, head);
  const AnchorCounts<T> counts{job.anchors.positions(head), job.left + head * n,
                               job.right + head * n, n};
  job.result[entry] = rate.valid * counts.quantile(job.levels[entry], rate.rate.lengthscale);
}

}  // namespace laplex::cuda::detail
