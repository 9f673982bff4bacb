#include "moments.hpp"

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
template <class D, class F>
void CarriedMoments<T>::each_direction(const F& f) const {
  with_degree(degree_, [&](auto d) {
    with_lanes<D>(shape_, [&](auto lanes) {
      f(d, lanes, std::false_type{});
      f(d, lanes, std::true_type{});
    });
  });
}

template <class T>
template <class D>
void CarriedMoments<T>::set(PassShape shape, int degree, const Cells<T>& cells,
                            const MomentLine<D>& line, const SideView<T>& side, std::int64_t count,
                            const Vectors<const T>& values, Block block, bool conjugate,
                            Array<std::byte>& scratch, int threads) {
  shape_ = shape;
  degree_ = degree;
  values_.set(shape, side, count, values, block, conjugate, scratch, threads);
  const std::int64_t size = cells.count() * (degree + 1) * shape.carry();
  for (Array<double>* array :
       {&grown_, &shrunk_, &left_, &right_, &placed_[0], &placed_[1], &sums_}) {
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
  each_direction<D>([&](auto d, auto lanes, auto reverse) {
    constexpr int kP = decltype(d)::value;
    constexpr int kL = decltype(lanes)::value;
    constexpr bool kReverse = decltype(reverse)::value;
    place<kP, kL, kReverse>(cells, line, threads);
    scan<kP, kL, kReverse>(cells, line, threads)
        .sum_up(reinterpret_cast<const D*>(placed_[kReverse ? 1 : 0].data()));
  });
}

template <class T>
template <class D>
void CarriedMoments<T>::send(const Cells<T>& cells, const MomentLine<D>& line, std::int64_t slot,
                             Round& round) {
  each_direction<D>([&](auto d, auto lanes, auto reverse) {
    constexpr bool kReverse = decltype(reverse)::value;
    scan<decltype(d)::value, decltype(lanes)::value, kReverse>(cells, line, 1)
        .send(reinterpret_cast<const D*>(placed_[kReverse ? 1 : 0].data()), *cells.shared(), slot,
              round);
  });
}

template <class T>
template <class D>
void CarriedMoments<T>::enter(const Cells<T>& cells, const MomentLine<D>& line, std::int64_t slot,
                              const Round* round, int threads) {
  each_direction<D>([&](auto d, auto lanes, auto reverse) {
    constexpr int kP = decltype(d)::value;
    constexpr int kL = decltype(lanes)::value;
    constexpr bool kReverse = decltype(reverse)::value;
    auto sums = scan<kP, kL, kReverse>(cells, line, threads);
    D* const to = reinterpret_cast<D*>(sums_.data());
    if (round != nullptr) {
      sums.receive(*cells.shared(), slot, *round, to);
    }
    sums.spread_down(reinterpret_cast<const D*>(placed_[kReverse ? 1 : 0].data()), to);
    enter_from<kP, kL, kReverse>(cells, line, threads);
  });
}

/// Brings totals to where they leave their cells.
template <class T>
template <int P, int L, bool Reverse, class D>
void CarriedMoments<T>::place(const Cells<T>& cells, const MomentLine<D>& line, int threads) {
  constexpr std::int64_t kWidth = std::int64_t(P + 1) * L;
  constexpr std::int64_t kNumbers = std::is_same_v<D, double> ? kWidth : 2 * kWidth;
  const double* const totals = (Reverse ? shrunk_ : grown_).data();
  const std::vector<D>& leave = Reverse ? line.enter : line.leave;
  D* const placed = reinterpret_cast<D*>(placed_[Reverse ? 1 : 0].data());
  parallel_ranges(threads, cells.count(), kLaneGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
      for (std::int64_t k = 0; k < kWidth; ++k) {
        placed[c * kWidth + k] =
            leave[static_cast<std::size_t>(c)] * get<L, D>(totals + c * kNumbers, k);
      }
    }
  });
}

/// What enters each cell at its first anchor (at its last from the right), as if at its centre.
template <class T>
template <int P, int L, bool Reverse, class D>
void CarriedMoments<T>::enter_from(const Cells<T>& cells, const MomentLine<D>& line, int threads) {
  constexpr std::int64_t kWidth = std::int64_t(P + 1) * L;
  constexpr std::int64_t kNumbers = std::is_same_v<D, double> ? kWidth : 2 * kWidth;
  const std::int64_t count = cells.count();
  const Rate rate = cells.template line<D>().rate;
  const double* const gap_after = cells.gap_after();
  const std::vector<D>& inverse = Reverse ? line.leave : line.enter;
  const D* const comes = reinterpret_cast<const D*>(sums_.data());
  double* const entering = (Reverse ? right_ : left_).data();
  parallel_ranges(threads, count, kLaneGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
      const std::int64_t gap = Reverse ? c + 1 : c;
      const D step = line.gap[static_cast<std::size_t>(gap)];
      double tau = 0.0;
      if (gap > 0) {
        tau = gap_after[gap - 1];
      } else if (!is_zero(step)) {
        tau = scaled_distance(line.first.front(), line.far.neighbour[0], rate);
      }
      D moments[kWidth];
      const std::int64_t at = Reverse ? count - 1 - c : c;
      std::copy(comes + at * kWidth, comes + (at + 1) * kWidth, moments);
      advance<P, L>(moments, step, tau);
      for (std::int64_t k = 0; k < kWidth; ++k) {
        put<L, D>(entering + c * kNumbers, k, inverse[static_cast<std::size_t>(c)] * moments[k]);
      }
    }
  });
}

template MomentResult<float> moment_result(const Polynomial&, Combine, const std::uint16_t*,
                                           const std::uint16_t*, const Output<float>&);
template MomentResult<double> moment_result(const Polynomial&, Combine, const std::uint16_t*,
                                            const std::uint16_t*, const Output<double>&);

#define LAPLEX_INSTANTIATE(T, D)                                                                  \
  template void CarriedMoments<T>::set(PassShape, int, const Cells<T>&, const MomentLine<D>&,     \
                                       const SideView<T>&, std::int64_t, const Vectors<const T>&, \
                                       Block, bool, Array<std::byte>&, int);                      \
  template void CarriedMoments<T>::send(const Cells<T>&, const MomentLine<D>&, std::int64_t,      \
                                        Round&);                                                  \
  template void CarriedMoments<T>::enter(const Cells<T>&, const MomentLine<D>&, std::int64_t,     \
                                         const Round*, int);
LAPLEX_INSTANTIATE(float, double)
LAPLEX_INSTANTIATE(float, Complex)
LAPLEX_INSTANTIATE(double, double)
LAPLEX_INSTANTIATE(double, Complex)
#undef LAPLEX_INSTANTIATE

}  // namespace laplex::detail
