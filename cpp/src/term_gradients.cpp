#include "term_gradients.hpp"

#include "array.hpp"
#include "exact_sum.hpp"
#include "parallel.hpp"
#include "product_pass.hpp"
#include "term_derivatives.hpp"

#include <array>
#include <cstddef>
#include <mutex>
#include <vector>

namespace laplex::detail {
namespace {

/// Results of one pass, in memory of their own: [heads, lanes, count].
template <class T>
class Sums {
 public:
  Sums(bool complex, std::int64_t heads, std::int64_t lanes, std::int64_t count)
      : complex_(complex), size_(heads * lanes * count), strides_{lanes * count, count} {}

  /// Asks for another sum; its number.
  std::size_t add(const Term& term) {
    memory_.emplace_back().reset(complex_ ? 2 * size_ : size_);
    results_.push_back(result_of<T>(term, {memory_.back().data(), complex_, strides_, 1}));
    return memory_.size() - 1;
  }
  std::vector<Result<T>>& results() { return results_; }

  [[nodiscard]] Complex get(std::size_t number, std::int64_t at) const {
    const T* const from = memory_[number].data();
    if (complex_) {
      return {static_cast<double>(from[2 * at]), static_cast<double>(from[2 * at + 1])};
    }
    return {static_cast<double>(from[at]), 0.0};
  }

 private:
  bool complex_;
  std::int64_t size_;
  Strides strides_;
  std::vector<Array<T>> memory_;
  std::vector<Result<T>> results_;
};

/// What the gradients by the anchors and phases of a side are made of, and their numbers; see
/// term_derivatives.hpp.
template <class T>
struct SideSums {
  Sums<T> sums;
  std::size_t plain = 0;  ///< S itself
  std::size_t slope = 0;
  std::size_t turn = 0;  ///< of kernels that oscillate
};

/// conj(a) b.
Complex inner(Complex a, Complex b) {
  return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re};
}

template <class T>
Complex entry(const Vectors<const T>& vectors, std::int64_t head, std::int64_t lane,
              std::int64_t at) {
  const T* const from = vectors.lane(head, lane) + at * vectors.step();
  return {static_cast<double>(from[0]), vectors.paired() ? static_cast<double>(from[1]) : 0.0};
}

constexpr std::int64_t kGrain = 4096;

}  // namespace

template <class T>
void term_gradients(const State<T>& state, const Term& term, const Vectors<const T>& values,
                    const Vectors<const T>& grad, std::int64_t rows, const Vectors<T>& d_values,
                    const Gradients<T, T>& gradients, int threads) {
  const Fixed<T>& fixed = state.fixed();
  const std::int64_t lanes = rows * values.parts;
  const bool complex = fixed.complex_kernel() || values.paired();
  const bool scalars = gradients.lengthscale != nullptr || gradients.frequency != nullptr;

  SideSums<T> at_targets{{complex, fixed.heads, lanes, fixed.n}};
  SideSums<T> at_sources{{complex, fixed.heads, lanes, fixed.m}};
  const auto ask = [&](SideSums<T>& side, const T* by_phases, const T* by_anchors) {
    if (by_phases != nullptr) {
      side.plain = side.sums.add(term);
    }
    if (by_anchors != nullptr) {
      side.slope = side.sums.add(slope_of(term));
      side.turn = fixed.oscillates ? side.sums.add(turn_of(term)) : 0;
    }
  };
  ask(at_targets, gradients.target_phase, gradients.targets);
  ask(at_sources, gradients.source_phase, gradients.sources);
  std::size_t stretch = 0;
  std::size_t swing = 0;
  if (gradients.lengthscale != nullptr) {
    stretch = at_targets.sums.add(stretch_of(term));
  }
  // A kernel that does not oscillate has a derivative at frequency 0.
  const bool swings = gradients.frequency != nullptr && complex;
  if (swings) {
    swing = at_targets.sums.add(swing_of(term));
  }
  // The gradient by the values may be written over them: then it comes last.
  const bool over = gradients.values != nullptr && d_values.base == values.base;
  if (gradients.values != nullptr && !over) {
    at_sources.sums.results().push_back(result_of(term, d_values));
  }
  if (!at_targets.sums.results().empty()) {
    run<T>(state, values, rows, false, false, at_targets.sums.results(), threads);
  }
  if (!at_sources.sums.results().empty()) {
    run<T>(state, grad, rows, true, true, at_sources.sums.results(), threads);
  }

  for (std::int64_t h = 0; h < fixed.heads; ++h) {
    const Rate rate = fixed.rate[static_cast<std::size_t>(h)];
    const double turns = rate.frequency * rate.lengthscale;
    // The derivative of S along the line, times ell: slope + i turns turn. With sign -1, that of
    // sums with the conjugate of K.
    const auto derivative_of = [&](const SideSums<T>& side, double sign, std::int64_t at) {
      Complex d = side.sums.get(side.slope, at);
      if (fixed.oscillates) {
        const Complex t = side.sums.get(side.turn, at);
        d = {d.re - sign * turns * t.im, d.im + sign * turns * t.re};
      }
      return d;
    };
    ExactSum by_lengthscale;
    ExactSum by_frequency;
    std::mutex adding;
    parallel_ranges(threads, fixed.n, kGrain, [&](std::int64_t begin, std::int64_t end) {
      std::array<double, kGrain> stretched;
      std::array<double, kGrain> swung;
      for (std::int64_t i = begin; i < end; ++i) {
        double x = 0.0;
        double theta = 0.0;
        double ell = 0.0;
        double omega = 0.0;
        for (std::int64_t l = 0; l < lanes; ++l) {
          const std::int64_t at = (h * lanes + l) * fixed.n + i;
          const Complex g = entry(grad, h, l, i);
          if (gradients.targets != nullptr) {
            x += inner(g, derivative_of(at_targets, 1.0, at)).re;
          }
          if (gradients.target_phase != nullptr) {
            theta -= inner(g, at_targets.sums.get(at_targets.plain, at)).im;
          }
          if (gradients.lengthscale != nullptr) {
            ell += inner(g, at_targets.sums.get(stretch, at)).re;
          }
          if (swings) {
            omega -= inner(g, at_targets.sums.get(swing, at)).im;
          }
        }
        if (gradients.targets != nullptr) {
          gradients.targets[h * fixed.n + i] = static_cast<T>(x / rate.lengthscale);
        }
        if (gradients.target_phase != nullptr) {
          gradients.target_phase[h * fixed.n + i] = static_cast<T>(theta);
        }
        stretched[static_cast<std::size_t>(i - begin)] = ell;
        swung[static_cast<std::size_t>(i - begin)] = omega;
      }
      const auto add = [&](std::array<double, kGrain>& terms, ExactSum& to) {
        ExactSum sum;
        sum.add(terms.data(), end - begin);
        const std::lock_guard<std::mutex> lock(adding);
        to.add(sum);
      };
      if (gradients.lengthscale != nullptr) {
        add(stretched, by_lengthscale);
      }
      if (gradients.frequency != nullptr) {
        add(swung, by_frequency);
      }
    });
    if (gradients.sources != nullptr || gradients.source_phase != nullptr) {
      parallel_ranges(threads, fixed.m, kGrain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t j = begin; j < end; ++j) {
          double y = 0.0;
          double phi = 0.0;
          for (std::int64_t l = 0; l < lanes; ++l) {
            const std::int64_t at = (h * lanes + l) * fixed.m + j;
            const Complex v = entry(values, h, l, j);
            if (gradients.sources != nullptr) {
              y -= inner(v, derivative_of(at_sources, -1.0, at)).re;
            }
            if (gradients.source_phase != nullptr) {
              phi += inner(at_sources.sums.get(at_sources.plain, at), v).im;
            }
          }
          if (gradients.sources != nullptr) {
            gradients.sources[h * fixed.m + j] = static_cast<T>(y / rate.lengthscale);
          }
          if (gradients.source_phase != nullptr) {
            gradients.source_phase[h * fixed.m + j] = static_cast<T>(phi);
          }
        }
      });
    }
    if (scalars) {
      add_over_processes(state.cells(h).shared(), {&by_lengthscale, &by_frequency});
    }
    if (gradients.lengthscale != nullptr) {
      // The lengthscale of the kernel is that of its exponential times a constant.
      gradients.lengthscale[h] =
          by_lengthscale.value() / rate.lengthscale / lengths_of(fixed.profile);
    }
    if (gradients.frequency != nullptr) {
      gradients.frequency[h] = rate.lengthscale * by_frequency.value();
    }
  }
  if (over) {
    run<T>(state, grad, rows, true, true, {result_of(term, d_values)}, threads);
  }
}

template void term_gradients<float>(const State<float>&, const Term&, const Vectors<const float>&,
                                    const Vectors<const float>&, std::int64_t,
                                    const Vectors<float>&, const Gradients<float, float>&, int);
template void term_gradients<double>(const State<double>&, const Term&,
                                     const Vectors<const double>&, const Vectors<const double>&,
                                     std::int64_t, const Vectors<double>&,
                                     const Gradients<double, double>&, int);

}  // namespace laplex::detail
