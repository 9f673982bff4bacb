// Covariance matrices of any blocks, ties and noise, beside dense ones in extended precision; and
// the processes that skip the factor, beside the factor.
#include "input.hpp"

#include <laplex/gram.hpp>
#include <laplex/process.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace laplex::fuzz {
namespace {

using Vector = std::vector<double>;

struct Model {
  std::int64_t batch = 1, n = 0, width = 0;
  std::vector<int> blocks;
  Vector anchors, lengthscale, loadings, noise, weights;
  bool ties_backwards = false;

  [[nodiscard]] Covariance covariance() const {
    Covariance c;
    c.batch = batch;
    c.n = n;
    c.width = width;
    c.anchors = anchors.data();
    c.lengthscale = lengthscale.data();
    c.loadings = loadings.empty() ? nullptr : loadings.data();
    c.noise = noise.empty() ? nullptr : noise.data();
    c.weights = weights.empty() ? nullptr : weights.data();
    c.blocks = blocks.data();
    c.num_blocks = static_cast<std::int64_t>(blocks.size());
    c.ties_backwards = ties_backwards;
    return c;
  }
  [[nodiscard]] bool has_plain_columns() const {
    return std::all_of(blocks.begin(), blocks.end(), [](int size) { return size == 1; });
  }
  /// An entry of a matrix without larger blocks.
  [[nodiscard]] long double entry(std::int64_t b, std::int64_t i, std::int64_t j) const {
    const auto at = [](const Vector& array, std::int64_t k) -> long double {
      return array.empty() ? 1.0L : array[static_cast<std::size_t>(k)];
    };
    const long double distance = std::fabs(at(anchors, b * n + i) - at(anchors, b * n + j));
    long double sum = i == j && !noise.empty() ? at(noise, b * n + i) : 0.0L;
    for (std::int64_t k = 0; k < width; ++k) {
      sum += at(weights, b * width + k) * at(loadings, (b * n + i) * width + k) *
             at(loadings, (b * n + j) * width + k) *
             std::exp(-distance / at(lengthscale, b * width + k));
    }
    return sum;
  }
  /// Whether the numbers are such that dense algebra is a judge: no weights, which may make A
  /// indefinite, and sizes that add up without overflow.
  [[nodiscard]] bool is_judged() const {
    const auto tame = [](double x) {
      return x == 0.0 || (std::fabs(x) > 1e-60 && std::fabs(x) < 1e60);
    };
    return weights.empty() && std::all_of(loadings.begin(), loadings.end(), tame) &&
           std::all_of(noise.begin(), noise.end(), tame);
  }
};

Model draw_model(Input& input) {
  Model m;
  m.batch = input.rarely(8) ? input.below(4) : 1;
  m.n = input.size();
  const bool blocks = input.rarely(2);
  for (int k = 0, count = 1 + input.below(3); k < count; ++k) {
    m.blocks.push_back(blocks ? 1 + input.below(3) : 1);
    m.width += m.blocks.back();
  }
  if (input.rarely(12)) {
    m.width += input.below(3) - 1;
  }
  m.anchors = input.numbers<double>(m.batch * m.n);
  for (std::int64_t k = 0; k < m.batch * m.width; ++k) {
    m.lengthscale.push_back(input.positive());
  }
  if (input.flag()) {
    m.loadings = input.numbers<double>(m.batch * m.n * m.width);
  }
  if (!input.rarely(4)) {
    m.noise = input.numbers<double>(m.batch * m.n);
    if (!input.rarely(16)) {
      for (double& each : m.noise) {
        each = std::fabs(each);
      }
    }
    for (std::size_t k = 0; k < m.noise.size() && input.rarely(3); ++k) {
      m.noise[k] = std::numeric_limits<double>::infinity();  // points that were not observed
    }
  }
  if (blocks || input.rarely(4)) {
    m.weights = input.numbers<double>(m.batch * m.width);
    if (!input.rarely(3)) {
      for (double& each : m.weights) {
        each = std::fabs(each);
      }
    }
  }
  m.ties_backwards = input.flag();
  return m;
}

Vector zeros(std::int64_t count) {
  return Vector(static_cast<std::size_t>(count));
}

/// S S^T v beside A v.
void check_product(const Model& model, const Gram& gram, const Vector& v, std::int64_t rows) {
  if (!model.has_plain_columns() || !model.is_judged() || !all_finite(v) ||
      !all_finite(model.noise)) {
    return;
  }
  Vector u = zeros(static_cast<std::int64_t>(v.size()));
  gram.apply(Factor::upper, true, v.data(), u.data(), rows);
  gram.apply(Factor::lower, true, u.data(), u.data(), rows);
  for (std::int64_t b = 0; b < model.batch; ++b) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t i = 0; i < model.n; ++i) {
        long double sum = 0.0L;
        long double scale = 0.0L;
        long double largest = 0.0L;
        for (std::int64_t j = 0; j < model.n; ++j) {
          const auto value =
              static_cast<long double>(v[static_cast<std::size_t>((b * rows + r) * model.n + j)]);
          sum += model.entry(b, i, j) * value;
          largest = std::fmax(largest, std::fabs(value));
          scale +=
              std::sqrt(model.entry(b, i, i)) * std::sqrt(model.entry(b, j, j)) * std::fabs(value);
        }
        if (!(scale < 1e200L && largest < 1e200L)) {  // factors of a product may overflow
          continue;
        }
        const long double got = u[static_cast<std::size_t>((b * rows + r) * model.n + i)];
        if (!(std::fabs(got - sum) <= 1e-11L * scale + 1e-290L)) {
          std::fprintf(stderr, "%Lg should be %Lg, where magnitudes add up to %Lg\n", got, sum,
                       scale);
        }
        require(std::fabs(got - sum) <= 1e-11L * scale + 1e-290L,
                "the factor times its transpose is the matrix");
      }
    }
  }
}

void check_calls(Input& input, const Model& model, const Gram& gram) {
  const std::int64_t rows = input.below(12);
  const std::int64_t all = model.batch * rows * model.n;
  const Vector a = input.numbers<double>(all);
  const Vector b = input.numbers<double>(all);
  const Vector w = input.numbers<double>(model.batch * model.n);
  check_product(model, gram, a, rows);
  Vector out = zeros(all);
  Vector again = out;
  gram.solve(a.data(), out.data(), rows, 1);
  gram.solve(a.data(), again.data(), rows, 3);
  require(same_bits(out, again), "the bits do not depend on the number of threads");
  gram.apply(static_cast<Factor>(input.below(4)), input.flag(), a.data(), out.data(), rows);
  Vector densities = zeros(model.batch * rows);
  gram.log_prob(a.data(), densities.data(), rows);
  Vector logs = zeros(model.batch * model.n);
  gram.log_variances(logs.data());
  Vector dets = zeros(model.batch);
  gram.logdet(dets.data());
  std::vector<std::int64_t> order(static_cast<std::size_t>(model.batch * model.n));
  gram.order(order.data());
  for (std::size_t k = 1; k < order.size(); ++k) {
    const std::int64_t line = static_cast<std::int64_t>(k) / model.n;
    require(static_cast<std::int64_t>(k) % model.n == 0 ||
                model.anchors[static_cast<std::size_t>(line * model.n + order[k - 1])] <=
                    model.anchors[static_cast<std::size_t>(line * model.n + order[k])],
            "the order sorts the anchors");
  }
  Vector by_anchors = zeros(model.batch * model.n), by_noise = by_anchors, d_w = by_anchors;
  Vector by_lengthscale = zeros(model.batch * model.width), by_weights = by_lengthscale;
  Vector by_loadings = zeros(model.batch * model.n * model.width);
  Vector d_a = zeros(all), d_b = d_a;
  const GramGradients gradients{by_anchors.data(), by_lengthscale.data(), by_loadings.data(),
                                by_noise.data(), by_weights.data()};
  gram.vjp(a.data(), b.data(), rows, w.data(), gradients, d_b.data());
  gram.vjp_tangent(a.data(), b.data(), rows, w.data(), {w.data(), nullptr, nullptr, w.data()},
                   gradients, d_a.data(), d_b.data(), d_w.data());
  try {
    gram.precision(by_anchors.data(), by_noise.data());
  } catch (const Error& error) {
    require(error.code() == ErrorCode::invalid_argument, "a matrix without a tridiagonal inverse");
  }
}

void check_process(Input& input, const Model& model) {
  Process p;
  const Vector variance = input.numbers<double>(model.batch);
  const Vector values = input.numbers<double>(model.batch * model.n);
  const Vector frequency = input.numbers<double>(model.batch);
  Vector lengthscale;
  for (std::int64_t b = 0; b < model.batch; ++b) {
    lengthscale.push_back(input.positive());
  }
  p.batch = model.batch;
  p.n = model.n;
  p.anchors = model.anchors.data();
  p.values = values.data();
  p.lengthscale = lengthscale.data();
  p.variance = variance.data();
  p.frequency = input.flag() ? frequency.data() : nullptr;
  p.noise = model.noise.empty() ? nullptr : model.noise.data();
  Vector out = zeros(model.batch);
  Vector x = zeros(model.batch * model.n), v = x, noise = x;
  Vector ell = out, scale = out, omega = out;
  const ProcessGradients gradients{x.data(),     v.data(),     ell.data(),
                                   scale.data(), omega.data(), noise.data()};
  if (log_density(p, out.data(), input.flag() ? &gradients : nullptr)) {
    require(all_finite(out), "a log density that can be trusted is finite");
    Model same = model;
    same.width = 1;
    same.blocks = {1};
    same.loadings.clear();
    same.weights.clear();
    same.lengthscale = lengthscale;
    if (p.frequency == nullptr && model.is_judged()) {
      for (std::int64_t k = 0; k < model.batch * model.n; ++k) {
        same.loadings.push_back(std::sqrt(variance[static_cast<std::size_t>(k / model.n)]));
      }
      if (!same.is_judged()) {
        return;
      }
      Vector expected = zeros(model.batch);
      Gram(same.covariance()).log_prob(values.data(), expected.data(), 1);
      for (std::size_t b = 0; b < out.size(); ++b) {
        require(std::fabs(out[b] - expected[b]) <=
                    1e-6 * (std::fabs(expected[b]) + static_cast<double>(model.n) * 700.0),
                "both ways to a log density agree");
      }
    }
  }
  OscillatorProcess o;
  o.batch = model.batch;
  o.n = model.n;
  o.anchors = model.anchors.data();
  o.values = values.data();
  o.lengthscale[0] = lengthscale.data();
  o.lengthscale[1] = variance.data();
  o.weight[0] = variance.data();
  o.weight[1] = frequency.data();
  o.noise = p.noise;
  const OscillatorGradients to{
      x.data(), v.data(), {ell.data(), scale.data()}, {omega.data(), out.data()}, noise.data()};
  Vector density = out;
  if (oscillator_log_density(o, density.data(), input.flag() ? &to : nullptr)) {
    require(all_finite(density), "a log density that can be trusted is finite");
  }
}

}  // namespace
}  // namespace laplex::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace laplex::fuzz;
  Input input(data, size);
  const Model model = draw_model(input);
  try {
    const laplex::Gram gram(model.covariance());
    require(all_finite(model.anchors) && all_finite(model.loadings) && all_finite(model.weights),
            "a Gram refuses what is outside its domain");
    check_calls(input, model, gram);
  } catch (const laplex::Error& error) {
    require(error.code() == laplex::ErrorCode::invalid_argument ||
                error.code() == laplex::ErrorCode::singular,
            "a Gram throws for wrong arguments and singular matrices alone");
  }
  try {
    check_process(input, model);
  } catch (const laplex::Error& error) {
    require(error.code() == laplex::ErrorCode::singular, "a process leaves judgement to the Gram");
  }
  return 0;
}
