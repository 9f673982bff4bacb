#include "moment_line.hpp"

#include "parallel.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace laplex::detail {
namespace {

constexpr std::int64_t kGrain = 4096;

}  // namespace

template <class T, class D>
MomentLine<D> make_moment_line(const Cells<T>& cells, int threads) {
  const Line<D> centres = cells.template line<D>();
  const Rate rate = centres.rate;
  const std::int64_t count = cells.count();
  const auto size = static_cast<std::size_t>(count);
  MomentLine<D> line;
  line.first.resize(size);
  line.last.resize(size);
  line.enter.resize(size);
  line.leave.resize(size);
  line.gap.resize(size + 1);
  parallel_ranges(threads, count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t cell = begin; cell < end; ++cell) {
      double first = std::numeric_limits<double>::infinity();
      double last = -first;
      const auto look = [&](const SideView<T>& side) {
        const std::int64_t from = side.first[cell];
        const std::int64_t to = side.first[cell + 1];
        if (to > from) {
          first = std::min(first, static_cast<double>(side.position[from]));
          last = std::max(last, static_cast<double>(side.position[to - 1]));
        }
      };
      look(cells.targets());
      look(cells.sources());
      const auto at = static_cast<std::size_t>(cell);
      line.first[at] = first;
      line.last[at] = last;
      line.enter[at] = decay<D>(centres.points.position[cell], first, rate);
      line.leave[at] = decay<D>(last, centres.points.position[cell], rate);
    }
  });
  parallel_ranges(threads, count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t cell = std::max<std::int64_t>(begin, 1); cell < end; ++cell) {
      const auto at = static_cast<std::size_t>(cell);
      line.gap[at] = decay<D>(line.first[at], line.last[at - 1], rate);
    }
  });
  Points last = centres.points;
  Points first = centres.points;
  last.position = line.last.data();
  first.position = line.first.data();
  if (cells.shared() != nullptr) {
    line.far = cells.shared()->far_points(last.position, first.position);
    last.far = first.far = &line.far;
    const auto [before, behind] = line.far.neighbour;
    if (count > 0 && !std::isnan(before)) {
      line.gap.front() = decay<D>(line.first.front(), before, rate);
    }
    if (count > 0 && !std::isnan(behind)) {
      line.gap.back() = decay<D>(behind, line.last.back(), rate);
    }
  }
  line.of_last = make_decays<D>(last, rate, threads, {false});
  line.of_first = make_decays<D>(first, rate, threads, {true});
  return line;
}

template MomentLine<double> make_moment_line<float, double>(const Cells<float>&, int);
template MomentLine<Complex> make_moment_line<float, Complex>(const Cells<float>&, int);
template MomentLine<double> make_moment_line<double, double>(const Cells<double>&, int);
template MomentLine<Complex> make_moment_line<double, Complex>(const Cells<double>&, int);

}  // namespace laplex::detail
