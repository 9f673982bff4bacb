// Covariances of state blocks against dense matrices in extended precision.
#include <laplex/gram.hpp>

#include "expect_error.hpp"
#include "gram_dense.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace laplex::tests {
namespace {

/// The covariance of a block's state at a distance d with its state before, times the stationary
/// covariance: rows and columns are those of the state.
Matrix block_covariance(const double* lengthscale, const double* weights, int size, long double d) {
  if (size == 1) {
    return {{weights[0] * std::exp(-d / lengthscale[0])}};
  }
  Matrix a(at(size), std::vector<long double>(at(size)));
  Matrix p = a;
  if (size == 2) {
    const long double gamma = 1.0L / lengthscale[0];
    const long double omega = 1.0L / lengthscale[1];
    const long double damping = gamma / omega;
    const long double kappa = omega * omega - gamma * gamma;
    const long double root = std::sqrt(std::fabs(kappa));
    const long double e = std::exp(-gamma * d);
    long double c = e * std::cos(root * d);
    long double s = root == 0 ? e * d : e * std::sin(root * d) / root;
    if (kappa < 0) {  // of what decays, since cosh overflows
      const long double slow = std::exp(-(gamma - root) * d);
      const long double fast = std::exp(-(gamma + root) * d);
      c = 0.5L * (slow + fast);
      s = 0.5L * (slow - fast) / root;
    }
    a = {{c + gamma * s, omega * s}, {-omega * s, c - gamma * s}};
    const long double half = 0.5L * (weights[0] + static_cast<long double>(weights[1]));
    const long double first = weights[0];
    p = {{half, -first * damping}, {-first * damping, half + 2 * first * damping * damping}};
  } else {
    const long double u = d / lengthscale[0];
    constexpr int kOnce[3][3] = {{1, 1, 0}, {0, 1, 1}, {-1, -3, -2}};
    constexpr int kTwice[3][3] = {{1, 2, 1}, {-1, -2, -1}, {1, 2, 1}};
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t j = 0; j < 3; ++j) {
        a[i][j] =
            std::exp(-u) * ((i == j ? 1.0L : 0.0L) + u * kOnce[i][j] + 0.5L * u * u * kTwice[i][j]);
      }
    }
    const long double w = weights[0];
    p = {{w, 0, -w / 3}, {0, w / 3, 0}, {-w / 3, 0, w}};
  }
  Matrix product(at(size), std::vector<long double>(at(size)));
  for (std::size_t i = 0; i < at(size); ++i) {
    for (std::size_t j = 0; j < at(size); ++j) {
      for (std::size_t k = 0; k < at(size); ++k) {
        product[i][j] += a[i][k] * p[k][j];
      }
    }
  }
  return product;
}

/// The dense covariance of blocks of one matrix, and the sizes of its entries' terms.
Matrix dense_blocks(const Model& m, Matrix& sizes) {
  Matrix a(at(m.n), std::vector<long double>(at(m.n)));
  sizes = a;
  for (std::int64_t i = 0; i < m.n; ++i) {
    for (std::int64_t j = 0; j < m.n; ++j) {
      const bool later = m.anchors[at(i)] >= m.anchors[at(j)];
      const double* to = &m.loadings[at((later ? i : j) * m.width)];
      const double* from = &m.loadings[at((later ? j : i) * m.width)];
      const long double gap = std::fabs(static_cast<long double>(m.anchors[at(i)]) -
                                        static_cast<long double>(m.anchors[at(j)]));
      std::int64_t column = 0;
      for (const int size : m.blocks) {
        const Matrix k =
            block_covariance(&m.lengthscale[at(column)], &m.weights[at(column)], size, gap);
        for (std::int64_t r = 0; r < size; ++r) {
          for (std::int64_t c = 0; c < size; ++c) {
            const long double term =
                k[at(r)][at(c)] * to[column + r] * static_cast<long double>(from[column + c]);
            a[at(i)][at(j)] += term;
            sizes[at(i)][at(j)] += std::fabs(term);
          }
        }
        column += size;
      }
    }
    a[at(i)][at(i)] += m.noise[at(i)];
    sizes[at(i)][at(i)] += m.noise[at(i)];
  }
  return a;
}

const std::vector<std::vector<int>> kBlocks = {{2},    {3},    {1, 2},       {2, 2},
                                               {3, 1}, {1, 1}, {1, 3, 2, 1}, {2, 2, 2, 2, 2, 1}};

TEST(GramBlocks, BlocksHaveTheFactorOfTheDenseMatrix) {
  for (const Anchors kind : kAnchors) {
    for (const std::vector<int>& blocks : kBlocks) {
      for (const std::int64_t n : {1, 2, 130}) {
        const Model m = make_block_model(kind, n, blocks, 0.3, at(n));
        Matrix sizes;
        const Matrix a = dense_blocks(m, sizes);
        const Gram gram(m.covariance());
        Vector identity(at(n * n));
        for (std::int64_t k = 0; k < n; ++k) {
          identity[at(k * n + k)] = 1.0;
        }
        const Vector s = apply(gram, Factor::upper, true, identity, n);
        double logdet = 0.0;
        gram.logdet(&logdet);
        const auto width = static_cast<double>(m.width);
        for (std::int64_t i = 0; i < n; ++i) {
          for (std::int64_t j = 0; j < n; ++j) {
            long double product = 0.0L;
            for (std::int64_t k = 0; k < n; ++k) {
              product += static_cast<long double>(s[at(i * n + k)]) * s[at(j * n + k)];
            }
            const auto scale =
                static_cast<double>(std::sqrt(sizes[at(i)][at(i)] * sizes[at(j)][at(j)]));
            ASSERT_NEAR(static_cast<double>(product - a[at(i)][at(j)]), 0.0,
                        64 * kEpsilon * width * scale);
          }
        }
        ASSERT_NEAR(logdet, static_cast<double>(dense_logdet(a)),
                    256 * kEpsilon * static_cast<double>(n) * width * width / 0.15);
      }
    }
  }
}

TEST(GramBlocks, NegativeWeightsAreLegalWhileEveryPivotIsPositive) {
  Model m = make_block_model(Anchors::uniform, 60, {1, 1}, 0.0, 3);
  m.noise.assign(60, 0.1);
  m.loadings.assign(120, 1.0);
  m.lengthscale = {1.0, 0.1};
  m.weights = {2.0, -0.05};
  Matrix sizes;
  double logdet = 0.0;
  Gram(m.covariance()).logdet(&logdet);
  EXPECT_NEAR(logdet, static_cast<double>(dense_logdet(dense_blocks(m, sizes))), 1e-11);
  m.weights[1] = -5.0;
  expect_error([&] { const Gram gram(m.covariance()); }, ErrorCode::singular, "singular");
}

TEST(GramBlocks, BlocksInSegmentsAndOnThreadsHaveTheSameBits) {
  Model m = make_block_model(Anchors::uniform, (std::int64_t(1) << 20) + 77, {2}, 0.1, 1);
  const Vector b = draw(m.n, 2);
  Vector first;
  for (const int threads : {1, 3}) {
    Covariance c = m.covariance();
    c.num_threads = threads;
    Vector x(b.size());
    Gram(c).solve(b.data(), x.data(), 1);
    first = threads == 1 ? x : first;
    EXPECT_EQ(x, first) << threads << " threads";
  }
}

TEST(GramBlocks, GradientsOfBlocksAreThoseOfTheDualNumbersAndOfDifferences) {
  for (const std::vector<int>& blocks : kBlocks) {
    for (const std::int64_t n : {1, 9, 300}) {
      const Model m = make_block_model(Anchors::uniform, n, blocks, 0.4, 21);
      const std::int64_t width = m.width;
      const Vector a = draw(2 * n, 1), b = draw(2 * n, 2), w = draw(n, 3);
      const Vector ta = draw(n, 4), tl = draw(width, 5), th = draw(n * width, 6), ts = draw(n, 7),
                   tw = draw(width, 8);
      const Gram gram(m.covariance());
      Vector ga(at(n)), gl(at(width)), gh(at(n * width)), gs(at(n)), gw(at(width));
      gram.vjp(a.data(), b.data(), 2, w.data(),
               {ga.data(), gl.data(), gh.data(), gs.data(), gw.data()});
      const double along = dot(ga, ta) + dot(gl, tl) + dot(gh, th) + dot(gs, ts) + dot(gw, tw);
      Vector d_a(at(2 * n)), d_b(at(2 * n)), d_w(at(n)), second(at(width));
      gram.vjp_tangent(
          a.data(), b.data(), 2, w.data(), {ta.data(), tl.data(), th.data(), ts.data(), tw.data()},
          {nullptr, second.data(), nullptr, nullptr, nullptr}, d_a.data(), d_b.data(), d_w.data());
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
        add(other.weights, tw);
        return other;
      };
      const auto f = [&](double step) {
        const Gram other = Gram(moved(step).covariance());
        Vector logs(at(n));
        other.log_variances(logs.data());
        return dot(a, apply(other, Factor::lower, false, b, 2)) + dot(w, logs);
      };
      if (n < 300) {
        EXPECT_NEAR((f(1e-6) - f(-1e-6)) / 2e-6, along, 1e-4 * scale);
        Vector plus(at(width)), minus(at(width));
        Gram(moved(1e-6).covariance()).vjp(a.data(), b.data(), 2, w.data(), {nullptr, plus.data()});
        Gram(moved(-1e-6).covariance())
            .vjp(a.data(), b.data(), 2, w.data(), {nullptr, minus.data()});
        for (std::size_t k = 0; k < plus.size(); ++k) {
          EXPECT_NEAR((plus[k] - minus[k]) / 2e-6, second[k], 1e-4 * (1 + std::fabs(second[k])));
        }
      }
    }
  }
}

}  // namespace
}  // namespace laplex::tests
