/// A kernel that a fuzzer drew, and its dense sums in extended precision.
#pragma once

#include "input.hpp"

#include <laplex/plan.hpp>

#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <vector>

namespace laplex::fuzz {

using Wide = std::complex<long double>;

/// A sum of entries times values, and of their magnitudes, of which the promise is a multiple.
class Sum {
 public:
  /// `gain`: what the smallest error of an intermediate sum is multiplied with.
  void add(Wide entry, long double magnitude, Wide value, long double gain = 0.0L) {
    sum_ += entry * value;
    scale_ += magnitude * std::abs(value);
    values_ += std::abs(value);
    gains_ += gain;
  }

  /// Requires an error of at most `times` what the library promises.
  ///
  /// Below the smallest normal number the error is absolute, also that of an entry; entries of
  /// Matern kernels may be 1e5 times exp(-s). Sums may overflow where 55 sum |v| does.
  template <class T>
  void require_close(Wide got, const char* what, long double times = 1.0L) const {
    const long double promise = times * (sizeof(T) == 8 ? 1e-14L : 1e-6L);
    const auto least = static_cast<long double>(std::numeric_limits<T>::min());
    const auto of_entries = 1e6L * static_cast<long double>(std::numeric_limits<double>::min());
    const long double floor = least * (1.0L + gains_) + of_entries * (values_ + gains_);
    if (!(std::abs(got - sum_) <= promise * scale_ + floor)) {
      std::fprintf(stderr, "(%Lg, %Lg) should be (%Lg, %Lg), where magnitudes add up to %Lg\n",
                   got.real(), got.imag(), sum_.real(), sum_.imag(), scale_);
      require(false, what);
    }
  }

 private:
  Wide sum_;
  long double scale_ = 0.0L;
  long double values_ = 0.0L;
  long double gains_ = 0.0L;
};

/// The derivative of an entry by the scaled distance times the sign of x - y, and its scale.
struct Slope {
  long double value;
  long double scale;
};

template <class T>
struct Dense {
  std::int64_t heads = 1, n = 0, m = 0;
  std::vector<T> x, y, theta, phi;
  std::vector<double> lengthscale, frequency;
  bool self = false, shared = false, real_part = false, has_theta = false, has_phi = false;
  Profile profile = Profile::matern12;
  Side side = Side::both;

  [[nodiscard]] Kernel<T> kernel() const {
    Kernel<T> k;
    k.heads = heads;
    k.num_targets = n;
    k.num_sources = m;
    k.targets = x.data();
    k.sources = self ? nullptr : y.data();
    k.lengthscale = lengthscale.data();
    k.frequency = frequency.empty() ? nullptr : frequency.data();
    k.target_phase = has_theta ? theta.data() : nullptr;
    k.source_phase = has_phi ? phi.data() : nullptr;
    k.profile = profile;
    k.side = side;
    k.real_part = real_part;
    k.shared_anchors = shared;
    return k;
  }

  [[nodiscard]] std::int64_t sets() const { return shared && heads > 1 ? 1 : heads; }
  [[nodiscard]] bool is_complex() const { return !frequency.empty() || has_theta || has_phi; }
  /// Whether there are cumulative sums, ranks and second derivatives.
  [[nodiscard]] bool has_counts() const {
    return !is_complex() && profile == Profile::matern12 && side == Side::both;
  }
  [[nodiscard]] bool is_valid() const {
    for (const double each : lengthscale) {
      if (!(each >= std::numeric_limits<double>::min() / 2.25) || std::isinf(each)) {
        return false;
      }
    }
    return all_finite(x) && all_finite(y) && all_finite(theta) && all_finite(phi) &&
           all_finite(frequency);
  }
  /// Whether long double knows the angles well enough to be the judge.
  [[nodiscard]] bool angles_are_safe() const {
    for (std::size_t h = 0; h < frequency.size(); ++h) {
      if (!(std::fabs(frequency[h]) * lengthscale[h] < 1e4)) {
        return false;
      }
    }
    return true;
  }

  [[nodiscard]] long double target(std::int64_t h, std::int64_t i) const {
    return x[static_cast<std::size_t>((sets() == 1 ? 0 : h * n) + i)];
  }
  [[nodiscard]] long double source(std::int64_t h, std::int64_t j) const {
    return self ? target(h, j) : y[static_cast<std::size_t>((sets() == 1 ? 0 : h * m) + j)];
  }
  [[nodiscard]] bool above(std::int64_t h, std::int64_t i, std::int64_t j) const {
    return target(h, i) > source(h, j);
  }
  /// The length of the exponential. The promise is about the rounded quotient.
  [[nodiscard]] long double length(std::int64_t h) const {
    const double given = lengthscale[static_cast<std::size_t>(h)];
    return profile == Profile::matern32   ? given / std::sqrt(3.0)
           : profile == Profile::matern52 ? given / std::sqrt(5.0)
                                          : given;
  }
  [[nodiscard]] long double scaled(std::int64_t h, std::int64_t i, std::int64_t j) const {
    return std::fabs(target(h, i) - source(h, j)) / length(h);
  }
  [[nodiscard]] bool counts(std::int64_t h, std::int64_t i, std::int64_t j) const {
    return side == Side::both || target(h, i) == source(h, j) ||
           above(h, i, j) == (side == Side::left);
  }

  [[nodiscard]] long double modulus(std::int64_t h, std::int64_t i, std::int64_t j) const {
    const long double s = scaled(h, i, j);
    const long double p = profile == Profile::matern12   ? 1.0L
                          : profile == Profile::matern32 ? 1.0L + s
                                                         : 1.0L + s + s * s / 3.0L;
    return s < 1e4L && counts(h, i, j) ? p * std::exp(-s) : 0.0L;
  }
  [[nodiscard]] Wide entry(std::int64_t h, std::int64_t i, std::int64_t j) const {
    const long double r = modulus(h, i, j);
    if (r == 0.0L) {
      return {};
    }
    long double angle = 0.0L;
    if (!frequency.empty()) {
      angle += frequency[static_cast<std::size_t>(h)] * std::fabs(target(h, i) - source(h, j));
    }
    Wide phase = std::polar(1.0L, angle);
    if (has_theta) {  // each in its own reduction: angles may be of very different sizes
      phase *=
          std::polar(1.0L, static_cast<long double>(theta[static_cast<std::size_t>(h * n + i)]));
    }
    if (has_phi) {
      phase *=
          std::polar(1.0L, -static_cast<long double>(phi[static_cast<std::size_t>(h * m + j)]));
    }
    return real_part ? Wide{r * phase.real(), 0.0L} : r * phase;
  }
  /// An entry of the cumulative sum.
  [[nodiscard]] Wide count(std::int64_t h, std::int64_t i, std::int64_t j) const {
    return smooth_count(target(h, i), source(h, j), length(h));
  }
  [[nodiscard]] Slope slope(std::int64_t h, std::int64_t i, std::int64_t j) const {
    const long double s = scaled(h, i, j);
    if (!(s < 1e4L) || !counts(h, i, j)) {
      return {0.0L, 0.0L};
    }
    const long double sign = target(h, i) == source(h, j) ? 0.0L : above(h, i, j) ? 1.0L : -1.0L;
    const long double e = std::exp(-s);
    const long double d = profile == Profile::matern12   ? 1.0L
                          : profile == Profile::matern32 ? s
                                                         : s / 3.0L * (1.0L + s);
    return {-sign * d * e, (sign == 0.0L ? 0.0L : d + modulus(h, i, j) / e) * e};
  }

  /// Whether the smoothed count has its level within the digits that a place can have.
  [[nodiscard]] bool quantile_is_near(std::int64_t h, double level, double place) const {
    long double width = length(h);
    for (std::int64_t j = 0; j < n; ++j) {
      width = std::fmax(width, std::fabs(source(h, j)));
    }
    width *= sizeof(T) == 8 ? 1e-12L : 1e-4L;
    const auto at = [&](long double b) {
      long double sum = 0.0L;
      for (std::int64_t j = 0; j < n; ++j) {
        sum += smooth_count(b, source(h, j), length(h));
      }
      return sum;
    };
    const long double slack = (sizeof(T) == 8 ? 1e-12L : 1e-4L) * static_cast<long double>(n);
    return at(place - width) <= level + slack && at(place + width) >= level - slack;
  }

 private:
  static long double smooth_count(long double b, long double x, long double length) {
    const long double t = (b - x) / length;
    return t < 0.0L ? 0.5L * std::exp(t) : 1.0L - 0.5L * std::exp(-t);
  }
};

template <class T>
Dense<T> draw_dense(Input& input) {
  Dense<T> d;
  d.n = input.size();
  d.self = input.flag();
  d.heads =
      input.rarely(8) ? input.below(4) + (d.self ? 0 : 1) : 1;  // null sources are a self case
  d.m = d.self ? d.n : input.size();
  d.shared = input.rarely(4);
  d.real_part = input.rarely(4);
  d.profile = static_cast<Profile>(input.flag() ? 0 : input.below(3));
  d.side = static_cast<Side>(input.flag() ? 0 : input.below(3));
  d.x = input.numbers<T>(d.sets() * d.n);
  d.y = input.numbers<T>(d.self ? 0 : d.sets() * d.m);
  for (std::int64_t h = 0; h < d.heads; ++h) {
    d.lengthscale.push_back(input.positive());
  }
  if (input.rarely(3)) {
    d.frequency = input.numbers<double>(d.heads);
  }
  d.has_theta = input.rarely(4);
  d.has_phi = input.rarely(4);
  d.theta = input.numbers<T>(d.has_theta ? d.heads * d.n : 0);
  d.phi = input.numbers<T>(d.has_phi ? d.heads * d.m : 0);
  return d;
}

}  // namespace laplex::fuzz
