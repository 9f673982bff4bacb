/// The CPU tests' kernels, on the device; and what their results are compared with.
#pragma once

#include "../cpp/cases.hpp"
#include "device_memory.hpp"

#include <laplex/cuda/plan.hpp>

#include <algorithm>
#include <cmath>
#include <complex>
#include <memory>
#include <type_traits>
#include <vector>

namespace laplex::cuda::tests {

using laplex::tests::Anchors;
using laplex::tests::Case;
using laplex::tests::draw_values;
using laplex::tests::Form;
using laplex::tests::kAnchors;
using laplex::tests::kForms;
using laplex::tests::make_case;
using laplex::tests::promise;

template <class V>
inline constexpr bool kIsComplex = !std::is_floating_point_v<V>;

/// A kernel's arrays on the device, and a plan of them.
template <class T>
class DeviceCase {
 public:
  explicit DeviceCase(const Case<T>& c)
      : x_(c.x), y_(c.y), theta_(c.theta), phi_(c.phi), ell_(c.lengthscale), omega_(c.frequency) {
    kernel_ = c.kernel();
    kernel_.targets = x_.data();
    kernel_.sources = c.self ? nullptr : y_.data();
    kernel_.lengthscale = ell_.data();
    kernel_.frequency = c.frequency.empty() ? nullptr : omega_.data();
    kernel_.target_phase = c.theta.empty() ? nullptr : theta_.data();
    kernel_.source_phase = c.phi.empty() ? nullptr : phi_.data();
  }
  [[nodiscard]] const Kernel<T>& kernel() const { return kernel_; }
  [[nodiscard]] Plan<T> plan() const { return Plan<T>(kernel_, kStream); }

 private:
  OnDevice<T> x_, y_, theta_, phi_;
  OnDevice<double> ell_, omega_;
  Kernel<T> kernel_;
};

/// The same kernel in double.
template <class T>
Case<double> widened(const Case<T>& c) {
  const auto wide = [](const std::vector<T>& v) { return std::vector<double>(v.begin(), v.end()); };
  Case<double> d;
  d.x = wide(c.x);
  d.y = wide(c.y);
  d.theta = wide(c.theta);
  d.phi = wide(c.phi);
  d.lengthscale = c.lengthscale;
  d.frequency = c.frequency;
  d.self = c.self;
  d.real_part = c.real_part;
  d.profile = c.profile;
  d.heads = c.heads;
  d.n = c.n;
  d.m = c.m;
  return d;
}

/// The moduli alone: what errors are measured in.
inline Case<double> moduli(Case<double> c) {
  c.theta.clear();
  c.phi.clear();
  c.frequency.clear();
  c.real_part = false;
  return c;
}

template <class V>
auto widened(const std::vector<V>& v) {
  using Wide = std::conditional_t<kIsComplex<V>, std::complex<double>, double>;
  std::vector<Wide> wide;
  wide.reserve(v.size());
  for (const V& each : v) {
    wide.push_back(Wide(each));
  }
  return wide;
}

/// The device's product of contiguous rows.
template <class R, class T, class V>
std::vector<R> device_product(const Plan<T>& plan, const std::vector<V>& v, std::int64_t rows,
                              Mode mode = Mode::plain, Term term = {}) {
  const std::int64_t in = mode == Mode::plain ? plan.num_sources() : plan.num_targets();
  const std::int64_t out = mode == Mode::plain ? plan.num_targets() : plan.num_sources();
  const OnDevice<V> values(v);
  const OnDevice<R> result(static_cast<std::size_t>(plan.heads() * rows * out), R(9));
  plan.apply({values.data(), kIsComplex<V>, {rows * in, in}}, rows,
             {result.data(), kIsComplex<R>, {rows * out, out}}, kStream, mode, term);
  return result.host();
}

/// The term of the sizes of a term's entries.
inline Term sizes_of(Term term) {
  for (double& coefficient : term.polynomial) {
    coefficient = std::abs(coefficient);
  }
  return {Parity::even, term.polynomial};
}

/// The largest |got - want| / (promise * scale), scale = sum |..||K_ij||v_j|, over all entries;
/// below 1 if the promise is kept.
template <class T, class V>
double product_error(const Case<T>& c, const Plan<T>& plan, const std::vector<V>& v,
                     std::int64_t rows, Mode mode = Mode::plain, Term term = {}) {
  const Case<double> wide = widened(c);
  const laplex::Plan<double> reference(wide.kernel());
  const laplex::Plan<double> bounds(moduli(wide).kernel());
  const std::int64_t in = mode == Mode::plain ? c.m : c.n;
  const std::int64_t out = mode == Mode::plain ? c.n : c.m;
  const auto compare = [&](auto zero) {
    using R = decltype(zero);
    const auto got = device_product<R>(plan, v, rows, mode, term);
    using Wide = typename decltype(widened(got))::value_type;
    const auto wide_v = widened(v);
    std::vector<Wide> want(got.size());
    std::vector<double> sizes(v.size());
    std::vector<double> scale(got.size());
    for (std::size_t k = 0; k < v.size(); ++k) {
      sizes[k] = std::abs(wide_v[k]);
    }
    reference.apply(wide_v.data(), want.data(), rows, Strides{rows * in, in},
                    Strides{rows * out, out}, mode, term);
    bounds.apply(sizes.data(), scale.data(), rows, Strides{rows * in, in}, Strides{rows * out, out},
                 mode, sizes_of(term));
    double worst = 0.0;
    for (std::size_t k = 0; k < got.size(); ++k) {
      // The reference has an error of its own; below the normal range precision is absolute.
      const double allowed =
          5 * (static_cast<double>(promise<T>()) + 1e-14) * scale[k] +
          static_cast<double>(in) * static_cast<double>(std::numeric_limits<T>::min());
      const double error = std::abs(Wide(got[k]) - want[k]);
      worst = std::max(worst, std::isnan(error) ? HUGE_VAL : error / allowed);
    }
    return worst;
  };
  if (kIsComplex<V> || plan.kernel_is_complex()) {
    return compare(std::complex<T>{});
  }
  if constexpr (!kIsComplex<V>) {
    return compare(T{});
  }
  return HUGE_VAL;
}

}  // namespace laplex::cuda::tests
