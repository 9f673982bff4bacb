// The same bits from any number of threads, and const calls from many threads at once.
#include "cases.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace laplex::tests {
namespace {

constexpr std::int64_t kLarge = 150000;  // enough work for several threads to be used

TEST(Threads, SameBitsForAnyNumber) {
  for (const Form form : {Form::real, Form::cosine}) {
    const Case<float> c = make_case<float>(form, Anchors::skewed, kLarge, kLarge + 7, 1);
    const auto v = draw_values<float>(c.m, 2);
    std::vector<float> first;
    std::vector<float> first_dx;
    double first_dell = 0.0;
    for (const int threads : {1, 2, 3, 8}) {
      Kernel<float> kernel = c.kernel();
      kernel.num_threads = threads;
      const Plan<float> plan(kernel);
      std::vector<float> u(static_cast<std::size_t>(c.n)), dx(static_cast<std::size_t>(c.n));
      double dell = 0.0;
      plan.apply(v.data(), u.data());
      Gradients<float, float> gradients;
      gradients.targets = dx.data();
      gradients.lengthscale = &dell;
      plan.vjp(v.data(), Strides{}, u.data(), Strides{}, 1, gradients);
      if (threads == 1) {
        first = u;
        first_dx = dx;
        first_dell = dell;
      }
      EXPECT_EQ(u, first) << threads << " threads";
      EXPECT_EQ(dx, first_dx) << threads << " threads";
      EXPECT_EQ(dell, first_dell) << threads << " threads";
    }
  }
}

TEST(Threads, ManyRowsSumInOneOrder) {
  const Case<double> c = make_case<double>(Form::real, Anchors::uniform, 300, 300, 1);
  constexpr std::int64_t rows = 500;
  const auto v = draw_values<double>(rows * 300, 2);
  const Plan<double> plan(c.kernel());
  std::vector<double> first;
  for (const int threads : {1, 2, 5}) {
    std::vector<double> dy(300);
    Gradients<double, double> gradients;
    gradients.sources = dy.data();
    plan.vjp(v.data(), Strides{0, 300}, v.data(), Strides{0, 300}, rows, gradients, {}, threads);
    if (threads == 1)
      first = dy;
    EXPECT_EQ(dy, first);
  }
}

TEST(Threads, OnePlanFromEightThreadsWhileItIsUpdated) {
  const Case<double> c = make_case<double>(Form::cosine, Anchors::uniform, 400, 300, 1);
  Plan<double> plan(c.kernel());
  const auto v = draw_values<double>(300, 2);
  std::vector<double> before(400), after(400);
  plan.apply(v.data(), before.data());
  std::vector<double> moved = c.x;
  for (double& x : moved)
    x += 0.01;
  plan.update(moved.data(), c.y.data());
  plan.apply(v.data(), after.data());
  plan.update(c.x.data(), c.y.data());

  std::atomic<int> wrong{0};
  std::atomic<bool> done{false};
  std::vector<std::thread> users;
  for (int k = 0; k < 8; ++k) {
    users.emplace_back([&] {
      while (!done) {
        std::vector<double> u(400), dv(300);
        plan.apply(v.data(), u.data());
        plan.adjoint(u.data(), dv.data());
        if (u != before && u != after)
          ++wrong;
      }
    });
  }
  for (int k = 0; k < 40; ++k) {
    plan.update(k % 2 == 0 ? moved.data() : c.x.data(), c.y.data());
  }
  done = true;
  for (std::thread& user : users)
    user.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace laplex::tests
