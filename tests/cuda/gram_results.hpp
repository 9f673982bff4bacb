/// Everything that a covariance does on the device, beside what it does on the CPU.
#pragma once

#include "../cpp/gram_cases.hpp"
#include "device_memory.hpp"

#include <laplex/cuda/gram.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

namespace laplex::cuda::tests {

using laplex::tests::Anchors;
using laplex::tests::at;
using laplex::tests::draw;
using laplex::tests::Model;
using laplex::tests::Vector;

inline Model model_of(Anchors kind, std::int64_t n, std::int64_t width, double noise,
                      std::int64_t batch = 1) {
  return laplex::tests::make_model(kind, n, width, noise, at(n + 100 * width), batch);
}

using Blocks = std::vector<int>;

inline Model block_model_of(Anchors kind, std::int64_t n, const Blocks& blocks, double noise,
                            std::int64_t batch = 1) {
  return laplex::tests::make_block_model(kind, n, blocks, noise, at(n), batch);
}

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

inline constexpr Factor kFactors[] = {Factor::lower, Factor::lower_inverse, Factor::upper,
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

inline Results on_host(const Model& m, std::int64_t rows, bool ties_backwards = false) {
  return results_of<Vector>(
      laplex::Gram(m.covariance(ties_backwards)), m, Arguments(m, rows),
      [](const Vector& v) { return v; }, HostCalls{});
}

inline Results on_device(const Model& m, std::int64_t rows, bool ties_backwards = false) {
  const OnDeviceModel model(m, ties_backwards);
  return results_of<OnDevice<double>>(
      model.gram(), m, Arguments(m, rows), [](const Vector& v) { return OnDevice<double>(v); },
      DeviceCalls{});
}

/// Entries are compared with the largest one of their kind: both sides round, in orders of their
/// own.
inline void expect_same(const Results& got, const Results& want, double bound) {
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

inline void check(const Model& m, std::int64_t rows, double bound = 1e-11,
                  bool ties_backwards = false) {
  SCOPED_TRACE("n = " + std::to_string(m.n) + ", width = " + std::to_string(m.width) +
               ", rows = " + std::to_string(rows));
  expect_same(on_device(m, rows, ties_backwards), on_host(m, rows, ties_backwards), bound);
}

inline std::string message_of(const std::function<void()>& call, ErrorCode code) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "nothing was thrown";
}

/// The same sentence as on the CPU.
inline void expect_error(const Model& m, ErrorCode code) {
  const std::string want = message_of([&] { const laplex::Gram gram(m.covariance()); }, code);
  EXPECT_NE(want, "nothing was thrown");
  EXPECT_EQ(message_of([&] { static_cast<void>(OnDeviceModel(m).gram()); }, code), want);
}

}  // namespace laplex::cuda::tests
