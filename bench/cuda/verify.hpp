/// Whether what was timed is right: against the CPU in double, and against sums over all pairs.
#pragma once

#include "inputs.hpp"
#include "measure.hpp"

#include <laplex/plan.hpp>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace laplex::bench {

/// The library's promises in units of sum_j |K_ij| |v_j|, and what rounding to 16 bits adds.
inline constexpr double kFloatPromise = 1e-6;
inline constexpr double kDoublePromise = 2e-14;  // the reference's own error on top
inline constexpr double kHalfRounding = 0x1p-11;
inline constexpr double kBfloat16Rounding = 0x1p-8;

/// Lines up to here are compared with the CPU's, longer ones at a few entries with sums of all
/// pairs.
inline constexpr std::int64_t kMostOnHost = 1000000;

/// The larger one, and infinity for a NaN, which a comparison would let pass.
inline double worse(double worst, double error) {
  return std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
}

template <class V>
std::vector<double> wide(const Array<V>& array, cudaStream_t stream) {
  const std::vector<V> narrow = array.host(stream);
  return {narrow.begin(), narrow.end()};
}

/// Gradients by values, both anchors and the lengthscale.
struct GradientArrays {
  Array<float> values, targets, sources;
  Array<double> lengthscale;

  GradientArrays(std::int64_t n, std::int64_t rows)
      : values(n * rows), targets(n), sources(n), lengthscale(1) {}
  [[nodiscard]] Gradients<float, float> get() const {
    Gradients<float, float> gradients;
    gradients.values = values.data();
    gradients.targets = targets.data();
    gradients.sources = sources.data();
    gradients.lengthscale = lengthscale.data();
    return gradients;
  }
};

/// The same kernel on the CPU, in double, with lengthscale 1.
class Reference {
 public:
  template <class T>
  Reference(const Array<T>& x, const Array<T>& y, cudaStream_t stream)
      : x_(wide(x, stream)), y_(wide(y, stream)), bounds_(kernel()), plan_(bounds_) {}

  /// With kFrequency: the complex kernel, or its real part.
  template <class T>
  Reference(const Array<T>& x, const Array<T>& y, bool real_part, cudaStream_t stream)
      : x_(wide(x, stream)),
        y_(wide(y, stream)),
        bounds_(kernel()),
        plan_(oscillating_kernel(real_part)) {}

  /// Of u = K v for `rows` contiguous rows; complex results are pairs.
  [[nodiscard]] double product_error(const std::vector<double>& v, const std::vector<double>& u,
                                     std::int64_t rows = 1) const {
    const std::size_t count = x_.size() * static_cast<std::size_t>(rows);
    const std::vector<double> scale = bound(v, rows, Mode::plain);
    double worst = 0.0;
    if (plan_.kernel_is_complex()) {
      std::vector<std::complex<double>> want(count);
      plan_.apply(v.data(), want.data(), rows);
      for (std::size_t k = 0; k < count; ++k) {
        const std::complex<double> got(u[2 * k], u[2 * k + 1]);
        worst = worse(worst, std::abs(got - want[k]) / scale[k]);
      }
    } else {
      std::vector<double> want(count);
      plan_.apply(v.data(), want.data(), rows);
      for (std::size_t k = 0; k < count; ++k) {
        worst = worse(worst, std::fabs(u[k] - want[k]) / scale[k]);
      }
    }
    return worst;
  }

  /// Of all first-order gradients of <g, K v>, each in units of the sum of its terms' moduli.
  [[nodiscard]] double gradients_error(const std::vector<double>& v, const std::vector<double>& g,
                                       std::int64_t rows, const GradientArrays& got,
                                       cudaStream_t stream) const {
    const auto row_size = x_.size();
    const auto size = static_cast<std::int64_t>(row_size);
    const Strides strides{rows * size, size};
    std::vector<double> values(v.size());
    std::vector<double> targets(row_size);
    std::vector<double> sources(row_size);
    double lengthscale = 0.0;
    Gradients<double, double> want;
    want.values = values.data();
    want.targets = targets.data();
    want.sources = sources.data();
    want.lengthscale = &lengthscale;
    plan_.vjp(v.data(), strides, g.data(), strides, rows, want);

    const std::vector<double> v_scale = bound(g, rows, Mode::transpose);
    const std::vector<double> u_scale = bound(v, rows, Mode::plain);
    double worst = 0.0;
    const auto compare = [&](const std::vector<double>& result, const std::vector<double>& right,
                             const std::vector<double>& scale) {
      for (std::size_t k = 0; k < right.size(); ++k) {
        worst = worse(worst, std::fabs(result[k] - right[k]) / scale[k]);
      }
    };
    compare(wide(got.values, stream), values, v_scale);
    compare(wide(got.targets, stream), targets, summed(g, u_scale, row_size));
    compare(wide(got.sources, stream), sources, summed(v, v_scale, row_size));

    // By the lengthscale all terms of |g| and |v| are positive: their gradient is the sum of
    // moduli.
    Gradients<double, double> modulus;
    double scale = 0.0;
    modulus.lengthscale = &scale;
    const std::vector<double> v_moduli = moduli(v);
    const std::vector<double> g_moduli = moduli(g);
    bounds_.vjp(v_moduli.data(), strides, g_moduli.data(), strides, rows, modulus);
    compare(wide(got.lengthscale, stream), {lengthscale}, {scale});
    return worst;
  }

 private:
  [[nodiscard]] Kernel<double> kernel() const {
    Kernel<double> kernel;
    kernel.num_targets = static_cast<std::int64_t>(x_.size());
    kernel.num_sources = static_cast<std::int64_t>(y_.size());
    kernel.targets = x_.data();
    kernel.sources = y_.data();
    return kernel;
  }
  [[nodiscard]] Kernel<double> oscillating_kernel(bool real_part) const {
    Kernel<double> oscillating = kernel();
    oscillating.frequency = &kFrequency;
    oscillating.real_part = real_part;
    return oscillating;
  }
  static std::vector<double> moduli(std::vector<double> v) {
    for (double& each : v) {
      each = std::fabs(each);
    }
    return v;
  }
  /// sum_j |K_ij| |v_j|, or of the transpose.
  [[nodiscard]] std::vector<double> bound(const std::vector<double>& v, std::int64_t rows,
                                          Mode mode) const {
    std::vector<double> sums(v.size());
    bounds_.apply(moduli(v).data(), sums.data(), rows, mode);
    return sums;
  }
  /// sum over rows of |a| b.
  static std::vector<double> summed(const std::vector<double>& a, const std::vector<double>& b,
                                    std::size_t row_size) {
    std::vector<double> sums(row_size);
    for (std::size_t k = 0; k < a.size(); ++k) {
      sums[k % row_size] += std::fabs(a[k]) * b[k];
    }
    return sums;
  }

  std::vector<double> x_, y_;
  laplex::Plan<double> bounds_;  ///< of the moduli |K_ij|
  laplex::Plan<double> plan_;
};

/// Sums over all sources, for one target x: of K v, of sign(x - y) K v and of K |v|.
struct Sums {
  double even = 0.0;
  double odd = 0.0;
  double moduli = 0.0;
};

inline constexpr std::int64_t kPicked = 16;
inline constexpr std::int64_t kParts = std::int64_t(1) << 16;  // threads that share a target

/// Entry k * kParts + part: every kParts-th source, for the k-th picked target.
static __global__ void direct_kernel(const float* targets, const std::int64_t* picked,
                                     const float* sources, const float* values, std::int64_t m,
                                     Sums* parts) {
  const std::int64_t k = entry() / kParts;
  const double x = targets[picked[k]];
  Sums sums;
  for (std::int64_t j = entry() % kParts; j < m; j += kParts) {
    const double y = sources[j];
    const double decay = exp(-fabs(x - y));
    const double v = values[j];
    sums.even += decay * v;
    sums.odd += x > y ? decay * v : x < y ? -decay * v : 0.0;
    sums.moduli += decay * fabs(v);
  }
  parts[entry()] = sums;
}

/// Targets to compare at: the ends, and others from one to the other.
inline std::vector<std::int64_t> picked_of(std::int64_t n) {
  std::vector<std::int64_t> picked;
  for (std::int64_t k = 0; k < kPicked; ++k) {
    picked.push_back((n - 1) / (kPicked - 1) * k);
  }
  picked.back() = n - 1;
  return picked;
}

inline std::vector<Sums> direct_sums(const Array<float>& targets,
                                     const std::vector<std::int64_t>& picked,
                                     const Array<float>& sources, const Array<float>& values,
                                     cudaStream_t stream) {
  const Array<std::int64_t> indices(kPicked);
  const Array<Sums> parts(kPicked * kParts);
  check(cudaMemcpyAsync(indices.data(), picked.data(), indices.bytes(), cudaMemcpyHostToDevice,
                        stream));
  launch(direct_kernel, parts.size(), stream, targets.data(), indices.data(), sources.data(),
         values.data(), sources.size(), parts.data());
  std::vector<Sums> all(static_cast<std::size_t>(kPicked));
  const std::vector<Sums> host = parts.host(stream);
  for (std::size_t k = 0; k < host.size(); ++k) {
    Sums& sums = all[k / static_cast<std::size_t>(kParts)];
    sums.even += host[k].even;
    sums.odd += host[k].odd;
    sums.moduli += host[k].moduli;
  }
  return all;
}

inline double entry_of(const Array<float>& array, std::int64_t k, cudaStream_t stream) {
  float value = 0.0F;
  check(cudaMemcpyAsync(&value, array.data() + k, sizeof(value), cudaMemcpyDeviceToHost, stream));
  check(cudaStreamSynchronize(stream));
  return static_cast<double>(value);
}

/// The largest error of u = K v at a few targets.
inline double direct_product_error(const Array<float>& x, const Array<float>& y,
                                   const Array<float>& v, const Array<float>& u,
                                   cudaStream_t stream) {
  const std::vector<std::int64_t> picked = picked_of(x.size());
  const std::vector<Sums> want = direct_sums(x, picked, y, v, stream);
  double worst = 0.0;
  for (std::size_t k = 0; k < picked.size(); ++k) {
    worst = worse(worst, std::fabs(entry_of(u, picked[k], stream) - want[k].even) / want[k].moduli);
  }
  return worst;
}

/// The same of the gradients by values, targets and sources.
inline double direct_gradients_error(const Array<float>& x, const Array<float>& y,
                                     const Array<float>& v, const Array<float>& g,
                                     const GradientArrays& got, cudaStream_t stream) {
  double worst = direct_product_error(y, x, g, got.values, stream);
  const auto compare = [&](const Array<float>& a, const Array<float>& b, const Array<float>& factor,
                           const Array<float>& values, const Array<float>& result) {
    const std::vector<std::int64_t> picked = picked_of(a.size());
    const std::vector<Sums> sums = direct_sums(a, picked, b, values, stream);
    for (std::size_t k = 0; k < picked.size(); ++k) {
      const double f = entry_of(factor, picked[k], stream);
      const double error = std::fabs(entry_of(result, picked[k], stream) + f * sums[k].odd);
      worst = worse(worst, error / (std::fabs(f) * sums[k].moduli));
    }
  };
  compare(x, y, g, v, got.targets);
  compare(y, x, v, g, got.sources);
  return worst;
}

}  // namespace laplex::bench
