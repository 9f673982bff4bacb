// Products against dense matrices in long double, for every form, mode and member of the family.
#include "cases.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <type_traits>

namespace laplex::tests {
namespace {

template <class V>
Wide wide(const V& v) {
  if constexpr (std::is_floating_point_v<V>) {
    return {static_cast<long double>(v), 0.0L};
  } else {
    return {static_cast<long double>(v.real()), static_cast<long double>(v.imag())};
  }
}

/// One row of the family's matrix times v, and its scale sum |..||v|.
template <class T, class V>
void check(const Case<T>& c, const std::vector<V>& v, Mode mode, Term term) {
  const Plan<T> plan(c.kernel());
  const bool transposed = mode != Mode::plain;
  const std::int64_t in = transposed ? c.n : c.m;
  const std::int64_t out = transposed ? c.m : c.n;
  const auto compare = [&](auto zero) {
    using R = decltype(zero);
    std::vector<R> u(static_cast<std::size_t>(c.heads * out), R(9));
    plan.apply(v.data(), u.data(), 1, Strides{in, 0}, Strides{out, 0}, mode, term);
    for (std::int64_t h = 0; h < c.heads; ++h) {
      for (std::int64_t a = 0; a < out; ++a) {
        Wide sum{};
        long double scale = 0.0L;
        for (std::int64_t b = 0; b < in; ++b) {
          const std::int64_t i = transposed ? b : a;
          const std::int64_t j = transposed ? a : b;
          const auto& s = c.self ? c.x : c.y;
          const long double dx =
              static_cast<long double>(c.x[static_cast<std::size_t>(h * c.n + i)]) -
              static_cast<long double>(s[static_cast<std::size_t>(h * c.m + j)]);
          const long double sign = dx > 0 ? 1.0L : dx < 0 ? -1.0L : 0.0L;
          const long double parity = term.parity == Parity::even  ? 1.0L
                                     : term.parity == Parity::odd ? sign
                                                                  : sign * sign;
          const long double tau =
              std::fabs(dx) / static_cast<long double>(c.lengthscale[static_cast<std::size_t>(h)]);
          const long double modulus = c.modulus(h, i, j);
          long double weight = 0.0L;
          long double size = 0.0L;  // without cancellation between the powers
          for (std::size_t q = 0; q < term.polynomial.size() && modulus > 0.0L; ++q) {
            const long double one = term.polynomial[q] * std::pow(tau, static_cast<long double>(q));
            weight += parity * one;
            size += std::fabs(parity * one);
          }
          Wide k = c.entry(h, i, j);
          if (c.real_part)
            k = {k.real(), 0.0L};
          if (mode == Mode::adjoint)
            k = std::conj(k);
          const Wide x = wide(v[static_cast<std::size_t>(h * in + b)]);
          sum += weight * k * x;
          scale += size * modulus * std::abs(x);
        }
        const Wide got = wide(u[static_cast<std::size_t>(h * out + a)]);
        // Below the normal range precision is absolute.
        const long double floor = static_cast<long double>(in) * std::numeric_limits<T>::min();
        ASSERT_LE(std::abs(got - sum), promise<T>() * scale + floor)
            << "entry " << a << " of head " << h << ", n = " << c.n << ", m = " << c.m;
      }
    }
  };
  if (plan.template result_is_complex<V>()) {
    compare(std::complex<T>{});
  } else if constexpr (std::is_floating_point_v<V>) {
    compare(T{});
  }
}

template <class T>
class Products : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(Products, Precisions);

TYPED_TEST(Products, EqualTheDenseMatrix) {
  using T = TypeParam;
  std::uint64_t seed = 10;
  for (const Form form : kForms) {
    for (const Anchors kind : kAnchors) {
      // 0, 1, around the chunk of 16 and its square 256
      for (const auto& [n, m] : std::vector<std::pair<std::int64_t, std::int64_t>>{
               {0, 0}, {0, 5}, {5, 0}, {1, 1}, {7, 2}, {15, 16}, {17, 33}, {40, 255}, {30, 257}}) {
        const Case<T> c = make_case<T>(form, kind, n, m, ++seed);
        for (const Mode mode : {Mode::plain, Mode::transpose, Mode::adjoint}) {
          const std::int64_t in = mode == Mode::plain ? m : n;
          SCOPED_TRACE(name(form) + ", anchors " + std::to_string(static_cast<int>(kind)));
          check(c, draw_values<T>(in, seed), mode, {});
          check(c, draw_values<std::complex<T>>(in, seed), mode, {});
        }
      }
    }
  }
}

/// Single powers, Matern kernels, and a polynomial whose terms cancel.
constexpr std::array<double, 5> kPolynomials[] = {{1.0},
                                                  {0.0, 1.0},
                                                  {0.0, 0.0, 1.0},
                                                  {0.0, 0.0, 0.0, 1.0},
                                                  {0.0, 0.0, 0.0, 0.0, 1.0},
                                                  {1.0, 1.0},
                                                  {1.0, 1.0, 1.0 / 3.0},
                                                  {0.5, -1.0, 0.25, 2.0}};

TYPED_TEST(Products, TheWholeFamily) {
  using T = TypeParam;
  std::uint64_t seed = 1000;
  for (const Form form : kForms) {
    for (const Anchors kind : kAnchors) {
      for (const Parity parity : {Parity::even, Parity::odd, Parity::strict}) {
        for (const auto& polynomial : kPolynomials) {
          const Case<T> c = make_case<T>(form, kind, 23, 40, ++seed);
          SCOPED_TRACE(name(form) + ", polynomial " + std::to_string(&polynomial - kPolynomials));
          check(c, draw_values<std::complex<T>>(40, seed), Mode::plain, {parity, polynomial});
          check(c, draw_values<std::complex<T>>(23, seed), Mode::adjoint, {parity, polynomial});
        }
      }
    }
  }
}

TYPED_TEST(Products, SelfCaseAndHeads) {
  using T = TypeParam;
  for (const Form form : kForms) {
    for (const Anchors kind : kAnchors) {
      const Case<T> c = make_case<T>(form, kind, 50, 50, 7, true, 3);
      check(c, draw_values<T>(150, 8), Mode::plain, {});
      check(c, draw_values<T>(150, 8), Mode::adjoint, {Parity::odd, {0.0, 1.0}});
    }
  }
}

TYPED_TEST(Products, HalvesAddUpAndTiesAreLeft) {
  using T = TypeParam;
  const Case<T> c = make_case<T>(Form::real, Anchors::equal, 5, 9, 3);
  const Plan<T> plan(c.kernel());
  const auto v = draw_values<T>(9, 4);
  std::vector<T> left(5), right(5), u(5);
  plan.half_sums(v.data(), left.data(), right.data(), 1, Strides{9, 9}, Strides{5, 5});
  plan.apply(v.data(), u.data());
  EXPECT_EQ(left, u);  // all sources are at the targets
  EXPECT_EQ(right, std::vector<T>(5, T(0)));
}

TYPED_TEST(Products, RowsDoNotSeeEachOther) {
  using T = TypeParam;
  constexpr std::int64_t rows = 11;  // a full block of lanes and a part of one
  for (const Form form : kForms) {
    for (const Anchors kind : {Anchors::uniform, Anchors::equal}) {
      for (const bool sorted : {false, true}) {
        // More than one cell, and sizes that are no multiple of eight.
        Case<T> c = make_case<T>(form, kind, 611, 703, 5, false, 2);
        for (std::int64_t h = 0; sorted && h < 2; ++h) {
          std::sort(c.x.begin() + h * c.n, c.x.begin() + (h + 1) * c.n);
          std::sort(c.y.begin() + h * c.m, c.y.begin() + (h + 1) * c.m);
        }
        const Plan<T> plan(c.kernel());
        const auto v = draw_values<T>(2 * rows * c.m, 6);
        const auto check = [&](auto zero) {
          using R = decltype(zero);
          std::vector<R> u(static_cast<std::size_t>(2 * rows * c.n));
          plan.apply(v.data(), u.data(), rows);
          for (std::int64_t r = 0; r < rows; ++r) {
            std::vector<R> one(static_cast<std::size_t>(2 * c.n));
            plan.apply(v.data() + r * c.m, one.data(), 1, Strides{rows * c.m, c.m},
                       Strides{c.n, c.n});
            for (std::int64_t h = 0; h < 2; ++h) {
              const auto row = u.begin() + (h * rows + r) * c.n;
              ASSERT_TRUE(std::equal(row, row + c.n, one.begin() + h * c.n))
                  << name(form) << " row " << r << (sorted ? " sorted" : "");
            }
          }
        };
        if (plan.template result_is_complex<T>()) {
          check(std::complex<T>{});
        } else {
          check(T{});
        }
      }
    }
  }
}

}  // namespace
}  // namespace laplex::tests
