// Covariances on a line against dense matrices in extended precision, and identities of the factor.
#include <laplex/gram.hpp>

#include "expect_error.hpp"
#include "gram_cases.hpp"
#include "gram_dense.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace laplex::tests {
namespace {

Matrix dense(const Model& m, std::int64_t b) {
  Matrix a(at(m.n), std::vector<long double>(at(m.n)));
  for (std::int64_t i = 0; i < m.n; ++i) {
    for (std::int64_t j = 0; j < m.n; ++j) {
      for (std::int64_t k = 0; k < m.width; ++k) {
        const long double gap = std::fabs(static_cast<long double>(m.anchors[at(b * m.n + i)]) -
                                          static_cast<long double>(m.anchors[at(b * m.n + j)]));
        a[at(i)][at(j)] += std::exp(-gap / m.lengthscale[at(b * m.width + k)]) *
                           static_cast<long double>(m.loadings[at((b * m.n + i) * m.width + k)]) *
                           m.loadings[at((b * m.n + j) * m.width + k)];
      }
    }
    a[at(i)][at(i)] += m.noise[at(b * m.n + i)];
  }
  return a;
}

TEST(Gram, FactorSolutionAndDeterminantAreThoseOfTheDenseMatrix) {
  for (const Anchors kind : kAnchors) {
    for (const std::int64_t width : {1, 2, 5, 20}) {
      for (const std::int64_t n : {1, 2, 130}) {  // two chunks
        const Model m = make_model(kind, n, width, 0.3, at(n + width), 2);
        const Gram gram(m.covariance());
        Vector identity(at(2 * n * n)), logdet(2), b = draw(6 * n, 7), x(b.size());
        for (std::int64_t k = 0; k < 2 * n; ++k) {
          identity[at(k * n + k % n)] = 1.0;
        }
        // Row i of the transpose's product with the identity is row i of S.
        const Vector s = apply(gram, Factor::upper, true, identity, n);
        gram.logdet(logdet.data());
        gram.solve(b.data(), x.data(), 3);
        for (std::int64_t h = 0; h < 2; ++h) {
          const Matrix a = dense(m, h);
          for (std::int64_t i = 0; i < n; ++i) {
            for (std::int64_t j = 0; j < n; ++j) {
              long double product = 0.0L;
              for (std::int64_t k = 0; k < n; ++k) {
                product += static_cast<long double>(s[at((h * n + i) * n + k)]) *
                           s[at((h * n + j) * n + k)];
              }
              // An entry of S comes from at most n steps, which do not amplify: each adds a few
              // units of its column's size. In fact they do not add up.
              const auto scale = static_cast<double>(std::sqrt(a[at(i)][at(i)] * a[at(j)][at(j)]));
              ASSERT_NEAR(static_cast<double>(product - a[at(i)][at(j)]), 0.0,
                          64 * kEpsilon * static_cast<double>(width) * scale);
            }
          }
          for (std::int64_t r = 0; r < 3; ++r) {
            const double* solution = &x[at((h * 3 + r) * n)];
            for (std::int64_t i = 0; i < n; ++i) {
              long double residual = -static_cast<long double>(b[at((h * 3 + r) * n + i)]);
              double scale = 0.0;
              for (std::int64_t j = 0; j < n; ++j) {
                residual += a[at(i)][at(j)] * solution[j];
                scale += static_cast<double>(std::sqrt(a[at(i)][at(i)] * a[at(j)][at(j)])) *
                         std::fabs(solution[j]);
              }
              ASSERT_NEAR(static_cast<double>(residual), 0.0,
                          64 * kEpsilon * static_cast<double>(width) * scale);
            }
          }
          // Each pivot, at least the noise of 0.15, is off by a few units of the variance before
          // it.
          ASSERT_NEAR(logdet[at(h)], static_cast<double>(dense_logdet(a)),
                      64 * kEpsilon * static_cast<double>(n * width * width) / 0.15);
        }
      }
    }
  }
}

TEST(Gram, WithoutNoiseOneColumnIsExactHoweverCloseTheAnchors) {
  // Gaps from 1e-300 to 1e2. D in closed form: h^2 (1 - exp(-2 gap)).
  Model m;
  std::mt19937_64 random(3);
  double x = 0.0;
  for (int k = 0; k < 40; ++k) {
    m.anchors.push_back(x);
    x += k < 20 ? std::pow(10.0, -300 + 14 * k) : 0.01 * std::pow(1.4, k - 20);
  }
  m.n = 40;
  m.lengthscale = {0.7};
  m.loadings = draw(40, 1);
  m.noise.assign(40, 0.0);
  const Gram gram(m.covariance());
  Vector logs(40), diagonal(40), off(39);
  gram.log_variances(logs.data());
  for (int k = 1; k < 40; ++k) {
    const double gap = m.anchors[at(k)] - m.anchors[at(k - 1)];
    const double expected =
        std::log(m.loadings[at(k)] * m.loadings[at(k)] * -std::expm1(-2 * gap / 0.7));
    EXPECT_NEAR(logs[at(k)], expected, 8 * kEpsilon * (1 + std::fabs(expected))) << k;
  }
  gram.precision(diagonal.data(), off.data());
  Vector product(40);
  for (int i = 0; i < 40; ++i) {  // A times row 20 of the inverse is a unit vector
    for (int j = 19; j <= 21; ++j) {
      const double entry = j == 20 ? diagonal[20] : off[at(std::min(j, 20))];
      product[at(i)] += m.loadings[at(i)] * m.loadings[at(j)] *
                        std::exp(-std::fabs(m.anchors[at(i)] - m.anchors[at(j)]) / 0.7) * entry;
    }
    const double size = std::fabs(m.loadings[at(i)]) * diagonal[20] * std::fabs(m.loadings[20]);
    EXPECT_NEAR(product[at(i)], i == 20 ? 1.0 : 0.0, 64 * kEpsilon * (1 + 8 * size)) << i;
  }
}

TEST(Gram, FactorsAreInversesAndTransposesOfEachOther) {
  for (const bool scaled : {false, true}) {
    for (const std::int64_t n : {200, 40000}) {  // as one, and in segments
      for (const std::int64_t width : {1, 2, 4}) {
        for (const std::int64_t rows : {1, 5}) {
          const Model m = make_model(Anchors::skewed, n, width, 0.1, 5);
          const Gram gram(m.covariance());
          const Vector a = draw(rows * n, 1), b = draw(rows * n, 2);
          const auto expect_same = [&](const Vector& found) {
            for (std::size_t k = 0; k < a.size(); ++k) {
              ASSERT_NEAR(found[k], a[k], 1e-11);
            }
          };
          expect_same(apply(gram, Factor::lower_inverse, scaled,
                            apply(gram, Factor::lower, scaled, a, rows), rows));
          expect_same(apply(gram, Factor::upper_inverse, scaled,
                            apply(gram, Factor::upper, scaled, a, rows), rows));
          const double left = dot(b, apply(gram, Factor::lower, scaled, a, rows));
          const double right = dot(apply(gram, Factor::upper, scaled, b, rows), a);
          EXPECT_NEAR(left, right,
                      1e-12 * std::sqrt(dot(a, a) * dot(b, b)) * static_cast<double>(width));
        }
      }
    }
  }
}

TEST(Gram, LongLinesInSegmentsAgreeWithThePlan) {
  // A x by Plan is b. Noise 0 makes width 1 depend on every small gap.
  for (const std::int64_t width : {1, 2}) {
    const std::int64_t n = width == 1 ? 100000 : (std::int64_t(1) << 20) + 321;
    Model m = make_model(Anchors::uniform, n, width, width == 1 ? 0.0 : 1e-3, 11);
    const Gram gram(m.covariance());
    const Vector b = draw(n, 3);
    Vector x(at(n)), back(at(n));
    gram.solve(b.data(), x.data(), 1);
    double scale = 0.0;
    for (std::int64_t k = 0; k < width; ++k) {
      Kernel<double> kernel;
      kernel.num_targets = kernel.num_sources = n;
      kernel.targets = m.anchors.data();
      kernel.lengthscale = &m.lengthscale[at(k)];
      Vector in(at(n)), out(at(n));
      for (std::int64_t i = 0; i < n; ++i) {
        in[at(i)] = m.loadings[at(i * width + k)] * x[at(i)];
        scale += std::fabs(in[at(i)]);
      }
      Plan<double>(kernel).apply(in.data(), out.data());
      for (std::int64_t i = 0; i < n; ++i) {
        back[at(i)] += m.loadings[at(i * width + k)] * out[at(i)];
      }
    }
    for (std::int64_t i = 0; i < n; ++i) {
      back[at(i)] += m.noise[at(i)] * x[at(i)];
      ASSERT_NEAR(back[at(i)], b[at(i)], 32 * kEpsilon * scale) << width << " " << i;
    }
  }
}

TEST(Gram, SameBitsForAnyNumberOfThreads) {
  const Model m = make_model(Anchors::uniform, 150000, 2, 0.1, 1);
  const Vector b = draw(m.n, 2);
  Vector first;
  for (const int threads : {1, 2, 5}) {
    Covariance c = m.covariance();
    c.num_threads = threads;
    Vector x(b.size());
    Gram(c).solve(b.data(), x.data(), 1);
    if (threads == 1) {
      first = x;
    }
    EXPECT_EQ(x, first) << threads << " threads";
  }
}

TEST(Gram, UnobservedPointsDoNotCountAndTheirDerivativeIsTheirVariance) {
  for (const std::int64_t width : {1, 3}) {
    Model m = make_model(Anchors::grid, 50, width, 0.2, 9);
    Model observed = m;
    observed.n = 40;
    observed.anchors.resize(40);
    observed.loadings.resize(at(40 * width));
    observed.noise.resize(40);
    for (std::size_t k = 40; k < 50; ++k) {
      m.noise[k] = std::numeric_limits<double>::infinity();
    }
    double all = 0.0, part = 0.0;
    Gram(m.covariance()).logdet(&all);
    Gram(observed.covariance()).logdet(&part);
    EXPECT_NEAR(all, part, 1e-12);
    // det of A with one more point is det A times that point's variance.
    const Vector ones(50, 1.0);
    Vector by_noise(50);
    GramGradients gradients;
    gradients.noise = by_noise.data();
    Gram(m.covariance()).vjp(nullptr, nullptr, 0, ones.data(), gradients);
    for (std::int64_t k = 40; k < 50; ++k) {
      Model more = observed;
      more.n = 41;
      more.anchors.push_back(m.anchors[at(k)]);
      more.loadings.insert(more.loadings.end(), m.loadings.begin() + k * width,
                           m.loadings.begin() + (k + 1) * width);
      more.noise.push_back(1e-3);
      double with = 0.0;
      Gram(more.covariance()).logdet(&with);
      EXPECT_NEAR(by_noise[at(k)] + 1e-3, std::exp(with - part), 1e-11);
    }
  }
}

TEST(Gram, GradientsAreThoseOfTheDualNumbersAndOfDifferences) {
  for (const std::int64_t width : {1, 2, 5}) {
    for (const std::int64_t n : {1, 9, 300}) {  // 300: several chunks
      const Model m = make_model(Anchors::uniform, n, width, 0.4, 21);
      const Vector a = draw(2 * n, 1), b = draw(2 * n, 2), w = draw(n, 3);
      const Vector ta = draw(n, 4), tl = draw(width, 5), th = draw(n * width, 6), ts = draw(n, 7);
      const Gram gram(m.covariance());
      Vector ga(at(n)), gl(at(width)), gh(at(n * width)), gs(at(n)), db(at(2 * n));
      const GramGradients gradients{ga.data(), gl.data(), gh.data(), gs.data()};
      gram.vjp(a.data(), b.data(), 2, w.data(), gradients, db.data());
      const double along = dot(ga, ta) + dot(gl, tl) + dot(gh, th) + dot(gs, ts);
      EXPECT_NEAR(std::accumulate(ga.begin(), ga.end(), 0.0), 0.0, 1e-9);  // translation
      const Vector upper = apply(gram, Factor::upper, false, a, 2);
      for (std::size_t k = 0; k < db.size(); ++k) {
        EXPECT_NEAR(db[k], upper[k], 1e-12);
      }
      // The same directional derivative by dual numbers, forwards: <a, L' b> + <w, (log D)'>.
      Vector d_a(at(2 * n)), d_b(at(2 * n)), d_w(at(n)), second(at(n));
      gram.vjp_tangent(
          a.data(), b.data(), 2, w.data(), {ta.data(), tl.data(), th.data(), ts.data()},
          {second.data(), nullptr, nullptr, nullptr}, d_a.data(), d_b.data(), d_w.data());
      const double scale = 1 + std::fabs(along);
      EXPECT_NEAR(dot(a, d_a) + dot(w, d_w), along, 1e-9 * scale);
      EXPECT_NEAR(dot(b, d_b) + dot(w, d_w), along, 1e-9 * scale);
      const auto moved = [&](double step) {
        Model other = m;
        const auto add = [&](Vector& x, const Vector& t) {
          for (std::size_t k = 0; k < x.size(); ++k) {
            x[k] += step * t[k];
          }
        };
        add(other.anchors, ta);
        add(other.lengthscale, tl);
        add(other.loadings, th);
        add(other.noise, ts);
        return other;
      };
      const auto f = [&](double step) {
        const Gram other = Gram(moved(step).covariance());
        Vector logs(at(n));
        other.log_variances(logs.data());
        return dot(a, apply(other, Factor::lower, false, b, 2)) + dot(w, logs);
      };
      if (n < 300) {  // where a step of 1e-6 exchanges no anchors
        EXPECT_NEAR((f(1e-6) - f(-1e-6)) / 2e-6, along, 1e-4 * scale);
        Vector plus(at(n)), minus(at(n));
        Gram(moved(1e-6).covariance()).vjp(a.data(), b.data(), 2, w.data(), {plus.data()});
        Gram(moved(-1e-6).covariance()).vjp(a.data(), b.data(), 2, w.data(), {minus.data()});
        for (std::size_t k = 0; k < plus.size(); ++k) {
          EXPECT_NEAR((plus[k] - minus[k]) / 2e-6, second[k], 1e-4 * (1 + std::fabs(second[k])));
        }
      }
    }
  }
}

TEST(Gram, TiesBackwardsIsAnotherFactorOfTheSameMatrix) {
  const Model m = make_model(Anchors::grid, 50, 2, 0.2, 4);
  const Gram forwards(m.covariance()), backwards = Gram(m.covariance(true));
  EXPECT_TRUE(forwards.has_ties());
  const Vector b = draw(50, 1);
  Vector x(50), y(50);
  forwards.solve(b.data(), x.data(), 1);
  backwards.solve(b.data(), y.data(), 1);
  EXPECT_NE(apply(forwards, Factor::lower, true, b, 1),
            apply(backwards, Factor::lower, true, b, 1));
  for (std::size_t k = 0; k < x.size(); ++k) {
    EXPECT_NEAR(x[k], y[k], 1e-11);
  }
}

TEST(Gram, NothingAtAllIsLegal) {
  Model m;
  m.lengthscale = {1.0};
  const Gram none(m.covariance());
  double logdet = 1.0;
  none.logdet(&logdet);
  EXPECT_EQ(logdet, 0.0);
  none.solve(nullptr, nullptr, 3);
  m.batch = 0;
  const Gram no_batch(m.covariance());
  EXPECT_EQ(no_batch.batch(), 0);
}

TEST(Gram, BadInputIsRefusedByName) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Model good = make_model(Anchors::uniform, 6, 2, 0.1, 1);
  const auto build = [&](auto change) {
    Model m = good;
    change(m);
    const Gram gram(m.covariance());
  };
  const auto invalid = ErrorCode::invalid_argument;
  expect_error([&] { build([&](Model& m) { m.anchors[2] = nan; }); }, invalid,
               "anchors must be finite, but entry 2 is NaN");
  expect_error([&] { build([&](Model& m) { m.loadings[2] = nan; }); }, invalid, "loadings");
  expect_error([&] { build([&](Model& m) { m.noise[3] = -0.5; }); }, invalid,
               "noise must not be negative, but entry 3 is -0.5");
  expect_error([&] { build([&](Model& m) { m.noise[3] = nan; }); }, invalid, "noise");
  expect_error([&] { build([&](Model& m) { m.lengthscale[1] = 0.0; }); }, invalid, "lengthscale");
  expect_error([&] { build([&](Model& m) { m.width = 0; }); }, invalid, "1 to 32 columns");
  expect_error([&] { build([&](Model& m) { m.width = 33; }); }, invalid, "1 to 32 columns");
  expect_error([&] { build([&](Model& m) { m.n = -1; }); }, invalid, "negative");
  expect_error([&] { build([&](Model& m) { m.blocks = {4}; }); }, invalid, "1, 2 or 3 columns");
  expect_error([&] { build([&](Model& m) { m.blocks = {1}; }); }, invalid,
               "the blocks have 1 columns, but the covariance has 2");
  expect_error([&] { build([&](Model& m) { m.blocks = {2}; }); }, invalid, "weights is null");
  expect_error([&] { build([&](Model& m) { m.weights = {1.0, nan}; }); }, invalid,
               "weights must be finite, but entry 1 is NaN");
  const Gram gram(good.covariance());
  double out[6];
  expect_error([&] { gram.precision(out, out); }, invalid, "tridiagonal");
  expect_error([&] { gram.solve(nullptr, out, 1); }, invalid, "null");
  expect_error([&] { gram.solve(out, out, -1); }, invalid, "rows");
}

TEST(Gram, SingularMatricesAreRefusedByName) {
  for (const std::int64_t n : {10, 50000}) {  // as one, and in segments
    Model m = make_model(Anchors::uniform, n, 1, 0.0, 1);
    m.noise.assign(at(n), 0.0);
    m.anchors[3] = m.anchors[7];
    expect_error([&] { const Gram gram(m.covariance()); }, ErrorCode::singular,
                 "anchors 3 and 7 coincide");
    m = make_model(Anchors::uniform, n, 2, 0.0, 1);  // three equal points of two columns: rank 2
    m.noise.assign(at(n), 0.0);
    m.anchors[3] = m.anchors[7] = m.anchors[8];
    expect_error([&] { const Gram gram(m.covariance()); }, ErrorCode::singular, "singular");
    m.noise[7] = 0.5;  // and with noise at one of them it is not
    EXPECT_NO_THROW({ const Gram gram(m.covariance()); });
  }
}

/// `count` anchors at one place, without noise and with loadings of many sizes, among `n` with
/// noise.
Model coincident(std::int64_t n, std::int64_t width, std::int64_t count, std::uint64_t seed) {
  Model m = make_model(Anchors::uniform, n, width, 0.2, seed);
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> exponent(-3.0, 3.0);
  for (std::int64_t k = 0; k < count; ++k) {
    const std::int64_t point = n / 3 + k;
    m.anchors[at(point)] = 0.5;
    m.noise[at(point)] = 0.0;
    const double size = std::pow(10.0, exponent(random));
    for (std::int64_t j = 0; j < width; ++j) {
      m.loadings[at(point * width + j)] *= size;
    }
  }
  return m;
}

TEST(Gram, SingularWithMoreAnchorsAtOnePlaceThanColumns) {
  // What rounding leaves of the last variance is far above the old bound, 4 J epsilon of the
  // variance before: it grows as the variances of the others at that place shrink.
  for (const std::int64_t width : {2, 3, 4, 5, 8, 17, 32}) {
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      SCOPED_TRACE(width * 1000 + static_cast<std::int64_t>(seed));
      expect_error([&] { const Gram gram(coincident(120, width, width + 1, seed).covariance()); },
                   ErrorCode::singular, "coincide, at 0.5");
    }
    EXPECT_NO_THROW({ const Gram gram(coincident(120, width, width, 7).covariance()); });
  }
  // In segments.
  const std::int64_t n = (std::int64_t(1) << 20) + 321;
  expect_error([&] { const Gram gram(coincident(n, 2, 3, 1).covariance()); }, ErrorCode::singular,
               "coincide, at 0.5");
}

// A filter that ends early used to leave the variances behind it as the memory was.
TEST(Gram, AVarianceThatOverflowsAtAPointOfNoObservation) {
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<double> anchors = {0.0, 1.0, 2.0};
  const std::vector<double> noise = {inf, 1.0, 1.0};
  for (const std::int64_t width : {1, 2}) {
    std::vector<double> loadings(static_cast<std::size_t>(3 * width), 1.0);
    loadings[0] = 1e200;
    Covariance c;
    c.n = 3;
    c.width = width;
    c.anchors = anchors.data();
    c.loadings = loadings.data();
    c.noise = noise.data();
    expect_error([&] { const Gram gram(c); }, ErrorCode::singular, "has variance");
  }
}

}  // namespace
}  // namespace laplex::tests
