/// The filter of one damped oscillator, point by point. Long lines go in chunks: only the states
/// at their starts are kept, from which the gradients run each chunk again, the last one first.
#include <laplex/process.hpp>

#include "array.hpp"
#include "boundary.hpp"
#include "gram_blocks.hpp"
#include "parallel.hpp"
#include "process_line.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace laplex {

using namespace detail;

namespace {

constexpr double kPi = 3.14159265358979323846;

/// Points of a chunk: what the gradients need of them stays in the second cache.
constexpr std::int64_t kChunk = 256;

/// The range of D, in units of the variance, in which a product of eight does not overflow.
constexpr double kRange = 1e37;

/// Below this D, the velocity's variance may have lost digits: it is found as a difference.
constexpr double kUnsafe = 3e-8;

/// What is known of the state, given the points so far.
struct State {
  double mean[2] = {};
  double cov[3] = {};
};

/// Derivatives of the log density by a state: `mean`, and twice that by its covariance is
/// mean mean^T - cov.
using Adjoint = State;

/// A point after the filter has passed it.
struct Point {
  State before;     ///< the state given the points before, at the point before
  double gain[2];   ///< predicted cov[0..1] / D
  double left;      ///< noise / D = 1 - gain[0]
  double inverse;   ///< 1 / D
  double relative;  ///< innovation / D
};

/// The derivatives of a chunk by A, and by Q, whose off-diagonal entry counts once.
struct Bars {
  double a[4][kChunk];
  double q[3][kChunk];
};

/// One line and its process, in units of its variance.
class Oscillation {
 public:
  Oscillation(const OscillatorProcess& p, const OscillatorGradients* gradients,
              const ProcessLine& line)
      : n_(p.n),
        line_(line),
        gradients_(gradients != nullptr),
        lengthscale_{p.lengthscale[0][line.number], p.lengthscale[1][line.number]},
        unit_(0.5 * (p.weight[0][line.number] + p.weight[1][line.number])),
        weight_{p.weight[0][line.number] / unit_, p.weight[1][line.number] / unit_},
        per_deviation_(1.0 / std::sqrt(unit_)),
        noise_(p.one_noise && p.noise != nullptr ? p.noise[line.number] / unit_ : 0.0),
        transitions_({2, 0, 0}, std::min(kChunk, p.n), gradients_) {}

  /// False where the result cannot be trusted.
  bool run(double& density) {
    const std::int64_t chunks = (n_ + kChunk - 1) / kChunk;
    std::vector<State> starts(static_cast<std::size_t>(gradients_ ? chunks : 1));
    State state;
    transitions_.slopes = false;
    for (std::int64_t c = 0; c + 1 < chunks; ++c) {
      if (gradients_) {
        starts[static_cast<std::size_t>(c)] = state;
      }
      filter<false>(c * kChunk, state);
    }
    const State last = state;
    transitions_.slopes = gradients_;
    if (gradients_) {
      filter<true>((chunks - 1) * kChunk, state);
    } else {
      filter<false>((chunks - 1) * kChunk, state);
    }
    const double same = std::log(unit_) + std::log(2.0 * kPi);
    density = -0.5 * (square_ + log_det_ + static_cast<double>(n_) * same);
    if (!(least_ > kUnsafe && largest_ < kRange && std::isfinite(density))) {
      return false;
    }
    if (gradients_) {
      Adjoint adjoint;
      starts.back() = last;
      for (std::int64_t c = chunks - 1; c >= 0; --c) {
        if (c + 1 < chunks) {
          state = starts[static_cast<std::size_t>(c)];
          filter<true>(c * kChunk, state);
        }
        reverse(c * kChunk, adjoint);
        contract(c * kChunk);
      }
    }
    return true;
  }

  /// Writes the derivatives by the parameters.
  void write(const OscillatorProcess& p, const OscillatorGradients& to) const {
    const auto put = [&](double* array, double value) {
      if (array != nullptr) {
        array[line_.number] = value;
      }
    };
    for (int k = 0; k < 2; ++k) {
      put(to.lengthscale[k], by_lengthscale_[k]);
      put(to.weight[k], by_weight_[k] / unit_);
    }
    put(p.one_noise ? to.noise : nullptr, by_noise_ / unit_);
  }

 private:
  [[nodiscard]] std::int64_t count_from(std::int64_t begin) const {
    return std::min(kChunk, n_ - begin);
  }

  /// The transitions of the chunk from `begin`.
  void find(std::int64_t begin, std::int64_t count) {
    transitions_.find(line_.anchors, lengthscale_, nullptr, begin, begin + count);
    const double* const first = transitions_.values.data() + 4 * transitions_.stride;
    const double* const second = transitions_.values.data() + 7 * transitions_.stride;
    for (int k = 0; k < 3; ++k) {
      for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t at = k * transitions_.stride + i;
        q_[k][i] = weight_[0] * first[at] + weight_[1] * second[at];
      }
    }
  }

  /// Takes the state across a chunk. A second pass keeps the points but adds nothing up.
  template <bool Keep>
  void filter(std::int64_t begin, State& state) {
    const std::int64_t count = count_from(begin);
    find(begin, count);
    const bool adds = begin >= added_;
    added_ = std::max(added_, begin + count);
    const double* const values = line_.values + begin;
    const double* const noise = offset(line_.noise, begin);
    const double per_unit = 1.0 / unit_;
    const double* const a = transitions_.values.data();
    const std::int64_t stride = transitions_.stride;
    State s = state;
    double square = 0.0;
    double log_det = 0.0;
    double product = 1.0;
    double least = least_;
    double largest = largest_;
    for (std::int64_t i = 0; i < count; ++i) {
      const double a0 = a[i];
      const double a1 = a[i + stride];
      const double a2 = a[i + 2 * stride];
      const double a3 = a[i + 3 * stride];
      const double r = noise == nullptr ? noise_ : noise[i] * per_unit;
      const double c00 = a0 * s.cov[0] + a1 * s.cov[1];
      const double c01 = a0 * s.cov[1] + a1 * s.cov[2];
      const double c10 = a2 * s.cov[0] + a3 * s.cov[1];
      const double c11 = a2 * s.cov[1] + a3 * s.cov[2];
      const double p00 = q_[0][i] + (c00 * a0 + c01 * a1);
      const double p01 = q_[1][i] + (c00 * a2 + c01 * a3);
      const double p11 = q_[2][i] + (c10 * a2 + c11 * a3);
      const double d = p00 + r;
      const double inverse = 1.0 / d;
      const double left = r * inverse;
      const double gain = p01 * inverse;
      const double innovation = values[i] * per_deviation_ - (a0 * s.mean[0] + a1 * s.mean[1]);
      const double relative = innovation * inverse;
      if constexpr (Keep) {
        points_[static_cast<std::size_t>(i)] = {s, {p00 * inverse, gain}, left, inverse, relative};
      }
      const double mean1 = a2 * s.mean[0] + a3 * s.mean[1] + p01 * relative;
      s.mean[0] = a0 * s.mean[0] + a1 * s.mean[1] + p00 * relative;
      s.mean[1] = mean1;
      s.cov[0] = p00 * left;
      s.cov[1] = p01 * left;
      s.cov[2] = p11 - p01 * gain;
      square += innovation * relative;
      product *= d;
      least = d < least ? d : least;
      largest = d > largest ? d : largest;
      if (i % 8 == 7) {
        log_det += std::log(product);
        product = 1.0;
      }
    }
    state = s;
    if (adds) {
      square_ += square;
      log_det_ += log_det + std::log(product);
      least_ = least;
      largest_ = largest;
    }
  }

  /// Takes the adjoint back across a chunk, and finds the derivatives by values, noise and
  /// transitions.
  void reverse(std::int64_t begin, Adjoint& adjoint) {
    const double* const a = transitions_.values.data();
    const std::int64_t stride = transitions_.stride;
    double* const by_values = offset(line_.by_values, begin);
    double* const by_noise = offset(line_.by_noise, begin);
    double noise_sum = 0.0;
    Adjoint s = adjoint;
    for (std::int64_t i = count_from(begin) - 1; i >= 0; --i) {
      const Point& p = points_[static_cast<std::size_t>(i)];
      const double k0 = p.gain[0];
      const double k1 = p.gain[1];
      const double from0 = s.cov[0] * k0 + s.cov[1] * k1;
      const double from1 = s.cov[1] * k0 + s.cov[2] * k1;
      const double u = p.relative - (k0 * s.mean[0] + k1 * s.mean[1]);  // (A^-1 v)_i
      const double precision = p.inverse + (k0 * from0 + k1 * from1);   // (A^-1)_ii
      const double n01 = p.left * s.cov[1] - k1 * s.cov[2];
      const double n11 = s.cov[2];
      const double n00 = p.inverse + (p.left * (p.left * s.cov[0] - k1 * s.cov[1]) - k1 * n01);
      const double r0 = p.relative + (p.left * s.mean[0] - k1 * s.mean[1]);
      const double r1 = s.mean[1];
      if (by_values != nullptr) {
        by_values[i] = -u * per_deviation_;
      }
      const double of_noise = 0.5 * (u * u - precision);
      noise_sum += of_noise;
      if (by_noise != nullptr) {
        by_noise[i] = of_noise / unit_;
      }
      const double a0 = a[i];
      const double a1 = a[i + stride];
      const double a2 = a[i + 2 * stride];
      const double a3 = a[i + 3 * stride];
      const State& b = p.before;
      const double m00 = r0 * r0 - n00;
      const double m01 = r0 * r1 - n01;
      const double m11 = r1 * r1 - n11;
      bars_.q[0][i] = 0.5 * m00;
      bars_.q[1][i] = m01;
      bars_.q[2][i] = 0.5 * m11;
      const double c00 = a0 * b.cov[0] + a1 * b.cov[1];
      const double c01 = a0 * b.cov[1] + a1 * b.cov[2];
      const double c10 = a2 * b.cov[0] + a3 * b.cov[1];
      const double c11 = a2 * b.cov[1] + a3 * b.cov[2];
      bars_.a[0][i] = r0 * b.mean[0] + (m00 * c00 + m01 * c10);
      bars_.a[1][i] = r0 * b.mean[1] + (m00 * c01 + m01 * c11);
      bars_.a[2][i] = r1 * b.mean[0] + (m01 * c00 + m11 * c10);
      bars_.a[3][i] = r1 * b.mean[1] + (m01 * c01 + m11 * c11);
      s.mean[0] = a0 * r0 + a2 * r1;
      s.mean[1] = a1 * r0 + a3 * r1;
      const double na00 = n00 * a0 + n01 * a2;
      const double na01 = n00 * a1 + n01 * a3;
      const double na10 = n01 * a0 + n11 * a2;
      const double na11 = n01 * a1 + n11 * a3;
      s.cov[0] = a0 * na00 + a2 * na10;
      s.cov[1] = a0 * na01 + a2 * na11;
      s.cov[2] = a1 * na01 + a3 * na11;
    }
    adjoint = s;
    by_noise_ += noise_sum;
  }

  /// The derivatives by weights, lengthscales and anchors from those by the transitions.
  void contract(std::int64_t begin) {
    const std::int64_t count = count_from(begin);
    const std::int64_t stride = transitions_.stride;
    const auto along = [&](const std::vector<double>& of, int first, double* sums, const auto& bars,
                           int numbers, double weight) {
      for (int k = 0; k < numbers; ++k) {
        const double* const numbers_k = of.data() + (first + k) * stride;
        for (std::int64_t i = 0; i < count; ++i) {
          sums[i] += weight * bars[k][i] * numbers_k[i];
        }
      }
    };
    double sums[4][kChunk] = {};
    for (int m = 0; m < 2; ++m) {
      along(transitions_.values, 4 + 3 * m, sums[m], bars_.q, 3, 1.0);
      along(transitions_.by[m], 0, sums[2 + m], bars_.a, 4, 1.0);
      along(transitions_.by[m], 4, sums[2 + m], bars_.q, 3, weight_[0]);
      along(transitions_.by[m], 7, sums[2 + m], bars_.q, 3, weight_[1]);
    }
    double total[4] = {};
    for (std::int64_t i = 0; i < count; ++i) {
      total[0] += sums[0][i];
      total[1] += sums[1][i];
      const auto at = static_cast<std::size_t>(i);
      total[2] += sums[2][i] * transitions_.x[0][at];
      total[3] += sums[3][i] * transitions_.x[1][at];
    }
    for (int m = 0; m < 2; ++m) {
      by_weight_[m] += total[m];
      by_lengthscale_[m] -= total[2 + m] / lengthscale_[m];
    }
    if (line_.by_anchors != nullptr) {
      double* const by_anchors = line_.by_anchors + begin;
      // Those of the last point come from the chunk after this one, which went before.
      if (begin + count == n_) {
        by_anchors[count - 1] = 0.0;
      }
      for (std::int64_t i = count - 1; i >= 0; --i) {
        const bool infinite = transitions_.infinite[static_cast<std::size_t>(i)] != 0;
        const double by_gap =
            infinite ? 0.0 : sums[2][i] / lengthscale_[0] + sums[3][i] / lengthscale_[1];
        by_anchors[i] += by_gap;
        if (begin + i > 0) {
          by_anchors[i - 1] = -by_gap;
        }
      }
    }
  }

  std::int64_t n_;
  const ProcessLine& line_;
  bool gradients_;
  double lengthscale_[2];
  double unit_;  ///< the variance
  double weight_[2];
  double per_deviation_;
  double noise_;
  Transitions<double> transitions_;
  double q_[3][kChunk];
  std::vector<Point> points_ =
      std::vector<Point>(static_cast<std::size_t>(gradients_ ? std::min(kChunk, n_) : 0));
  Bars bars_;
  std::int64_t added_ = 0;  ///< points that were added up
  double square_ = 0.0;
  double log_det_ = 0.0;
  double least_ = std::numeric_limits<double>::infinity();
  double largest_ = 0.0;
  double by_weight_[2] = {};
  double by_lengthscale_[2] = {};
  double by_noise_ = 0.0;
};

bool in_range(const OscillatorProcess& p) {
  for (std::int64_t b = 0; b < p.batch; ++b) {
    const double one = p.weight[0][b];
    const double two = p.weight[1][b];
    if (!is_scale(p.lengthscale[0][b]) || !is_scale(p.lengthscale[1][b]) || !(one >= 0.0) ||
        !(two >= 0.0) || !is_scale(0.5 * (one + two))) {
      return false;
    }
  }
  double zero = 0.0;
  for (std::int64_t k = 0; k < p.batch * p.n; ++k) {
    zero += 0.0 * p.anchors[k];
  }
  return zero == 0.0 && has_valid_noise(p);
}

}  // namespace

bool oscillator_log_density(const OscillatorProcess& p, double* out,
                            const OscillatorGradients* gradients) {
  return guarded([&] {
    check_process(p, out, {p.lengthscale[0], p.lengthscale[1], p.weight[0], p.weight[1]});
    if (p.n < 1 || !in_range(p)) {
      return false;
    }
    const OscillatorGradients to = gradients == nullptr ? OscillatorGradients{} : *gradients;
    const int threads = threads_for(p.batch * p.n * (gradients == nullptr ? 1 : 3), p.num_threads);
    std::atomic<bool> done{true};
    parallel_tasks(threads, p.batch, [&](std::int64_t b) {
      if (!done.load(std::memory_order_relaxed)) {
        return;
      }
      ProcessLine line;
      if (!read_line(p, to, b, 1, line)) {
        done.store(false, std::memory_order_relaxed);
        return;
      }
      Oscillation oscillation(p, gradients, line);
      if (!oscillation.run(out[b])) {
        done.store(false, std::memory_order_relaxed);
        return;
      }
      if (gradients != nullptr) {
        oscillation.write(p, to);
        write_line(p, to, line);
      }
    });
    return done.load();
  });
}

}  // namespace laplex
