#include "lookup.hpp"

#include "buffer.hpp"
#include "scan.hpp"

#include <array>

namespace laplex::detail {
namespace {

template <int P, int W, class D, class S>
void scan_and_read_moment(Parity parity, const Direction<D>& direction, Rate rate, const S* values,
                          S* out, int threads) {
  constexpr int kWidth = (P + 1) * W;
  constexpr std::int64_t kGrain = 4096;
  const Line<D> line = direction.line(rate);
  const std::int64_t m = line.size;
  const std::int64_t n = direction.to.size();
  const double* position = direction.to.position.data();
  const Buffer<S> from_left = make_buffer<S>(m * kWidth);
  const Buffer<S> from_right = make_buffer<S>(m * kWidth);
  Scan<false, P, W, D, S>(line, threads).run(values, from_left.get());
  Scan<true, P, W, D, S>(line, threads).run(values, from_right.get());

  const auto read = [&](S* s, const S* sums, std::int64_t k, D d, double tau) {
    std::copy(sums + k * kWidth, sums + (k + 1) * kWidth, s);
    advance<P, W>(s, d, tau);
  };
  const bool untied_tables = !direction.left.empty() || n == 0;
  parallel_ranges(threads, n, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const std::int64_t below = direction.below[at];
      const std::int64_t upto = direction.upto[at];
      const bool tied = below != upto || !untied_tables;
      const double x = position[i];
      std::array<S, kWidth> left{};
      std::array<S, kWidth> strict{};
      std::array<S, kWidth> right{};
      if (upto > 0) {
        if (tied) {
          const S* here = from_left.get() + (upto - 1) * kWidth;
          std::copy(here, here + kWidth, left.begin());
        } else {
          read(left.data(), from_left.get(), upto - 1, direction.left[at],
               scaled_distance(x, line.position[upto - 1], line.rate));
        }
      }
      if (!tied) {
        strict = left;
      } else if (below > 0) {
        read(strict.data(), from_left.get(), below - 1,
             direction.decays.gap[static_cast<std::size_t>(below)],
             scaled_distance(x, line.position[below - 1], line.rate));
      }
      if (upto < m) {
        read(right.data(), from_right.get(), m - 1 - upto,
             tied ? direction.decays.gap[static_cast<std::size_t>(upto)] : direction.right[at],
             scaled_distance(line.position[upto], x, line.rate));
      }
      constexpr std::size_t kFirst = static_cast<std::size_t>(P) * W;
      for (std::size_t w = 0; w < W; ++w) {
        const S l = parity == Parity::even ? left[kFirst + w] : strict[kFirst + w];
        const S r = right[kFirst + w];
        out[at * W + w] = parity == Parity::odd ? l - r : l + r;
      }
    }
  });
}

}  // namespace

template <int W, class D, class S>
void scan_and_read(Term term, const Direction<D>& direction, Rate rate, const S* values, S* out,
                   int threads) {
  switch (term.moment) {
    case 1:
      return scan_and_read_moment<1, W>(term.parity, direction, rate, values, out, threads);
    case 2:
      return scan_and_read_moment<2, W>(term.parity, direction, rate, values, out, threads);
    case 3:
      return scan_and_read_moment<3, W>(term.parity, direction, rate, values, out, threads);
    default:
      return scan_and_read_moment<kMaxMoment, W>(term.parity, direction, rate, values, out,
                                                 threads);
  }
}

#define LAPLEX_INSTANTIATE(W, D, S) \
  template void scan_and_read<W, D, S>(Term, const Direction<D>&, Rate, const S*, S*, int);
LAPLEX_INSTANTIATE(1, double, double)
LAPLEX_INSTANTIATE(1, double, Complex)
LAPLEX_INSTANTIATE(1, Complex, Complex)
LAPLEX_INSTANTIATE(8, double, double)
LAPLEX_INSTANTIATE(8, double, Complex)
LAPLEX_INSTANTIATE(8, Complex, Complex)
#undef LAPLEX_INSTANTIATE

}  // namespace laplex::detail
