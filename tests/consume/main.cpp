#include <laplex/laplex.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  const std::vector<double> targets{0.0, 1.0, 2.5};
  const std::vector<double> sources{0.5, 1.0};
  const std::vector<double> v{2.0, -1.0};
  std::vector<double> u(targets.size());

  laplex::Kernel<double> kernel;
  kernel.num_targets = 3;
  kernel.num_sources = 2;
  kernel.targets = targets.data();
  kernel.sources = sources.data();
  laplex::Plan<double>(kernel).apply(v.data(), u.data());

  for (std::size_t i = 0; i < u.size(); ++i) {
    const double expected =
        2.0 * std::exp(-std::abs(targets[i] - 0.5)) - std::exp(-std::abs(targets[i] - 1.0));
    std::printf("u[%zu] = %.17g, expected %.17g\n", i, u[i], expected);
    if (!(std::abs(u[i] - expected) <= 1e-14)) {
      return 1;
    }
  }

  // x = A^-1 b of A = K(targets, targets) + 0.5, and back by the plan of K.
  const std::vector<double> noise(targets.size(), 0.5);
  const std::vector<double> b{1.0, -2.0, 3.0};
  std::vector<double> x(targets.size());
  std::vector<double> back(targets.size());
  laplex::Covariance covariance;
  covariance.n = 3;
  covariance.anchors = targets.data();
  covariance.noise = noise.data();
  laplex::Gram(covariance).solve(b.data(), x.data(), 1);
  kernel.num_sources = 3;
  kernel.sources = nullptr;  // they are the targets
  laplex::Plan<double>(kernel).apply(x.data(), back.data());
  for (std::size_t i = 0; i < b.size(); ++i) {
    if (!(std::abs(back[i] + noise[i] * x[i] - b[i]) <= 1e-14)) {
      return 1;
    }
  }
  return 0;
}
