// Cumulative sums: sums of Laplace distribution functions, against dense sums in long double.
#include "cases.hpp"
#include "expect_error.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

namespace laplex::tests {
namespace {

constexpr Term kCumulative{Parity::even, {1.0}, false, true};

long double laplace_cdf(long double t) {
  return t < 0 ? std::exp(t) / 2 : 1 - std::exp(-t) / 2;
}

template <class T>
struct Vectors {
  std::vector<T> values;
  std::int64_t count;  ///< entries of a row
  std::int64_t rows;
  [[nodiscard]] Strides strides() const { return {rows * count, count}; }
};

template <class T>
Vectors<T> draw_rows(const Case<T>& c, bool at_targets, std::int64_t rows, std::uint64_t seed) {
  const std::int64_t count = at_targets ? c.n : c.m;
  return {draw_values<T>(c.heads * rows * count, seed), count, rows};
}

template <class T>
Vectors<T> cumulative(const Plan<T>& plan, const Vectors<T>& v, Mode mode, int threads = 1) {
  const std::int64_t out = mode == Mode::plain ? plan.num_targets() : plan.num_sources();
  Vectors<T> u{std::vector<T>(static_cast<std::size_t>(plan.heads() * v.rows * out), T(9)), out,
               v.rows};
  plan.apply(v.values.data(), u.values.data(), v.rows, v.strides(), u.strides(), mode, kCumulative,
             threads);
  return u;
}

/// Compares with the dense sum at every `step`-th place.
template <class T>
void check(const Case<T>& c, const Vectors<T>& v, Mode mode, std::int64_t step = 1) {
  const Plan<T> plan(c.kernel());
  const Vectors<T> u = cumulative(plan, v, mode);
  const auto& y = c.self ? c.x : c.y;
  for (std::int64_t h = 0; h < c.heads; ++h) {
    const auto ell = static_cast<long double>(c.lengthscale[static_cast<std::size_t>(h)]);
    for (std::int64_t a = 0; a < u.count; a += step) {
      std::vector<long double> sum(static_cast<std::size_t>(v.rows));
      std::vector<long double> scale = sum;
      for (std::int64_t b = 0; b < v.count; ++b) {
        const std::int64_t i = mode == Mode::plain ? a : b;
        const std::int64_t j = mode == Mode::plain ? b : a;
        const long double weight =
            laplace_cdf((static_cast<long double>(c.x[static_cast<std::size_t>(h * c.n + i)]) -
                         static_cast<long double>(y[static_cast<std::size_t>(h * c.m + j)])) /
                        ell);
        for (std::int64_t row = 0; row < v.rows; ++row) {
          const auto x = static_cast<long double>(
              v.values[static_cast<std::size_t>((h * v.rows + row) * v.count + b)]);
          sum[static_cast<std::size_t>(row)] += weight * x;
          scale[static_cast<std::size_t>(row)] += weight * std::fabs(x);
        }
      }
      for (std::int64_t row = 0; row < v.rows; ++row) {
        const auto r = static_cast<std::size_t>(row);
        const auto got = static_cast<long double>(
            u.values[static_cast<std::size_t>((h * v.rows + row) * u.count + a)]);
        // Below the normal range precision is absolute.
        const long double floor = static_cast<long double>(v.count) * std::numeric_limits<T>::min();
        ASSERT_LE(std::fabs(got - sum[r]), promise<T>() * scale[r] + floor)
            << "entry " << a << " of row " << row << " of head " << h << ", n = " << c.n
            << ", m = " << c.m;
      }
    }
  }
}

template <class T>
class Cumulative : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(Cumulative, Precisions);

TYPED_TEST(Cumulative, EqualTheDenseSum) {
  using T = TypeParam;
  std::uint64_t seed = 50;
  for (const Anchors kind : kAnchors) {
    for (const bool self : {false, true}) {
      for (const auto& [n, m] : std::vector<std::pair<std::int64_t, std::int64_t>>{
               {0, 0}, {0, 5}, {5, 0}, {1, 1}, {7, 2}, {17, 33}, {40, 255}, {300, 400}}) {
        if (self && m == 0) {
          continue;
        }
        const Case<T> c = make_case<T>(Form::real, kind, n, m, ++seed, self, 2);
        for (const Mode mode : {Mode::plain, Mode::transpose}) {
          for (const std::int64_t rows : {1, 11}) {  // one lane, and blocks of eight with a rest
            SCOPED_TRACE("anchors " + std::to_string(static_cast<int>(kind)));
            check(c, draw_rows(c, mode != Mode::plain, rows, seed), mode);
          }
        }
      }
    }
  }
}

TYPED_TEST(Cumulative, FarFromAllSourcesItIsNothingOrTheirSum) {
  using T = TypeParam;
  Case<T> c = make_case<T>(Form::real, Anchors::uniform, 2, 700, 3);
  c.x = {T(-1e30), T(1e30)};
  const Vectors<T> v = draw_rows(c, false, 1, 4);
  const Vectors<T> u = cumulative(Plan<T>(c.kernel()), v, Mode::plain);
  EXPECT_EQ(u.values[0], T(0));
  const long double sum = std::accumulate(v.values.begin(), v.values.end(), 0.0L);
  const long double scale =
      std::accumulate(v.values.begin(), v.values.end(), 0.0L,
                      [](long double total, T x) { return total + std::fabs(x); });
  EXPECT_LE(std::fabs(static_cast<long double>(u.values[1]) - sum), promise<T>() * scale);
}

TYPED_TEST(Cumulative, TheTransposeCountsFromTheOtherSide) {
  using T = TypeParam;
  // The sums over the targets below and above a source are all of them.
  const Case<T> c = make_case<T>(Form::real, Anchors::grid, 400, 300, 6);
  const Vectors<T> g = draw_rows(c, true, 1, 7);
  const Vectors<T> above = cumulative(Plan<T>(c.kernel()), g, Mode::transpose);
  Case<T> turned = c;
  std::swap(turned.x, turned.y);
  std::swap(turned.n, turned.m);
  const Vectors<T> below = cumulative(Plan<T>(turned.kernel()), g, Mode::plain);
  long double sum = 0.0L;
  long double scale = 0.0L;
  for (const T x : g.values) {
    sum += static_cast<long double>(x);
    scale += std::fabs(static_cast<long double>(x));
  }
  for (std::size_t j = 0; j < above.values.size(); ++j) {
    const long double both =
        static_cast<long double>(above.values[j]) + static_cast<long double>(below.values[j]);
    ASSERT_LE(std::fabs(both - sum), 2 * promise<T>() * scale);
  }
}

TYPED_TEST(Cumulative, KeepsItsDigitsOverLongLines) {
  using T = TypeParam;
  Case<T> c;
  c.n = c.m = 300000;
  c.self = true;
  std::mt19937_64 random(8);
  c.x = draw_anchors<T>(Anchors::uniform, c.n, random);
  for (const double lengthscale : {1e-9, 1e-3, 1e3}) {  // many small cells, and few large ones
    c.lengthscale = {lengthscale};
    check(c, draw_rows(c, false, 1, 9), Mode::plain, 100003);
    Vectors<T> ones{std::vector<T>(static_cast<std::size_t>(c.n), T(1)), c.n, 1};
    check(c, ones, Mode::plain, 100003);
    check(c, ones, Mode::transpose, 100003);
  }
}

TYPED_TEST(Cumulative, BitsDependNeitherOnThreadsNorOnOtherRows) {
  using T = TypeParam;
  Case<T> c = make_case<T>(Form::real, Anchors::skewed, 30000, 40000, 11, false, 2);
  for (const double lengthscale : {1e-7, 0.3}) {
    c.lengthscale.assign(2, lengthscale);
    const Plan<T> plan(c.kernel());
    for (const Mode mode : {Mode::plain, Mode::transpose}) {
      const Vectors<T> v = draw_rows(c, mode != Mode::plain, 9, 12);
      const Vectors<T> u = cumulative(plan, v, mode, 1);
      EXPECT_EQ(cumulative(plan, v, mode, 4).values, u.values);
      for (std::int64_t h = 0; h < 2; ++h) {
        const auto row = [&](const Vectors<T>& all) {
          const auto first = all.values.begin() + (9 * h + 8) * all.count;
          return std::vector<T>(first, first + all.count);
        };
        Vectors<T> alone{row(v), v.count, 1};
        alone.values.resize(2 * alone.values.size());
        std::copy_n(alone.values.begin(), v.count, alone.values.begin() + v.count);
        const Vectors<T> got = cumulative(plan, alone, mode);
        EXPECT_TRUE(std::equal(got.values.begin() + h * got.count,
                               got.values.begin() + (h + 1) * got.count, row(u).begin()));
      }
    }
  }
}

/// Every pair of an entry of a gradient and its dense sum, with the sum of absolute values.
template <class T>
void expect_near(const std::vector<T>& got, const std::vector<long double>& sum,
                 const std::vector<long double>& scale, const char* name) {
  for (std::size_t k = 0; k < got.size(); ++k) {
    // The products with the kernel keep the promise, and so do those with cotangents and values.
    ASSERT_LE(std::fabs(static_cast<long double>(got[k]) - sum[k]), 2 * promise<T>() * scale[k])
        << name << " " << k;
  }
}

TYPED_TEST(Cumulative, GradientsEqualDenseOnes) {
  using T = TypeParam;
  std::uint64_t seed = 90;
  for (const Anchors kind : {Anchors::uniform, Anchors::grid, Anchors::equal}) {
    for (const bool self : {false, true}) {
      for (const std::int64_t rows : {1, 3}) {
        const Case<T> c = make_case<T>(Form::real, kind, 90, 120, ++seed, self, 2);
        const Plan<T> plan(c.kernel());
        const Vectors<T> v = draw_rows(c, false, rows, seed);
        const Vectors<T> g = draw_rows(c, true, rows, seed + 1);
        const auto numbers = [](std::int64_t count) { return static_cast<std::size_t>(count); };
        std::vector<T> d_values(numbers(2 * rows * c.m));
        std::vector<T> d_targets(numbers(2 * c.n));
        std::vector<T> d_sources(numbers(2 * c.m));
        std::vector<double> d_lengthscale(2);
        Gradients<T, T> wanted;
        wanted.values = d_values.data();
        wanted.targets = d_targets.data();
        wanted.sources = d_sources.data();
        wanted.lengthscale = d_lengthscale.data();
        plan.vjp(v.values.data(), v.strides(), g.values.data(), g.strides(), rows, wanted,
                 kCumulative);
        std::vector<long double> sums[4] = {
            std::vector<long double>(d_values.size()), std::vector<long double>(d_targets.size()),
            std::vector<long double>(d_sources.size()), std::vector<long double>(2)};
        std::vector<long double> scales[4] = {sums[0], sums[1], sums[2], sums[3]};
        const auto& y = self ? c.x : c.y;
        for (std::int64_t h = 0; h < 2; ++h) {
          const auto ell = static_cast<long double>(c.lengthscale[numbers(h)]);
          for (std::int64_t row = 0; row < rows; ++row) {
            for (std::int64_t i = 0; i < c.n; ++i) {
              for (std::int64_t j = 0; j < c.m; ++j) {
                const long double t = (static_cast<long double>(c.x[numbers(h * c.n + i)]) -
                                       static_cast<long double>(y[numbers(h * c.m + j)])) /
                                      ell;
                const auto gi =
                    static_cast<long double>(g.values[numbers((h * rows + row) * c.n + i)]);
                const auto vj =
                    static_cast<long double>(v.values[numbers((h * rows + row) * c.m + j)]);
                const long double density = std::exp(-std::fabs(t)) / (2 * ell);
                const auto add = [&](std::size_t which, std::int64_t at, long double term) {
                  sums[which][numbers(at)] += term;
                  scales[which][numbers(at)] += std::fabs(term);
                };
                add(0, (h * rows + row) * c.m + j, gi * laplace_cdf(t));
                add(1, h * c.n + i, gi * vj * density);
                add(2, h * c.m + j, -gi * vj * density);
                add(3, h, -gi * vj * density * t);
              }
            }
          }
        }
        expect_near(d_values, sums[0], scales[0], "values");
        expect_near(d_targets, sums[1], scales[1], "targets");
        expect_near(d_sources, sums[2], scales[2], "sources");
        for (std::size_t h = 0; h < 2; ++h) {
          ASSERT_LE(std::fabs(static_cast<long double>(d_lengthscale[h]) - sums[3][h]),
                    2 * promise<T>() * scales[3][h]);
        }
      }
    }
  }
}

TYPED_TEST(Cumulative, GradientsOfBothRolesOfAnAnchorInOneArray) {
  using T = TypeParam;
  for (const std::int64_t n : {60, 140000}) {  // the latter in sorted order first
    for (const std::int64_t rows : {1, 3, 9}) {
      for (const bool ascending : {false, true}) {
        Case<T> c = make_case<T>(Form::real, Anchors::grid, n, n, 21, true);
        if (ascending) {
          std::sort(c.x.begin(), c.x.end());
        }
        const Plan<T> plan(c.kernel());
        const Vectors<T> v = draw_rows(c, false, rows, 22);
        const Vectors<T> g = draw_rows(c, true, rows, 23);
        for (const Term& term : {Term{}, kCumulative, Term{Parity::odd}}) {
          const auto size = static_cast<std::size_t>(n);
          std::vector<T> targets(size);
          std::vector<T> sources(size);
          std::vector<T> both(size);
          Gradients<T, T> wanted;
          wanted.targets = targets.data();
          wanted.sources = sources.data();
          plan.vjp(v.values.data(), v.strides(), g.values.data(), g.strides(), rows, wanted, term);
          wanted.targets = wanted.sources = both.data();
          plan.vjp(v.values.data(), v.strides(), g.values.data(), g.strides(), rows, wanted, term);
          T scale = 0;
          for (std::size_t k = 0; k < size; ++k) {
            scale = std::max(scale, std::fabs(targets[k]) + std::fabs(sources[k]));
          }
          for (std::size_t k = 0; k < size; ++k) {
            // Rows of either sign are added in another order.
            ASSERT_LE(std::fabs(both[k] - (targets[k] + sources[k])), promise<T>() * scale);
          }
        }
      }
    }
  }
}

TYPED_TEST(Cumulative, EqualValuesCountLikeOthers) {
  using T = TypeParam;
  // They are not sorted; with another value among them, they are.
  const Case<T> c = make_case<T>(Form::real, Anchors::uniform, 500, 700, 31);
  check(c, Vectors<T>{std::vector<T>(700, T(1.5)), 700, 1}, Mode::plain);
  Vectors<T> one_other{std::vector<T>(700, T(1.5)), 700, 1};
  one_other.values[300] = T(-8);
  check(c, one_other, Mode::plain);
}

TEST(CumulativeErrors, OnlyOfRealLaplaceKernels) {
  const double x[] = {0.0, 1.0};
  const double frequency[] = {1.0};
  Kernel<double> kernel;
  kernel.num_targets = 2;
  kernel.targets = x;
  kernel.sources = x;
  kernel.num_sources = 2;
  const auto apply = [&](const Kernel<double>& k, Term term) {
    const Plan<double> plan(k);
    double u[2];
    plan.apply(x, u, 1, Strides{2, 2}, Strides{2, 2}, Mode::plain, term);
  };
  Kernel<double> other = kernel;
  other.profile = Profile::matern32;
  expect_error([&] { apply(other, kCumulative); }, ErrorCode::invalid_argument, "matern12");
  other = kernel;
  other.side = Side::left;
  expect_error([&] { apply(other, kCumulative); }, ErrorCode::invalid_argument, "side both");
  other = kernel;
  other.frequency = frequency;
  other.real_part = true;
  expect_error([&] { apply(other, kCumulative); }, ErrorCode::invalid_argument, "frequency");
  Term odd = kCumulative;
  odd.parity = Parity::odd;
  expect_error([&] { apply(kernel, odd); }, ErrorCode::invalid_argument, "no parity");
  const std::complex<double> v[2] = {};
  std::complex<double> u[2];
  const auto complex = [&] {
    Plan<double>(kernel).apply(v, u, 1, Strides{2, 2}, Strides{2, 2}, Mode::plain, kCumulative);
  };
  expect_error(complex, ErrorCode::invalid_argument, "real values");
}

}  // namespace
}  // namespace laplex::tests
