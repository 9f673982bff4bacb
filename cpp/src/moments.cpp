#include "moments.hpp"

#include "scan.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

namespace laplex::detail {
namespace {

/// Calls f(a constant of the numbers of type D that are scanned side by side).
template <class D, class F>
void with_lanes(PassShape shape, const F& f) {
  const bool two_planes = shape.form == Form::complex;
  if (shape.wide) {
    if (std::is_same_v<D, double> && two_planes) {
      f(std::integral_constant<int, 2 * kRows>{});
    } else {
      f(std::integral_constant<int, kRows>{});
    }
  } else if (std::is_same_v<D, double> && two_planes) {
    f(std::integral_constant<int, 2>{});
  } else {
    f(std::integral_constant<int, 1>{});
  }
}

template <class T>
Unit<T> unit_of(double lengthscale) {
  using Limits = std::numeric_limits<T>;
  Unit<T> unit;
  // A cell is as wide as eight lengthscales.
  unit.scale = lengthscale >= static_cast<double>(Limits::max()) / 16.0 ? T(0.25) : T(1);
  const int exponent =
      std::clamp(-std::ilogb(lengthscale), Limits::min_exponent, Limits::max_exponent - 2);
  unit.power = std::ldexp(T(1), exponent);
  // Where that is beyond the largest number, no two places of a cell differ.
  unit.rest = static_cast<T>(
      std::min(1.0 / (std::ldexp(lengthscale, exponent) * static_cast<double>(unit.scale)),
               static_cast<double>(Limits::max())));
  return unit;
}

}  // namespace

int carried_degree(int degree) {
  return degree > 2 ? kMaxMoment : degree;
}

template <class T>
MomentResult<T> moment_result(const Polynomial& polynomial, Combine combine,
                              const std::uint16_t* left_at, const std::uint16_t* right_at,
                              const Output<T>& out) {
  MomentResult<T> result{};
  result.left_at = left_at;
  result.right_at = right_at;
  result.combine = combine;
  result.out = out;
  for (int r = 0; r <= kMaxMoment; ++r) {
    double binomial = 1.0;  // C(r + s, r)
    for (int s = 0; r + s <= kMaxMoment; ++s) {
      const int power = r + s;
      result.coefficient[r][s] =
          static_cast<T>(binomial * polynomial[static_cast<std::size_t>(power)]);
      binomial = binomial * (r + s + 1) / (s + 1);
    }
  }
  return result;
}

template <class T>
template <class D>
void CarriedMoments<T>::set(PassShape shape, int degree, const Cells<T>& cells,
                            const MomentLine<D>& line, const SideView<T>& side, std::int64_t count,
                            const Vectors<const T>& values, Block block, bool conjugate,
                            Array<std::byte>& scratch, int threads) {
  values_.set(shape, side, count, values, block, conjugate, scratch, threads);
  const std::int64_t num_cells = cells.count();
  const std::int64_t size = num_cells * (degree + 1) * shape.carry();
  for (Array<double>* array : {&grown_, &shrunk_, &left_, &right_, &placed_, &sums_}) {
    array->reset(size);
  }
  job_ = {};
  job_.from = side;
  job_.values = values_.input();
  job_.first = line.first.data();
  job_.last = line.last.data();
  job_.unit = unit_of<T>(cells.template line<D>().rate.lengthscale);
  job_.carries = {left_.data(), right_.data(), grown_.data()};
  over_cells(cells, scratch, moment_scratch_bytes(sizeof(T), shape.wide), threads,
             [&](std::int64_t begin, std::int64_t end, void* memory) {
               values_.sort(side, side.first[begin], side.first[end]);
               kernels<T>().moment_totals(shape.form, shape.wide, degree, job_, begin, end,
                                          grown_.data(), shrunk_.data(), memory);
             });
  with_degree(degree, [&](auto d) {
    with_lanes<D>(shape, [&](auto lanes) {
      scan<decltype(d)::value, decltype(lanes)::value>(cells, line, threads);
    });
  });
}

/// Number k of a cell's moments [P + 1][lanes], which stand as [P + 1][planes][lanes].
template <int L, class D>
D get(const double* cell, std::int64_t k) {
  if constexpr (std::is_same_v<D, double>) {
    return cell[k];
  } else {
    const double* const re = cell + k / L * 2 * L + k % L;
    return {re[0], re[L]};
  }
}
template <int L, class D>
void put(double* cell, std::int64_t k, D value) {
  if constexpr (std::is_same_v<D, double>) {
    cell[k] = value;
  } else {
    double* const re = cell + k / L * 2 * L + k % L;
    re[0] = value.re;
    re[L] = value.im;
  }
}

/// What enters each cell at its first anchor (at its last from the right), as if at its centre.
template <class T>
template <int P, int L, class D>
void CarriedMoments<T>::scan(const Cells<T>& cells, const MomentLine<D>& line, int threads) {
  constexpr std::int64_t kWidth = std::int64_t(P + 1) * L;
  constexpr std::int64_t kNumbers = std::is_same_v<D, double> ? kWidth : 2 * kWidth;
  const std::int64_t count = cells.count();
  const Rate rate = cells.template line<D>().rate;
  const double* const gap_after = cells.gap_after();
  D* const placed = reinterpret_cast<D*>(placed_.data());
  D* const sums = reinterpret_cast<D*>(sums_.data());
  const auto scan_from = [&](auto reverse, const Array<double>& totals, const std::vector<D>& place,
                             const std::vector<D>& inverse, const std::vector<double>& position,
                             const Decays<D>& decays, Array<double>& entering) {
    constexpr bool kReverse = decltype(reverse)::value;
    parallel_ranges(threads, count, kLaneGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c) {  // to where a cell's sums leave it
        for (std::int64_t k = 0; k < kWidth; ++k) {
          placed[c * kWidth + k] =
              place[static_cast<std::size_t>(c)] * get<L, D>(totals.data() + c * kNumbers, k);
        }
      }
    });
    Scan<kReverse, P, L, D, D>(Line<D>{position.data(), count, &decays, rate}, threads)
        .run(placed, sums);
    parallel_ranges(threads, count, kLaneGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c) {
        double* const to = entering.data() + c * kNumbers;
        const std::int64_t before = kReverse ? count - 2 - c : c - 1;  // in the scan
        if (before < 0) {
          std::fill(to, to + kNumbers, 0.0);
          continue;
        }
        const std::int64_t gap = kReverse ? c + 1 : c;
        D moments[kWidth];
        std::copy(sums + before * kWidth, sums + (before + 1) * kWidth, moments);
        advance<P, L>(moments, line.gap[static_cast<std::size_t>(gap)], gap_after[gap - 1]);
        for (std::int64_t k = 0; k < kWidth; ++k) {
          put<L, D>(to, k, inverse[static_cast<std::size_t>(c)] * moments[k]);
        }
      }
    });
  };
  scan_from(std::false_type{}, grown_, line.leave, line.enter, line.last, line.of_last, left_);
  scan_from(std::true_type{}, shrunk_, line.enter, line.leave, line.first, line.of_first, right_);
}

template MomentResult<float> moment_result(const Polynomial&, Combine, const std::uint16_t*,
                                           const std::uint16_t*, const Output<float>&);
template MomentResult<double> moment_result(const Polynomial&, Combine, const std::uint16_t*,
                                            const std::uint16_t*, const Output<double>&);

#define LAPLEX_INSTANTIATE(T, D)                                                                  \
  template void CarriedMoments<T>::set(PassShape, int, const Cells<T>&, const MomentLine<D>&,     \
                                       const SideView<T>&, std::int64_t, const Vectors<const T>&, \
                                       Block, bool, Array<std::byte>&, int);
LAPLEX_INSTANTIATE(float, double)
LAPLEX_INSTANTIATE(float, Complex)
LAPLEX_INSTANTIATE(double, double)
LAPLEX_INSTANTIATE(double, Complex)
#undef LAPLEX_INSTANTIATE

}  // namespace laplex::detail
