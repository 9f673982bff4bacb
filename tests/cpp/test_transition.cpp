// Transitions of states: gaps add up, and short and infinite ones have known limits.
#include <laplex/detail/transition.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace laplex::detail {
namespace {

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

struct Gap {
  double u;
  double v;
};

/// Of all sizes, and of damping from 1e-3 to 1e3: critical, close to critical, and neither.
std::vector<Gap> gaps(int count) {
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> uniform;
  const auto power = [&](double low, double high) {
    return std::pow(10.0, low + (high - low) * uniform(random));
  };
  std::vector<Gap> all;
  for (int k = 0; k < count; ++k) {
    const double close[] = {1.0, 1.0 + 1e-9, 1.0 - 1e-9, power(-0.2, 0.2), power(-3, 3)};
    const double v = k % 2 == 0 ? power(-16, 2) : power(-1.5, 1);
    all.push_back({v * close[k % 5], v});
  }
  return all;
}

/// A(2 d) = A(d)^2 and Q(2 d) = A(d) Q(d) A(d)^T + Q(d).
template <int size>
void expect_sums(const double* a, const double* q, const double* a2, const double* q2) {
  const auto packed = [](int k, int l) {
    return std::max(k, l) * (std::max(k, l) + 1) / 2 + std::min(k, l);
  };
  for (int i = 0; i < size; ++i) {
    for (int j = 0; j < size; ++j) {
      double product = 0.0;
      double noise = q[packed(i, j)];
      double terms = std::fabs(noise);
      double most = 0.0;
      for (int k = 0; k < size; ++k) {
        product += a[i * size + k] * a[k * size + j];
        most += std::fabs(a[i * size + k] * a[k * size + j]);
        for (int l = 0; l < size; ++l) {
          const double term = a[i * size + k] * q[packed(k, l)] * a[j * size + l];
          noise += term;
          terms += std::fabs(term);
        }
      }
      EXPECT_NEAR(a2[i * size + j], product, 16 * kEpsilon * (1.0 + most));
      EXPECT_NEAR(q2[packed(i, j)], noise, 64 * kEpsilon * terms);
    }
  }
}

TEST(Transition, GapsAddUp) {
  for (const Gap gap : gaps(4000)) {
    SCOPED_TRACE(testing::Message() << "u " << gap.u << ", v " << gap.v);
    if (gap.u > 20.0) {
      continue;  // Nothing is left of the state, and the angle has no digits.
    }
    const double damping = gap.u / gap.v;
    Oscillator<double> one;
    Oscillator<double> two;
    cross(gap.u, gap.v, 0.0, 0.0, damping, one);
    cross(2 * gap.u, 2 * gap.v, 0.0, 0.0, damping, two);
    expect_sums<2>(one.a, one.first, two.a, two.first);
    expect_sums<2>(one.a, one.second, two.a, two.second);
    Matern52<double> short_one;
    Matern52<double> long_one;
    cross(gap.u, short_one);
    cross(2 * gap.u, long_one);
    expect_sums<3>(short_one.a, short_one.q, long_one.a, long_one.q);
  }
}

TEST(Transition, NoiseOfShortGapsHasRelativeDigits) {
  for (const double damping : {1e-3, 1.0, 3.0, 1e3}) {
    for (const double size : {1e-9, 1e-16, 1e-60}) {
      const double v = damping > 1.0 ? size / damping : size;
      const double u = v * damping;
      Oscillator<double> t;
      cross(u, v, 0.0, 0.0, damping, t);
      const double expected[] = {2 * u,
                                 -4 * u * damping - u * v,
                                 8 * u * damping * damping + 4 * u * u,
                                 2 * u * v * v / 3,
                                 u * v,
                                 2 * u};
      const double found[] = {t.first[0],  t.first[1],  t.first[2],
                              t.second[0], t.second[1], t.second[2]};
      for (int k = 0; k < 6; ++k) {
        EXPECT_NEAR(found[k] / expected[k], 1.0, 16 * size + 16 * kEpsilon) << damping << " " << k;
      }
      Matern52<double> m;
      cross(size, m);
      const double powers[] = {4 * std::pow(size, 5) / 15, 2 * std::pow(size, 4) / 3,
                               16 * std::pow(size, 3) / 9, 8 * std::pow(size, 3) / 9,
                               8 * size * size / 3,        16 * size / 3};
      for (int k = 0; k < 6; ++k) {
        EXPECT_NEAR(m.q[k] / powers[k], 1.0, 16 * size + 16 * kEpsilon) << k;
      }
    }
  }
}

TEST(Transition, WideGapsEndInTheStationaryCovariance) {
  for (const double damping : {1e-3, 1.0, 1e3}) {
    const double slow = damping > 1.0 ? 0.5 / damping : damping;  // of v, at least
    const double v = 50.0 / slow;
    Oscillator<double> wide;
    Oscillator<double> endless;
    cross(v * damping, v, 0.0, 0.0, damping, wide);
    cross_infinity(damping, 1.0, endless);
    for (int k = 0; k < 3; ++k) {
      EXPECT_NEAR(wide.first[k], endless.first[k], 16 * kEpsilon * (1 + damping * damping));
      EXPECT_NEAR(wide.second[k], endless.second[k], 16 * kEpsilon);
    }
    Matern52<double> m;
    Matern52<double> limit;
    cross(60.0, m);
    cross_infinity(limit);
    for (int k = 0; k < 6; ++k) {
      EXPECT_NEAR(m.q[k], limit.q[k], 32 * kEpsilon);
    }
  }
}

TEST(Transition, DerivativesInClosedFormAreThoseOfSlopes) {
  for (const Gap gap : gaps(2000)) {
    using S = Slopes<double>;
    SCOPED_TRACE(testing::Message() << "u " << gap.u << ", v " << gap.v);
    const double damping = gap.u / gap.v;
    const double size = std::max(gap.u, gap.v);
    if (size <= 1.0) {
      Oscillator<S> slopes;
      Oscillator<double> t;
      Oscillator<double> by_u;
      Oscillator<double> by_v;
      cross(S(gap.u, 1.0, 0.0), S(gap.v, 0.0, 1.0), 0.0, 0.0, damping, slopes);
      cross_short(gap.u, gap.v, damping, terms_for(size), t, by_u, by_v);
      const auto expect_same = [&](const S& expected, double value, double u, double v) {
        // Relative to what a relative change of u or v does, or the number itself.
        const double scale = 64 * kEpsilon * std::max(std::fabs(expected.value), 1e-290);
        EXPECT_NEAR(value, expected.value, scale);
        EXPECT_NEAR(u * gap.u, expected.by[0] * gap.u,
                    scale + 64 * kEpsilon * std::fabs(u * gap.u));
        EXPECT_NEAR(v * gap.v, expected.by[1] * gap.v,
                    scale + 64 * kEpsilon * std::fabs(v * gap.v));
      };
      for (int k = 0; k < 4; ++k) {
        expect_same(slopes.a[k], t.a[k], by_u.a[k], by_v.a[k]);
      }
      for (int k = 0; k < 3; ++k) {
        expect_same(slopes.first[k], t.first[k], by_u.first[k], by_v.first[k]);
        expect_same(slopes.second[k], t.second[k], by_u.second[k], by_v.second[k]);
      }
    }
    Matern52<S> matern;
    Matern52<double> t;
    Matern52<double> by;
    cross(S(gap.u, 1.0, 0.0), matern);
    cross(gap.u, t);
    slopes_of(t, by);
    for (int k = 0; k < 9; ++k) {
      EXPECT_NEAR(by.a[k], matern.a[k].by[0], 64 * kEpsilon);
    }
    for (int k = 0; k < 6; ++k) {
      EXPECT_NEAR(by.q[k], matern.q[k].by[0], 64 * kEpsilon * 16.0 / 3.0);
    }
  }
}

}  // namespace
}  // namespace laplex::detail
