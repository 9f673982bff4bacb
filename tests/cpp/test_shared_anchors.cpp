// Heads that share their anchors have the bits of heads with a copy each.
#include "cases.hpp"
#include "expect_error.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace laplex::tests {
namespace {

constexpr std::int64_t kHeads = 3;

/// `count` anchors for each of the heads.
template <class T>
std::vector<T> repeated(const std::vector<T>& anchors, std::int64_t heads = kHeads) {
  std::vector<T> all;
  for (std::int64_t h = 0; h < heads; ++h) {
    all.insert(all.end(), anchors.begin(), anchors.end());
  }
  return all;
}

/// A case whose anchors, `n` and `m`, stand for all of its heads.
template <class T>
Case<T> shared_case(Form form, Anchors kind, std::int64_t n, std::int64_t m, bool self) {
  Case<T> c = make_case<T>(form, kind, n, m, 7, self, kHeads);
  c.x.resize(static_cast<std::size_t>(c.n));
  c.y.resize(self ? 0 : static_cast<std::size_t>(c.m));
  return c;
}

template <class T>
Kernel<T> kernel_of(const Case<T>& c, bool shared) {
  Kernel<T> kernel = c.kernel();
  kernel.shared_anchors = shared;
  return kernel;
}

template <class T>
void expect_same(const Plan<T>& one, const Plan<T>& other, const std::string& what) {
  using C = std::complex<T>;
  const std::int64_t n = one.num_targets();
  const std::int64_t m = one.num_sources();
  const auto size = [](std::int64_t count) { return static_cast<std::size_t>(kHeads * count); };
  const std::int64_t rows = 2;
  const auto v = draw_values<C>(kHeads * rows * m, 1);
  const auto g = draw_values<C>(kHeads * rows * n, 2);
  struct Results {
    std::vector<C> product, transposed, values;
    std::vector<T> x, y, theta, phi;
    std::vector<double> lengthscale, frequency;
  };
  const auto results = [&](const Plan<T>& plan) {
    Results r{std::vector<C>(g.size()), std::vector<C>(v.size()), std::vector<C>(v.size()),
              std::vector<T>(size(n)),  std::vector<T>(size(m)),  std::vector<T>(size(n)),
              std::vector<T>(size(m)),  std::vector<double>(3),   std::vector<double>(3)};
    plan.apply(v.data(), r.product.data(), rows);
    plan.transpose(g.data(), r.transposed.data(), rows);
    const Gradients<T, C> gradients{r.values.data(),      r.x.data(),         r.y.data(),
                                    r.lengthscale.data(), r.frequency.data(), r.theta.data(),
                                    r.phi.data()};
    plan.vjp(v.data(), {rows * m, m}, g.data(), {rows * n, n}, rows, gradients);
    return r;
  };
  const Results a = results(one);
  const Results b = results(other);
  EXPECT_EQ(a.product, b.product) << what;
  EXPECT_EQ(a.transposed, b.transposed) << what;
  EXPECT_EQ(a.values, b.values) << what;
  EXPECT_EQ(a.x, b.x) << what;
  EXPECT_EQ(a.y, b.y) << what;
  EXPECT_EQ(a.theta, b.theta) << what;
  EXPECT_EQ(a.phi, b.phi) << what;
  EXPECT_EQ(a.lengthscale, b.lengthscale) << what;
  EXPECT_EQ(a.frequency, b.frequency) << what;
}

template <class T>
class SharedAnchors : public ::testing::Test {};
using Precisions = ::testing::Types<float, double>;
TYPED_TEST_SUITE(SharedAnchors, Precisions);

TYPED_TEST(SharedAnchors, HaveTheBitsOfCopies) {
  using T = TypeParam;
  for (const Form form : {Form::real, Form::carrier, Form::oscillating}) {
    for (const Anchors kind : {Anchors::uniform, Anchors::grid, Anchors::skewed}) {
      for (const bool self : {false, true}) {
        Case<T> c = shared_case<T>(form, kind, 700, 500, self);
        const Plan<T> shared(kernel_of(c, true));
        const auto x = repeated(c.x);
        const auto y = repeated(c.y);
        Kernel<T> copies = kernel_of(c, false);
        copies.targets = x.data();
        copies.sources = self ? nullptr : y.data();
        expect_same(shared, Plan<T>(copies), name(form) + (self ? ", self" : ""));
      }
    }
  }
}

TYPED_TEST(SharedAnchors, AreUpdatedAndCopiedOut) {
  using T = TypeParam;
  for (const bool self : {false, true}) {
    Case<T> c = shared_case<T>(Form::oscillating, Anchors::uniform, 900, 600, self);
    Plan<T> plan(kernel_of(c, true));
    for (const T step : {T(1e-3), T(10)}) {
      const auto moves = draw_values<T>(c.n, 3);
      for (std::size_t k = 0; k < c.x.size(); ++k) {
        c.x[k] += step * moves[k];
      }
      std::reverse(c.y.begin(), c.y.end());
      plan.update(c.x.data(), self ? nullptr : c.y.data());
      expect_same(plan, Plan<T>(kernel_of(c, true)), "moved");
      for (double& one : c.lengthscale) {
        one *= 0.7;
      }
      plan.update(Changes<T>{nullptr, nullptr, c.lengthscale.data()});
      expect_same(plan, Plan<T>(kernel_of(c, true)), "another lengthscale");
    }
    std::vector<T> x(c.x.size());
    std::vector<T> y(static_cast<std::size_t>(c.m));
    std::vector<double> lengthscale(kHeads);
    plan.anchors(x.data(), y.data(), lengthscale.data());
    EXPECT_EQ(x, c.x);
    EXPECT_EQ(y, self ? c.x : c.y);
    EXPECT_EQ(lengthscale, c.lengthscale);
  }
}

TYPED_TEST(SharedAnchors, AreSortedOnce) {
  using T = TypeParam;
  const Case<T> c = shared_case<T>(Form::real, Anchors::uniform, 20'000, 20'000, false);
  const auto x = repeated(c.x);
  const auto y = repeated(c.y);
  Kernel<T> copies = kernel_of(c, false);
  copies.targets = x.data();
  copies.sources = y.data();
  const Plan<T> shared(kernel_of(c, true));
  const Plan<T> own(copies);
  const auto an_order = static_cast<std::int64_t>(40'000 * (sizeof(T) + sizeof(std::uint32_t)));
  EXPECT_GE(own.nbytes() - shared.nbytes(), (kHeads - 1) * an_order);
  EXPECT_EQ(shared.rank(), own.rank());
}

TEST(SharedAnchorsOnce, ShareAPermutation) {
  // So many that going back and forth repeatedly makes a table.
  constexpr std::int64_t kCount = std::int64_t(1) << 21;
  const Case<float> c = shared_case<float>(Form::real, Anchors::uniform, kCount, kCount, true);
  const Plan<float> plan(kernel_of(c, true));
  const auto v = draw_values<float>(kHeads * kCount, 1);
  std::vector<float> first(v.size());
  plan.apply(v.data(), first.data());
  const std::int64_t before = plan.nbytes();
  for (int repetition = 0; repetition < 3; ++repetition) {
    std::vector<float> again(v.size());
    plan.apply(v.data(), again.data());
    EXPECT_TRUE(again == first);
  }
  EXPECT_LE(plan.nbytes() - before, 5 * kCount);  // one table of four bytes an anchor
}

TEST(SharedAnchorsOnce, SecondDerivativesStayPerHead) {
  const Case<double> c = shared_case<double>(Form::real, Anchors::grid, 40, 30, false);
  const auto x = repeated(c.x);
  const auto y = repeated(c.y);
  Kernel<double> copies = kernel_of(c, false);
  copies.targets = x.data();
  copies.sources = y.data();
  const auto v = draw_values<double>(kHeads * 30, 1);
  const auto g = draw_values<double>(kHeads * 40, 2);
  const auto results = [&](const Kernel<double>& kernel) {
    std::vector<double> all(static_cast<std::size_t>(kHeads * 70 + kHeads));
    double* const to = all.data();
    SecondGradients<double> into;
    into.targets = to;
    into.sources = to + kHeads * 40;
    into.lengthscale = to + kHeads * 70;
    Plan<double>(kernel).second_vjp(v.data(), {30, 30}, g.data(), {40, 40}, 1,
                                    {v.data(), g.data(), v.data(), nullptr}, into);
    return all;
  };
  EXPECT_EQ(results(kernel_of(c, true)), results(copies));
}

TEST(SharedAnchorsOnce, ErrorsCountTheirEntries) {
  Case<double> c = shared_case<double>(Form::real, Anchors::uniform, 5, 4, false);
  c.y[3] = std::nan("");
  expect_error([&] { const Plan<double> plan(kernel_of(c, true)); }, ErrorCode::invalid_argument,
               "sources must be finite, but entry 3 is NaN");
}

TEST(SharedAnchorsOnce, NoHeads) {
  Case<double> c = shared_case<double>(Form::real, Anchors::uniform, 5, 4, false);
  c.heads = 0;
  Plan<double> plan(kernel_of(c, true));
  plan.update(c.x.data(), c.y.data());
  EXPECT_TRUE(plan.rank().empty());
}

}  // namespace
}  // namespace laplex::tests
