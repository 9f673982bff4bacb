#include "direction.hpp"

#include "parallel.hpp"

namespace laplex::detail {
namespace {

constexpr std::int64_t kGrain = 8192;

template <class T>
SortedAnchors sorted_side(const T* position, const std::uint32_t* index, std::int64_t count) {
  SortedAnchors anchors;
  anchors.position.assign(position, position + count);
  anchors.index.resize(static_cast<std::size_t>(count));
  for (std::int64_t k = 0; k < count; ++k) {
    anchors.index[static_cast<std::size_t>(k)] = index != nullptr ? index[k] : k;
  }
  return anchors;
}

}  // namespace

template <class D>
std::int64_t Direction<D>::nbytes() const {
  return bytes(from.position) + bytes(from.index) + bytes(to.position) + bytes(to.index) +
         decays.nbytes() + bytes(below) + bytes(upto) + bytes(left) + bytes(right);
}

template <class T, class D>
Direction<D> make_direction(const Cells<T>& cells, bool transposed, Rate rate, int threads) {
  Direction<D> direction;
  const auto side = [&](bool targets) {
    return targets
               ? sorted_side(cells.target_positions(), cells.targets().index, cells.num_targets())
               : sorted_side(cells.source_positions(), cells.sources().index, cells.num_sources());
  };
  direction.from = side(transposed);
  direction.to = side(!transposed);
  const std::vector<double>& y = direction.from.position;
  const std::vector<double>& x = direction.to.position;
  const std::size_t m = y.size();
  const std::size_t n = x.size();
  direction.decays = make_decays<D>(y.data(), direction.from.size(), rate, threads);

  direction.below.resize(n);
  direction.upto.resize(n);
  std::size_t below = 0;
  std::size_t upto = 0;
  for (std::size_t i = 0; i < n; ++i) {
    while (below < m && y[below] < x[i]) {
      ++below;
    }
    while (upto < m && y[upto] <= x[i]) {
      ++upto;
    }
    direction.below[i] = static_cast<std::int64_t>(below);
    direction.upto[i] = static_cast<std::int64_t>(upto);
  }
  if (cells.self()) {
    return direction;  // every point is tied with itself: the gaps say everything
  }
  direction.left.resize(n);
  direction.right.resize(n);
  parallel_ranges(threads, direction.to.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      const auto p = static_cast<std::size_t>(direction.upto[i]);
      if (p > 0) {
        direction.left[i] = decay<D>(x[i], y[p - 1], rate);
      }
      if (p < m) {
        direction.right[i] = decay<D>(y[p], x[i], rate);
      }
    }
  });
  return direction;
}

template struct Direction<double>;
template struct Direction<Complex>;
template Direction<double> make_direction<float, double>(const Cells<float>&, bool, Rate, int);
template Direction<Complex> make_direction<float, Complex>(const Cells<float>&, bool, Rate, int);
template Direction<double> make_direction<double, double>(const Cells<double>&, bool, Rate, int);
template Direction<Complex> make_direction<double, Complex>(const Cells<double>&, bool, Rate, int);

}  // namespace laplex::detail
