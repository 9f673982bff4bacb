// Covariances on a line on the device against the CPU's, which has tests of its own.
#include "../cpp/gram_cases.hpp"
#include "device_memory.hpp"

#include <laplex/cuda/gram.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

#if defined(LAPLEX_CUDA_EMULATION)
#include "emulated_runtime.hpp"
#include "emulation.hpp"
#endif

namespace laplex::cuda::tests {
namespace {

using laplex::tests::Anchors;
using laplex::tests::at;
using laplex::tests::draw;
using laplex::tests::Model;
using laplex::tests::Vector;

Model model_of(Anchors kind, std::int64_t n, std::int64_t width, double noise,
               std::int64_t batch = 1) {
  return laplex::tests::make_model(kind, n, width, noise, at(n + 100 * width), batch);
}

using Blocks = std::vector<int>;

Model block_model_of(Anchors kind, std::int64_t n, const Blocks& blocks, double noise,
                     std::int64_t batch = 1) {
  return laplex::tests::make_block_model(kind, n, blocks, noise, at(n), batch);
}

/// One of each compiled shape and of each way to fill it.
const Blocks kBlocks[] = {
    {1}, {2},    {1, 1},    {2, 2}, {1, 2, 1},   {2, 2, 2}, {2, 2, 2, 2}, {1, 1, 1, 2, 2, 1},
    {3}, {3, 1}, {1, 2, 3}, {3, 3}, {3, 1, 1, 1}};

/// The same on the device.
class OnDeviceModel {
 public:
  explicit OnDeviceModel(const Model& m, bool ties_backwards = false)
      : anchors_(m.anchors),
        lengthscale_(m.lengthscale),
        loadings_(m.loadings),
        noise_(m.noise),
        weights_(m.weights),
        covariance_(m.covariance(ties_backwards)) {
    covariance_.anchors = anchors_.data();
    covariance_.lengthscale = lengthscale_.data();
    covariance_.loadings = loadings_.data();
    covariance_.noise = noise_.data();
    covariance_.weights = m.weights.empty() ? nullptr : weights_.data();
  }
  [[nodiscard]] const Covariance& covariance() const { return covariance_; }
  [[nodiscard]] Gram gram() const { return Gram(covariance_, kStream); }

 private:
  OnDevice<double> anchors_, lengthscale_, loadings_, noise_, weights_;
  Covariance covariance_;
};

/// Everything there is to know of a covariance, by name.
struct Results {
  std::vector<std::pair<std::string, Vector>> all;

  void add(std::string name, Vector values) {
    all.emplace_back(std::move(name), std::move(values));
  }
};

/// What calls are made with.
struct Arguments {
  std::int64_t rows;
  Vector a, b, w, d_anchors, d_lengthscale, d_loadings, d_noise, d_weights;

  Arguments(const Model& m, std::int64_t rows_)
      : rows(rows_),
        a(draw(m.batch * rows * m.n, 1)),
        b(draw(m.batch * rows * m.n, 2)),
        w(draw(m.batch * m.n, 3)),
        d_anchors(draw(m.batch * m.n, 4)),
        d_lengthscale(draw(m.batch * m.width, 5)),
        d_loadings(draw(m.batch * m.n * m.width, 6)),
        d_noise(draw(m.batch * m.n, 7)),
        d_weights(draw(m.batch * m.width, 8)) {}
};

constexpr Factor kFactors[] = {Factor::lower, Factor::lower_inverse, Factor::upper,
                               Factor::upper_inverse};

/// With `make` for arrays, `data` for their addresses and `host` for their contents.
template <class Array, class G, class Make, class Call>
Results results_of(const G& gram, const Model& m, const Arguments& x, const Make& make,
                   const Call& call) {
  Results results;
  const std::int64_t rows = x.rows;
  const std::int64_t vectors = m.batch * rows * m.n;
  const Array a = make(x.a), b = make(x.b), w = make(x.w);
  const auto add = [&](const std::string& name, std::int64_t count, const auto& f) {
    Array out = make(Vector(at(count), 9.0));
    f(out);
    results.add(name, call.host(out));
  };
  for (const Factor factor : kFactors) {
    for (const bool scaled : {false, true}) {
      add("factor " + std::to_string(static_cast<int>(factor)) + (scaled ? ", scaled" : ""),
          vectors, [&](Array& out) { call.apply(gram, factor, scaled, b, out, rows); });
    }
  }
  add("solve", vectors, [&](Array& out) { call.solve(gram, b, out, rows); });
  add("log_variances", m.batch * m.n, [&](Array& out) { call.log_variances(gram, out); });
  add("logdet", m.batch, [&](Array& out) { call.logdet(gram, out); });
  add("log_prob", m.batch * rows, [&](Array& out) { call.log_prob(gram, b, out, rows); });
  for (const bool tangent : {false, true}) {
    const std::string name = tangent ? "second by " : "first by ";
    Array anchors = make(Vector(at(m.batch * m.n), 0.0));
    Array lengthscale = make(Vector(at(m.batch * m.width), 0.0));
    Array loadings = make(Vector(at(m.batch * m.n * m.width), 0.0));
    Array noise = make(Vector(at(m.batch * m.n), 0.0));
    Array weights = make(Vector(at(m.batch * m.width), 7.0));
    Array d_a = make(Vector(at(vectors), 0.0)), d_b = make(Vector(at(vectors), 0.0));
    Array d_w = make(Vector(at(m.batch * m.n), 0.0));
    const GramGradients gradients{call.data(anchors), call.data(lengthscale), call.data(loadings),
                                  call.data(noise), call.data(weights)};
    if (tangent) {
      Array ta = make(x.d_anchors), tl = make(x.d_lengthscale), th = make(x.d_loadings),
            tn = make(x.d_noise), tw = make(x.d_weights);
      call.vjp_tangent(
          gram, a, b, rows, w,
          GramTangent{call.data(ta), call.data(tl), call.data(th), call.data(tn), call.data(tw)},
          gradients, d_a, d_b, d_w);
      results.add("d_a", call.host(d_a));
      results.add("d_w", call.host(d_w));
    } else {
      call.vjp(gram, a, b, rows, w, gradients, d_b);
    }
    results.add(name + "anchors", call.host(anchors));
    results.add(name + "lengthscale", call.host(lengthscale));
    results.add(name + "loadings", call.host(loadings));
    results.add(name + "noise", call.host(noise));
    results.add(name + "weights", call.host(weights));
    results.add(name + "b", call.host(d_b));
  }
  return results;
}

struct HostCalls {
  static double* data(const Vector& v) { return const_cast<double*>(v.data()); }
  static Vector host(const Vector& v) { return v; }
  template <class... A>
  static void apply(const laplex::Gram& g, Factor f, bool scaled, const Vector& in, Vector& out,
                    std::int64_t rows) {
    g.apply(f, scaled, in.data(), out.data(), rows);
  }
  static void solve(const laplex::Gram& g, const Vector& in, Vector& out, std::int64_t rows) {
    g.solve(in.data(), out.data(), rows);
  }
  static void log_variances(const laplex::Gram& g, Vector& out) { g.log_variances(out.data()); }
  static void logdet(const laplex::Gram& g, Vector& out) { g.logdet(out.data()); }
  static void log_prob(const laplex::Gram& g, const Vector& in, Vector& out, std::int64_t rows) {
    g.log_prob(in.data(), out.data(), rows);
  }
  static void vjp(const laplex::Gram& g, const Vector& a, const Vector& b, std::int64_t rows,
                  const Vector& w, const GramGradients& gradients, Vector& d_b) {
    g.vjp(a.data(), b.data(), rows, w.data(), gradients, d_b.data());
  }
  static void vjp_tangent(const laplex::Gram& g, const Vector& a, const Vector& b,
                          std::int64_t rows, const Vector& w, const GramTangent& tangent,
                          const GramGradients& gradients, Vector& d_a, Vector& d_b, Vector& d_w) {
    g.vjp_tangent(a.data(), b.data(), rows, w.data(), tangent, gradients, d_a.data(), d_b.data(),
                  d_w.data());
  }
};

struct DeviceCalls {
  using Array = OnDevice<double>;
  static double* data(const Array& v) { return v.data(); }
  static Vector host(const Array& v) { return v.host(); }
  static void apply(const Gram& g, Factor f, bool scaled, const Array& in, Array& out,
                    std::int64_t rows) {
    g.apply(f, scaled, in.data(), out.data(), rows, kStream);
  }
  static void solve(const Gram& g, const Array& in, Array& out, std::int64_t rows) {
    g.solve(in.data(), out.data(), rows, kStream);
  }
  static void log_variances(const Gram& g, Array& out) { g.log_variances(out.data(), kStream); }
  static void logdet(const Gram& g, Array& out) { g.logdet(out.data(), kStream); }
  static void log_prob(const Gram& g, const Array& in, Array& out, std::int64_t rows) {
    g.log_prob(in.data(), out.data(), rows, kStream);
  }
  static void vjp(const Gram& g, const Array& a, const Array& b, std::int64_t rows, const Array& w,
                  const GramGradients& gradients, Array& d_b) {
    g.vjp(a.data(), b.data(), rows, w.data(), gradients, d_b.data(), kStream);
  }
  static void vjp_tangent(const Gram& g, const Array& a, const Array& b, std::int64_t rows,
                          const Array& w, const GramTangent& tangent,
                          const GramGradients& gradients, Array& d_a, Array& d_b, Array& d_w) {
    g.vjp_tangent(a.data(), b.data(), rows, w.data(), tangent, gradients, d_a.data(), d_b.data(),
                  d_w.data(), kStream);
  }
};

Results on_host(const Model& m, std::int64_t rows, bool ties_backwards = false) {
  return results_of<Vector>(
      laplex::Gram(m.covariance(ties_backwards)), m, Arguments(m, rows),
      [](const Vector& v) { return v; }, HostCalls{});
}

Results on_device(const Model& m, std::int64_t rows, bool ties_backwards = false) {
  const OnDeviceModel model(m, ties_backwards);
  return results_of<OnDevice<double>>(
      model.gram(), m, Arguments(m, rows), [](const Vector& v) { return OnDevice<double>(v); },
      DeviceCalls{});
}

/// Entries are compared with the largest one of their kind: both sides round, in orders of their
/// own.
void expect_same(const Results& got, const Results& want, double bound) {
  ASSERT_EQ(got.all.size(), want.all.size());
  for (std::size_t k = 0; k < got.all.size(); ++k) {
    const Vector& g = got.all[k].second;
    const Vector& w = want.all[k].second;
    ASSERT_EQ(g.size(), w.size());
    double scale = 0.0;
    for (const double x : w) {
      scale = std::max(scale, std::fabs(x));
    }
    for (std::size_t i = 0; i < g.size(); ++i) {
      ASSERT_NEAR(g[i], w[i], bound * scale) << got.all[k].first << ", entry " << i;
    }
  }
}

void check(const Model& m, std::int64_t rows, double bound = 1e-11, bool ties_backwards = false) {
  SCOPED_TRACE("n = " + std::to_string(m.n) + ", width = " + std::to_string(m.width) +
               ", rows = " + std::to_string(rows));
  expect_same(on_device(m, rows, ties_backwards), on_host(m, rows, ties_backwards), bound);
}

TEST(CudaGram, SmallEverythingIsAsOnTheCpu) {
  for (const Anchors kind :
       {Anchors::uniform, Anchors::grid, Anchors::equal, Anchors::skewed, Anchors::huge}) {
    for (const std::int64_t width : {1, 2, 3, 8}) {
      SCOPED_TRACE("anchors " + std::to_string(static_cast<int>(kind)));
      check(model_of(kind, 150, width, 0.3, 2), 2);
    }
  }
}

TEST(CudaGram, SmallBlocksAreAsOnTheCpu) {
  for (const Anchors kind :
       {Anchors::uniform, Anchors::grid, Anchors::equal, Anchors::skewed, Anchors::huge}) {
    for (const Blocks& blocks : kBlocks) {
      SCOPED_TRACE("anchors " + std::to_string(static_cast<int>(kind)) + ", " +
                   std::to_string(blocks.size()) + " blocks, the first of " +
                   std::to_string(blocks[0]));
      check(block_model_of(kind, 150, blocks, 0.3, 2), 2);
    }
  }
}

TEST(CudaGram, EdgesOfChunksAndOfTheirTree) {
  for (const std::int64_t n : {0, 1, 2, 63, 64, 65, 128, 2047, 2048, 2049, 5000}) {
    check(model_of(Anchors::uniform, n, 1, 0.1), 1);
    check(model_of(Anchors::uniform, n, 2, 0.1), 1);
  }
  check(model_of(Anchors::uniform, 70000, 1, 0.1), 1);  // chunks of chunks of chunks
  check(model_of(Anchors::uniform, 3000, 4, 0.1, 3), 3);
  check(model_of(Anchors::uniform, 4200, 8, 0.1), 1);
  for (const Blocks& blocks : {Blocks{2}, Blocks{2, 2, 1}, Blocks{3}, Blocks{3, 2, 1}}) {
    for (const std::int64_t n : {0, 1, 2, 64, 65, 2049}) {
      check(block_model_of(Anchors::uniform, n, blocks, 0.1), 1);
    }
  }
  check(block_model_of(Anchors::uniform, 70000, {2}, 0.1), 1);
}

TEST(CudaGram, SmallNegativeWeights) {
  // In turn, as passages have roots.
  for (const Blocks& blocks : {Blocks{1, 1}, Blocks{2, 1}, Blocks{3, 1}, Blocks{2, 2}}) {
    Model m = block_model_of(Anchors::uniform, 300, blocks, 1.0, 2);
    for (std::int64_t k = 0; k < m.n * m.batch; ++k) {
      m.noise[at(k)] += 4.0;  // the sum is positive definite
      for (std::int64_t j = 0; j < m.width; ++j) {
        m.loadings[at(k * m.width + j)] *= 0.1;
      }
    }
    for (std::int64_t b = 0; b < m.batch; ++b) {
      m.weights[at((b + 1) * m.width - 1)] *= -1.0;
    }
    check(m, 2);
  }
}

TEST(CudaGram, SmallTiesInBothOrders) {
  for (const bool backwards : {false, true}) {
    check(model_of(Anchors::grid, 300, 2, 0.2, 2), 2, 1e-11, backwards);
    const Model m = model_of(Anchors::grid, 300, 2, 0.2, 2);
    const OnDeviceModel model(m, backwards);
    const Gram gram = model.gram();
    EXPECT_TRUE(gram.has_ties());
    std::vector<std::int64_t> want(600);
    laplex::Gram(m.covariance(backwards)).order(want.data());
    const OnDevice<std::int64_t> order(600, std::int64_t(9));
    gram.order(order.data(), kStream);
    EXPECT_EQ(order.host(), want);
    check(block_model_of(Anchors::grid, 300, {2, 3}, 0.2, 2), 2, 1e-11, backwards);
  }
  EXPECT_FALSE(OnDeviceModel(model_of(Anchors::uniform, 300, 1, 0.2)).gram().has_ties());
}

TEST(CudaGram, SmallManyRowsAndNone) {
  check(model_of(Anchors::uniform, 300, 2, 0.1, 2), 11);  // more than there are groups
  check(model_of(Anchors::uniform, 300, 2, 0.1, 2), 0);
  check(block_model_of(Anchors::uniform, 300, {2, 1}, 0.1, 2), 11);
  check(block_model_of(Anchors::uniform, 300, {3}, 0.1, 2), 0);
}

TEST(CudaGram, SmallWithoutNoiseOneColumnIsAsExactAsOnTheCpu) {
  // Gaps from 1e-300 to 1e8, wherever chunks begin.
  Model m = model_of(Anchors::uniform, 700, 1, 0.0);
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> exponent(-300.0, 8.0);
  double x = 0.0;
  for (double& anchor : m.anchors) {
    anchor = x;
    x += std::pow(10.0, std::min(exponent(random), x == 0.0 ? -250.0 : 8.0));
    x = std::max(x, std::nextafter(anchor, HUGE_VAL));
  }
  const OnDeviceModel model(m);
  const OnDevice<double> got(700, 9.0);
  model.gram().log_variances(got.data(), kStream);
  Vector want(700);
  laplex::Gram(m.covariance()).log_variances(want.data());
  for (std::size_t k = 0; k < want.size(); ++k) {
    EXPECT_NEAR(got.host()[k], want[k], 1e-14 * (1 + std::fabs(want[k]))) << k;
  }
}

TEST(CudaGram, SmallTinyGapsWhereChunksBegin) {
  // Points 64 k - 1 and 64 k nearly or quite coincide, without noise. More columns than points at
  // one place: no matrix is singular.
  for (const double gap : {1e-6, 1e-12, 1e-15, 1e-40, 0.0}) {
    for (const std::int64_t width : {2, 3, 8}) {
      SCOPED_TRACE(gap);
      Model m = model_of(Anchors::uniform, 1000, width, 0.0);
      std::sort(m.anchors.begin(), m.anchors.end());
      for (std::int64_t k = 0; k < m.n; ++k) {
        m.anchors[at(k)] = static_cast<double>(k);
        m.noise[at(k)] = k % 64 == 63 || k % 64 == 0 ? 0.0 : 0.1;
        if (k % 64 == 0 && k > 0) {
          m.anchors[at(k)] = std::max(m.anchors[at(k - 1)] + gap, 0.0);
        }
      }
      for (double& lengthscale : m.lengthscale) {
        lengthscale *= 30.0;
      }
      check(m, 1, 1e-9);
    }
  }
}

TEST(CudaGram, SmallTinyGapsOfBlocksWhereChunksBegin) {
  // The same, where the variance given the state before falls with the third or fifth power of the
  // gap.
  for (const double gap : {1e-3, 1e-5, 1e-15, 1e-40, 0.0}) {
    for (const Blocks& blocks : {Blocks{2}, Blocks{3}, Blocks{2, 2}, Blocks{3, 1}}) {
      SCOPED_TRACE(gap);
      Model m = block_model_of(Anchors::uniform, 1000, blocks, 0.0);
      for (std::int64_t k = 0; k < m.n; ++k) {
        m.anchors[at(k)] = static_cast<double>(k);
        m.noise[at(k)] = k % 64 == 63 || k % 64 == 0 ? 0.0 : 0.1;
        if (k % 64 == 0 && k > 0) {
          m.anchors[at(k)] = std::max(m.anchors[at(k - 1)] + gap, 0.0);
        }
      }
      for (double& lengthscale : m.lengthscale) {
        lengthscale *= 30.0;
      }
      check(m, 1, 1e-9);
    }
  }
}

TEST(CudaGram, SmallDenseLinesWithoutNoise) {
  for (const std::int64_t width : {1, 2, 4}) {
    Model m = model_of(Anchors::uniform, 500, width, 0.0);
    check(m, 1, width == 1 ? 1e-10 : 1e-6);
  }
}

TEST(CudaGram, SmallSmoothProcessesWithoutNoise) {
  // Of an oscillator and of a Matern-5/2 process, observed by itself.
  for (const int size : {2, 3}) {
    for (const double gap : {0.1, 1e-2}) {
      SCOPED_TRACE("size " + std::to_string(size) + ", gap " + std::to_string(gap));
      Model m = block_model_of(Anchors::uniform, 400, {size}, 0.0);
      std::sort(m.anchors.begin(), m.anchors.end());
      for (std::int64_t k = 0; k < m.n; ++k) {
        m.anchors[at(k)] = gap * (static_cast<double>(k) + 0.3 * std::sin(static_cast<double>(k)));
        for (std::int64_t j = 0; j < m.width; ++j) {
          m.loadings[at(k * m.width + j)] = j == 0 ? 1.0 : 0.0;
        }
      }
      m.lengthscale = size == 2 ? Vector{1.0, 0.8} : Vector{1.0, 1.0, 1.0};
      m.weights = size == 2 ? Vector{0.0, 1.0} : Vector{1.0, 0.0, 0.0};
      const OnDevice<double> got(400, 9.0);
      const OnDeviceModel model(m);
      model.gram().log_variances(got.data(), kStream);
      Vector want(400);
      laplex::Gram(m.covariance()).log_variances(want.data());
      // A few roundings of the prior variance, which is about 1, as a part of the least variance.
      const double bound = 16 * 0x1p-52 / std::exp(*std::min_element(want.begin(), want.end()));
      for (std::size_t k = 0; k < want.size(); ++k) {
        ASSERT_NEAR(got.host()[k], want[k], bound) << k;
      }
    }
  }
}

TEST(CudaGram, SmallPointsThatWereNotObserved) {
  for (const std::int64_t width : {1, 2}) {
    Model m = model_of(Anchors::uniform, 400, width, 0.2);
    for (std::int64_t k = 0; k < m.n; ++k) {
      if (k % 3 == 0 || (k > 100 && k < 250)) {
        m.noise[at(k)] = std::numeric_limits<double>::infinity();
      }
    }
    check(m, 2);
  }
  for (const Blocks& blocks : {Blocks{2}, Blocks{3, 1}}) {
    Model m = block_model_of(Anchors::uniform, 400, blocks, 0.2);
    for (std::int64_t k = 0; k < m.n; ++k) {
      if (k % 3 == 0 || (k > 100 && k < 250)) {
        m.noise[at(k)] = std::numeric_limits<double>::infinity();
      }
    }
    check(m, 2);
  }
}

TEST(CudaGram, SmallWideGaps) {
  for (const Blocks& blocks : {Blocks{}, Blocks{2, 2}, Blocks{3, 2}}) {
    Model m = blocks.empty() ? model_of(Anchors::uniform, 300, 2, 0.1)
                             : block_model_of(Anchors::uniform, 300, blocks, 0.1);
    for (std::int64_t k = 0; k < m.n; ++k) {
      m.anchors[at(k)] += std::pow(10.0, static_cast<double>(k / 20));
    }
    m.anchors[0] = -1.7e308;
    m.anchors[299] = 1.7e308;
    check(m, 1);
  }
}

TEST(CudaGram, SmallOscillatorsOfAnyDamping) {
  for (const double ratio : {1e-6, 1e-2, 0.999999, 1.0, 1.000001, 1e2, 1e6}) {
    SCOPED_TRACE(ratio);
    Model m = block_model_of(Anchors::uniform, 300, {2, 1}, 0.3);
    m.lengthscale[1] = ratio * m.lengthscale[0];
    check(m, 1, 1e-10);
  }
}

TEST(CudaGram, SmallDefaultsAndGradientsThatAreNotWanted) {
  const Model m = model_of(Anchors::uniform, 200, 1, 1.0);
  OnDeviceModel model(m);
  Covariance c;
  c.n = 200;
  c.anchors = model.covariance().anchors;
  const Gram gram(c, kStream);
  Covariance on_cpu = c;
  on_cpu.anchors = m.anchors.data();
  const laplex::Gram reference(on_cpu);
  Vector want(200), found(200, 9.0);
  reference.log_variances(want.data());
  const OnDevice<double> got(200, 9.0);
  gram.log_variances(got.data(), kStream);
  found = got.host();
  for (std::size_t k = 0; k < 200; ++k) {
    EXPECT_NEAR(found[k], want[k], 1e-13 * (1 + std::fabs(want[k])));
  }
  const Vector w = draw(200, 1);
  const OnDevice<double> weights(w);
  gram.vjp(nullptr, nullptr, 0, weights.data(), {nullptr, nullptr, nullptr, got.data()}, nullptr,
           kStream);
  reference.vjp(nullptr, nullptr, 0, w.data(), {nullptr, nullptr, nullptr, want.data()});
  found = got.host();
  for (std::size_t k = 0; k < 200; ++k) {
    EXPECT_NEAR(found[k], want[k], 1e-10 * (1 + std::fabs(want[k])));
  }
}

TEST(CudaGram, SmallResultsMayTakeTheInputsPlace) {
  const Model m = model_of(Anchors::uniform, 200, 2, 0.1);
  const OnDeviceModel model(m);
  const Gram gram = model.gram();
  const Vector b = draw(400, 1);
  const OnDevice<double> in(b), out(400, 9.0);
  gram.solve(in.data(), out.data(), 2, kStream);
  gram.solve(in.data(), in.data(), 2, kStream);
  EXPECT_EQ(in.host(), out.host());
}

TEST(CudaGram, SmallLentMemoryIsAllThereIs) {
  const Model m = model_of(Anchors::uniform, 300, 3, 0.1, 2);
  const OnDeviceModel model(m);
  const std::size_t storage_bytes = Gram::storage_bytes(2, 300, 3);
  const std::size_t scratch_bytes = Gram::scratch_bytes(2, 300, 3);
  const DeviceMemory storage(storage_bytes, kStream), scratch(scratch_bytes, kStream);
  const Gram gram(model.covariance(), kStream, {storage.data(), storage_bytes},
                  {scratch.data(), scratch_bytes});
  EXPECT_EQ(gram.nbytes(), static_cast<std::int64_t>(storage_bytes));
  const OnDevice<double> in(draw(1200, 1)), out(1200, 9.0), parameters(1800, 0.0);
  const std::size_t bytes = std::max(
      {gram.workspace_bytes(2), gram.workspace_bytes(0), gram.gradient_workspace_bytes(2, true)});
  const DeviceMemory workspace(bytes, kStream);
  const Memory lent{workspace.data(), bytes};
#if defined(LAPLEX_CUDA_EMULATION)
  const std::int64_t before = emulation::runtime().allocations;
  emulation::runtime().fails_after = 0;
#endif
  gram.solve(in.data(), out.data(), 2, kStream, lent);
  gram.logdet(out.data(), kStream, lent);
  gram.log_prob(in.data(), out.data(), 2, kStream, lent);
  const GramGradients all{parameters.data(), parameters.data() + 600, parameters.data(),
                          parameters.data()};
  gram.vjp(in.data(), in.data(), 2, nullptr, all, out.data(), kStream, lent);
  gram.vjp_tangent(in.data(), in.data(), 2, nullptr, {}, all, out.data(), nullptr, nullptr, kStream,
                   lent);
#if defined(LAPLEX_CUDA_EMULATION)
  emulation::runtime().fails_after = -1;
  EXPECT_EQ(emulation::runtime().allocations, before);
#endif
  EXPECT_THROW(gram.solve(in.data(), out.data(), 2, kStream, {workspace.data(), 16}), Error);
}

TEST(CudaGram, SmallBytesOfBlocks) {
  const Model m = block_model_of(Anchors::uniform, 300, {2, 1}, 0.1, 2);
  const OnDeviceModel model(m);
  const std::size_t bytes = Gram::storage_bytes(model.covariance());
  EXPECT_EQ(model.gram().nbytes(), static_cast<std::int64_t>(bytes));
  EXPECT_GT(bytes, Gram::storage_bytes(2, 300, 3));
  const Model plain = model_of(Anchors::uniform, 300, 3, 0.1, 2);
  EXPECT_EQ(Gram::storage_bytes(plain.covariance()), Gram::storage_bytes(2, 300, 3));
  EXPECT_EQ(Gram::scratch_bytes(plain.covariance()), Gram::scratch_bytes(2, 300, 3));
}

TEST(CudaGram, BytesAreThoseOfTheDocumentation) {
  constexpr std::int64_t n = 100000;
  for (const std::int64_t width : {1, 2, 8}) {
    const auto j = static_cast<double>(width);
    const auto a_point = [](std::size_t bytes) { return static_cast<double>(bytes) / n; };
    EXPECT_NEAR(a_point(Gram::storage_bytes(1, n, width)), 28 + 24 * j + j * (j + 1) / 5.2, 1.0);
#if defined(LAPLEX_CUDA_EMULATION)  // where CUB takes nothing
    EXPECT_NEAR(a_point(Gram::scratch_bytes(1, n, width)), 24 + (j + 2 * j * j) / 7.8, 1.0);
#endif
    if (width < 8) {
      const OnDeviceModel model(model_of(Anchors::uniform, n, width, 0.1));
      const Gram gram = model.gram();
      EXPECT_NEAR(a_point(gram.workspace_bytes(1)), 0.13 * j + 0.13, 0.1);
      const double first = a_point(gram.gradient_workspace_bytes(0, false));
      const double second = a_point(gram.gradient_workspace_bytes(0, true));
      EXPECT_NEAR(first, 8 + 36 * j + 4 * j * j, 2.0);
      EXPECT_NEAR(second / first, 2.9, 0.1);
    }
  }
  for (const Blocks& blocks :
       {Blocks{2}, Blocks{2, 2}, Blocks{2, 2, 2, 2}, Blocks{3}, Blocks{3, 3}}) {
    const Model m = block_model_of(Anchors::uniform, n, blocks, 0.1);
    const double j = static_cast<double>(m.width), b = blocks[0];
    const double bytes = static_cast<double>(Gram::storage_bytes(m.covariance())) / n;
    EXPECT_NEAR(bytes, 28 + 16 * j + 8 * j * (b + (b + 1) / 2) + j * (b + j + (j + 1) / 2) / 7.8,
                0.005 * bytes);
    if (m.width < 4) {
      const Gram gram = OnDeviceModel(m).gram();
      const double first = static_cast<double>(gram.gradient_workspace_bytes(0, false)) / n;
      const double second = static_cast<double>(gram.gradient_workspace_bytes(0, true)) / n;
      EXPECT_NEAR(first, blocks[0] == 2 ? 137 : 250, 1.0);
      EXPECT_NEAR(second / first, 3.3, 0.1);
    }
  }
}

std::string message_of(const std::function<void()>& call, ErrorCode code) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "nothing was thrown";
}

/// The same sentence as on the CPU.
void expect_error(const Model& m, ErrorCode code) {
  const std::string want = message_of([&] { const laplex::Gram gram(m.covariance()); }, code);
  EXPECT_NE(want, "nothing was thrown");
  EXPECT_EQ(message_of([&] { static_cast<void>(OnDeviceModel(m).gram()); }, code), want);
}

TEST(CudaGram, SmallErrorsAreTheCpus) {
  const Model good = model_of(Anchors::uniform, 200, 2, 0.1, 3);
  Model m = good;
  m.anchors[250] = std::nan("");
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.loadings[5] = HUGE_VAL;
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.lengthscale[3] = 0.0;
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.noise[450] = -1.0;
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.noise[450] = std::nan("");
  expect_error(m, ErrorCode::invalid_argument);
  for (const std::int64_t width : {1, 2}) {
    for (const std::int64_t matrix : {0, 2}) {
      for (const std::int64_t first : {100, 126, 127, 128}) {  // a chunk begins at 128
        m = model_of(Anchors::uniform, 500, width, 0.2, 3);
        double* const anchors = m.anchors.data() + matrix * 500;
        std::sort(anchors, anchors + 500);
        for (std::int64_t k = first; k <= first + width; ++k) {
          anchors[k] = anchors[first];
          m.noise[at(matrix * 500 + k)] = 0.0;
        }
        expect_error(m, ErrorCode::singular);
      }
    }
  }
  m = model_of(Anchors::uniform, 200, 1, 0.0);
  m.loadings[77] = 0.0;
  expect_error(m, ErrorCode::singular);
}

TEST(CudaGram, SmallErrorsOfBlocksAreTheCpus) {
  const Model good = block_model_of(Anchors::uniform, 500, {2, 1}, 0.2, 3);
  Model m = good;
  m.weights[4] = std::nan("");
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.lengthscale[4] = -1.0;
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.blocks = {2, 2};
  expect_error(m, ErrorCode::invalid_argument);
  m.blocks = {4};
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.weights.clear();
  expect_error(m, ErrorCode::invalid_argument);
  m = block_model_of(Anchors::uniform, 50, {3}, 0.2);
  m.lengthscale[1] = m.lengthscale[2] = -1.0;  // not used
  static_cast<void>(OnDeviceModel(m).gram());
  for (const Blocks& blocks : {Blocks{2}, Blocks{3}, Blocks{2, 1}}) {
    for (const std::int64_t first : {100, 126, 127, 128}) {  // a chunk begins at 128
      SCOPED_TRACE(first);
      m = block_model_of(Anchors::uniform, 500, blocks, 0.2, 2);
      double* const anchors = m.anchors.data() + 500;
      std::sort(anchors, anchors + 500);
      for (std::int64_t k = first; k <= first + m.width; ++k) {
        anchors[k] = anchors[first];
        m.noise[at(500 + k)] = 0.0;
      }
      expect_error(m, ErrorCode::singular);
    }
  }
}

TEST(CudaGram, SmallSingularWithLoadingsOfManySizes) {
  // More points at one place than columns, and what rounding leaves of the last variance is not
  // small.
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> exponent(-3.0, 3.0);
  for (const std::int64_t width : {2, 3, 8}) {
    for (const std::int64_t first : {40, 122, 125, 127, 128}) {  // a chunk begins at 128
      Model m = model_of(Anchors::uniform, 300, width, 0.2);
      std::sort(m.anchors.begin(), m.anchors.end());
      for (std::int64_t k = first; k <= first + width; ++k) {
        m.anchors[at(k)] = m.anchors[at(first)];
        m.noise[at(k)] = 0.0;
        const double size = std::pow(10.0, exponent(random));
        for (std::int64_t j = 0; j < width; ++j) {
          m.loadings[at(k * width + j)] *= size;
        }
      }
      expect_error(m, ErrorCode::singular);
    }
  }
}

TEST(CudaGram, SmallWidthsThatTheDeviceDoesNotHave) {
  EXPECT_NE(message_of([] { static_cast<void>(Gram::storage_bytes(1, 10, 9)); },
                       ErrorCode::invalid_argument)
                .find("1 to 8 columns, got 9"),
            std::string::npos);
  for (const Blocks& blocks : {Blocks{3, 2, 2}, Blocks{3, 3, 1}, Blocks{3, 1, 1, 1, 1}}) {
    const Model m = block_model_of(Anchors::uniform, 10, blocks, 0.2);
    const OnDeviceModel model(m);
    EXPECT_NE(message_of([&] { static_cast<void>(model.gram()); }, ErrorCode::invalid_argument)
                  .find("these blocks need 3 groups"),
              std::string::npos);
  }
}

#if defined(LAPLEX_CUDA_EMULATION)

TEST(CudaGram, SmallTheSameBitsInWhicheverOrderBlocksAndThreadsRun) {
  for (const Model& m : {model_of(Anchors::uniform, 2500, 2, 0.1, 2),
                         block_model_of(Anchors::uniform, 2500, {2, 1}, 0.1, 2)}) {
    const Results want = on_device(m, 3);
    for (const auto order : {emulation::Order::descending, emulation::Order::shuffled}) {
      emulation::settings().blocks = emulation::settings().threads = order;
      const Results got = on_device(m, 3);
      emulation::settings() = {};
      for (std::size_t k = 0; k < want.all.size(); ++k) {
        EXPECT_EQ(got.all[k].second, want.all[k].second) << want.all[k].first;
      }
    }
  }
}

TEST(CudaGram, SmallNothingIsFactorisedInACapture) {
  const OnDeviceModel model(model_of(Anchors::uniform, 100, 1, 0.1));
  const Gram gram = model.gram();
  emulation::runtime().capture = 1;
  EXPECT_THROW(static_cast<void>(model.gram()), Error);
  const OnDevice<double> out(100, 9.0);
  const std::int64_t waits = emulation::runtime().waits;
  gram.log_variances(out.data(), kStream);
  gram.solve(out.data(), out.data(), 1, kStream);
  EXPECT_EQ(emulation::runtime().waits, waits);
  emulation::runtime().capture.reset();
}

#endif

}  // namespace
}  // namespace laplex::cuda::tests
