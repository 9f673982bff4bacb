// The plan itself: order, updates, memory, errors, and that results depend on the input alone.
#include "cases.hpp"

#include <laplex/cuda/device.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <string>

#if defined(LAPLEX_CUDA_EMULATION)
#include "emulated_runtime.hpp"
#include "emulation.hpp"
#endif

namespace laplex::cuda::tests {
namespace {

std::string message_of(const std::function<void()>& call, ErrorCode code) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  return "nothing was thrown";
}

template <class T>
void upload_all(const T* device, const std::vector<T>& host) {
  upload(const_cast<T*>(device), host.data(), host.size() * sizeof(T));
}

template <class T>
class CudaPlan : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(CudaPlan, Precisions);

TYPED_TEST(CudaPlan, SmallUpdatesGiveTheBitsOfANewPlan) {
  using T = TypeParam;
  for (const std::int64_t heads : {1, 3}) {
    for (const bool self : {false, true}) {
      const Case<T> c = make_case<T>(Form::real, Anchors::uniform, 700, 800, 5, self, heads);
      const DeviceCase<T> device(c);
      Plan<T> plan = device.plan();
      EXPECT_FALSE(plan.is_sorted());
      const auto v = draw_values<T>(heads * c.m, 6);
      for (const double step : {0.0, 1e-3, 1.0, -2.0}) {  // a shift at the end: order kept
        Case<T> moved = c;
        std::mt19937_64 random(7);
        std::normal_distribution<double> normal;
        for (std::vector<T>* anchors : {&moved.x, &moved.y}) {
          for (T& z : *anchors)
            z = static_cast<T>(z + (step < 0 ? step : step * normal(random)));
        }
        const DeviceCase<T> fresh(moved);
        EXPECT_EQ(plan.holds(fresh.kernel().targets, fresh.kernel().sources, kStream), step == 0.0);
        plan.update(fresh.kernel().targets, fresh.kernel().sources, kStream);
        EXPECT_TRUE(plan.holds(fresh.kernel().targets, fresh.kernel().sources, kStream));
        EXPECT_EQ(device_product<T>(plan, v, 1), device_product<T>(fresh.plan(), v, 1));
        std::vector<T> x(moved.x.size());
        const OnDevice<T> out(x);
        plan.anchors(out.data(), nullptr, kStream);
        EXPECT_EQ(out.host(), moved.x);
      }
    }
  }
}

TYPED_TEST(CudaPlan, SmallAnchorsThatMoveOntoOneAnotherGiveTheBitsOfANewPlan) {
  using T = TypeParam;
  const Case<T> c = make_case<T>(Form::real, Anchors::uniform, 300, 400, 5, false, 2);
  for (const int places : {100, 20, 2, 1}) {  // anchors on each: a few, or hundreds
    const DeviceCase<T> device(c);
    Plan<T> plan = device.plan();
    Case<T> moved = c;
    for (std::vector<T>* anchors : {&moved.x, &moved.y}) {  // which keeps them ascending as sorted
      for (T& z : *anchors)
        z = std::floor(z * T(places));
    }
    const DeviceCase<T> fresh(moved);
#if defined(LAPLEX_CUDA_EMULATION)
    const std::int64_t sorts = emulation::runtime().sorts;
#endif
    plan.update(fresh.kernel().targets, fresh.kernel().sources, kStream);
#if defined(LAPLEX_CUDA_EMULATION)
    EXPECT_EQ(emulation::runtime().sorts == sorts, places >= 20);
#endif
    const auto v = draw_values<T>(2 * 400, 6);
    EXPECT_EQ(device_product<T>(plan, v, 1), device_product<T>(fresh.plan(), v, 1));
  }
}

TYPED_TEST(CudaPlan, SmallHeadsThatShareAnchorsGiveTheBitsOfHeadsThatRepeatThem) {
  using T = TypeParam;
  constexpr std::int64_t heads = 3;
  constexpr std::int64_t rows = 2;
  for (const Form form : {Form::real, Form::cosine}) {
    for (const bool self : {false, true}) {
      for (const std::int64_t n : {90, 5000}) {
        Case<T> c = make_case<T>(form, Anchors::uniform, n, self ? n : n + 7, 5, self, heads);
        const auto repeat = [&](std::vector<T>& z) {
          const auto one = static_cast<std::ptrdiff_t>(z.size() / heads);
          for (std::int64_t h = 1; h < heads; ++h)
            std::copy(z.begin(), z.begin() + one, z.begin() + h * one);
        };
        repeat(c.x);
        repeat(c.y);
        const DeviceCase<T> device(c);
        Kernel<T> kernel = device.kernel();
        kernel.shared_anchors = true;  // of which `[n]` are the first head's
        const Plan<T> repeated = device.plan();
        Plan<T> shared(kernel, kStream);
        EXPECT_EQ(shared.nbytes(),
                  static_cast<std::int64_t>(Plan<T>::storage_bytes(1, c.n, c.m, self)));
        const auto v = draw_values<T>(heads * rows * c.m, 6);
        const auto g = draw_values<T>(heads * rows * c.n, 7);
        const auto gradients = [&](const Plan<T>& plan) {
          const OnDevice<T> values(v), grad(g), dx(c.x.size(), T(9)), dy(heads * c.m, T(9));
          const OnDevice<double> d_ell(heads, 9.0);
          Gradients<T, T> wanted;
          wanted.targets = dx.data();
          wanted.sources = dy.data();
          wanted.lengthscale = d_ell.data();
          plan.vjp({values.data(), false, {rows * c.m, c.m}},
                   {grad.data(), false, {rows * c.n, c.n}}, rows, wanted, kStream);
          std::vector<double> all = d_ell.host();
          for (const auto& part : {dx.host(), dy.host()})
            all.insert(all.end(), part.begin(), part.end());
          return all;
        };
        const auto check = [&](const Plan<T>& want) {
          EXPECT_EQ(device_product<T>(shared, v, rows), device_product<T>(want, v, rows));
          EXPECT_EQ(gradients(shared), gradients(want));
        };
        check(repeated);
        for (T& z : c.x)
          z = -z;
        const DeviceCase<T> moved(c);
        shared.update(moved.kernel().targets, moved.kernel().sources, kStream);
        check(moved.plan());
        EXPECT_TRUE(shared.holds(moved.kernel().targets, moved.kernel().sources, kStream));
        const OnDevice<T> x(static_cast<std::size_t>(n), T(9));
        shared.anchors(x.data(), nullptr, kStream);
        EXPECT_EQ(x.host(), std::vector<T>(c.x.begin(), c.x.begin() + n));
      }
    }
  }
}

TYPED_TEST(CudaPlan, SmallReportsAreWrittenWithoutAWait) {
  using T = TypeParam;
  const Case<T> c = make_case<T>(Form::cosine, Anchors::uniform, 300, 700, 5, false, 2);
  const DeviceCase<T> device(c);
  const auto v = draw_values<T>(2 * c.m, 1);
  const auto before = device_product<T>(device.plan(), v, 1);
  // In memory of the device, which serves a test that waits for it.
  const OnDevice<std::uint64_t> word(1, 0);
  auto* const report = reinterpret_cast<Report*>(word.data());
  const auto reported = [&] {
    Report copy{word.host()[0]};
    upload_all(word.data(), std::vector<std::uint64_t>{0});
    if (copy.found == 0)
      return std::string();
    const std::string text = message_of([&] { copy.check(); }, ErrorCode::invalid_argument);
    copy.check();  // which has forgotten it
    return text;
  };
  const auto without_a_wait = [](const std::function<void()>& call) {
#if defined(LAPLEX_CUDA_EMULATION)
    const std::int64_t waits = emulation::runtime().waits;
#endif
    call();
#if defined(LAPLEX_CUDA_EMULATION)
    EXPECT_EQ(emulation::runtime().waits, waits);
#endif
  };
  std::unique_ptr<Plan<T>> plan;
  const auto build = [&](const Kernel<T>& kernel) {
    without_a_wait(
        [&] { plan = std::make_unique<Plan<T>>(kernel, kStream, Memory{}, Scratch{}, report); });
    return reported();
  };
  const auto update = [&](const Kernel<T>& kernel) {
    without_a_wait([&] { plan->update(kernel.targets, kernel.sources, kStream, {}, report); });
    return reported();
  };
  const auto refused = [&](const Case<T>& bad) { return build(DeviceCase<T>(bad).kernel()); };

  Case<T> bad = c;
  bad.y[0] = -std::numeric_limits<T>::infinity();
  EXPECT_EQ(refused(bad),
            "sources must be finite, but in an earlier call entry 0 of head 0 was NaN or infinite: "
            "its results are NaN");
  bad = c;
  bad.phi[3] = std::numeric_limits<T>::infinity();
  EXPECT_EQ(refused(bad),
            "source_phase must be finite, but in an earlier call entry 3 of head 0 was NaN or "
            "infinite: its results are NaN");
  bad = c;
  bad.lengthscale[1] = -1.0;
  EXPECT_EQ(refused(bad),
            "lengthscale must be positive and finite, but in an earlier call that of head 1 was "
            "not: its results are NaN");
  bad = c;
  bad.frequency[0] = HUGE_VAL;
  EXPECT_EQ(refused(bad),
            "frequency must be finite, but in an earlier call that of head 0 was not: its results "
            "are NaN");
  bad = make_case<T>(Form::real, Anchors::uniform, 5, 4, 5);
  bad.lengthscale = {0.0};
  EXPECT_EQ(refused(bad),
            "lengthscale must be positive and finite, but in an earlier call it was not: its "
            "results are NaN");

  EXPECT_EQ(build(device.kernel()), "");
  EXPECT_FALSE(plan->is_sorted());
  EXPECT_EQ(device_product<T>(*plan, v, 1), before);
  bad = c;
  bad.x[302] = std::numeric_limits<T>::quiet_NaN();
  EXPECT_EQ(update(DeviceCase<T>(bad).kernel()),
            "targets must be finite, but in an earlier call entry 2 of head 1 was NaN or infinite: "
            "its results are NaN");
  const auto nothing = device_product<T>(*plan, v, 1);
  for (std::size_t i = 300; i < 600; ++i)
    ASSERT_TRUE(std::isnan(nothing[i]));
  EXPECT_EQ(update(device.kernel()), "");
  EXPECT_EQ(device_product<T>(*plan, v, 1), before);
}

TYPED_TEST(CudaPlan, SmallScratchIsAskedForByASort) {
  using T = TypeParam;
  Case<T> c = make_case<T>(Form::real, Anchors::uniform, 300, 400, 5);
  const Case<T> unsorted = c;
  std::sort(c.x.begin(), c.x.end());
  std::sort(c.y.begin(), c.y.end());
  const std::size_t bytes = Plan<T>::scratch_bytes(1, 300, 400, false);
  const OnDevice<unsigned char> memory(bytes, 0);
  std::vector<std::size_t> asked;
  Scratch scratch;
  scratch.lend = [&](std::size_t needed) {
    asked.push_back(needed);
    return Memory{memory.data(), needed};
  };
  const DeviceCase<T> device(c);
  const DeviceCase<T> other(unsorted);
  Plan<T> plan(device.kernel(), kStream, {}, scratch);
  plan.update(device.kernel().targets, device.kernel().sources, kStream, scratch);
  EXPECT_TRUE(asked.empty());
  plan.update(other.kernel().targets, other.kernel().sources, kStream, scratch);
  EXPECT_EQ(asked, std::vector<std::size_t>{bytes});
  plan.update(other.kernel().targets, other.kernel().sources, kStream, scratch);
  EXPECT_EQ(asked.size(), 1U);
  const auto v = draw_values<T>(400, 6);
  EXPECT_EQ(device_product<T>(plan, v, 1), device_product<T>(other.plan(), v, 1));
  plan.update(device.kernel().targets, device.kernel().sources, kStream, scratch);
  scratch.lend = [&](std::size_t) { return Memory{memory.data(), 8}; };
  const auto before = device_product<T>(plan, v, 1);
  EXPECT_EQ(
      message_of(
          [&] { plan.update(other.kernel().targets, other.kernel().sources, kStream, scratch); },
          ErrorCode::invalid_argument),
      "scratch has 8 bytes, but this call takes " + std::to_string(bytes) +
          ": see scratch_bytes()");
  EXPECT_EQ(device_product<T>(plan, v, 1), before);
}

TYPED_TEST(CudaPlan, SmallSortedAnchorsStayInPlaceAndGiveTheSameBits) {
  using T = TypeParam;
  Case<T> c = make_case<T>(Form::real, Anchors::uniform, 900, 1000, 5);
  auto v = draw_values<T>(1000, 6);
  std::vector<std::size_t> x_order(900), y_order(1000);
  const auto order_of = [](const std::vector<T>& z) {
    std::vector<std::size_t> order(z.size());
    for (std::size_t k = 0; k < z.size(); ++k)
      order[k] = k;
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return z[a] < z[b]; });
    return order;
  };
  const auto shuffled = device_product<T>(DeviceCase<T>(c).plan(), v, 1);
  x_order = order_of(c.x);
  y_order = order_of(c.y);
  Case<T> sorted = c;
  auto sorted_v = v;
  for (std::size_t k = 0; k < x_order.size(); ++k)
    sorted.x[k] = c.x[x_order[k]];
  for (std::size_t k = 0; k < y_order.size(); ++k) {
    sorted.y[k] = c.y[y_order[k]];
    sorted_v[k] = v[y_order[k]];
  }
  const DeviceCase<T> device(sorted);
  const Plan<T> plan = device.plan();
  EXPECT_TRUE(plan.is_sorted());
  const auto in_order = device_product<T>(plan, sorted_v, 1);
  for (std::size_t k = 0; k < x_order.size(); ++k)
    EXPECT_EQ(in_order[k], shuffled[x_order[k]]);
}

TYPED_TEST(CudaPlan, SmallParametersAreReadWhereTheyAre) {
  using T = TypeParam;
  const Case<T> c = make_case<T>(Form::oscillating, Anchors::uniform, 30, 40, 5);
  const DeviceCase<T> device(c);
  const Plan<T> plan = device.plan();
  const auto v = draw_values<T>(40, 6);
  using C = std::complex<T>;
  const auto before = device_product<C>(plan, v, 1);
  upload_all(device.kernel().lengthscale, std::vector<double>{0.7});
  Case<T> other = c;
  other.lengthscale = {0.7};
  const DeviceCase<T> fresh(other);
  EXPECT_EQ(device_product<C>(plan, v, 1), device_product<C>(fresh.plan(), v, 1));
  upload_all(device.kernel().lengthscale, c.lengthscale);
  EXPECT_EQ(device_product<C>(plan, v, 1), before);
  // And given anew, on the same anchors.
  const Plan<T> with = plan.with_parameters(fresh.kernel());
  EXPECT_EQ(device_product<C>(with, v, 1), device_product<C>(fresh.plan(), v, 1));
  // What a plan would refuse makes NaN.
  upload_all(device.kernel().lengthscale, std::vector<double>{-1.0});
  for (const C& each : device_product<C>(plan, v, 1))
    EXPECT_TRUE(std::isnan(each.real()));
}

TYPED_TEST(CudaPlan, SmallErrorsNameTheArgument) {
  using T = TypeParam;
  const auto refused = [](const Case<T>& c) {
    const DeviceCase<T> device(c);
    return message_of([&] { static_cast<void>(device.plan()); }, ErrorCode::invalid_argument);
  };
  const Case<T> good = make_case<T>(Form::cosine, Anchors::uniform, 5, 4, 5, false, 2);
  Case<T> c = good;
  c.x[7] = std::numeric_limits<T>::quiet_NaN();
  c.x[8] = std::numeric_limits<T>::infinity();
  EXPECT_EQ(refused(c), "targets must be finite, but entry 2 of head 1 is NaN");
  c = good;
  c.y[0] = -std::numeric_limits<T>::infinity();
  EXPECT_EQ(refused(c), "sources must be finite, but entry 0 of head 0 is -inf");
  c = good;
  c.phi[3] = std::numeric_limits<T>::infinity();
  EXPECT_EQ(refused(c), "source_phase must be finite, but entry 3 of head 0 is inf");
  c = good;
  c.lengthscale[1] = 0.0;
  EXPECT_EQ(refused(c), "lengthscale must be positive and finite, got 0 for head 1");
  c = good;
  c.frequency[0] = HUGE_VAL;
  EXPECT_EQ(refused(c), "frequency must be finite, got inf for head 0");

  const DeviceCase<T> device(good);
  Plan<T> plan = device.plan();
  const auto v = draw_values<T>(2 * good.m, 1);
  const auto before = device_product<T>(plan, v, 1);
  std::vector<T> bad = good.x;
  bad[9] = std::numeric_limits<T>::quiet_NaN();
  const OnDevice<T> x(bad);
  EXPECT_EQ(message_of([&] { plan.update(x.data(), device.kernel().sources, kStream); },
                       ErrorCode::invalid_argument),
            "targets must be finite, but entry 4 of head 1 is NaN");
  EXPECT_EQ(device_product<T>(plan, v, 1), before);
  EXPECT_EQ(message_of([&] { plan.update(device.kernel().targets, nullptr, kStream); },
                       ErrorCode::invalid_argument),
            "sources are missing: this plan has sources of its own");
  Vectors real{nullptr, false, {}};
  Vectors complex{nullptr, true, {}};
  EXPECT_EQ(message_of([&] { plan.apply(real, 1, complex, kStream); }, ErrorCode::invalid_argument),
            "the result must be real: values and kernel are");
  EXPECT_EQ(
      message_of([&] { plan.apply(complex, 1, complex, kStream); }, ErrorCode::invalid_argument),
      "complex values with real_part: pass their real and imaginary parts as two rows");
  EXPECT_EQ(message_of([&] { plan.apply(real, -1, real, kStream); }, ErrorCode::invalid_argument),
            "rows must not be negative, got -1");
  const OnDevice<T> values(v);
  real.data = values.data();
  EXPECT_EQ(
      message_of(
          [&] { plan.apply(real, 1, real, kStream, Mode::plain, {Parity::even, {HUGE_VAL}}); },
          ErrorCode::invalid_argument),
      "coefficients of a term's polynomial must be finite, but that of power 0 is inf");
  Kernel<T> large;
  large.num_targets = std::int64_t(1) << 32;
  EXPECT_EQ(message_of([&] { Plan<T>(large, kStream); }, ErrorCode::invalid_argument),
            "targets has 4294967296 anchors, more than a plan on a GPU can number, 4294967294: "
            "split it into blocks");
}

TYPED_TEST(CudaPlan, LentMemoryIsEnoughAndTooLittleIsRefused) {
  using T = TypeParam;
  for (const Form form : {Form::real, Form::cosine}) {
    for (const std::int64_t n : {100, 5000}) {
      constexpr std::int64_t rows = 2;
      const Case<T> c = make_case<T>(form, Anchors::uniform, n, n + 1, 5, false, 2);
      const DeviceCase<T> device(c);
      const std::size_t storage = Plan<T>::storage_bytes(2, c.n, c.m, false);
      const std::size_t scratch = Plan<T>::scratch_bytes(2, c.n, c.m, false);
      const OnDevice<unsigned char> kept(storage, 0);
      const OnDevice<unsigned char> lent(scratch, 0);
      const auto v = draw_values<T>(2 * rows * c.m, 6);
      const auto g = draw_values<T>(2 * rows * c.n, 7);
      const OnDevice<T> values(v);
      const OnDevice<T> grad(g);
      const OnDevice<T> result(g.size(), T(9));
      const OnDevice<T> dx(c.x.size(), T(9));
      const OnDevice<double> d_ell(2, 9.0);
      Gradients<T, T> wanted;
      wanted.targets = dx.data();
      wanted.lengthscale = d_ell.data();
      const Plan<T> owning = device.plan();
      const OnDevice<unsigned char> work(owning.workspace_bytes(rows, false) + 1, 0);
      const OnDevice<unsigned char> more(owning.gradient_workspace_bytes(rows, false) + 1, 0);
#if defined(LAPLEX_CUDA_EMULATION)
      emulation::runtime().fails_after = 0;  // any allocation of the library's own
      const std::int64_t waits = emulation::runtime().waits;
#endif
      Plan<T> plan(device.kernel(), kStream, {kept.data(), storage}, {lent.data(), scratch});
      plan.update(device.kernel().targets, device.kernel().sources, kStream,
                  {lent.data(), scratch});
#if defined(LAPLEX_CUDA_EMULATION)
      EXPECT_EQ(emulation::runtime().waits, waits + 2);  // one each
      const std::int64_t waited = emulation::runtime().waits;
#endif
      const ConstVectors in{values.data(), false, {rows * c.m, c.m}};
      const ConstVectors cotangent{grad.data(), false, {rows * c.n, c.n}};
      const Vectors out{result.data(), false, {rows * c.n, c.n}};
      plan.apply(in, rows, out, kStream, Mode::plain, {},
                 {work.data(), plan.workspace_bytes(rows, false)});
      plan.vjp(in, cotangent, rows, wanted, kStream, {},
               {more.data(), plan.gradient_workspace_bytes(rows, false)});
#if defined(LAPLEX_CUDA_EMULATION)
      EXPECT_EQ(emulation::runtime().waits, waited);
      emulation::runtime().fails_after = -1;
#endif
      EXPECT_EQ(result.host(), device_product<T>(owning, v, rows));
      EXPECT_EQ(plan.nbytes(), static_cast<std::int64_t>(storage));

      EXPECT_EQ(message_of([&] { Plan<T>(device.kernel(), kStream, {kept.data(), storage - 1}); },
                           ErrorCode::invalid_argument),
                "storage has " + std::to_string(storage - 1) + " bytes, but this plan takes " +
                    std::to_string(storage) + ": see storage_bytes()");
      if (n > 1000) {
        const std::string text = message_of(
            [&] { plan.apply(in, rows, out, kStream, Mode::plain, {}, {work.data(), 8}); },
            ErrorCode::invalid_argument);
        EXPECT_NE(text.find("workspace has 8 bytes, but this call takes"), std::string::npos)
            << text;
      }
    }
  }
}

/// The byte budget of docs/explanation/gpu.md: what a plan holds, sorts with and works in, an
/// anchor.
TEST(CudaMemory, BudgetOfABillion) {
  constexpr std::int64_t n = 100000;
  const auto per = [](std::size_t bytes) {
    return static_cast<double>(bytes) / static_cast<double>(n);
  };
  // Each side a position and an index, and in float a rank; a byte and two for eight items, four
  // for 1024.
  EXPECT_NEAR(per(Plan<float>::storage_bytes(1, n, n, false)), 20 + 2 * (3 / 8. + 4 / 1024.), 0.05);
  EXPECT_NEAR(per(Plan<double>::storage_bytes(1, n, n, false)), 24 + 2 * (3 / 8. + 4 / 1024.),
              0.05);
  EXPECT_NEAR(per(Plan<float>::storage_bytes(1, n, n, true)), 8, 0.05);
#if defined(LAPLEX_CUDA_EMULATION)  // without CUB's own
  EXPECT_NEAR(per(Plan<float>::scratch_bytes(1, n, n, false)), 4, 0.05);
#else
  constexpr std::int64_t many = 100000000;  // where CUB's few megabytes do not show
  EXPECT_NEAR(static_cast<double>(Plan<float>::scratch_bytes(1, many, many, false)) / double(many),
              12, 0.3);
#endif
  const Case<float> c = make_case<float>(Form::real, Anchors::uniform, n, n, 3);
  const DeviceCase<float> device(c);
  const Plan<float> plan = device.plan();
  // Values in sorted order, and two sums a tile.
  EXPECT_NEAR(per(plan.workspace_bytes(1, false)), 4 + 2 * 16 / 1024., 0.1);
  // Values and cotangents in sorted order, two sums of two words for each, the stretch.
  EXPECT_NEAR(per(plan.gradient_workspace_bytes(1, false)), 8 + 2 * (64 + 16) / 1024., 0.1);
}

#if defined(LAPLEX_CUDA_EMULATION)

TEST(Emulation, ResultsDoNotDependOnTheOrderOfBlocksOrThreads) {
  const Case<float> c = make_case<float>(Form::cosine, Anchors::grid, 4000, 5000, 5, false, 2);
  const DeviceCase<float> device(c);
  const Plan<float> plan = device.plan();
  const auto v = draw_values<float>(2 * 5000, 6);
  const auto g = draw_values<float>(2 * 4000, 7);
  const OnDevice<float> values(v);
  const OnDevice<float> grad(g);
  std::vector<std::vector<float>> results;
  using emulation::Order;
  for (const Order blocks : {Order::ascending, Order::descending, Order::shuffled}) {
    for (const Order threads : {Order::ascending, Order::descending, Order::shuffled}) {
      emulation::settings() = {blocks, threads, 11};
      std::vector<float> all = device_product<float>(device.plan(), v, 1);
      const OnDevice<float> x(c.x.size(), 9.0F);
      const OnDevice<double> ell(2, 9.0);
      Gradients<float, float> wanted;
      wanted.targets = x.data();
      wanted.lengthscale = ell.data();
      plan.vjp({values.data(), false, {5000, 5000}}, {grad.data(), false, {4000, 4000}}, 1, wanted,
               kStream);
      const auto dx = x.host();
      const auto d_ell = ell.host();
      all.insert(all.end(), dx.begin(), dx.end());
      all.insert(all.end(), d_ell.begin(), d_ell.end());
      results.push_back(all);
    }
  }
  emulation::settings() = {};
  for (const auto& each : results)
    EXPECT_EQ(each, results.front());
}

TEST(Emulation, NoMemoryIsAnErrorThatLeavesNothingBehind) {
  const Case<float> c = make_case<float>(Form::real, Anchors::uniform, 3000, 3000, 5);
  const DeviceCase<float> device(c);
  const std::int64_t before = emulation::runtime().allocations;
  for (std::int64_t k = 0; k < 2; ++k) {
    emulation::runtime().fails_after = k;
    message_of([&] { static_cast<void>(device.plan()); }, ErrorCode::out_of_memory);
    EXPECT_EQ(emulation::runtime().allocations, before);
  }
  emulation::runtime().fails_after = -1;
  {
    const Plan<float> plan = device.plan();
    const OnDevice<float> values(3000, 1.0F);
    const std::int64_t with_plan = emulation::runtime().allocations;
    emulation::runtime().fails_after = 0;
    message_of(
        [&] { plan.apply({values.data(), false, {}}, 1, {values.data(), false, {}}, kStream); },
        ErrorCode::out_of_memory);
    emulation::runtime().fails_after = -1;
    EXPECT_EQ(emulation::runtime().allocations, with_plan);
  }
  EXPECT_EQ(emulation::runtime().allocations, before);
}

/// What runs between the two is captured.
struct Capture {
  Capture() { emulation::runtime().capture = 1; }
  ~Capture() { emulation::runtime().capture.reset(); }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
};

TEST(Emulation, APlanThatOwnsMemoryIsNotBuiltInACapture) {
  const DeviceCase<float> device(make_case<float>(Form::real, Anchors::uniform, 3, 3, 5));
  const Plan<float> plan = device.plan();
  const Capture capture;
  std::string text = message_of([&] { static_cast<void>(device.plan()); }, ErrorCode::device);
  EXPECT_NE(text.find("build it before the capture"), std::string::npos) << text;
  text = message_of([&] { static_cast<void>(plan.holds(nullptr, nullptr, kStream)); },
                    ErrorCode::device);
  EXPECT_NE(text.find("ask before the capture"), std::string::npos) << text;
}

TEST(Emulation, ALookTakesAtMostOneAtomicOfABlockAndNoneOfSortedAnchors) {
  constexpr std::int64_t n = 10000;
  constexpr std::int64_t blocks = (n + 255) / 256;
  Case<float> c = make_case<float>(Form::real, Anchors::uniform, n, n, 5, true);
  const auto atomics_of = [&](const std::function<void()>& call) {
    const std::int64_t before = emulation::atomics();
    call();
    return emulation::atomics() - before;
  };
  const DeviceCase<float> device(c);
  Plan<float> plan = device.plan();
  // Of blocks that run one after the other all but the first see that the outcome is known.
  EXPECT_EQ(atomics_of([&] { plan = device.plan(); }), 1);
  EXPECT_EQ(atomics_of([&] { plan.update(device.kernel().targets, nullptr, kStream); }), 0);
  std::vector<float> other = c.x;
  std::reverse(other.begin(), other.end());
  const OnDevice<float> reversed(other);
  EXPECT_LE(atomics_of([&] { EXPECT_FALSE(plan.holds(reversed.data(), nullptr, kStream)); }),
            blocks);
  for (std::size_t k = 0; k < other.size(); k += 3)
    other[other.size() - 1 - k] = std::numeric_limits<float>::quiet_NaN();
  upload_all(reversed.data(), other);
  std::string text;
  EXPECT_LE(atomics_of([&] {
              text = message_of([&] { plan.update(reversed.data(), nullptr, kStream); },
                                ErrorCode::invalid_argument);
            }),
            blocks);
  EXPECT_EQ(text, "targets must be finite, but entry 0 is NaN");
  std::sort(c.x.begin(), c.x.end());
  const DeviceCase<float> sorted(c);
  EXPECT_EQ(atomics_of([&] { plan = sorted.plan(); }), 0);
}

TYPED_TEST(CudaPlan, EmulationOfACaptureReportsAtEveryReplay) {
  using T = TypeParam;
  Case<T> c = make_case<T>(Form::real, Anchors::uniform, 30, 70, 5);
  c.y[4] = std::numeric_limits<T>::infinity();
  const DeviceCase<T> device(c);
  const std::size_t storage = Plan<T>::storage_bytes(1, c.n, c.m, false);
  const OnDevice<unsigned char> kept(storage, 0);
  Report report;
  const Capture capture;
  const Plan<T> captured(device.kernel(), kStream, {kept.data(), storage}, {}, &report);
  EXPECT_EQ(message_of([&] { report.check(); }, ErrorCode::invalid_argument),
            "sources must be finite, but in an earlier call entry 4 was NaN or infinite: its "
            "results are NaN");
}

TYPED_TEST(CudaPlan, EmulationOfACapturedUpdateSortsWithoutLooking) {
  using T = TypeParam;
  for (const std::int64_t heads : {1, 3}) {
    const Case<T> c = make_case<T>(Form::real, Anchors::grid, 700, 3000, 5, false, heads);
    const DeviceCase<T> device(c);
    const auto v = draw_values<T>(heads * c.m, 6);
    const Plan<T> want = device.plan();
    const std::size_t storage = Plan<T>::storage_bytes(heads, c.n, c.m, false);
    const std::size_t scratch = Plan<T>::scratch_bytes(heads, c.n, c.m, false);
    const OnDevice<unsigned char> kept(storage, 0);
    const OnDevice<unsigned char> lent(scratch, 0);
    // Nobody looks; products are NaN, and nothing is read out of bounds.
    Case<T> many = c;
    for (std::vector<T>* anchors : {&many.x, &many.y}) {
      const auto spoil = [&](std::size_t from, std::size_t step, T value) {
        for (std::size_t k = from; k < anchors->size(); k += step)
          (*anchors)[k] = std::copysign(value, k % 2 == 0 ? T(1) : T(-1));
      };
      spoil(0, 3, std::numeric_limits<T>::quiet_NaN());
      spoil(1, 7, std::numeric_limits<T>::infinity());
    }
    Case<T> one = c;
    one.x[5] = std::numeric_limits<T>::infinity();
    const DeviceCase<T> worse(many);
    const std::int64_t waits = emulation::runtime().waits;
    const auto captured = [&](const DeviceCase<T>& from) {
      const Capture capture;
      return Plan<T>(from.kernel(), kStream, {kept.data(), storage}, {lent.data(), scratch});
    };
    Plan<T> plan = captured(worse);
    {
      const Capture capture;
      plan.update(device.kernel().targets, device.kernel().sources, kStream,
                  {lent.data(), scratch});
    }
    EXPECT_EQ(emulation::runtime().waits, waits);
    EXPECT_FALSE(plan.is_sorted());
    EXPECT_EQ(device_product<T>(plan, v, 1), device_product<T>(want, v, 1));
    for (const Case<T>& bad : {many, one}) {
      const DeviceCase<T> from(bad);
      const auto nothing = device_product<T>(captured(from), v, 1);
      for (std::size_t i = 0; i < 700; ++i)
        ASSERT_TRUE(std::isnan(nothing[i]));
    }
  }
}

/// Anchors that ascend, for a self plan, and the same that descend.
struct UpAndDown {
  OnDevice<float> up{values(false)};
  OnDevice<float> down{values(true)};

  [[nodiscard]] Kernel<float> kernel() const {
    Kernel<float> kernel;
    kernel.num_targets = kernel.num_sources = 300;
    kernel.targets = up.data();
    return kernel;
  }
  static std::vector<float> values(bool reversed) {
    std::vector<float> x(300);
    std::iota(x.begin(), x.end(), 0.0F);
    if (reversed)
      std::reverse(x.begin(), x.end());
    return x;
  }
};

TEST(Emulation, APlanCapturedWhileItsAnchorsAscendKeepsThemSo) {
  const UpAndDown anchors;
  const OnDevice<float> values(300, 1.0F);
  const OnDevice<float> result(300, 1.0F);
  const auto apply = [&](const Plan<float>& plan) {
    plan.apply({values.data(), false, {}}, 1, {result.data(), false, {}}, kStream);
  };
  Plan<float> plan(anchors.kernel(), kStream);
  apply(plan);
  plan.update(anchors.down.data(), nullptr, kStream);  // no graph knows of it
  EXPECT_FALSE(plan.is_sorted());

  Plan<float> captured(anchors.kernel(), kStream);
  {
    const Capture capture;
    apply(captured);
  }
  captured.update(anchors.up.data(), nullptr, kStream);
  const std::string text = message_of(
      [&] { captured.update(anchors.down.data(), nullptr, kStream); }, ErrorCode::invalid_argument);
  EXPECT_NE(text.find("build a new plan, and capture a new graph with it"), std::string::npos)
      << text;
  EXPECT_TRUE(captured.is_sorted());
  EXPECT_TRUE(captured.holds(anchors.up.data(), nullptr, kStream));
}

TEST(Emulation, ACapturedUpdateThatHasNotRunLeavesThePlanAsItWas) {
  const UpAndDown anchors;
  Plan<float> plan(anchors.kernel(), kStream);
  const auto v = draw_values<float>(300, 6);
  const auto before = device_product<float>(plan, v, 1);
  {
    const Capture capture;
    emulation::settings().drops = true;
    plan.update(anchors.down.data(), nullptr, kStream);
    emulation::settings().drops = false;
  }
  EXPECT_FALSE(plan.is_sorted());
  EXPECT_TRUE(plan.holds(anchors.up.data(), nullptr, kStream));
  EXPECT_EQ(device_product<float>(plan, v, 1), before);
  plan.update(anchors.up.data(), nullptr, kStream);
  EXPECT_EQ(device_product<float>(plan, v, 1), before);
  EXPECT_EQ(message_of([&] { static_cast<void>(plan.holds(nullptr, nullptr, kStream)); },
                       ErrorCode::invalid_argument),
            "targets is a null pointer, but the sizes of this call say that it has 300 entries");
}

TEST(Emulation, MemoryThatIsNotAlignedIsRefused) {
  const Case<float> c = make_case<float>(Form::real, Anchors::uniform, 5000, 5000, 5);
  const DeviceCase<float> device(c);
  const Plan<float> plan = device.plan();
  const OnDevice<double> memory(200000, 0.0);
  unsigned char* const odd = reinterpret_cast<unsigned char*>(memory.data()) + 2;
  const Memory lent{odd, 1000000};
  const auto refused = [](const std::function<void()>& call) {
    return message_of(call, ErrorCode::invalid_argument);
  };
  EXPECT_EQ(refused([&] { Plan<float>(device.kernel(), kStream, lent); }),
            "storage must begin at a multiple of 16 bytes");
  EXPECT_EQ(refused([&] { Plan<float>(device.kernel(), kStream, {}, lent); }),
            "scratch must begin at a multiple of 16 bytes");
  Kernel<float> kernel = device.kernel();
  kernel.targets = reinterpret_cast<const float*>(odd);
  EXPECT_EQ(refused([&] { Plan<float>(kernel, kStream); }),
            "targets must begin at a multiple of 4 bytes");
  const Vectors good{memory.data(), false, {}};
  const Vectors bad{odd, false, {}};
  const Vectors half{odd, false, {}, Storage::half};
  EXPECT_EQ(refused([&] { plan.apply(bad, 1, good, kStream); }),
            "values must begin at a multiple of 4 bytes");
  EXPECT_EQ(refused([&] { plan.apply(good, 1, bad, kStream); }),
            "result must begin at a multiple of 4 bytes");
  EXPECT_EQ(refused([&] { plan.vjp(good, bad, 1, {}, kStream); }),
            "grad must begin at a multiple of 4 bytes");
  EXPECT_EQ(refused([&] { plan.apply(good, 1, good, kStream, Mode::plain, {}, lent); }),
            "workspace must begin at a multiple of 16 bytes");
  plan.apply(half, 1, half, kStream);
}

TEST(Emulation, SizesOfMemoryAreThoseOfAPlan) {
  EXPECT_EQ(message_of([] { static_cast<void>(Plan<float>::storage_bytes(1, -1, 2, false)); },
                       ErrorCode::invalid_argument),
            "heads, num_targets and num_sources must not be negative");
  EXPECT_EQ(message_of([] { static_cast<void>(Plan<float>::scratch_bytes(1, 1, 2, true)); },
                       ErrorCode::invalid_argument),
            "num_sources must equal num_targets when sources are the targets");
}

TEST(Emulation, OneLaunchForALineOfOneTileAndThreeForALongOne) {
  const auto launches_of = [](std::int64_t n) {
    const Case<float> c = make_case<float>(Form::real, Anchors::uniform, n, n, 5);
    const DeviceCase<float> device(c);
    const Plan<float> plan = device.plan();
    const std::int64_t before = emulation::launches();
    device_product<float>(plan, draw_values<float>(n, 1), 1);
    return emulation::launches() - before;
  };
  EXPECT_EQ(launches_of(2048), 1);
  EXPECT_EQ(launches_of(2049), 3);
}

TEST(Emulation, WhatAGpuWouldHangOnThrows) {
  using emulation::run;
  EXPECT_THROW(run({1, 64, 0},
                   [] {
                     if (emulation::thread_index().x < 32)
                       emulation::barrier();
                   }),
               std::logic_error);
}

#endif

TEST(CudaDevice, IsThereIfRequired) {
  if (const char* required = std::getenv("LAPLEX_REQUIRE_GPU");
      required != nullptr && std::string(required) == "1") {
    ASSERT_GT(device_count(), 0);
  }
}

}  // namespace
}  // namespace laplex::cuda::tests
