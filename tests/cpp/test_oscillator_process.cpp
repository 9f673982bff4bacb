// The log density of one damped oscillator in one call, and its gradients, beside those of Gram.
#include <laplex/gram.hpp>
#include <laplex/process.hpp>

#include "gram_cases.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace laplex::tests {
namespace {

constexpr std::int64_t kBatch = 2;

/// Oscillators, one of them overdamped, and the memory they refer to.
struct Oscillators {
  std::int64_t n = 0;
  bool one_noise = false;
  Vector anchors, values, noise;
  Vector lengthscale[2] = {{0.7, 1.3}, {1.3, 0.2}};
  Vector weight[2] = {{0.0, 1.0}, {3.0, 2.0}};

  Oscillators(Anchors kind, std::int64_t size, bool same_noise) : n(size), one_noise(same_noise) {
    std::mt19937_64 random(static_cast<std::uint64_t>(size));
    anchors = draw_anchors<double>(kind, kBatch * n, random);
    values = draw(kBatch * n, 1);
    noise = draw(one_noise ? kBatch : kBatch * n, 2);
    for (double& each : noise) {
      each = 0.1 + each * each;
    }
  }

  [[nodiscard]] OscillatorProcess process() const {
    OscillatorProcess p;
    p.batch = kBatch;
    p.n = n;
    p.anchors = anchors.data();
    p.values = values.data();
    for (int k = 0; k < 2; ++k) {
      p.lengthscale[k] = lengthscale[k].data();
      p.weight[k] = weight[k].data();
    }
    p.noise = noise.data();
    p.one_noise = one_noise;
    return p;
  }

  [[nodiscard]] double noise_of(std::int64_t b, std::int64_t k) const {
    return noise[at(one_noise ? b : b * n + k)];
  }
};

/// Log densities and their derivatives.
struct Results {
  Vector density, anchors, values, noise, lengthscale[2], weight[2];

  explicit Results(const Oscillators& c)
      : density(at(kBatch)),
        anchors(at(kBatch * c.n)),
        values(at(kBatch * c.n)),
        noise(c.noise.size()) {
    for (int k = 0; k < 2; ++k) {
      lengthscale[k].resize(at(kBatch));
      weight[k].resize(at(kBatch));
    }
  }
};

bool find(const Oscillators& c, Results& found, int num_threads = 1) {
  OscillatorGradients to;
  to.anchors = found.anchors.data();
  to.values = found.values.data();
  to.noise = found.noise.data();
  for (int k = 0; k < 2; ++k) {
    to.lengthscale[k] = found.lengthscale[k].data();
    to.weight[k] = found.weight[k].data();
  }
  OscillatorProcess p = c.process();
  p.num_threads = num_threads;
  return oscillator_log_density(p, found.density.data(), &to);
}

double density_of(const Oscillators& c, std::int64_t b) {
  Vector out(at(kBatch));
  EXPECT_TRUE(oscillator_log_density(c.process(), out.data()));
  return out[at(b)];
}

TEST(OscillatorProcess, DensityIsThatOfTheFactor) {
  for (const Anchors kind : kAnchors) {
    for (const std::int64_t n : {1, 2, 33, 255, 256, 257, 2000}) {  // around a chunk
      for (const bool one_noise : {false, true}) {
        const Oscillators c(kind, n, one_noise);
        Vector lengthscale, weights, noise, loadings, expected(at(kBatch));
        for (std::int64_t b = 0; b < kBatch; ++b) {
          for (int k = 0; k < 2; ++k) {
            lengthscale.push_back(c.lengthscale[k][at(b)]);
            weights.push_back(c.weight[k][at(b)]);
          }
          for (std::int64_t k = 0; k < n; ++k) {
            noise.push_back(c.noise_of(b, k));
            loadings.push_back(1.0);
            loadings.push_back(0.0);
          }
        }
        const int blocks[] = {2};
        Covariance covariance;
        covariance.batch = kBatch;
        covariance.n = n;
        covariance.width = 2;
        covariance.anchors = c.anchors.data();
        covariance.lengthscale = lengthscale.data();
        covariance.weights = weights.data();
        covariance.blocks = blocks;
        covariance.num_blocks = 1;
        covariance.loadings = loadings.data();
        covariance.noise = noise.data();
        Gram(covariance).log_prob(c.values.data(), expected.data(), 1);
        for (std::int64_t b = 0; b < kBatch; ++b) {
          EXPECT_NEAR(density_of(c, b), expected[at(b)], 1e-13 * std::fabs(expected[at(b)])) << n;
        }
      }
    }
  }
}

TEST(OscillatorProcess, GradientsAreQuotientsOfDifferences) {
  for (const std::int64_t n : {20, 600}) {
    for (const bool one_noise : {false, true}) {
      Oscillators c(kAnchors[0], n, one_noise);
      Results found(c);
      ASSERT_TRUE(find(c, found));
      const auto check = [&](Vector& input, const Vector& gradient, std::int64_t entry,
                             std::int64_t b) {
        const double step = 1e-6;
        const double middle = input[at(entry)];
        input[at(entry)] = middle + 2 * step;
        const double above = density_of(c, b);
        input[at(entry)] = middle + step;
        const double below = density_of(c, b);
        input[at(entry)] = middle;
        EXPECT_NEAR(gradient[at(entry)], (above - below) / step,
                    1e-4 * (1 + std::fabs(gradient[at(entry)])));
      };
      for (std::int64_t b = 0; b < kBatch; ++b) {
        for (int k = 0; k < 2; ++k) {
          check(c.lengthscale[k], found.lengthscale[k], b, b);
          check(c.weight[k], found.weight[k], b, b);
        }
        for (const std::int64_t k : {std::int64_t(0), n / 3, n - 1}) {
          check(c.values, found.values, b * n + k, b);
          check(c.noise, found.noise, one_noise ? b : b * n + k, b);
        }
      }
    }
  }
}

/// A move of the whole line, and a change of all units of length.
TEST(OscillatorProcess, DerivativesByAnchorsFollowFromTheOthers) {
  for (const std::int64_t n : {20, 256, 700}) {
    const Oscillators c(kAnchors[0], n, false);
    Results found(c);
    ASSERT_TRUE(find(c, found));
    for (std::int64_t b = 0; b < kBatch; ++b) {
      double moved = 0.0;
      double stretched = 0.0;
      double size = 0.0;
      for (std::int64_t k = b * n; k < (b + 1) * n; ++k) {
        moved += found.anchors[at(k)];
        stretched += found.anchors[at(k)] * c.anchors[at(k)];
        size += std::fabs(found.anchors[at(k)] * c.anchors[at(k)]);
      }
      for (int k = 0; k < 2; ++k) {
        stretched += found.lengthscale[k][at(b)] * c.lengthscale[k][at(b)];
      }
      EXPECT_NEAR(moved, 0.0, 1e-12 * (1.0 + size));
      EXPECT_NEAR(stretched, 0.0, 1e-12 * (1.0 + size));
    }
  }
}

TEST(OscillatorProcess, ThreadsChangeNoBit) {
  const Oscillators c(kAnchors[0], 20000, false);
  Results one(c);
  Results three(c);
  ASSERT_TRUE(find(c, one, 1));
  ASSERT_TRUE(find(c, three, 3));
  EXPECT_EQ(one.density, three.density);
  EXPECT_EQ(one.anchors, three.anchors);
  EXPECT_EQ(one.lengthscale[1], three.lengthscale[1]);
}

TEST(OscillatorProcess, WhatNeedsTheFactorIsLeftToIt) {
  const Oscillators good(kAnchors[0], 40, false);
  Results out(good);
  EXPECT_TRUE(find(good, out));
  const auto refuses = [&](const auto& spoil) {
    Oscillators c = good;
    spoil(c);
    return !find(c, out);
  };
  for (const double wrong : {-1.0, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_TRUE(refuses([&](Oscillators& c) { c.lengthscale[0][1] = wrong; }));
    EXPECT_TRUE(refuses([&](Oscillators& c) { c.lengthscale[1][0] = wrong; }));
    EXPECT_TRUE(refuses([&](Oscillators& c) { c.weight[0][0] = wrong; }));
    EXPECT_TRUE(refuses([&](Oscillators& c) { c.noise[3] = wrong; }));
    EXPECT_TRUE(refuses([&](Oscillators& c) { c.anchors[3] = 1.0 / (wrong + 1.0); }));
  }
  EXPECT_TRUE(refuses([](Oscillators& c) { c.weight[0][0] = c.weight[1][0] = 0.0; }));
  EXPECT_TRUE(refuses([](Oscillators& c) { c.values[5] = 1e300; }));
  EXPECT_TRUE(refuses([](Oscillators& c) { c.anchors[7] = c.anchors[8]; }));  // by anchors
  EXPECT_TRUE(refuses([](Oscillators& c) {
    c.noise.assign(c.noise.size(), 0.0);  // almost singular
    for (double& each : c.anchors) {
      each *= 1e-6;
    }
  }));
}

}  // namespace
}  // namespace laplex::tests
