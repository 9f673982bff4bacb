// vjp against the derivatives of the dense matrix, entry by entry, ties by the convention sign(0) =
// 0.
#include "cases.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <type_traits>

namespace laplex::tests {
namespace {

template <class V>
Wide wide(const V& v) {
  if constexpr (std::is_floating_point_v<V>) {
    return {static_cast<long double>(v), 0.0L};
  } else {
    return {static_cast<long double>(v.real()), static_cast<long double>(v.imag())};
  }
}

/// A gradient entry and the sum of the absolute values of its terms.
struct Expected {
  long double value = 0.0L;
  long double scale = 0.0L;
  void add(Wide g, Wide k, Wide v) {
    value += (std::conj(g) * k * v).real();
    scale += std::abs(g) * std::abs(k) * std::abs(v);
  }
};

template <class T, class V>
void check(Form form, Anchors kind, bool self) {
  constexpr std::int64_t rows = 3;
  const Case<T> c = make_case<T>(form, kind, 21, 35, 17, self, 2);
  const Plan<T> plan(c.kernel());
  const auto v = draw_values<V>(c.heads * rows * c.m, 1);
  const auto run = [&](auto zero) {
    using R = decltype(zero);
    const auto g = draw_values<R>(c.heads * rows * c.n, 2);
    const auto sized = [](std::int64_t count) {
      return std::vector<T>(static_cast<std::size_t>(count));
    };
    std::vector<T> dx = sized(c.heads * c.n), dtheta = dx, dy = sized(c.heads * c.m), dphi = dy;
    std::vector<double> dell(2), domega(2);
    std::vector<V> dv(v.size());
    plan.vjp(v.data(), Strides{rows * c.m, c.m}, g.data(), Strides{rows * c.n, c.n}, rows,
             Gradients<T, V>{dv.data(), dx.data(), dy.data(), dell.data(), domega.data(),
                             dtheta.data(), dphi.data()});
    const auto close = [&](long double got, const Expected& e, const char* what) {
      ASSERT_LE(std::fabs(got - e.value),
                4 * promise<T>() * e.scale + std::numeric_limits<T>::min())
          << what << " " << name(form);
    };
    const auto value = [&](std::int64_t h, std::int64_t r, std::int64_t j) {
      return wide(v[static_cast<std::size_t>((h * rows + r) * c.m + j)]);
    };
    const auto cotangent = [&](std::int64_t h, std::int64_t r, std::int64_t i) {
      return wide(g[static_cast<std::size_t>((h * rows + r) * c.n + i)]);
    };
    // d K_ij / d(parameter) = factor * K_ij, then the real part in the cosine form
    const auto entry = [&](std::int64_t h, std::int64_t i, std::int64_t j, Wide factor) {
      const Wide k = c.entry(h, i, j);
      if (k == Wide{})
        return Wide{};
      const Wide d = factor * k;
      return c.real_part ? Wide{d.real(), 0.0L} : d;
    };
    for (std::int64_t h = 0; h < c.heads; ++h) {
      const auto hh = static_cast<std::size_t>(h);
      const long double ell = c.lengthscale[hh];
      const long double omega =
          c.frequency.empty() ? 0.0L : static_cast<long double>(c.frequency[hh]);
      const Wide rate{1.0L / ell, -omega};
      const auto& s = c.self ? c.x : c.y;
      const auto sign = [&](std::int64_t i, std::int64_t j) {
        const T a = c.x[static_cast<std::size_t>(h * c.n + i)];
        const T b = s[static_cast<std::size_t>(h * c.m + j)];
        return a > b ? 1.0L : a < b ? -1.0L : 0.0L;
      };
      Expected ell_sum, omega_sum;
      std::vector<Expected> x(static_cast<std::size_t>(c.n)),
          theta = x, y(static_cast<std::size_t>(c.m)), phi = y;
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t j = 0; j < c.m; ++j) {
          Wide sum{};
          long double scale = 0.0L;
          for (std::int64_t i = 0; i < c.n; ++i) {
            const Wide gi = cotangent(h, r, i);
            const Wide vj = value(h, r, j);
            const auto ii = static_cast<std::size_t>(i);
            const auto jj = static_cast<std::size_t>(j);
            const long double d = c.distance(h, i, j);
            x[ii].add(gi, entry(h, i, j, -rate * sign(i, j)), vj);
            y[jj].add(gi, entry(h, i, j, rate * sign(i, j)), vj);
            theta[ii].add(gi, entry(h, i, j, {0.0L, 1.0L}), vj);
            phi[jj].add(gi, entry(h, i, j, {0.0L, -1.0L}), vj);
            ell_sum.add(gi, entry(h, i, j, d / (ell * ell)), vj);
            omega_sum.add(gi, entry(h, i, j, {0.0L, d}), vj);
            const Wide k = entry(h, i, j, 1.0L);
            sum += std::conj(k) * gi;
            scale += c.modulus(h, i, j) * std::abs(gi);
            // The cosine of an angle may be small where its ingredients are not.
            x[ii].scale += std::abs(rate) * c.modulus(h, i, j) * std::abs(gi) * std::abs(vj);
            y[jj].scale += std::abs(rate) * c.modulus(h, i, j) * std::abs(gi) * std::abs(vj);
            theta[ii].scale += c.modulus(h, i, j) * std::abs(gi) * std::abs(vj);
            phi[jj].scale += c.modulus(h, i, j) * std::abs(gi) * std::abs(vj);
          }
          const Wide got = wide(dv[static_cast<std::size_t>((h * rows + r) * c.m + j)]);
          const Wide want = std::is_floating_point_v<V> ? Wide{sum.real(), 0.0L} : sum;
          ASSERT_LE(std::abs(got - want), promise<T>() * scale + std::numeric_limits<T>::min());
        }
      }
      for (std::int64_t i = 0; i < c.n; ++i) {
        const auto at = static_cast<std::size_t>(h * c.n + i);
        close(dx[at], x[static_cast<std::size_t>(i)], "target");
        close(dtheta[at], theta[static_cast<std::size_t>(i)], "target phase");
      }
      for (std::int64_t j = 0; j < c.m; ++j) {
        const auto at = static_cast<std::size_t>(h * c.m + j);
        close(dy[at], y[static_cast<std::size_t>(j)], "source");
        close(dphi[at], phi[static_cast<std::size_t>(j)], "source phase");
      }
      close(dell[hh], ell_sum, "lengthscale");
      close(domega[hh], omega_sum, "frequency");
    }
  };
  if (plan.template result_is_complex<V>()) {
    run(std::complex<T>{});
  } else if constexpr (std::is_floating_point_v<V>) {
    run(T{});
  }
}

template <class T>
class GradientsOf : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(GradientsOf, Precisions);

TYPED_TEST(GradientsOf, EveryInputInEveryForm) {
  for (const Form form : kForms) {
    for (const Anchors kind : {Anchors::uniform, Anchors::grid, Anchors::equal, Anchors::skewed}) {
      for (const bool self : {false, true}) {
        check<TypeParam, TypeParam>(form, kind, self);
        check<TypeParam, std::complex<TypeParam>>(form, kind, self);
      }
    }
  }
}

TYPED_TEST(GradientsOf, AnchorsOfAllMagnitudesAreFinite) {
  using T = TypeParam;
  const Case<T> c = make_case<T>(Form::cosine, Anchors::huge, 40, 50, 3);
  const Plan<T> plan(c.kernel());
  const auto v = draw_values<T>(50, 4);
  const auto g = draw_values<T>(40, 5);
  double dell = 0.0, domega = 0.0;
  std::vector<T> dx(40);
  Gradients<T, T> gradients;
  gradients.targets = dx.data();
  gradients.lengthscale = &dell;
  gradients.frequency = &domega;
  plan.vjp(v.data(), Strides{}, g.data(), Strides{}, 1, gradients);
  EXPECT_TRUE(std::isfinite(dell));
  EXPECT_TRUE(std::isfinite(domega));
  for (const T d : dx)
    EXPECT_TRUE(std::isfinite(d));
}

TYPED_TEST(GradientsOf, ValuesMayBeOverwritten) {
  using T = TypeParam;
  for (const Form form : {Form::real, Form::cosine_carrier}) {
    for (const std::int64_t rows : {1, 11}) {
      for (const bool sorted : {false, true}) {
        Case<T> c = make_case<T>(form, Anchors::uniform, 611, 703, 5);
        if (sorted) {
          std::sort(c.x.begin(), c.x.end());
          std::sort(c.y.begin(), c.y.end());
        }
        const Plan<T> plan(c.kernel());
        auto v = draw_values<T>(rows * c.m, 6);
        const auto g = draw_values<T>(rows * c.n, 7);
        std::vector<T> apart(v.size());
        const auto run = [&](T* to) {
          Gradients<T, T> gradients;
          gradients.values = to;
          plan.vjp(v.data(), Strides{0, c.m}, g.data(), Strides{0, c.n}, rows, gradients);
        };
        run(apart.data());
        run(v.data());
        EXPECT_EQ(v, apart) << name(form) << " " << rows << (sorted ? " sorted" : "");
      }
    }
  }
}

}  // namespace
}  // namespace laplex::tests
