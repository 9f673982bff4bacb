#include "decays.hpp"

#include "chunks.hpp"
#include "parallel.hpp"

#include <cstddef>

namespace laplex::detail {
namespace {

constexpr std::int64_t kGrain = 8192;

/// Decays between the nodes of every level above the points, for one direction of the scan.
template <bool Reverse, class D>
std::vector<std::vector<D>> upper_decays(const double* position, std::int64_t m, Rate rate,
                                         int threads) {
  const std::vector<std::int64_t> sizes = level_sizes(m);
  std::vector<std::vector<D>> upper;
  std::int64_t span = 1;
  for (std::size_t level = 1; level < sizes.size(); ++level) {
    span *= chunk_size(level - 1);
    std::vector<D> decays(static_cast<std::size_t>(sizes[level]));
    parallel_ranges(threads, sizes[level], kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t node = begin < 1 ? 1 : begin; node < end; ++node) {
        const double za = position[place<Reverse>(last_element(node - 1, span, m), m)];
        const double zb = position[place<Reverse>(last_element(node, span, m), m)];
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
std::int64_t Decays<D>::nbytes() const {
  std::int64_t total = bytes(gap);
  for (const auto& levels : {&upper_forward, &upper_reverse}) {
    for (const std::vector<D>& level : *levels) {
      total += bytes(level);
    }
  }
  return total;
}

template <class D>
Decays<D> make_decays(const double* position, std::int64_t m, Rate rate, int threads) {
  Decays<D> decays;
  decays.gap.resize(static_cast<std::size_t>(m) + 1);
  parallel_ranges(threads, m, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin < 1 ? 1 : begin; k < end; ++k) {
      decays.gap[static_cast<std::size_t>(k)] = decay<D>(position[k], position[k - 1], rate);
    }
  });
  decays.upper_forward = upper_decays<false, D>(position, m, rate, threads);
  decays.upper_reverse = upper_decays<true, D>(position, m, rate, threads);
  return decays;
}

template struct Decays<double>;
template struct Decays<Complex>;
template Decays<double> make_decays<double>(const double*, std::int64_t, Rate, int);
template Decays<Complex> make_decays<Complex>(const double*, std::int64_t, Rate, int);

}  // namespace laplex::detail
