// Plans of any size, option and number, beside dense sums in extended precision: a call throws an
// Error where an argument is outside its domain, and else keeps to the promised accuracy.
#include "dense_plan.hpp"
#include "input.hpp"

#include <laplex/laplex.hpp>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdint>
#include <utility>
#include <vector>

namespace laplex::fuzz {
namespace {

/// Sums may overflow where 55 sum |v| does, times a power of the distance of up to 745^4.
template <class T>
constexpr long double kMost = 1e-15L * static_cast<long double>(std::numeric_limits<T>::max());

/// Values that calls read, and the rows and lanes that they have.
template <class T>
struct Call {
  std::int64_t rows;
  bool complex;
  std::int64_t count;  ///< the entries of a vector
  std::vector<T> values;

  /// The sum of all magnitudes: where it overflows, so may sums of it with small factors.
  [[nodiscard]] long double total() const {
    long double sum = 0.0L;
    for (const T value : values) {
      sum += std::fabs(static_cast<long double>(value));
    }
    return sum;
  }
  [[nodiscard]] Strides strides() const { return {rows * count, count}; }
  [[nodiscard]] Wide at(std::int64_t h, std::int64_t r, std::int64_t j) const {
    const auto k = static_cast<std::size_t>((h * rows + r) * count + j);
    return complex ? Wide{values[2 * k], values[2 * k + 1]} : Wide{values[k], 0.0L};
  }
};

template <class T>
Call<T> draw_call(Input& input, std::int64_t heads, std::int64_t count, std::int64_t rows,
                  bool complex) {
  return {rows, complex, count, input.numbers<T>(heads * rows * count * (complex ? 2 : 1))};
}

template <class T>
std::vector<T> zeros(std::int64_t count) {
  return std::vector<T>(static_cast<std::size_t>(count));
}

template <class T>
std::vector<T> apply(const Plan<T>& plan, const Call<T>& v, bool complex, std::int64_t out,
                     Mode mode, const Term& term, int threads) {
  std::vector<T> u = zeros<T>(plan.heads() * v.rows * out * (complex ? 2 : 1));
  plan.apply_any(v.values.data(), v.complex, v.rows, v.strides(), u.data(), complex,
                 {v.rows * out, out}, mode, term, threads);
  return u;
}

template <class T>
void check_products(Input& input, const Plan<T>& plan, const Dense<T>& dense, std::int64_t rows) {
  const bool complex_values = input.flag() && !dense.real_part;
  const auto mode = static_cast<Mode>(input.below(3));
  Term term;
  term.cumulative = dense.has_counts() && !complex_values && input.rarely(4);
  const bool plain = mode == Mode::plain;
  const std::int64_t in = plain ? dense.m : dense.n;
  const std::int64_t out = plain ? dense.n : dense.m;
  const auto v = draw_call<T>(input, dense.heads, in, rows, complex_values);
  const bool complex = complex_values || plan.kernel_is_complex();
  const std::vector<T> u = apply(plan, v, complex, out, mode, term, 1);
  require(same_bits(u, apply(plan, v, complex, out, mode, term, 3)),
          "the bits do not depend on the number of threads");
  if (!(v.total() < kMost<T>) || !dense.angles_are_safe()) {
    return;
  }
  for (std::int64_t h = 0; h < dense.heads; ++h) {
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t o = 0; o < out; ++o) {
        Sum sum;
        for (std::int64_t k = 0; k < in; ++k) {
          const std::int64_t i = plain ? o : k;
          const std::int64_t j = plain ? k : o;
          const Wide entry = term.cumulative ? dense.count(h, i, j) : dense.entry(h, i, j);
          sum.add(mode == Mode::adjoint ? std::conj(entry) : entry,
                  term.cumulative ? std::abs(entry) : dense.modulus(h, i, j), v.at(h, r, k));
        }
        const auto at = static_cast<std::size_t>((h * rows + r) * out + o);
        const Wide got = complex ? Wide{u[2 * at], u[2 * at + 1]} : Wide{u[at], 0.0L};
        sum.template require_close<T>(got, "the error of a product is at most the promised one");
      }
    }
  }
}

template <class T>
void check_gradients(Input& input, const Plan<T>& plan, const Dense<T>& dense, std::int64_t rows) {
  const bool complex = plan.kernel_is_complex();
  const auto v = draw_call<T>(input, dense.heads, dense.m, rows, false);
  const auto g = draw_call<T>(input, dense.heads, dense.n, rows, complex);
  std::vector<T> by_values = zeros<T>(dense.heads * rows * dense.m);
  std::vector<T> by_targets = zeros<T>(dense.heads * dense.n);
  std::vector<T> by_sources = zeros<T>(dense.heads * dense.m);
  std::vector<T> by_theta = by_targets;
  std::vector<T> by_phi = by_sources;
  std::vector<double> by_lengthscale = zeros<double>(dense.heads);
  std::vector<double> by_frequency = zeros<double>(dense.heads);
  const Gradients<T, T> all{by_values.data(),      by_targets.data(),   by_sources.data(),
                            by_lengthscale.data(), by_frequency.data(), by_theta.data(),
                            by_phi.data()};
  plan.vjp_any(v.values.data(), false, v.strides(), g.values.data(), complex, g.strides(), rows,
               all, v.strides(), {}, 1);
  if (dense.is_complex()) {
    return;
  }
  for (std::int64_t h = 0; h < dense.heads; ++h) {
    const long double ell = dense.length(h);
    const long double total = v.total() * g.total();
    if (!(v.total() < kMost<T> && g.total() < kMost<T> && total < kMost<T> &&
          total / ell < kMost<T>)) {
      return;
    }
    Sum lengthscale;
    std::vector<Sum> targets(static_cast<std::size_t>(dense.n));
    for (std::int64_t j = 0; j < dense.m; ++j) {
      Sum source;
      for (std::int64_t i = 0; i < dense.n; ++i) {
        const Slope slope = dense.slope(h, i, j);
        for (std::int64_t r = 0; r < rows; ++r) {
          const Wide weight = g.at(h, r, i) * v.at(h, r, j);
          const long double gain =
              std::abs(g.at(h, r, i)) + std::abs(v.at(h, r, j)) + std::abs(weight);
          targets[static_cast<std::size_t>(i)].add(slope.value / ell, slope.scale / ell, weight,
                                                   gain / ell);
          source.add(-slope.value / ell, slope.scale / ell, weight, gain / ell);
          const long double s =
              dense.scaled(h, i, j) / dense.lengthscale[static_cast<std::size_t>(h)];
          const long double sign = dense.above(h, i, j) ? -1.0L : 1.0L;
          lengthscale.add(slope.value * s * sign, slope.scale * s, weight, gain * (1.0L + s));
        }
      }
      source.template require_close<T>(
          {by_sources[static_cast<std::size_t>(h * dense.m + j)], 0.0L}, "the gradient by a source",
          4.0L);
    }
    for (std::int64_t i = 0; i < dense.n; ++i) {
      targets[static_cast<std::size_t>(i)].template require_close<T>(
          {by_targets[static_cast<std::size_t>(h * dense.n + i)], 0.0L}, "the gradient by a target",
          4.0L);
    }
    lengthscale.template require_close<T>({by_lengthscale[static_cast<std::size_t>(h)], 0.0L},
                                          "the gradient by the lengthscale", 4.0L);
  }
}

template <class T>
void check_update(Input& input, Plan<T>& plan, Dense<T>& dense) {
  Dense<T> next = dense;
  const bool lengthscale_alone = input.rarely(3);
  if (lengthscale_alone) {
    for (double& each : next.lengthscale) {
      each = input.positive();
    }
  } else {
    for (std::vector<T>* side : {&next.x, &next.y}) {  // as a step of training moves them, or anew
      if (input.flag()) {
        *side = input.numbers<T>(static_cast<std::int64_t>(side->size()));
      } else if (!side->empty()) {
        (*side)[static_cast<std::size_t>(input.below(1 << 16)) % side->size()] *= T(1.5);
      }
    }
  }
  const Changes<T> changes{lengthscale_alone ? nullptr : next.x.data(),
                           lengthscale_alone || next.self ? nullptr : next.y.data(),
                           lengthscale_alone ? next.lengthscale.data() : nullptr};
  try {
    plan.update(changes);
  } catch (const Error& error) {
    require(error.code() == ErrorCode::invalid_argument && !next.is_valid(),
            "an update throws for wrong arguments alone");
    return;
  }
  require(next.is_valid(), "an update refuses what a plan refuses");
  dense = std::move(next);
  const Plan<T> fresh(dense.kernel());
  const auto v = draw_call<T>(input, dense.heads, dense.m, 1, false);
  const bool complex = plan.kernel_is_complex();
  require(same_bits(apply(plan, v, complex, dense.n, Mode::plain, {}, 1),
                    apply(fresh, v, complex, dense.n, Mode::plain, {}, 1)),
          "an updated plan gives the bits of a new one");
}

template <class T>
void check_others(Input& input, const Plan<T>& plan, const Dense<T>& dense) {
  std::vector<T> x = zeros<T>(static_cast<std::int64_t>(dense.x.size()));
  std::vector<T> y = zeros<T>(dense.sets() * dense.m);
  plan.anchors(x.data(), y.data());
  require(std::equal(x.begin(), x.end(), dense.x.begin()), "a plan gives its anchors back");
  const bool complex = plan.kernel_is_complex();
  std::vector<T> matrix = zeros<T>(dense.heads * dense.n * dense.m * (complex ? 2 : 1));
  plan.to_dense_any(matrix.data(), complex);
  if (dense.has_counts()) {
    for (const std::int64_t rank : plan.rank()) {
      require(rank >= 0 && rank <= std::min(dense.n, dense.m), "a rank is at most a size");
    }
    const auto v = draw_call<T>(input, dense.heads, dense.m, 1, false);
    const auto g = draw_call<T>(input, dense.heads, dense.n, 1, false);
    std::vector<T> a = zeros<T>(dense.heads * dense.n), b = zeros<T>(dense.heads * dense.m);
    std::vector<T> c = a, d = b;
    std::vector<double> e = zeros<double>(dense.heads);
    plan.second_vjp(v.values.data(), v.strides(), g.values.data(), g.strides(), 1,
                    {v.values.data(), g.values.data(), v.values.data(), dense.lengthscale.data()},
                    {a.data(), b.data(), c.data(), d.data(), e.data()});
  }
  if (dense.has_counts() && dense.self && dense.n > 0) {
    const std::int64_t count = input.below(6);
    std::vector<double> levels;
    for (std::int64_t k = 0; k < dense.heads * count; ++k) {
      levels.push_back(static_cast<double>(dense.n) * (1 + input.below(999)) / 1001.0);
    }
    std::vector<double> places(levels.size());
    plan.quantiles(levels.data(), count, places.data());
    for (std::size_t k = 0; k < places.size(); ++k) {
      require(dense.quantile_is_near(static_cast<std::int64_t>(k) / count, levels[k], places[k]),
              "the smoothed count at a quantile is its level");
    }
  }
}

template <class T>
void run(Input& input) {
  Dense<T> dense = draw_dense<T>(input);
  Kernel<T> kernel = dense.kernel();
  kernel.num_threads = input.below(4);
  try {
    Plan<T> plan(kernel);
    require(dense.is_valid(), "a plan refuses what is outside its domain");
    const std::int64_t rows = input.rarely(6) ? input.below(20) : 1 + input.below(2);
    check_products(input, plan, dense, rows);
    check_gradients(input, plan, dense, rows);
    check_others(input, plan, dense);
    check_update(input, plan, dense);
    check_products(input, plan, dense, rows);
  } catch (const Error& error) {
    require(error.code() == ErrorCode::invalid_argument && !dense.is_valid(),
            "a plan throws for wrong arguments alone");
  }
}

}  // namespace
}  // namespace laplex::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  laplex::fuzz::Input input(data, size);
  if (input.flag()) {
    laplex::fuzz::run<double>(input);
  } else {
    laplex::fuzz::run<float>(input);
  }
  return 0;
}
