#include "direction.hpp"

#include "parallel.hpp"

namespace laplex::detail {
namespace {

constexpr std::int64_t kGrain = 8192;

template <class T>
std::int64_t bytes(const std::vector<T>& v) {
  return static_cast<std::int64_t>(v.size() * sizeof(T));
}

/// Decays between the nodes of every level above the elements, for one direction of the scan.
template <bool Reverse, class D>
std::vector<std::vector<D>> upper_decays(const SortedAnchors& from, Rate rate, int threads) {
  const std::int64_t m = from.size();
  const std::vector<std::int64_t> sizes = level_sizes(m);
  std::vector<std::vector<D>> upper;
  std::int64_t span = 1;
  for (std::size_t level = 1; level < sizes.size(); ++level) {
    span *= chunk_size(level - 1);
    std::vector<D> decays(static_cast<std::size_t>(sizes[level]));
    parallel_ranges(threads, sizes[level], kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t node = begin < 1 ? 1 : begin; node < end; ++node) {
        const std::int64_t a = place<Reverse>(last_element(node - 1, span, m), m);
        const std::int64_t b = place<Reverse>(last_element(node, span, m), m);
        const double za = from.position[static_cast<std::size_t>(a)];
        const double zb = from.position[static_cast<std::size_t>(b)];
        decays[static_cast<std::size_t>(node)] =
            Reverse ? decay<D>(za, zb, rate) : decay<D>(zb, za, rate);
      }
    });
    upper.push_back(std::move(decays));
  }
  return upper;
}

}  // namespace

template <class D>
std::int64_t Direction<D>::nbytes() const {
  std::int64_t total = bytes(gap) + bytes(below) + bytes(upto) + bytes(left) + bytes(right);
  for (const auto& levels : {&upper_forward, &upper_reverse}) {
    for (const std::vector<D>& level : *levels) {
      total += bytes(level);
    }
  }
  return total;
}

template <class D>
Direction<D> make_direction(const SortedAnchors& from, const SortedAnchors& to, bool self,
                            Rate rate, int threads) {
  const auto m = static_cast<std::size_t>(from.size());
  const auto n = static_cast<std::size_t>(to.size());
  const std::vector<double>& y = from.position;
  const std::vector<double>& x = to.position;
  Direction<D> direction;
  direction.gap.resize(m);
  parallel_ranges(threads, from.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (auto k = static_cast<std::size_t>(begin < 1 ? 1 : begin);
         k < static_cast<std::size_t>(end); ++k) {
      direction.gap[k] = decay<D>(y[k], y[k - 1], rate);
    }
  });
  direction.upper_forward = upper_decays<false, D>(from, rate, threads);
  direction.upper_reverse = upper_decays<true, D>(from, rate, threads);

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
  if (self) {
    return direction;  // every point is tied with itself: the gaps say everything
  }
  direction.left.resize(n);
  direction.right.resize(n);
  parallel_ranges(threads, to.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
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
template Direction<double> make_direction<double>(const SortedAnchors&, const SortedAnchors&, bool,
                                                  Rate, int);
template Direction<Complex> make_direction<Complex>(const SortedAnchors&, const SortedAnchors&,
                                                    bool, Rate, int);

}  // namespace laplex::detail
