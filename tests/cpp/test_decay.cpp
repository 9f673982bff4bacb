// The decay is right to about a unit in the last place, however large its exponent.
#include <laplex/detail/decay.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

namespace laplex::detail {
namespace {

constexpr double kUnit = std::numeric_limits<double>::epsilon();

TEST(Decay, ModulusToOneUnitAtEveryExponent) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(-6.0, std::log10(700.0));
  std::uniform_real_distribution<double> offset(-1e3, 1e3);
  for (int k = 0; k < 20000; ++k) {
    const double lengthscale = std::pow(10.0, exponent(random) / 2);
    const double b = offset(random);
    const double a = b + std::pow(10.0, exponent(random)) * lengthscale;
    const long double t = (static_cast<long double>(a) - b) / lengthscale;
    const long double exact = std::exp(-t);
    const double got = decay<double>(a, b, {lengthscale, 0.0});
    // one unit from exp and one from the correction; long double carries 11 more bits
    ASSERT_LE(std::fabs(got - exact), 2 * kUnit * exact) << "t = " << static_cast<double>(t);
  }
}

TEST(Decay, ComplexToTwoUnitsAtLargeAngles) {
  std::mt19937_64 random(2);
  std::uniform_real_distribution<double> distance(0.0, 30.0);
  for (int k = 0; k < 20000; ++k) {
    const double a = distance(random);
    const Rate rate{1.0, 131072.0};  // a power of two: the angle is exact in long double
    const long double angle = static_cast<long double>(a) * 131072.0L;
    const long double r = std::exp(-static_cast<long double>(a));
    const Complex got = decay<Complex>(a, 0.0, rate);
    // a unit each from exp, cos and sin, and the products
    ASSERT_LE(std::fabs(got.re - r * std::cos(angle)), 4 * kUnit * r);
    ASSERT_LE(std::fabs(got.im - r * std::sin(angle)), 4 * kUnit * r);
  }
}

TEST(Decay, NothingBecomesNaN) {
  const double huge = std::numeric_limits<double>::max();
  const double tiny = std::numeric_limits<double>::denorm_min();
  for (const double lengthscale : {tiny, 1e-300, 1.0, huge}) {
    for (const double a : {huge, 1.0, tiny, 0.0}) {
      for (const double b : {-huge, -1.0, -tiny, 0.0}) {
        const double r = decay<double>(a, b, {lengthscale, 0.0});
        EXPECT_TRUE(r >= 0.0 && r <= 1.0) << a << " " << b << " " << lengthscale;
      }
    }
  }
  EXPECT_EQ(decay<double>(0.25, 0.25, {1.0, 0.0}), 1.0);
  const Complex far = decay<Complex>(huge, -huge, {1.0, 1e10});
  EXPECT_EQ(far.re, 0.0);
  EXPECT_EQ(far.im, 0.0);
}

TEST(Decay, DistancesBeyondTheLargestDouble) {
  const double huge = std::numeric_limits<double>::max();
  // t = (huge + huge) / huge = 2 and its half, exactly; a unit from exp
  EXPECT_NEAR(decay<double>(huge, -huge, {huge, 0.0}), std::exp(-2.0), kUnit);
  EXPECT_NEAR(decay<double>(huge, 0.0, {huge, 0.0}), std::exp(-1.0), kUnit);
  EXPECT_EQ(scaled_distance(huge, -huge, {huge, 0.0}), 2.0);
  const Complex turned = decay<Complex>(huge, -huge, {huge, 1.0 / huge});
  EXPECT_NEAR(turned.re, std::exp(-2.0) * std::cos(2.0), 4 * kUnit);
  EXPECT_NEAR(turned.im, std::exp(-2.0) * std::sin(2.0), 4 * kUnit);
}

}  // namespace
}  // namespace laplex::detail
