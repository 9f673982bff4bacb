// Bad input leaves as laplex::Error with a code and a message, and nothing is half done.
#include "cases.hpp"
#include "expect_error.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace laplex::tests {
namespace {

TEST(Errors, AnchorsAndParametersOutsideTheirDomain) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double inf = std::numeric_limits<double>::infinity();
  const auto build = [](const Case<double>& c) { const Plan<double> plan(c.kernel()); };
  const Case<double> good = make_case<double>(Form::cosine, Anchors::uniform, 5, 6, 1);
  const auto changed = [&](auto change) {
    Case<double> c = good;
    change(c);
    return c;
  };
  const auto invalid = ErrorCode::invalid_argument;
  expect_error([&] { build(changed([&](auto& c) { c.x[3] = nan; })); }, invalid,
               "targets must be finite, but entry 3");
  expect_error([&] { build(changed([&](auto& c) { c.y[0] = -inf; })); }, invalid,
               "sources must be finite");
  expect_error([&] { build(changed([&](auto& c) { c.theta[1] = nan; })); }, invalid,
               "target_phase");
  expect_error([&] { build(changed([&](auto& c) { c.phi[1] = inf; })); }, invalid, "source_phase");
  expect_error([&] { build(changed([&](auto& c) { c.frequency[0] = inf; })); }, invalid,
               "frequency");
  for (const double bad : {0.0, -1.0, nan, inf}) {
    expect_error([&] { build(changed([&](auto& c) { c.lengthscale[0] = bad; })); }, invalid,
                 "lengthscale");
  }
  expect_error([&] { build(changed([&](auto& c) { c.n = -1; })); }, invalid, "negative");
  expect_error(
      [&] {
        build(changed([&](auto& c) { c.n = c.m = std::numeric_limits<std::int64_t>::max() / 2; }));
      },
      ErrorCode::out_of_memory, "beyond any memory");
}

TEST(Errors, MoreAnchorsThanAPlanCanNumber) {
  const double x = 0.0;  // refused before any anchor is read
  Kernel<double> kernel;
  kernel.num_targets = kernel.num_sources = std::int64_t(1) << 31;
  kernel.targets = kernel.sources = &x;
  expect_error([&] { const Plan<double> plan(kernel); }, ErrorCode::invalid_argument,
               "more anchors than a plan can number");
}

TEST(Errors, NullPointersToArraysThatHaveEntries) {
  const Case<double> c = make_case<double>(Form::real, Anchors::uniform, 5, 5, 1, true);
  Plan<double> plan(c.kernel());
  std::vector<double> some(5);
  double* const there = some.data();
  double* const null = nullptr;
  const auto refused = [](const auto& call, const std::string& name) {
    expect_error(call, ErrorCode::invalid_argument, name + " is a null pointer");
  };
  Kernel<double> kernel = c.kernel();
  kernel.targets = nullptr;
  refused([&] { const Plan<double> without(kernel); }, "targets");
  refused([&] { plan.update(null); }, "targets");
  refused([&] { plan.apply(null, there); }, "v");
  refused([&] { plan.apply(there, null); }, "u");
  refused([&] { plan.half_sums(there, there, null, 1, {5, 5}, {5, 5}); }, "right");
  refused([&] { plan.quantiles(null, 1, there); }, "levels");
  refused([&] { plan.quantiles(std::vector<double>{1.0}.data(), 1, null); }, "result");
  refused([&] { plan.vjp(there, {}, null, {}, 1, Gradients<double, double>{}); }, "g");
  refused([&] { plan.second_vjp(null, {}, there, {}, 1, {}, {}); }, "v");
  refused([&] { plan.to_dense(null); }, "matrix");
  plan.apply(null, null, 0);  // no rows, so that there is nothing to point at

  Covariance covariance;
  covariance.n = 5;
  refused([&] { const Gram without(covariance); }, "anchors");
  covariance.anchors = c.x.data();
  const Gram gram(covariance);
  refused([&] { gram.apply(Factor::lower, false, null, there, 1); }, "in");
  refused([&] { gram.solve(there, null, 1); }, "x");
  refused([&] { gram.log_prob(there, null, 1); }, "out");
  refused([&] { gram.log_variances(null); }, "out");
  refused([&] { gram.logdet(null); }, "out");
  refused([&] { gram.order(nullptr); }, "out");
  refused([&] { gram.precision(there, null); }, "off_diagonal");
  refused([&] { gram.vjp(there, null, 1, nullptr, {}); }, "b");
  refused([&] { gram.vjp_tangent(null, there, 1, nullptr, {}, {}, null, null, null); }, "a");
  covariance.num_blocks = 1;
  refused([&] { const Gram without(covariance); }, "blocks");

  Process process;
  process.n = 5;
  process.anchors = process.values = there;
  process.lengthscale = there;
  refused([&] { static_cast<void>(log_density(process, there)); }, "a parameter of the processes");
  process.variance = there;
  refused([&] { static_cast<void>(log_density(process, null)); }, "out");
  OscillatorProcess oscillator;
  oscillator.n = 5;
  refused([&] { static_cast<void>(oscillator_log_density(oscillator, there)); }, "anchors");
}

TEST(Errors, SizesAndOptionsThatNothingCanHave) {
  const Case<double> c = make_case<double>(Form::real, Anchors::uniform, 5, 5, 1, true);
  const Plan<double> plan(c.kernel());
  std::vector<double> v(5), u(5);
  Covariance covariance;
  covariance.n = 5;
  covariance.anchors = c.x.data();
  const Gram gram(covariance);
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  for (const std::int64_t rows : {most, most / 5, std::int64_t(1) << 47}) {
    expect_error([&] { plan.apply(v.data(), u.data(), rows); }, ErrorCode::out_of_memory,
                 "beyond any memory");
    expect_error([&] { gram.solve(v.data(), u.data(), rows); }, ErrorCode::out_of_memory,
                 "beyond any memory");
  }
  Kernel<double> empty;
  empty.heads = most;
  expect_error([&] { const Plan<double> many(empty); }, ErrorCode::out_of_memory, "memory");
  const auto invalid = ErrorCode::invalid_argument;
  expect_error([&] { plan.apply(v.data(), u.data(), -1); }, invalid, "rows must not be negative");
  expect_error([&] { plan.apply(v.data(), u.data(), 1, static_cast<Mode>(3)); }, invalid, "mode");
  expect_error(
      [&] {
        plan.apply(v.data(), u.data(), 1, Strides{}, Strides{}, Mode::plain,
                   Term{static_cast<Parity>(7)});
      },
      invalid, "parity");
  Kernel<double> kernel = c.kernel();
  kernel.profile = static_cast<Profile>(9);
  expect_error([&] { const Plan<double> other(kernel); }, invalid, "profile");
  kernel = c.kernel();
  kernel.side = static_cast<Side>(-1);
  expect_error([&] { const Plan<double> other(kernel); }, invalid, "side");
}

TEST(Errors, WhatWasMovedFromIsEmptyAndRefusesCalls) {
  const Case<double> c = make_case<double>(Form::real, Anchors::uniform, 5, 5, 1, true);
  Plan<double> plan(c.kernel());
  const Plan<double> moved = std::move(plan);
  EXPECT_EQ(moved.num_targets(), 5);
  // NOLINTBEGIN(bugprone-use-after-move): which is what this is about
  EXPECT_EQ(plan.heads() + plan.num_targets() + plan.num_sources() + plan.nbytes(), 0);
  EXPECT_FALSE(plan.is_self() || plan.kernel_is_complex());
  double v = 0.0;
  expect_error([&] { plan.apply(&v, &v); }, ErrorCode::invalid_argument, "was moved from");
  expect_error([&] { plan.update(&v); }, ErrorCode::invalid_argument, "was moved from");
  Covariance covariance;
  covariance.n = 5;
  covariance.anchors = c.x.data();
  Gram gram(covariance);
  const Gram other = std::move(gram);
  EXPECT_EQ(other.size(), 5);
  EXPECT_EQ(gram.batch() + gram.size() + gram.width() + gram.nbytes(), 0);
  EXPECT_FALSE(gram.has_ties());
  expect_error([&] { gram.solve(&v, &v, 1); }, ErrorCode::invalid_argument, "was moved from");
  // NOLINTEND(bugprone-use-after-move)
}

TEST(Errors, AFailedUpdateChangesNothing) {
  const Case<double> c = make_case<double>(Form::real, Anchors::uniform, 50, 60, 1);
  Plan<double> plan(c.kernel());
  const auto v = draw_values<double>(60, 1);
  std::vector<double> before(50), after(50);
  plan.apply(v.data(), before.data());
  std::vector<double> bad = c.x;
  bad[49] = std::numeric_limits<double>::quiet_NaN();
  expect_error([&] { plan.update(bad.data(), c.y.data()); }, ErrorCode::invalid_argument,
               "targets");
  expect_error([&] { plan.update(c.x.data()); }, ErrorCode::invalid_argument,
               "sources are missing");
  plan.apply(v.data(), after.data());
  EXPECT_EQ(before, after);
}

TEST(Errors, WrongTypesOfResults) {
  const Case<double> c = make_case<double>(Form::carrier, Anchors::uniform, 5, 6, 1);
  const Plan<double> plan(c.kernel());
  const auto v = draw_values<double>(6, 1);
  std::vector<double> u(5);
  expect_error([&] { plan.apply(v.data(), u.data()); }, ErrorCode::invalid_argument, "complex");
  std::vector<std::complex<double>> z(5);
  expect_error(
      [&] {
        plan.apply(v.data(), z.data(), 1, Strides{}, Strides{}, Mode::plain,
                   Term{Parity::even, {NAN}});
      },
      ErrorCode::invalid_argument, "finite");
}

TEST(Errors, AnInterruptStopsALongCallAndThePlanLives) {
  const Case<double> c = make_case<double>(Form::real, Anchors::uniform, 400000, 400000, 1);
  const Plan<double> plan(c.kernel());
  const auto v = draw_values<double>(c.m, 1);
  std::vector<double> u(static_cast<std::size_t>(c.n));
  {
    const InterruptScope scope([] { return true; });
    expect_error(
        [&] {
          for (int k = 0; k < 1000; ++k)
            plan.apply(v.data(), u.data());
        },
        ErrorCode::interrupted, "interrupted");
  }
  {
    const InterruptScope scope([]() -> bool { throw std::logic_error("the host's own"); });
    EXPECT_THROW(
        {
          for (int k = 0; k < 1000; ++k)
            plan.apply(v.data(), u.data());
        },
        std::logic_error);
  }
  plan.apply(v.data(), u.data());
  EXPECT_TRUE(std::isfinite(u[0]));
}

TEST(Errors, AnInterruptStopsASort) {
  Case<double> c = make_case<double>(Form::real, Anchors::uniform, 2000000, 1, 1);
  const InterruptScope scope([] { return true; });
  // 2e6 anchors take several times the 20 ms between two questions to the check
  expect_error([&] { const Plan<double> plan(c.kernel()); }, ErrorCode::interrupted, "interrupted");
}

TEST(Errors, AnInterruptCheckMayUseThePlanWhoseTablesAreBeingMade) {
  Case<double> c = make_case<double>(Form::real, Anchors::uniform, 1000000, 1000000, 1);
  c.lengthscale = {2e-8};  // a cell for each anchor: tables take several times those 20 ms
  const Plan<double> plan(c.kernel());
  const auto v = draw_values<double>(c.m, 1);
  std::vector<double> u(static_cast<std::size_t>(c.n)), inside(u.size());
  bool asked = false;
  const auto apply = [&](std::vector<double>& to) {  // a moment: its tables are made when asked for
    plan.apply(v.data(), to.data(), 1, Strides{}, Strides{}, Mode::plain,
               Term{Parity::even, {0.0, 1.0}});
  };
  {
    const InterruptScope scope([&] {
      if (!asked) {
        asked = true;
        apply(inside);
      }
      return false;
    });
    apply(u);
  }
  EXPECT_TRUE(asked);
  EXPECT_EQ(u, inside);
}

TEST(Errors, AThreadCountThatIsNoNumber) {
  for (const char* bad : {"abc", "0", "-3", "2.5", "4 cores"}) {
    setenv("LAPLEX_NUM_THREADS", bad, 1);
    expect_error([] { static_cast<void>(default_num_threads()); }, ErrorCode::invalid_argument,
                 "LAPLEX_NUM_THREADS must be a positive integer");
  }
  setenv("LAPLEX_NUM_THREADS", "3", 1);
  EXPECT_EQ(default_num_threads(), 3);
  setenv("LAPLEX_NUM_THREADS", "99999", 1);
  EXPECT_EQ(default_num_threads(), kMostThreads);
  unsetenv("LAPLEX_NUM_THREADS");
  EXPECT_GE(default_num_threads(), 1);
}

TEST(Errors, ValuesThatAreNotFinitePropagate) {
  const Case<double> c = make_case<double>(Form::real, Anchors::uniform, 50, 60, 1);
  const Plan<double> plan(c.kernel());
  auto v = draw_values<double>(60, 1);
  v[30] = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> u(50);
  plan.apply(v.data(), u.data());
  for (const double x : u)
    EXPECT_TRUE(std::isnan(x));
}

}  // namespace
}  // namespace laplex::tests
