/// Random kernels and their dense matrices in extended precision, shared by the tests.
#pragma once

#include <laplex/laplex.hpp>

#include <cmath>
#include <complex>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace laplex::tests {

using Wide = std::complex<long double>;

enum class Form { real, carrier, oscillating, cosine, cosine_carrier };
inline constexpr Form kForms[] = {Form::real, Form::carrier, Form::oscillating, Form::cosine,
                                  Form::cosine_carrier};

enum class Anchors { uniform, grid, equal, skewed, huge };
inline constexpr Anchors kAnchors[] = {Anchors::uniform, Anchors::grid, Anchors::equal,
                                       Anchors::skewed, Anchors::huge};

/// A kernel and the memory it refers to.
template <class T>
struct Case {
  std::vector<T> x, y, theta, phi;
  std::vector<double> lengthscale, frequency;
  bool self = false;
  bool real_part = false;
  Profile profile = Profile::matern12;  ///< of kernel(); the entries are those of the exponential
  std::int64_t heads = 1, n = 0, m = 0;

  [[nodiscard]] Kernel<T> kernel() const {
    Kernel<T> k;
    k.heads = heads;
    k.num_targets = n;
    k.num_sources = m;
    k.targets = x.data();
    k.sources = self ? nullptr : y.data();
    k.lengthscale = lengthscale.data();
    k.frequency = frequency.empty() ? nullptr : frequency.data();
    k.target_phase = theta.empty() ? nullptr : theta.data();
    k.source_phase = phi.empty() ? nullptr : phi.data();
    k.real_part = real_part;
    k.profile = profile;
    return k;
  }
  [[nodiscard]] long double distance(std::int64_t h, std::int64_t i, std::int64_t j) const {
    const auto& s = self ? x : y;
    return std::fabs(static_cast<long double>(x[static_cast<std::size_t>(h * n + i)]) -
                     static_cast<long double>(s[static_cast<std::size_t>(h * m + j)]));
  }
  [[nodiscard]] long double modulus(std::int64_t h, std::int64_t i, std::int64_t j) const {
    return std::exp(-distance(h, i, j) /
                    static_cast<long double>(lengthscale[static_cast<std::size_t>(h)]));
  }
  /// K[i, j], before any real part.
  [[nodiscard]] Wide entry(std::int64_t h, std::int64_t i, std::int64_t j) const {
    const long double r = modulus(h, i, j);
    if (r == 0.0L) {
      return {};
    }
    long double angle = 0.0L;
    if (!frequency.empty()) {
      angle += static_cast<long double>(frequency[static_cast<std::size_t>(h)]) * distance(h, i, j);
    }
    if (!theta.empty())
      angle += static_cast<long double>(theta[static_cast<std::size_t>(h * n + i)]);
    if (!phi.empty())
      angle -= static_cast<long double>(phi[static_cast<std::size_t>(h * m + j)]);
    return std::polar(r, angle);
  }
};

template <class T>
std::vector<T> draw_anchors(Anchors kind, std::int64_t count, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  std::vector<T> z(static_cast<std::size_t>(count));
  for (T& value : z) {
    switch (kind) {
      case Anchors::uniform:
        value = static_cast<T>(uniform(random));
        break;
      case Anchors::grid:
        value = static_cast<T>(std::floor(8 * uniform(random)) / 8);
        break;
      case Anchors::equal:
        value = static_cast<T>(0.25);
        break;
      case Anchors::skewed:
        value = static_cast<T>(std::pow(normal(random), 5));
        break;
      case Anchors::huge:
        value = static_cast<T>((normal(random) > 0 ? 1 : -1) *
                               std::pow(10.0, 60 * uniform(random) - 30));
        break;
    }
  }
  return z;
}

template <class T>
Case<T> make_case(Form form, Anchors kind, std::int64_t n, std::int64_t m, std::uint64_t seed,
                  bool self = false, std::int64_t heads = 1) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform(-3.0, 3.0);
  Case<T> c;
  c.heads = heads;
  c.n = n;
  c.m = self ? n : m;
  c.self = self;
  c.x = draw_anchors<T>(kind, heads * n, random);
  if (!self) {
    c.y = draw_anchors<T>(kind, heads * m, random);
  }
  for (std::int64_t h = 0; h < heads; ++h) {
    c.lengthscale.push_back(0.3 * static_cast<double>(h + 1));
    if (form == Form::oscillating || form == Form::cosine) {
      c.frequency.push_back(2.0 - static_cast<double>(h));
    }
  }
  if (form == Form::carrier || form == Form::cosine || form == Form::cosine_carrier) {
    for (std::int64_t i = 0; i < heads * c.n; ++i)
      c.theta.push_back(static_cast<T>(uniform(random)));
    for (std::int64_t j = 0; j < heads * c.m; ++j)
      c.phi.push_back(static_cast<T>(uniform(random)));
  }
  c.real_part = form == Form::cosine || form == Form::cosine_carrier;
  return c;
}

template <class V>
std::vector<V> draw_values(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<V> v(static_cast<std::size_t>(count));
  for (V& value : v) {
    if constexpr (std::is_floating_point_v<V>) {
      value = static_cast<V>(normal(random));
    } else {
      using T = typename V::value_type;
      const auto re = static_cast<T>(normal(random));
      value = {re, static_cast<T>(normal(random))};
    }
  }
  return v;
}

/// The library's promise, in units of sum_j |K_ij| |v_j|; the final rounding to float included.
template <class T>
constexpr long double promise() {
  return sizeof(T) == 8 ? 1e-14L : 1e-6L;
}

inline std::string name(Form form) {
  const char* names[] = {"real", "carrier", "oscillating", "cosine", "cosine_carrier"};
  return names[static_cast<int>(form)];
}

}  // namespace laplex::tests
