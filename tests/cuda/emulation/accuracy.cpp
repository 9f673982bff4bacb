// The error of float products and gradients on the host emulation, by size and by density, as a
// Markdown table for docs/measurements/cuda_accuracy.md:
//
//     laplex_cuda_accuracy [LARGEST]
//
// Errors are those of the float result in units of sum |K_ij| |v_j|, and the largest over all
// anchors counts. The reference is the CPU's product in double.
#include "../cases.hpp"

#include <cstdio>
#include <cstdlib>
#include <limits>

namespace laplex::cuda::tests {
namespace {

struct Errors {
  double product = 0.0;
  double one_value = 0.0;
  double by_values = 0.0;
  double by_targets = 0.0;
  double by_lengthscale = 0.0;
};

/// n targets and n sources, `density` of each to a lengthscale on average.
Case<float> line(std::int64_t n, double density, bool clustered) {
  Case<float> c = make_case<float>(Form::real, Anchors::uniform, n, n, 3);
  if (clustered) {  // dense in the middle, and sparser by 16 and more away from it
    for (auto* anchors : {&c.x, &c.y})
      for (float& z : *anchors)
        z = std::copysign(std::fabs(z - 0.5F) * std::fabs(z - 0.5F), z - 0.5F);
  }
  c.lengthscale = {density / static_cast<double>(n)};
  return c;
}

template <class A>
double largest(const std::vector<A>& got, const std::vector<double>& want,
               const std::vector<double>& scale, double times = 1.0) {
  constexpr double kLeast = std::numeric_limits<float>::min();
  double worst = 0.0;
  for (std::size_t k = 0; k < got.size(); ++k) {
    // Below the normal range of float, precision is absolute.
    const double error = std::fabs(static_cast<double>(got[k]) - want[k]);
    worst = std::max(worst, std::max(0.0, error - kLeast) / (times * scale[k] + 1e-300));
  }
  return worst;
}

Errors errors(const Case<float>& c) {
  Errors worst;
  const auto n = c.n;
  const auto size = static_cast<std::size_t>(n);
  const DeviceCase<float> device(c);
  const Plan<float> plan = device.plan();
  const Case<double> wide = widened(c);
  const laplex::Plan<double> reference(wide.kernel());
  const auto v = draw_values<float>(n, 4);
  const auto g = draw_values<float>(n, 5);
  const auto wide_v = widened(v);
  const auto wide_g = widened(g);
  const auto sizes = [](std::vector<double> values) {
    for (double& each : values)
      each = std::fabs(each);
    return values;
  };
  std::vector<double> want(size);
  std::vector<double> kv(size);
  std::vector<double> kg(size);
  reference.apply(wide_v.data(), want.data());
  reference.apply(sizes(wide_v).data(), kv.data());
  reference.transpose(sizes(wide_g).data(), kg.data());
  worst.product = largest(device_product<float>(plan, v, 1), want, kv);

  // One value alone: every entry of a column relative to itself.
  std::vector<double> one(size);
  std::vector<float> narrow(size);
  one[size / 3] = narrow[size / 3] = 1.0F;
  reference.apply(one.data(), want.data());
  worst.one_value = largest(device_product<float>(plan, narrow, 1), want, want);

  const OnDevice<float> values(v);
  const OnDevice<float> grad(g);
  const OnDevice<float> d_values(size, 0.0F);
  const OnDevice<float> d_x(size, 0.0F);
  const OnDevice<double> d_ell(1, 0.0);
  Gradients<float, float> wanted;
  wanted.values = d_values.data();
  wanted.targets = d_x.data();
  wanted.lengthscale = d_ell.data();
  plan.vjp({values.data(), false, {n, n}}, {grad.data(), false, {n, n}}, 1, wanted, kStream);
  std::vector<double> want_values(size);
  std::vector<double> want_x(size);
  double want_ell = 0.0;
  Gradients<double, double> all;
  all.values = want_values.data();
  all.targets = want_x.data();
  all.lengthscale = &want_ell;
  reference.vjp(wide_v.data(), Strides{n, n}, wide_g.data(), Strides{n, n}, 1, all);
  worst.by_values = largest(d_values.host(), want_values, kg);
  const double ell = c.lengthscale[0];
  std::vector<double> scale(size);
  std::vector<double> far(size);
  reference.apply(sizes(wide_v).data(), far.data(), 1, Strides{n, n}, Strides{n, n}, Mode::plain,
                  {Parity::even, 1});
  double all_far = 0.0;
  for (std::size_t k = 0; k < size; ++k) {
    scale[k] = std::fabs(wide_g[k]) * kv[k] / ell;
    all_far += std::fabs(wide_g[k]) * far[k] / ell;
  }
  worst.by_targets = largest(d_x.host(), want_x, scale);
  worst.by_lengthscale = std::fabs(d_ell.host()[0] - want_ell) / all_far;
  return worst;
}

}  // namespace

void print_table(std::int64_t largest_size) {
  std::printf(
      "| anchors a side | to a lengthscale | product | one value | by values | by targets | by "
      "lengthscale |\n");
  std::printf("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
  for (std::int64_t n = 100000; n <= largest_size; n *= 10) {
    for (const bool clustered : {false, true}) {
      for (const double density : {0.1, 1.0, 10.0, 30.0, 100.0, 1e4, static_cast<double>(n)}) {
        const Errors e = errors(line(n, density, clustered));
        std::printf("| %lld | %s%g | %.1e | %.1e | %.1e | %.1e | %.1e |\n",
                    static_cast<long long>(n), clustered ? "clusters, " : "", density, e.product,
                    e.one_value, e.by_values, e.by_targets, e.by_lengthscale);
        std::fflush(stdout);
      }
    }
  }
}

}  // namespace laplex::cuda::tests

int main(int count, char** arguments) {
  laplex::cuda::tests::print_table(count > 1 ? std::atoll(arguments[1]) : 1000000);
}
