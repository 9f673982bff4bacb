// Quantiles of sums of Laplace distributions, by what they solve and in closed cases.
#include "cases.hpp"
#include "expect_error.hpp"

#include <laplex/detail/quantile.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

namespace laplex::tests {
namespace {

Kernel<double> self_kernel(const std::vector<double>& x, const double& lengthscale) {
  Kernel<double> kernel;
  kernel.num_targets = kernel.num_sources = static_cast<std::int64_t>(x.size());
  kernel.targets = x.data();
  kernel.lengthscale = &lengthscale;
  return kernel;
}

std::vector<double> quantiles(const std::vector<double>& x, double lengthscale,
                              const std::vector<double>& levels, int threads = 1) {
  std::vector<double> b(levels.size());
  Plan<double>(self_kernel(x, lengthscale))
      .quantiles(levels.data(), static_cast<std::int64_t>(levels.size()), b.data(), threads);
  return b;
}

std::vector<double> spread_levels(std::size_t n, std::int64_t count) {
  std::vector<double> levels;
  for (std::int64_t q = 0; q < count; ++q) {
    levels.push_back((static_cast<double>(q) + 0.5) / static_cast<double>(count) *
                     static_cast<double>(n));
  }
  return levels;
}

/// F(b).
long double sum_at(const std::vector<double>& x, double lengthscale, double b) {
  long double sum = 0.0L;
  for (const double z : x) {
    const long double t = (static_cast<long double>(b) - static_cast<long double>(z)) /
                          static_cast<long double>(lengthscale);
    const long double half = std::exp(-std::fabs(t)) / 2;
    sum += t < 0 ? half : 1 - half;
  }
  return sum;
}

TEST(Quantiles, SolveTheirEquation) {
  std::mt19937_64 random(1);
  for (const Anchors kind : kAnchors) {
    for (const std::int64_t n : {1, 2, 30, 700}) {
      for (const double lengthscale : {1e-300, 1e-8, 0.01, 1.0, 1e8}) {
        const std::vector<double> x = draw_anchors<double>(kind, n, random);
        std::vector<double> levels = spread_levels(x.size(), 211);
        for (std::int64_t k = 1; k < n; ++k) {
          levels.push_back(static_cast<double>(k));  // in the middle of gaps
        }
        const std::vector<double> b = quantiles(x, lengthscale, levels);
        // All of a short line, and some of a long one.
        for (std::size_t q = 0; q < levels.size(); q += n > 100 ? 13 : 1) {
          ASSERT_TRUE(std::isfinite(b[q]));
          // b is rounded, which F sees through its slope; and where the slope is beyond all
          // numbers, by a step across an anchor.
          const double neighbour = std::fabs(b[q]) * std::numeric_limits<double>::epsilon() +
                                   std::numeric_limits<double>::denorm_min();
          const long double below = sum_at(x, lengthscale, b[q] - 2 * neighbour);
          const long double above = sum_at(x, lengthscale, b[q] + 2 * neighbour);
          const auto level = static_cast<long double>(levels[q]);
          const long double tolerance = 1e-12L * static_cast<long double>(n);
          ASSERT_LE(below - tolerance, level) << lengthscale;
          ASSERT_GE(above + tolerance, level) << lengthscale;
        }
      }
    }
  }
}

TEST(Quantiles, DoNotDescend) {
  std::mt19937_64 random(2);
  for (const Anchors kind : kAnchors) {
    const std::vector<double> x = draw_anchors<double>(kind, 300, random);
    const std::vector<double> b = quantiles(x, 0.7, spread_levels(300, 20000), 4);
    EXPECT_TRUE(std::is_sorted(b.begin(), b.end()));
    EXPECT_EQ(b, quantiles(x, 0.7, spread_levels(300, 20000), 1));
  }
}

TEST(Quantiles, OfOneAnchorAreThoseOfTheLaplaceDistribution) {
  const std::vector<double> levels = {1e-300, 0.25, 0.5, 0.5 + 0x1p-40, 0.75};
  const std::vector<double> b = quantiles({3.0}, 2.0, levels);
  EXPECT_DOUBLE_EQ(b[0], 3.0 + 2.0 * (std::log(2.0) + std::log(1e-300)));
  EXPECT_DOUBLE_EQ(b[1], 3.0 - 2.0 * std::log(2.0));
  EXPECT_EQ(b[2], 3.0);
  EXPECT_DOUBLE_EQ(b[4], 3.0 + 2.0 * std::log(2.0));
  // The distance from the anchor has all its digits, at an anchor where b can show them.
  EXPECT_DOUBLE_EQ(quantiles({0.0}, 2.0, levels)[3], 2.0 * -std::log1p(-0x1p-39));
}

TEST(Quantiles, OfEqualAnchorsAreThoseOfOne) {
  const std::vector<double> one = spread_levels(1, 50);
  std::vector<double> many = one;
  for (double& level : many) {
    level *= 1024.0;
  }
  EXPECT_EQ(quantiles({-1.5}, 0.3, one), quantiles(std::vector<double>(1024, -1.5), 0.3, many));
}

TEST(Quantiles, InAGapBeyondTheExponential) {
  // The sums from both sides are equal at the middle; three anchors against one move it to
  // exp(-2 s) = 1/3. The levels beside the integer belong to one side alone.
  for (const double gap : {1e4, 1e300}) {
    EXPECT_DOUBLE_EQ(quantiles({-gap, gap}, 1.0, {1.0})[0], 0.0);
    EXPECT_NEAR(quantiles({-1e4, -1e4, -1e4, 1e4}, 1.0, {3.0})[0], 0.5 * std::log(3.0), 1e-11);
    const std::vector<double> b = quantiles({0.0, gap}, 1.0, {0.75, 1.25});
    EXPECT_DOUBLE_EQ(b[0], std::log(2.0));
    EXPECT_DOUBLE_EQ(b[1], gap - std::log(2.0));
  }
}

TEST(Quantiles, OfManyHeads) {
  std::mt19937_64 random(3);
  const std::vector<double> x = draw_anchors<double>(Anchors::skewed, 600, random);
  const std::vector<double> lengthscale = {0.1, 1.0, 10.0};
  const std::vector<double> levels = spread_levels(200, 120);
  Kernel<double> kernel;
  kernel.heads = 3;
  kernel.num_targets = kernel.num_sources = 200;
  kernel.targets = x.data();
  kernel.lengthscale = lengthscale.data();
  for (const bool shared : {false, true}) {
    kernel.shared_anchors = shared;
    std::vector<double> b(levels.size());
    Plan<double>(kernel).quantiles(levels.data(), 40, b.data());
    for (std::ptrdiff_t h = 0; h < 3; ++h) {
      const auto first = x.begin() + (shared ? 0 : 200 * h);
      const std::vector<double> alone =
          quantiles({first, first + 200}, lengthscale[static_cast<std::size_t>(h)],
                    {levels.begin() + 40 * h, levels.begin() + 40 * (h + 1)});
      EXPECT_TRUE(std::equal(alone.begin(), alone.end(), b.begin() + 40 * h));
    }
  }
}

TEST(Quantiles, RefuseOtherLevelsAndKernels) {
  const std::vector<double> x = {0.0, 1.0};
  for (const double level : {0.0, 2.0, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    expect_error([&] { quantiles(x, 1.0, {1.0, level}); }, ErrorCode::invalid_argument,
                 "level 1 is ");
  }
  const double lengthscale = 1.0;
  const double level = 1.0;
  double b = 0.0;
  Kernel<double> kernel = self_kernel(x, lengthscale);
  const auto call = [&] { Plan<double>(kernel).quantiles(&level, 1, &b); };
  kernel.sources = x.data();
  expect_error(call, ErrorCode::invalid_argument, "targets are its sources");
  kernel = self_kernel(x, lengthscale);
  kernel.profile = Profile::matern52;
  expect_error(call, ErrorCode::invalid_argument, "matern12");
}

}  // namespace
}  // namespace laplex::tests
