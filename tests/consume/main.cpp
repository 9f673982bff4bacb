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
  return 0;
}
