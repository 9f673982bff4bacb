#include "decays.hpp"

#include "parallel.hpp"

#include <cmath>
#include <cstddef>

namespace laplex::detail {
namespace {

constexpr std::int64_t kGrain = 8192;

/// Decays into the own nodes of every level above the points, for one direction of the scan.
template <class D>
std::vector<std::vector<D>> upper_decays(const Points& points, bool reverse, Rate rate,
                                         int threads) {
  const LineTree& tree = *points.tree[reverse ? 1 : 0];
  std::vector<std::vector<D>> upper;
  for (std::size_t level = 1; level <= tree.top(); ++level) {
    const NodeRange own = tree.own(level);
    const std::int64_t span = span_of(level);
    std::vector<D> decays(static_cast<std::size_t>(own.count));
    parallel_ranges(threads, own.count, kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t k = begin; k < end; ++k) {
        const std::int64_t node = own.first + k;
        if (node > 0) {
          decays[static_cast<std::size_t>(k)] =
              decay_of<D>(reverse, points.step_into(reverse, span, node), rate);
        }
      }
    });
    upper.push_back(std::move(decays));
  }
  return upper;
}

}  // namespace

template <class D>
std::int64_t Decays<D>::nbytes() const {
  std::int64_t total = bytes(gap) + bytes(skeleton[0]) + bytes(skeleton[1]);
  for (const auto& levels : upper) {
    for (const std::vector<D>& level : levels) {
      total += bytes(level);
    }
  }
  return total;
}

template <class D>
Decays<D> make_decays(const Points& points, Rate rate, int threads,
                      std::initializer_list<bool> directions) {
  const double* const position = points.position;
  const std::int64_t size = points.size;
  Decays<D> decays;
  decays.gap.resize(static_cast<std::size_t>(size) + 1);
  parallel_ranges(threads, size, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin < 1 ? 1 : begin; k < end; ++k) {
      decays.gap[static_cast<std::size_t>(k)] = decay<D>(position[k], position[k - 1], rate);
    }
  });
  for (const bool reverse : directions) {
    decays.upper[reverse ? 1 : 0] = upper_decays<D>(points, reverse, rate, threads);
    if (points.far != nullptr) {
      const double from = points.far->neighbour[reverse ? 1 : 0];
      if (size > 0 && !std::isnan(from)) {
        decays.gap[static_cast<std::size_t>(reverse ? size : 0)] =
            decay_of<D>(reverse, {from, points.at(reverse, 0)}, rate);
      }
      for (const std::array<double, 2>& step : points.far->skeleton[reverse ? 1 : 0]) {
        decays.skeleton[reverse ? 1 : 0].push_back(
            std::isnan(step[0]) ? D{} : decay_of<D>(reverse, step, rate));
      }
    }
  }
  return decays;
}

template struct Decays<double>;
template struct Decays<Complex>;
template Decays<double> make_decays<double>(const Points&, Rate, int, std::initializer_list<bool>);
template Decays<Complex> make_decays<Complex>(const Points&, Rate, int,
                                              std::initializer_list<bool>);

}  // namespace laplex::detail
