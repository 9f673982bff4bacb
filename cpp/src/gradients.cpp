// First-order gradients of F = Re<g, K v> for all seven inputs, from one scan per direction.
//
// With c = 1/lengthscale - i*frequency, d = |x_i - y_j| and the readings of lookup.hpp,
//   dF/dx_i     = Re(conj(g_i) * -c * odd_i(v))           odd: signs, ties left out
//   dF/dtheta_i = Re(conj(g_i) * i * even_i(v))
//   dF/dell     = Re(sum_i conj(g_i) * even_i(v; tau)) / ell       since dK/dell = (d / ell^2) K
//   dF/domega   = -ell * Im(the same sum)                           since dK/domega = i d K
// and, with q = K^T conj(g) read at the sources,
//   dF/dv_j     = conj(even_j(g)),   dF/dphi_j = Re(-i v_j even_j(g)),   dF/dy_j = Re(v_j * -c *
//   odd_j(g)).
#include "boundary.hpp"
#include "buffer.hpp"
#include "lanes.hpp"
#include "lookup.hpp"
#include "state.hpp"

#include <laplex/plan.hpp>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace laplex {

using namespace detail;

namespace {

/// Sums over lanes, in sorted order and in double; empty where not asked for.
struct Accumulators {
  std::vector<double> targets;
  std::vector<double> sources;
  std::vector<double> target_phase;
  std::vector<double> source_phase;
  std::vector<Complex> stretch;  ///< per target: sum of conj(g) * even(v; tau)

  void add(const Accumulators& other) {
    const auto add_to = [](auto& a, const auto& b) {
      for (std::size_t k = 0; k < a.size(); ++k) {
        a[k] = a[k] + b[k];
      }
    };
    add_to(targets, other.targets);
    add_to(sources, other.sources);
    add_to(target_phase, other.target_phase);
    add_to(source_phase, other.source_phase);
    add_to(stretch, other.stretch);
  }
};

/// Neumaier's compensated sum: the gradient of a scalar must not lose digits to the number of
/// anchors.
class Sum {
 public:
  void add(double x) {
    const double t = total_ + x;
    rest_ += std::fabs(total_) >= std::fabs(x) ? (total_ - t) + x : (x - t) + total_;
    total_ = t;
  }
  [[nodiscard]] double value() const { return std::isfinite(rest_) ? total_ + rest_ : total_; }

 private:
  double total_ = 0.0;
  double rest_ = 0.0;
};

/// Real part of i*z and of -i*z, and z itself for real states, where there are no phases.
double real_i(Complex z) {
  return -z.im;
}
double real_i(double) {
  return 0.0;
}

Complex as_complex(Complex z) {
  return z;
}
Complex as_complex(double z) {
  return {z, 0.0};
}

/// -c as the type of the decays.
Complex minus_c(Complex, Rate rate) {
  return {-1.0 / rate.lengthscale, rate.frequency};
}
double minus_c(double, Rate rate) {
  return -1.0 / rate.lengthscale;
}

template <class T>
struct Call {
  const State<T>& state;
  Vectors<const T> values;
  Vectors<const T> grad;
  Vectors<T> d_values;  ///< base may be null
  Gradients<T, T> wanted;

  [[nodiscard]] bool needs_stretch() const { return wanted.lengthscale || wanted.frequency; }
  [[nodiscard]] bool needs_forward() const {
    return wanted.targets || wanted.target_phase || needs_stretch();
  }
  [[nodiscard]] bool needs_backward() const {
    return wanted.values || wanted.sources || wanted.source_phase;
  }
  [[nodiscard]] Accumulators accumulators() const {
    const auto n = static_cast<std::size_t>(state.fixed().n);
    const auto m = static_cast<std::size_t>(state.fixed().m);
    Accumulators a;
    a.targets.resize(wanted.targets ? n : 0);
    a.sources.resize(wanted.sources ? m : 0);
    a.target_phase.resize(wanted.target_phase ? n : 0);
    a.source_phase.resize(wanted.source_phase ? m : 0);
    a.stretch.resize(needs_stretch() ? n : 0);
    return a;
  }
};

/// Adds the gradients of one block of lanes to `sums` and stores the gradient of its values.
template <class D, class S, int W, class T>
void add_block(const Call<T>& call, Block block, Accumulators& sums, int threads) {
  constexpr std::int64_t kGrain = 4096;
  const State<T>& state = call.state;
  const Fixed<T>& fixed = state.fixed();
  const std::int64_t h = block.head;
  const SortedAnchors& targets = state.targets(h);
  const SortedAnchors& sources = state.sources(h);
  const Complex* target_factor = factor_of(fixed.target_factor, h, fixed.n);
  const Complex* source_factor = factor_of(fixed.source_factor, h, fixed.m);
  const Rate rate = fixed.rate[static_cast<std::size_t>(h)];
  const D factor = minus_c(D{}, rate);
  const std::int64_t at_targets = fixed.n * W;
  const std::int64_t at_sources = fixed.m * W;

  // Both with their phase factors in: v_j exp(-i phi_j) and conj(g_i) exp(i theta_i).
  const Buffer<S> v = make_buffer<S>(at_sources);
  const Buffer<S> g = make_buffer<S>(at_targets);
  load<W>(call.values, block, sources, source_factor, false, v.get(), threads);
  load<W>(call.grad, block, targets, target_factor, true, g.get(), threads);

  if (call.needs_forward()) {
    const bool stretch = call.needs_stretch();
    const Buffer<S> even = call.wanted.target_phase ? make_buffer<S>(at_targets) : nullptr;
    const Buffer<S> odd = call.wanted.targets ? make_buffer<S>(at_targets) : nullptr;
    const Buffer<S> far = stretch ? make_buffer<S>(at_targets) : nullptr;
    std::vector<Tap<S>> taps;
    if (even)
      taps.push_back({Reading::even, 0, even.get()});
    if (odd)
      taps.push_back({Reading::odd, 0, odd.get()});
    if (far)
      taps.push_back({Reading::even, 1, far.get()});
    scan_and_read<W>(stretch ? 1 : 0, state.template line<D>(h, false, threads),
                     targets.position.data(), fixed.n, v.get(), taps, threads);
    parallel_ranges(threads, fixed.n, kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
        for (std::size_t w = 0; w < static_cast<std::size_t>(block.count); ++w) {
          const std::size_t k = i * W + w;
          if (odd)
            sums.targets[i] += real(g[k] * (factor * odd[k]));
          if (even)
            sums.target_phase[i] += real_i(g[k] * even[k]);
          if (far)
            sums.stretch[i] = sums.stretch[i] + as_complex(g[k] * far[k]);
        }
      }
    });
  }

  if (call.needs_backward()) {
    const bool needs_even = call.wanted.values || call.wanted.source_phase;
    const Buffer<S> even = needs_even ? make_buffer<S>(at_sources) : nullptr;
    const Buffer<S> odd = call.wanted.sources ? make_buffer<S>(at_sources) : nullptr;
    std::vector<Tap<S>> taps;
    if (even)
      taps.push_back({Reading::even, 0, even.get()});
    if (odd)
      taps.push_back({Reading::odd, 0, odd.get()});
    scan_and_read<W>(0, state.template line<D>(h, true, threads), sources.position.data(), fixed.m,
                     g.get(), taps, threads);
    if (call.wanted.values) {
      store<W>(even.get(), block, sources, source_factor, true, 1.0, call.d_values, threads);
    }
    parallel_ranges(threads, fixed.m, kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (auto j = static_cast<std::size_t>(begin); j < static_cast<std::size_t>(end); ++j) {
        for (std::size_t w = 0; w < static_cast<std::size_t>(block.count); ++w) {
          const std::size_t k = j * W + w;
          if (odd)
            sums.sources[j] += real(v[k] * (factor * odd[k]));
          if (call.wanted.source_phase)
            sums.source_phase[j] -= real_i(v[k] * even[k]);
        }
      }
    });
  }
}

template <class T>
void scatter(const std::vector<double>& sorted, const SortedAnchors& order, T* out) {
  for (std::size_t k = 0; k < sorted.size(); ++k) {
    out[order.index[k]] = static_cast<T>(sorted[k]);
  }
}

/// Writes the sums over all lanes of one head to where the caller wants them.
template <class T>
void finish(const Call<T>& call, std::int64_t h, const Accumulators& sums) {
  const State<T>& state = call.state;
  const Fixed<T>& fixed = state.fixed();
  const Gradients<T, T>& to = call.wanted;
  if (to.targets)
    scatter(sums.targets, state.targets(h), to.targets + h * fixed.n);
  if (to.sources)
    scatter(sums.sources, state.sources(h), to.sources + h * fixed.m);
  if (to.target_phase)
    scatter(sums.target_phase, state.targets(h), to.target_phase + h * fixed.n);
  if (to.source_phase)
    scatter(sums.source_phase, state.sources(h), to.source_phase + h * fixed.m);
  if (call.needs_stretch()) {
    Sum re;
    Sum im;
    for (const Complex z : sums.stretch) {
      re.add(z.re);
      im.add(z.im);
    }
    const double lengthscale = fixed.rate[static_cast<std::size_t>(h)].lengthscale;
    if (to.lengthscale)
      to.lengthscale[h] = re.value() / lengthscale;
    if (to.frequency)
      to.frequency[h] = -lengthscale * im.value();
  }
}

/// How many partial sums a head is split into. A function of the sizes alone, so that the order of
/// additions, and with it every bit, does not depend on the threads; small enough to fit in memory.
std::int64_t num_groups(std::int64_t blocks, std::int64_t anchors) {
  constexpr std::int64_t kMost = 8;
  constexpr std::int64_t kAnchors = 1 << 21;  // 48 bytes of sums an anchor and group
  const std::int64_t room =
      std::max<std::int64_t>(1, kAnchors / std::max<std::int64_t>(1, anchors));
  return std::clamp<std::int64_t>(blocks, 1, std::min(kMost, room));
}

}  // namespace

template <class T>
void Plan<T>::vjp_any(const T* v, bool v_complex, Strides v_strides, const T* g, bool g_complex,
                      Strides g_strides, std::int64_t rows, const Gradients<T, T>& gradients,
                      int num_threads) const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  if (rows < 0) {
    throw Error(ErrorCode::invalid_argument,
                "rows must not be negative, got " + std::to_string(rows));
  }
  if (g_complex != (v_complex || kernel_is_complex())) {
    throw Error(ErrorCode::invalid_argument, "the cotangent must have the type of the result");
  }
  const int parts = parts_of(fixed, v_complex);
  const Strides contiguous{rows * fixed.m, fixed.m};
  const Call<T> call{*snapshot,
                     {v, v_complex, v_strides, parts},
                     {g, g_complex, g_strides, parts},
                     {gradients.values, v_complex, contiguous, parts},
                     gradients};
  const std::int64_t lanes = rows * parts;
  const int threads = threads_for(2 * fixed.heads * lanes * (fixed.n + fixed.m),
                                  num_threads > 0 ? num_threads : fixed.num_threads);
  guarded([&] {
    with_shape(fixed, v_complex, lanes, [&](auto shape) {
      using D = typename decltype(shape)::D;
      using S = typename decltype(shape)::S;
      constexpr int W = decltype(shape)::W;
      const std::int64_t blocks = (lanes + W - 1) / W;
      const std::int64_t groups = num_groups(blocks, fixed.n + fixed.m);
      const ThreadSplit split = split_threads(threads, fixed.heads * groups, fixed.n + fixed.m);
      std::vector<Accumulators> sums(static_cast<std::size_t>(fixed.heads * groups));
      parallel_tasks(split.outer, fixed.heads * groups, [&](std::int64_t task) {
        const std::int64_t head = task / groups;
        const std::int64_t group = task % groups;
        Accumulators& mine = sums[static_cast<std::size_t>(task)];
        mine = call.accumulators();
        for (std::int64_t block = blocks * group / groups; block < blocks * (group + 1) / groups;
             ++block) {
          const std::int64_t first = block * W;
          add_block<D, S, W>(call, {head, first, std::min<std::int64_t>(W, lanes - first)}, mine,
                             split.inner);
        }
      });
      parallel_tasks(split.outer, fixed.heads, [&](std::int64_t head) {
        Accumulators& total = sums[static_cast<std::size_t>(head * groups)];
        for (std::int64_t group = 1; group < groups; ++group) {
          total.add(sums[static_cast<std::size_t>(head * groups + group)]);
        }
        finish(call, head, total);
      });
    });
  });
}

template void Plan<float>::vjp_any(const float*, bool, Strides, const float*, bool, Strides,
                                   std::int64_t, const Gradients<float, float>&, int) const;
template void Plan<double>::vjp_any(const double*, bool, Strides, const double*, bool, Strides,
                                    std::int64_t, const Gradients<double, double>&, int) const;

}  // namespace laplex
