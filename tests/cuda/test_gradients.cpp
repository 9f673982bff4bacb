// Gradients on the device against the CPU's in double, ties by the convention sign(0) = 0.
#include "cases.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
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
                    const std::vector<R>& g, std::int64_t rows, const Term& term = {}) {
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
  // Without phases nobody asks for their gradients, and real ones in float go by cells.
  wanted.target_phase = c.theta.empty() ? nullptr : theta.data();
  wanted.source_phase = c.phi.empty() ? nullptr : phi.data();
  plan.vjp({values.data(), kIsComplex<V>, {rows * c.m, c.m}},
           {grad.data(), kIsComplex<R>, {rows * c.n, c.n}}, rows, wanted, kStream, term);
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
                       std::int64_t rows, const Term& term) {
  All<double, V> all(c, rows);
  laplex::Plan<double>(c.kernel())
      .vjp(v.data(), Strides{rows * c.m, c.m}, g.data(), Strides{rows * c.n, c.n}, rows,
           Gradients<double, V>{all.values.data(), all.x.data(), all.y.data(), all.ell.data(),
                                all.omega.data(), all.theta.data(), all.phi.data()},
           term);
  return all;
}

/// The polynomial of a term and of its kernel, and the length of the exponential in lengthscales.
std::array<double, 5> polynomial_of(const Term& term, Profile profile) {
  const std::array<double, 3> kernel{1.0, profile == Profile::matern12 ? 0.0 : 1.0,
                                     profile == Profile::matern52 ? 1.0 / 3.0 : 0.0};
  std::array<double, 5> product{};
  for (std::size_t i = 0; i < kernel.size(); ++i) {
    for (std::size_t k = 0; i + k < product.size(); ++k) {
      product[i + k] += kernel[i] * term.polynomial[k];
    }
  }
  return product;
}
double length_of(Profile profile) {
  return 1.0 / std::sqrt(1.0 + 2.0 * static_cast<double>(profile));
}

/// Errors in units of the sum of the absolute values of all terms: products of the moduli.
template <class T, class V>
void check(Form form, Anchors kind, std::int64_t n, std::int64_t m, bool self, std::int64_t rows,
           std::int64_t heads, Profile profile = Profile::matern12, const Term& term = {},
           double lengthscale = 0.0) {
  Case<T> c = make_case<T>(form, kind, n, m, 17, self, heads);
  c.profile = profile;
  if (lengthscale > 0.0)
    c.lengthscale.assign(static_cast<std::size_t>(heads), lengthscale);
  SCOPED_TRACE(laplex::tests::name(form) + ", anchors " + std::to_string(static_cast<int>(kind)) +
               ", n = " + std::to_string(c.n) + ", m = " + std::to_string(c.m) +
               (self ? ", self" : "") + ", profile " + std::to_string(static_cast<int>(profile)) +
               ", parity " + std::to_string(static_cast<int>(term.parity)));
  const DeviceCase<T> device(c);
  const Plan<T> plan = device.plan();
  const auto v = draw_values<V>(heads * rows * c.m, 1);
  const auto run = [&](auto zero) {
    using R = decltype(zero);
    const auto g = draw_values<R>(heads * rows * c.n, 2);
    const All<T, V> got = on_device(c, plan, v, g, rows, term);
    const Case<double> wide = widened(c);
    const auto want = on_host(wide, widened(v), widened(g), rows, term);

    const auto sizes = [](const auto& values) {
      std::vector<double> all;
      for (const auto& each : values)
        all.push_back(static_cast<double>(std::abs(each)));
      return all;
    };
    Case<double> exponential = moduli(wide);
    exponential.profile = Profile::matern12;
    for (double& each : exponential.lengthscale)
      each *= length_of(profile);
    const laplex::Plan<double> bounds(exponential.kernel());
    // The sizes of q and of its derivative, and these times the distance.
    const auto q = polynomial_of(term, profile);
    Term near_sizes{Parity::even, {}};
    Term far_sizes{Parity::even, {}};
    for (std::size_t k = 0; k < q.size(); ++k) {
      near_sizes.polynomial[k] += std::abs(q[k]);
      if (k > 0) {
        near_sizes.polynomial[k - 1] += static_cast<double>(k) * std::abs(q[k]);
      }
    }
    std::copy_n(near_sizes.polynomial.begin(), 4, far_sizes.polynomial.begin() + 1);
    const Strides at_sources{rows * c.m, c.m};
    const Strides at_targets{rows * c.n, c.n};
    const auto v_sizes = sizes(v);
    const auto g_sizes = sizes(g);
    std::vector<double> kv(static_cast<std::size_t>(heads * rows * c.n));
    std::vector<double> kg(static_cast<std::size_t>(heads * rows * c.m));
    std::vector<double> far(kv.size());
    bounds.apply(v_sizes.data(), kv.data(), rows, at_sources, at_targets, Mode::plain, near_sizes);
    bounds.apply(g_sizes.data(), kg.data(), rows, at_targets, at_sources, Mode::transpose,
                 near_sizes);
    bounds.apply(v_sizes.data(), far.data(), rows, at_sources, at_targets, Mode::plain, far_sizes);
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
      const double length = ell * length_of(profile);
      const double rate = std::hypot(1 / length, omega);
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
      near(got.omega[hh], want.omega[hh], all_far * length, "frequency");
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
  // One side dense enough for cells, and the other too sparse.
  check<T, T>(Form::real, Anchors::uniform, 9000, 40, false, 2, 1, Profile::matern12, {}, 0.01);
  check<T, T>(Form::real, Anchors::uniform, 40, 9000, false, 2, 1, Profile::matern12, {}, 0.01);
  check<T, T>(Form::real, Anchors::uniform, 4000, 90, false, 2, 1, Profile::matern12, {}, 0.01);
  check<T, T>(Form::real, Anchors::uniform, 600, 500, false, 40, 2);
  if (sizeof(T) == 4) {  // several rows a block
    check<T, T>(Form::real, Anchors::grid, 200, 150, false, 1100, 1);
    check<T, T>(Form::real, Anchors::uniform, 300, 300, true, 1100, 1);
  }
  for (const auto& [n, m] : {std::pair<std::int64_t, std::int64_t>{0, 400}, {400, 0}})
    check<T, T>(Form::real, Anchors::uniform, n, m, false, 2, 1);
}

TYPED_TEST(CudaGradients, SmallMaternKernelsAndTerms) {
  using T = TypeParam;
  const auto both = [](Form form, Anchors kind, std::int64_t n, std::int64_t m, bool self,
                       Profile profile, const Term& term) {
    check<T, T>(form, kind, n, m, self, 3, 2, profile, term);
    if (form != Form::cosine && form != Form::cosine_carrier) {
      check<T, std::complex<T>>(form, kind, n, m, self, 2, 1, profile, term);
    }
  };
  for (const Form form : kForms) {
    for (const Anchors kind : {Anchors::uniform, Anchors::grid, Anchors::equal}) {
      if (kind != Anchors::grid && form != Form::real)
        continue;  // a grid has ties and gaps
      for (const bool self : {false, true}) {
        both(form, kind, 21, 35, self, Profile::matern32, {});
        both(form, kind, 21, 35, self, Profile::matern52, {});
      }
      both(form, kind, 21, 35, false, Profile::matern52, {Parity::odd, {0.5, 1.0}});
      for (const Parity parity : {Parity::odd, Parity::strict}) {
        both(form, kind, 21, 35, false, Profile::matern12, {parity});
      }
      both(form, kind, 35, 21, true, Profile::matern12, {Parity::even, {0.0, 0.0, 0.0, 1.0}});
      both(form, kind, 35, 21, true, Profile::matern12, {Parity::odd, {1.0}, true});
    }
  }
  check<T, T>(Form::real, Anchors::grid, 0, 3, false, 2, 1, Profile::matern32);
  check<T, T>(Form::real, Anchors::grid, 3, 0, false, 2, 1, Profile::matern32);
}

TYPED_TEST(CudaGradients, LongMaternKernels) {
  using T = TypeParam;
  check<T, T>(Form::real, Anchors::uniform, 1100, 1300, false, 3, 1, Profile::matern32);
  check<T, T>(Form::real, Anchors::grid, 9000, 9000, true, 1, 1, Profile::matern52);
  check<T, T>(Form::oscillating, Anchors::grid, 1100, 1300, false, 1, 1, Profile::matern52);
}

TYPED_TEST(CudaGradients, SmallTermsInLentMemory) {
  using T = TypeParam;
  constexpr std::int64_t n = 1500;
  for (const Term& term : {Term{Parity::even, {0.0, 1.0}}, Term{Parity::odd, {1.0}, true},
                           Term{Parity::even, {0.0, 0.0, 0.0, 0.0, 1.0}}}) {
    const Case<T> c = make_case<T>(Form::real, Anchors::uniform, n, n, 3);
    const DeviceCase<T> device(c);
    const Plan<T> plan = device.plan();
    const OnDevice<T> values(draw_values<T>(n, 4));
    const OnDevice<T> grad(draw_values<T>(n, 5));
    const ConstVectors v{values.data(), false, {n, n}};
    const ConstVectors g{grad.data(), false, {n, n}};
    const OnDevice<T> d_values(std::size_t(n), T(9)), x(std::size_t(n), T(9));
    const OnDevice<double> ell(1, 9.0);
    Gradients<T, T> wanted;
    wanted.values = d_values.data();
    wanted.targets = x.data();
    const std::size_t bytes = plan.gradient_workspace_bytes(1, false, term);
    const OnDevice<unsigned char> lent(bytes, 0);
    plan.vjp(v, g, 1, wanted, kStream, term, {lent.data(), bytes});
    const auto got = x.host();
    plan.vjp(v, g, 1, wanted, kStream, term);
    EXPECT_EQ(x.host(), got);
    wanted.lengthscale = ell.data();
    if (term.polynomial.back() == 0.0) {
      plan.vjp(v, g, 1, wanted, kStream, term, {lent.data(), bytes});
      EXPECT_NE(ell.host()[0], 9.0);
      EXPECT_THROW(plan.vjp(v, g, 1, wanted, kStream, term, {lent.data(), 64}), Error);
    } else {
      EXPECT_THROW(plan.vjp(v, g, 1, wanted, kStream, term), Error);  // a power too many
    }
  }
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
