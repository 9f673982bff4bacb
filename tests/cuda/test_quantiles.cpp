// Quantiles on the device: the smoothed number of anchors below each is the level, in extended
// precision, and closed forms where there are some.
#include "cases.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>

namespace laplex::cuda::tests {
namespace {

template <class T>
std::vector<double> quantiles(const Plan<T>& plan, const std::vector<double>& levels) {
  const auto count = static_cast<std::int64_t>(levels.size()) / plan.heads();
  const OnDevice<double> given(levels);
  const OnDevice<double> result(levels.size(), 9.0);
  plan.quantiles(given.data(), count, result.data(), kStream);
  return result.host();
}

/// Of one head.
template <class T>
std::vector<double> quantiles(const std::vector<T>& anchors, double ell,
                              const std::vector<double>& levels) {
  Case<T> c;
  c.self = true;
  c.n = c.m = static_cast<std::int64_t>(anchors.size());
  c.x = anchors;
  c.lengthscale = {ell};
  return quantiles(DeviceCase<T>(c).plan(), levels);
}

/// sum_j L((b - x_j) / ell).
template <class T>
long double smooth_count(const T* anchors, std::int64_t n, long double ell, long double b) {
  long double sum = 0.0L;
  for (std::int64_t j = 0; j < n; ++j) {
    const long double t = (b - static_cast<long double>(anchors[j])) / ell;
    sum += t < 0.0L ? std::exp(t) / 2 : 1.0L - std::exp(-t) / 2;
  }
  return sum;
}

template <class T>
void check(const Case<T>& c) {
  const std::int64_t count = 2 * c.n + 1;
  std::vector<double> levels;
  for (std::int64_t h = 0; h < c.heads; ++h) {
    for (std::int64_t k = 0; k < count; ++k) {
      levels.push_back((static_cast<double>(k) + 0.5) / 2.0 * static_cast<double>(c.n) /
                       (static_cast<double>(c.n) + 0.5));
    }
  }
  const auto got = quantiles(DeviceCase<T>(c).plan(), levels);
  for (std::int64_t h = 0; h < c.heads; ++h) {
    const double ell = c.lengthscale[static_cast<std::size_t>(h)];
    for (std::int64_t k = 0; k < count; ++k) {
      const auto at = static_cast<std::size_t>(h * count + k);
      const double b = got[at];
      const long double reached = smooth_count(c.x.data() + h * c.n, c.n, ell, b);
      // Half sums have roundings; so has the place, where the count grows by at most n / (2 ell).
      const double n = static_cast<double>(c.n);
      const double allowed = 2 * static_cast<double>(promise<T>()) * n +
                             std::numeric_limits<double>::epsilon() * std::fabs(b) * n / ell;
      ASSERT_LE(std::fabs(static_cast<double>(reached - static_cast<long double>(levels[at]))),
                allowed)
          << "level " << levels[at] << ", place " << b;
      if (k > 0) {
        ASSERT_GE(b, got[at - 1] - 4 * std::numeric_limits<double>::epsilon() * std::fabs(b));
      }
    }
  }
}

template <class T>
class CudaQuantiles : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(CudaQuantiles, Precisions);

TYPED_TEST(CudaQuantiles, SmallCountsReachTheirLevels) {
  using T = TypeParam;
  std::uint64_t seed = 1;
  for (const Anchors kind : kAnchors) {
    for (const std::int64_t n : {1, 2, 7, 33, 400}) {
      SCOPED_TRACE("anchors " + std::to_string(static_cast<int>(kind)) +
                   ", n = " + std::to_string(n));
      check(make_case<T>(Form::real, kind, n, n, ++seed, true, 2));
    }
  }
}

TYPED_TEST(CudaQuantiles, LongLines) {
  check(make_case<TypeParam>(Form::real, Anchors::uniform, 2500, 2500, 3, true));
  check(make_case<TypeParam>(Form::real, Anchors::grid, 2500, 2500, 4, true));
}

TYPED_TEST(CudaQuantiles, SmallClosedForms) {
  using T = TypeParam;
  const double unit = 8 * std::numeric_limits<T>::epsilon();
  // One anchor: the inverse of L.
  const auto one = quantiles<T>({T(3)}, 0.5, {0.125, 0.5, 0.875});
  EXPECT_NEAR(one[0], 3.0 + 0.5 * std::log(0.25), unit);
  EXPECT_EQ(one[1], 3.0);
  EXPECT_NEAR(one[2], 3.0 - 0.5 * std::log(0.25), unit);
  // Clusters that do not see each other: the place between them where their tails are equal.
  const auto far = quantiles<T>({T(4096), T(0), T(4096), T(0), T(0)}, 1.0, {1.5, 3.0, 4.0});
  EXPECT_NEAR(far[0], 0.0, unit);
  EXPECT_NEAR(far[1], 2048.0 + 0.5 * std::log(1.5), 2048.0 * unit);
  EXPECT_EQ(far[2], 4096.0);
  // Anchors that all look like one, at their mean: its inverse, far outside.
  const double ell = 0x1p40;
  const auto wide = quantiles<T>({T(-1), T(1), T(0), T(2)}, ell, {1.0, 3.0});
  EXPECT_NEAR(wide[0], 0.5 + ell * std::log(0.5), ell * unit);
  EXPECT_NEAR(wide[1], 0.5 - ell * std::log(0.5), ell * unit);
  // A temperature near 0: the order statistics.
  const auto hard = quantiles<T>({T(2), T(1), T(3)}, 1e-300, {0.5, 1.5, 2.5});
  EXPECT_EQ(hard, (std::vector<double>{1.0, 2.0, 3.0}));
}

TYPED_TEST(CudaQuantiles, SmallLevelsOutsideAreNotANumber) {
  const auto got =
      quantiles<TypeParam>({TypeParam(1), TypeParam(2)}, 1.0, {0.0, 2.0, -1.0, std::nan(""), 1.0});
  for (std::size_t k = 0; k < 4; ++k)
    EXPECT_TRUE(std::isnan(got[k])) << k;
  EXPECT_NEAR(got[4], 1.5, std::numeric_limits<TypeParam>::epsilon());
}

TYPED_TEST(CudaQuantiles, SmallOnesOfOtherKernelsAreRefused) {
  using T = TypeParam;
  Case<T> matern = make_case<T>(Form::real, Anchors::uniform, 5, 5, 1, true);
  matern.profile = Profile::matern32;
  for (const Case<T>& c : {make_case<T>(Form::real, Anchors::uniform, 5, 6, 1),
                           make_case<T>(Form::cosine, Anchors::uniform, 5, 5, 1, true), matern}) {
    EXPECT_THROW(quantiles(DeviceCase<T>(c).plan(), {1.0}), Error);
  }
}

}  // namespace
}  // namespace laplex::cuda::tests
