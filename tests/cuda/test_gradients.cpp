// Gradients on the device against the CPU's in double, ties by the convention sign(0) = 0.
#include "cases.hpp"

#include <gtest/gtest.h>

#include <string>

namespace laplex::cuda::tests {
namespace {

/// All seven, on the host.
template <class T, class V>
struct All {
  std::vector<V> values;
  std::vector<T> x, y, theta, phi;
  std::vector<double> ell, omega;

  All(const Case<T>& c, std::int64_t rows)
      : values(static_cast<std::size_t>(c.heads * rows * c.m), V(9)),
        x(static_cast<std::size_t>(c.heads * c.n), T(9)),
        y(static_cast<std::size_t>(c.heads * c.m), T(9)),
        theta(x),
        phi(y),
        ell(static_cast<std::size_t>(c.heads), 9.0),
        omega(ell) {}
};

template <class T, class V, class R>
All<T, V> on_device(const Case<T>& c, const Plan<T>& plan, const std::vector<V>& v,
                    const std::vector<R>& g, std::int64_t rows) {
  All<T, V> all(c, rows);
  const OnDevice<V> values(v);
  const OnDevice<R> grad(g);
  const OnDevice<V> d_values(all.values);
  const OnDevice<T> x(all.x), y(all.y), theta(all.theta), phi(all.phi);
  const OnDevice<double> ell(all.ell), omega(all.omega);
  Gradients<T, T> wanted;
  wanted.values = reinterpret_cast<T*>(d_values.data());
  wanted.targets = x.data();
  wanted.sources = y.data();
  wanted.lengthscale = ell.data();
  wanted.frequency = omega.data();
  wanted.target_phase = theta.data();
  wanted.source_phase = phi.data();
  plan.vjp({values.data(), kIsComplex<V>, {rows * c.m, c.m}},
           {grad.data(), kIsComplex<R>, {rows * c.n, c.n}}, rows, wanted, kStream);
  all.values = d_values.host();
  all.x = x.host();
  all.y = y.host();
  all.theta = theta.host();
  all.phi = phi.host();
  all.ell = ell.host();
  all.omega = omega.host();
  return all;
}

/// The same by the CPU.
template <class V, class R>
All<double, V> on_host(const Case<double>& c, const std::vector<V>& v, const std::vector<R>& g,
                       std::int64_t rows) {
  All<double, V> all(c, rows);
  laplex::Plan<double>(c.kernel())
      .vjp(v.data(), Strides{rows * c.m, c.m}, g.data(), Strides{rows * c.n, c.n}, rows,
           Gradients<double, V>{all.values.data(), all.x.data(), all.y.data(), all.ell.data(),
                                all.omega.data(), all.theta.data(), all.phi.data()});
  return all;
}

/// Errors in units of the sum of the absolute values of all terms: products of the moduli.
template <class T, class V>
void check(Form form, Anchors kind, std::int64_t n, std::int64_t m, bool self, std::int64_t rows,
           std::int64_t heads) {
  const Case<T> c = make_case<T>(form, kind, n, m, 17, self, heads);
  SCOPED_TRACE(laplex::tests::name(form) + ", anchors " + std::to_string(static_cast<int>(kind)) +
               ", n = " + std::to_string(c.n) + ", m = " + std::to_string(c.m) +
               (self ? ", self" : ""));
  const DeviceCase<T> device(c);
  const Plan<T> plan = device.plan();
  const auto v = draw_values<V>(heads * rows * c.m, 1);
  const auto run = [&](auto zero) {
    using R = decltype(zero);
    const auto g = draw_values<R>(heads * rows * c.n, 2);
    const All<T, V> got = on_device(c, plan, v, g, rows);
    const Case<double> wide = widened(c);
    const auto want = on_host(wide, widened(v), widened(g), rows);

    const auto sizes = [](const auto& values) {
      std::vector<double> all;
      for (const auto& each : values)
        all.push_back(static_cast<double>(std::abs(each)));
      return all;
    };
    const laplex::Plan<double> bounds(moduli(wide).kernel());
    const auto v_sizes = sizes(v);
    const auto g_sizes = sizes(g);
    std::vector<double> kv(static_cast<std::size_t>(heads * rows * c.n));
    std::vector<double> kg(static_cast<std::size_t>(heads * rows * c.m));
    std::vector<double> far(kv.size());
    bounds.apply(v_sizes.data(), kv.data(), rows);
    bounds.transpose(g_sizes.data(), kg.data(), rows);
    bounds.apply(v_sizes.data(), far.data(), rows, Strides{rows * c.m, c.m},
                 Strides{rows * c.n, c.n}, Mode::plain, {Parity::even, 1});
    const double unit = 4 * (static_cast<double>(promise<T>()) + 1e-14);
    const double floor =
        static_cast<double>(c.n + c.m) * static_cast<double>(std::numeric_limits<T>::min());
    const auto near = [&](auto a, auto b, double scale, const char* what) {
      ASSERT_LE(std::abs(std::complex<double>(a) - std::complex<double>(b)), unit * scale + floor)
          << what;
    };
    for (std::int64_t h = 0; h < heads; ++h) {
      const auto hh = static_cast<std::size_t>(h);
      const double ell = c.lengthscale[hh];
      const double omega = c.frequency.empty() ? 0.0 : c.frequency[hh];
      const double rate = std::hypot(1 / ell, omega);
      double all_far = 0.0;
      for (std::int64_t i = 0; i < c.n; ++i) {
        double scale = 0.0;
        for (std::int64_t r = 0; r < rows; ++r) {
          const auto at = static_cast<std::size_t>((h * rows + r) * c.n + i);
          scale += g_sizes[at] * kv[at];
          all_far += g_sizes[at] * far[at];
        }
        const auto at = static_cast<std::size_t>(h * c.n + i);
        near(got.x[at], want.x[at], rate * scale, "target");
        if (!c.theta.empty())
          near(got.theta[at], want.theta[at], scale, "target phase");
      }
      for (std::int64_t j = 0; j < c.m; ++j) {
        double scale = 0.0;
        for (std::int64_t r = 0; r < rows; ++r) {
          const auto at = static_cast<std::size_t>((h * rows + r) * c.m + j);
          scale += v_sizes[at] * kg[at];
          near(got.values[at], want.values[at], kg[at], "value");
        }
        const auto at = static_cast<std::size_t>(h * c.m + j);
        near(got.y[at], want.y[at], rate * scale, "source");
        if (!c.phi.empty())
          near(got.phi[at], want.phi[at], scale, "source phase");
      }
      near(got.ell[hh], want.ell[hh], all_far / ell, "lengthscale");
      near(got.omega[hh], want.omega[hh], all_far * ell, "frequency");
    }
  };
  if (kIsComplex<V> || plan.kernel_is_complex()) {
    run(std::complex<T>{});
  } else if constexpr (!kIsComplex<V>) {
    run(T{});
  }
}

template <class T>
class CudaGradients : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(CudaGradients, Precisions);

TYPED_TEST(CudaGradients, SmallInEveryForm) {
  using T = TypeParam;
  for (const Form form : kForms) {
    for (const Anchors kind : kAnchors) {
      for (const bool self : {false, true}) {
        if (kind == Anchors::huge)
          continue;  // terms of no common scale: see AnchorsOfAllMagnitudesAreFinite
        check<T, T>(form, kind, 21, 35, self, 3, 2);
        if (form != Form::cosine && form != Form::cosine_carrier) {
          check<T, std::complex<T>>(form, kind, 21, 35, self, 3, 2);
        }
      }
    }
  }
}

TYPED_TEST(CudaGradients, EdgesOfTilesAndGroups) {
  using T = TypeParam;
  for (const auto& [n, m] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {0, 3}, {3, 0}, {1, 1}, {511, 512}, {512, 512}, {513, 512}, {2000, 1100}}) {
    for (const Anchors kind : {Anchors::uniform, Anchors::grid}) {
      check<T, T>(Form::real, kind, n, m, false, 5, 1);
      check<T, T>(Form::cosine, kind, n, m, false, 1, 1);
    }
  }
  check<T, T>(Form::real, Anchors::uniform, 1025, 1025, true, 2, 2);
  check<T, T>(Form::oscillating, Anchors::grid, 2500, 2500, true, 1, 1);
  check<T, T>(Form::carrier, Anchors::equal, 700, 900, false, 2, 1);
}

TYPED_TEST(CudaGradients, LongDenseAndSparseTiles) {
  using T = TypeParam;
  for (const Anchors kind : {Anchors::uniform, Anchors::skewed, Anchors::grid}) {
    check<T, T>(Form::real, kind, 5000, 4500, false, 2, 1);
    check<T, T>(Form::real, kind, 5000, 5000, true, 2, 1);
  }
  check<T, T>(Form::real, Anchors::uniform, 9000, 40, false, 1, 1);
  check<T, T>(Form::real, Anchors::uniform, 40, 9000, false, 1, 1);
  check<T, T>(Form::real, Anchors::uniform, 600, 500, false, 40, 2);
  check<T, T>(Form::real, Anchors::grid, 200, 150, false, 1100, 1);  // several rows a block
  check<T, T>(Form::real, Anchors::uniform, 300, 300, true, 1100, 1);
  for (const auto& [n, m] : {std::pair<std::int64_t, std::int64_t>{0, 400}, {400, 0}})
    check<T, T>(Form::real, Anchors::uniform, n, m, false, 2, 1);
}

TYPED_TEST(CudaGradients, AnchorsOfAllMagnitudesAreFinite) {
  using T = TypeParam;
  const Case<T> c = make_case<T>(Form::cosine, Anchors::huge, 40, 50, 3);
  const DeviceCase<T> device(c);
  const All<T, T> all =
      on_device(c, device.plan(), draw_values<T>(50, 4), draw_values<T>(40, 5), 1);
  EXPECT_TRUE(std::isfinite(all.ell[0]));
  EXPECT_TRUE(std::isfinite(all.omega[0]));
  for (const T each : all.x)
    EXPECT_TRUE(std::isfinite(each));
}

TYPED_TEST(CudaGradients, SmallOnesThatAreNotWantedAreLeftAlone) {
  using T = TypeParam;
  const Case<T> c = make_case<T>(Form::carrier, Anchors::uniform, 30, 40, 3);
  const DeviceCase<T> device(c);
  const Plan<T> plan = device.plan();
  const auto v = draw_values<T>(40, 4);
  const auto g = draw_values<std::complex<T>>(30, 5);
  const All<T, T> all = on_device(c, plan, v, g, 1);
  const OnDevice<T> values(v);
  const OnDevice<std::complex<T>> grad(g);
  const OnDevice<T> y(40, T(9));
  Gradients<T, T> wanted;
  wanted.sources = y.data();
  plan.vjp({values.data(), false, {40, 40}}, {grad.data(), true, {30, 30}}, 1, wanted, kStream);
  EXPECT_EQ(y.host(), all.y);
}

}  // namespace
}  // namespace laplex::cuda::tests
