// The log density of one term in one call: beside that of Gram, and its gradients beside quotients
// of differences.
#include <laplex/gram.hpp>
#include <laplex/process.hpp>

#include "gram_cases.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace laplex::tests {
namespace {

/// Processes and the memory they refer to.
struct Processes {
  std::int64_t batch = 2;
  std::int64_t n = 0;
  bool turns = false;
  Vector anchors, values, lengthscale, variance, frequency, noise;

  Processes(Anchors kind, std::int64_t size, bool with_frequency) : n(size), turns(with_frequency) {
    std::mt19937_64 random(static_cast<std::uint64_t>(size));
    anchors = draw_anchors<double>(kind, batch * n, random);
    values = draw(batch * n, 1);
    lengthscale = {0.7, 1.3};
    variance = {1.5, 0.5};
    frequency = {3.0, 0.1};
    noise = draw(batch * n, 2);
    for (double& each : noise) {
      each = 0.1 + each * each;
    }
  }

  [[nodiscard]] Process process() const {
    Process p;
    p.batch = batch;
    p.n = n;
    p.anchors = anchors.data();
    p.values = values.data();
    p.lengthscale = lengthscale.data();
    p.variance = variance.data();
    p.frequency = turns ? frequency.data() : nullptr;
    p.noise = noise.data();
    return p;
  }

  [[nodiscard]] Vector density() const {
    Vector out(at(batch));
    EXPECT_TRUE(log_density(process(), out.data()));
    return out;
  }

  /// By the factor of the same matrices.
  [[nodiscard]] Vector by_gram() const {
    Covariance c;
    c.batch = batch;
    c.n = n;
    c.width = turns ? 2 : 1;
    c.anchors = anchors.data();
    c.noise = noise.data();
    Vector lengthscales, loadings;
    for (std::int64_t b = 0; b < batch; ++b) {
      lengthscales.insert(lengthscales.end(), at(c.width), lengthscale[at(b)]);
      for (std::int64_t k = 0; k < n; ++k) {
        const double angle = turns ? frequency[at(b)] * anchors[at(b * n + k)] : 0.0;
        const double root = std::sqrt(variance[at(b)]);
        loadings.push_back(root * std::cos(angle));
        if (turns) {
          loadings.push_back(root * std::sin(angle));
        }
      }
    }
    c.lengthscale = lengthscales.data();
    c.loadings = loadings.data();
    Vector out(at(batch));
    Gram(c).log_prob(values.data(), out.data(), 1);
    return out;
  }
};

TEST(Process, DensityIsThatOfTheFactor) {
  for (const Anchors kind : kAnchors) {
    for (const std::int64_t n : {1, 2, 33, 600, 17000}) {  // one strand, 8 and 64
      for (const bool turns : {false, true}) {
        const Processes c(kind, n, turns);
        const Vector found = c.density();
        const Vector expected = c.by_gram();
        for (std::int64_t b = 0; b < c.batch; ++b) {
          // Angles of anchors far away are rounded on the way to Gram.
          EXPECT_NEAR(found[at(b)], expected[at(b)], 1e-12 * std::fabs(expected[at(b)])) << n;
        }
      }
    }
  }
}

TEST(Process, GradientsAreQuotientsOfDifferences) {
  for (const std::int64_t n : {20, 600}) {
    for (const bool turns : {false, true}) {
      Processes c(kAnchors[0], n, turns);
      Vector anchors(at(2 * n)), values(at(2 * n)), noise(at(2 * n));
      Vector lengthscale(2), variance(2), frequency(2), out(2);
      ProcessGradients to{anchors.data(),  values.data(),    lengthscale.data(),
                          variance.data(), frequency.data(), noise.data()};
      if (!turns) {
        to.frequency = nullptr;
      }
      ASSERT_TRUE(log_density(c.process(), out.data(), &to));
      const auto check = [&](Vector& input, const Vector& gradient, std::int64_t entry,
                             std::int64_t b) {
        constexpr double kStep = 1e-6;
        const double middle = input[at(entry)];
        input[at(entry)] = middle + kStep;
        const double above = c.density()[at(b)];
        input[at(entry)] = middle - kStep;
        const double below = c.density()[at(b)];
        input[at(entry)] = middle;
        EXPECT_NEAR(gradient[at(entry)], (above - below) / (2 * kStep),
                    1e-5 * (1 + std::fabs(gradient[at(entry)])));
      };
      for (std::int64_t b = 0; b < 2; ++b) {
        check(c.lengthscale, lengthscale, b, b);
        check(c.variance, variance, b, b);
        if (turns) {
          check(c.frequency, frequency, b, b);
        }
        for (const std::int64_t k : {std::int64_t(0), n / 3, n - 1}) {
          check(c.values, values, b * n + k, b);
          check(c.noise, noise, b * n + k, b);
        }
      }
    }
  }
}

TEST(Process, WhatNeedsTheFactorIsLeftToIt) {
  const Processes good(kAnchors[0], 40, true);
  Vector out(2), by_anchors(80);
  const auto refuses = [&](const Processes& c, bool gradients = false) {
    ProcessGradients to;
    to.anchors = by_anchors.data();
    return !log_density(c.process(), out.data(), gradients ? &to : nullptr);
  };
  EXPECT_FALSE(refuses(good));
  for (const double wrong : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN()}) {
    Processes c = good;
    c.lengthscale[1] = wrong;
    EXPECT_TRUE(refuses(c));
    c = good;
    c.variance[0] = wrong;
    EXPECT_TRUE(refuses(c));
  }
  Processes c = good;
  c.noise[3] = -1.0;
  EXPECT_TRUE(refuses(c));
  c = good;
  c.anchors[7] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(refuses(c));
  c = good;
  c.anchors[7] = c.anchors[8];
  EXPECT_FALSE(refuses(c));
  EXPECT_TRUE(refuses(c, true));  // the derivative by an anchor depends on the order
  c.noise.assign(c.noise.size(), 0.0);
  EXPECT_TRUE(refuses(c));  // singular
}

}  // namespace
}  // namespace laplex::tests
