/// The filter's recurrence in reverse over one matrix, and the same again in dual numbers.
#pragma once

#include <laplex/gram.hpp>

#include "gram_blocks.hpp"
#include "gram_root_chunk.hpp"
#include "gram_state.hpp"

#include <algorithm>
#include <array>
#include <type_traits>
#include <vector>

namespace laplex::detail {

/// What belongs to one matrix of the arguments of Gram::vjp_tangent().
struct Problem {
  const Layout* layout;
  const GramLine* line;
  std::int64_t n;
  std::int64_t width;
  std::int64_t rows;
  const double* a;
  const double* b;
  const double* w;
  GramTangent tangent;
  GramGradients gradients;
  double* d_a;
  double* d_b;
  double* d_w;
};

inline double slope_of(double /*x*/) {
  return 0.0;
}
inline double slope_of(Dual x) {
  return x.slope;
}

template <class N>
N with_slope(double value, double slope);
template <>
inline double with_slope<double>(double value, double /*slope*/) {
  return value;
}
template <>
inline Dual with_slope<Dual>(double value, double slope) {
  return {value, slope};
}

inline double entry(const double* array, std::int64_t k) {
  return array == nullptr ? 0.0 : array[k];
}

inline void store(double* array, std::int64_t k, double value) {
  if (array != nullptr) {
    array[k] = value;
  }
}

/// What leaves as the result: the derivative itself, or its slope.
inline double result(double x) {
  return x;
}
inline double result(Dual x) {
  return x.slope;
}

/// The reverse pass over one matrix, a chunk at a time from the last to the first: the chunk's
/// filter is run again from its kept start, then back.
template <class N, int J, int B>
class Reverse {
  static constexpr bool kDual = std::is_same_v<N, Dual>;
  using Vector = std::array<N, J>;
  using Transition = std::array<N, std::size_t(J) * B>;
  using Packed = std::array<N, kPacked<J>>;

 public:
  explicit Reverse(const Problem& problem)
      : p_(problem),
        chunks_((p_.n + kFilterChunk - 1) / kFilterChunk),
        steps_(kFilterChunk + 1),
        filtered_(kFilterChunk),
        mean_(kFilterChunk),
        w_bar_(kFilterChunk),
        h_bar_(kFilterChunk),
        decay_bar_(kFilterChunk + 1),
        start_mean_(index(chunks_ * p_.rows)) {
    for (std::int64_t j = 0; j < J; ++j) {
      const auto slope = [&](const double* along) {
        return column(j) < 0 ? 0.0 : entry(along, column(j));
      };
      lengthscale_[index(j)] =
          with_slope<N>(p_.line->lengthscale[index(j)], slope(p_.tangent.lengthscale));
      weights_[index(j)] = with_slope<N>(p_.line->weights[index(j)], slope(p_.tangent.weights));
    }
    if (B > 1) {
      const std::int64_t points = std::min(p_.n, kFilterChunk + 1);
      const GramGradients& to = p_.gradients;
      const bool slopes = to.anchors != nullptr || to.lengthscale != nullptr;
      for (const Part& part : p_.layout->parts) {
        transitions_.emplace_back(part, points, slopes);
        bars_.emplace_back(
            index((part.size * part.size + packed_of(part.size)) * transitions_.back().stride));
      }
      gap_slope_.resize(index(points));
      gap_bar_.resize(index(points));
    }
  }

  void run() {
    if (p_.gradients.anchors != nullptr) {
      std::fill(p_.gradients.anchors, p_.gradients.anchors + p_.n, 0.0);
    }
    forward();
    Packed cov_bar{};
    std::vector<Vector> mean_bar(index(p_.rows));
    for (std::int64_t chunk = chunks_ - 1; chunk >= 0; --chunk) {
      begin(chunk);
      std::fill(w_bar_.begin(), w_bar_.end(), Vector{});
      std::fill(h_bar_.begin(), h_bar_.end(), Vector{});
      std::fill(decay_bar_.begin(), decay_bar_.end(), Transition{});
      for (std::int64_t row = 0; row < p_.rows; ++row) {
        Vector mean = start_mean_[index(chunk * p_.rows + row)];
        forward_row(row, mean, true);
        reverse_row(row, mean_bar[index(row)]);
      }
      reverse_filter(cov_bar);
    }
    for (std::int64_t j = 0; j < J; ++j) {
      if (column(j) >= 0) {
        store(p_.gradients.lengthscale, column(j), result(lengthscale_bar_[index(j)]));
        store(p_.gradients.weights, column(j), result(weights_bar_[index(j)]));
      }
    }
  }

 private:
  static std::size_t index(std::int64_t k) { return static_cast<std::size_t>(k); }

  /// The caller's column of one as compiled, or -1.
  [[nodiscard]] std::int64_t column(std::int64_t j) const { return p_.layout->column[index(j)]; }

  /// Keeps each chunk's start. For double the constructor of the Gram has kept the covariances.
  void forward() {
    start_cov_.resize(kDual ? index(chunks_) : 0);
    if (!kDual && p_.rows == 0) {
      return;
    }
    Packed filtered{};
    std::vector<Vector> mean(index(p_.rows));
    for (std::int64_t chunk = 0; chunk < chunks_; ++chunk) {
      if constexpr (kDual) {
        load(chunk * kFilterChunk, 0);
        if constexpr (B > 1) {
          load_blocks(chunk * kFilterChunk, 1);
        }
        if (p_.line->root) {
          root_.start(chunk == 0, steps_[0], steps_[0].cov);
        } else {
          predict<J>(filtered.data(), steps_[0]);
        }
        std::copy(steps_[0].cov, steps_[0].cov + kPacked<J>, start_cov_[index(chunk)].begin());
      }
      begin(chunk);
      filtered = filtered_[index(size_ - 1)];
      for (std::int64_t i = 0; kDual && i < size_; ++i) {
        store(p_.d_w, p_.line->order[first_ + i],
              slope_of(steps_[index(i)].d) / value(steps_[index(i)].d));
      }
      for (std::int64_t row = 0; row < p_.rows; ++row) {
        Vector& state = mean[index(row)];
        start_mean_[index(chunk * p_.rows + row)] = state;
        forward_row(row, state, false);
      }
    }
  }

  /// The chunk's points with their filter, and the gap after the last.
  void begin(std::int64_t chunk) {
    first_ = chunk * kFilterChunk;
    size_ = std::min(p_.n - first_, kFilterChunk);
    const std::int64_t end = std::min(size_ + 1, p_.n - first_);
    for (std::int64_t i = 0; i < end; ++i) {
      load(first_ + i, i);
    }
    if constexpr (B > 1) {
      load_blocks(first_, end);
    }
    const double* kept = &p_.line->chunk_cov[chunk * kPacked<J>];
    if constexpr (B > 1) {
      if (p_.line->root) {
        const N* root = nullptr;
        if constexpr (kDual) {
          root = start_cov_[index(chunk)].data();
        } else {
          root = kept;
        }
        root_.run(root, steps_.data(), size_, first_ + size_ < p_.n, filtered_.data());
        return;
      }
    }
    for (int k = 0; k < kPacked<J>; ++k) {
      if constexpr (kDual) {
        steps_[0].cov[k] = start_cov_[index(chunk)][index(k)];
      } else {
        steps_[0].cov[k] = kept[k];
      }
    }
    for (std::int64_t i = 0; i < size_; ++i) {
      if (i > 0) {
        predict<J>(filtered_[index(i - 1)].data(), steps_[index(i)]);
      }
      if constexpr (kDual) {
        observe<J>(steps_[index(i)], filtered_[index(i)].data());
      } else {
        observe_again<J>(p_.line->variance[first_ + i], steps_[index(i)],
                         filtered_[index(i)].data());
      }
    }
  }

  /// reverse_filter() where RootFilter has the numbers.
  void reverse_filter_root() {
    for (std::int64_t i = size_ - 1; i >= 0; --i) {
      const std::int64_t id = p_.line->order[first_ + i];
      if (first_ + i + 1 < p_.n) {
        root_.reverse_gap(i + 1, decay_bar_[index(i + 1)].data());
        keep_bars(i + 1, root_.predicted_bar(i + 1));
        root_.leave_gap(i + 1);
      }
      Packed bar = root_.filtered_bar(i);
      reverse_point(i, bar);
      root_.reverse_point(i, steps_[index(i)], N(entry(p_.w, id)), w_bar_[index(i)].data());
    }
    if (first_ == 0) {
      keep_bars(0, root_.predicted_bar(0));
    }
  }

  /// Point k, to place i of the chunk at hand.
  void load(std::int64_t k, std::int64_t i) {
    const GramLine& line = *p_.line;
    Step<N, J, B>& s = steps_[index(i)];
    const std::int64_t id = line.order[k];
    const double gap_slope =
        k > 0 ? entry(p_.tangent.anchors, id) - entry(p_.tangent.anchors, line.order[k - 1]) : 0.0;
    for (std::int64_t j = 0; j < J; ++j) {
      s.h[j] = with_slope<N>(
          line.loadings[k * J + j],
          column(j) < 0 ? 0.0 : entry(p_.tangent.loadings, id * p_.width + column(j)));
    }
    s.noise = with_slope<N>(line.noise[k], entry(p_.tangent.noise, id));
    if constexpr (B > 1) {
      gap_slope_[index(i)] = gap_slope;
      return;
    }
    for (std::int64_t j = 0; j < J; ++j) {
      const double lengthscale = line.lengthscale[index(j)];
      const double x = k > 0 ? scaled_gap(line, k, lengthscale) : 0.0;
      const double slope =
          k > 0 ? (gap_slope - x * slope_of(lengthscale_[index(j)])) / lengthscale : 0.0;
      const double fall = line.fall[k * J + j];
      const double r = decay_of(fall);
      s.x[j] = with_slope<N>(x, slope);
      s.decay[j] = with_slope<N>(r, -r * slope);
      s.gain[j] = with_slope<N>(gain_of(fall), 2.0 * r * r * slope);
    }
  }

  /// The transitions of `count` points from k, which are loaded, and their derivatives.
  void load_blocks(std::int64_t k, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      Step<N, J, B>& s = steps_[index(i)];
      if constexpr (kDual) {
        std::fill(std::begin(s.decay), std::end(s.decay), N(0.0));
        std::fill(std::begin(s.gain), std::end(s.gain), N(0.0));
      } else {
        const double* const kept = &p_.line->transition[(k + i) * kTransitionStride<J, B>];
        std::copy(kept, kept + std::ptrdiff_t(J) * B, s.decay);
        std::copy(kept + std::ptrdiff_t(J) * B, kept + kTransitionStride<J, B>, s.gain);
      }
    }
    for (Transitions<N>& each : transitions_) {
      const std::size_t first = index(each.part.first);
      each.find(p_.line->anchors.data(), &lengthscale_[first], gap_slope_.data(), k, k + count);
      for (std::int64_t i = 0; kDual && i < count; ++i) {
        Step<N, J, B>& s = steps_[index(i)];
        each.template place<B>(i, &weights_[first], s.decay, s.gain);
      }
    }
  }

  /// Keeps the derivatives by the transitions before place i of the chunk.
  void keep_bars(std::int64_t i, const Packed& cov_bar) {
    for (std::size_t p = 0; p < transitions_.size(); ++p) {
      const Part& part = transitions_[p].part;
      const std::int64_t stride = transitions_[p].stride;
      N* to = &bars_[p][index(i)];
      with_size<B>(part.size, [&](auto constant) {
        constexpr int size = decltype(constant)::value;
        const int at = size == B ? 0 : part.first % B;
        for (int r = 0; r < size; ++r) {
          for (int c = 0; c < size; ++c, to += stride) {
            *to = decay_bar_[index(i)][index((part.first + r) * B + at + c)];
          }
        }
        for (int c = 0; c < size; ++c) {
          for (int r = 0; r <= c; ++r, to += stride) {
            *to = N(r < c ? 2.0 : 1.0) * cov_bar[index(packed(part.first + r, part.first + c))];
          }
        }
      });
    }
  }

  /// The derivatives that pass through the transitions before places [begin, end) of the chunk,
  /// from those by these: adds to those by lengthscales and weights, and sets gap_bar_.
  void reverse_transitions(std::int64_t begin, std::int64_t end) {
    std::fill(gap_bar_.begin(), gap_bar_.end(), N(0.0));
    for (std::size_t p = 0; p < transitions_.size(); ++p) {
      const Transitions<N>& each = transitions_[p];
      const int size = each.part.size;
      const std::size_t first = index(each.part.first);
      const std::int64_t squares = std::int64_t(size) * size;
      for (int m = 0; each.slopes && m < (size == 2 ? 2 : 1); ++m) {
        std::vector<N>& sum = x_bar_;
        sum.assign(index(each.stride), N(0.0));
        const auto add = [&](std::int64_t bar, std::int64_t number, N weight) {
          const N* const bars = &bars_[p][index(bar * each.stride)];
          const N* const by = &each.by[m][index(number * each.stride)];
          for (std::int64_t i = begin; i < end; ++i) {
            sum[index(i)] += weight * (bars[i] * by[i]);
          }
        };
        for (std::int64_t k = 0; k < squares; ++k) {
          add(k, k, N(1.0));
        }
        for (int w = 0; w < weights_of(size); ++w) {
          for (int k = 0; k < packed_of(size); ++k) {
            add(squares + k, squares + std::int64_t(w) * packed_of(size) + k,
                weights_[first + index(w)]);
          }
        }
        const N rate = N(1.0) / lengthscale_[first + index(m)];
        for (std::int64_t i = begin; i < end; ++i) {
          const N by_gap = sum[index(i)] * rate;
          gap_bar_[index(i)] += each.infinite[index(i)] != 0 ? N(0.0) : by_gap;
          lengthscale_bar_[first + index(m)] -= by_gap * each.x[m][index(i)];
        }
      }
      for (int w = 0; w < weights_of(size); ++w) {
        for (int k = 0; k < packed_of(size); ++k) {
          const N* const bars = &bars_[p][index((squares + k) * each.stride)];
          const N* const values =
              &each.values[index((squares + std::int64_t(w) * packed_of(size) + k) * each.stride)];
          for (std::int64_t i = begin; i < end; ++i) {
            weights_bar_[first + index(w)] += bars[i] * values[i];
          }
        }
      }
    }
  }

  /// L b along the chunk, from the state's mean predicted for its first point, which becomes that
  /// predicted for the point after its last.
  void forward_row(std::int64_t row, Vector& mean, bool keep) {
    for (std::int64_t i = 0; i < size_; ++i) {
      const Step<N, J, B>& s = steps_[index(i)];
      const std::int64_t id = p_.line->order[first_ + i];
      const double b = p_.b[row * p_.n + id];
      if (keep) {
        mean_[index(i)] = mean;
      }
      N y = N(b);
      for (std::size_t j = 0; j < J; ++j) {
        y += s.h[j] * mean[j];
      }
      for (std::size_t j = 0; j < J; ++j) {
        mean[j] += s.w[j] * N(b);
      }
      if (first_ + i + 1 < p_.n) {
        carry_state<J, B>(steps_[index(i + 1)].decay, mean.data());
      }
      if (!keep) {
        store(p_.d_a, row * p_.n + id, result(y));
      }
    }
  }

  /// Back along the chunk: mean_bar is the derivative by the mean predicted for the point after it,
  /// and becomes that for its first.
  void reverse_row(std::int64_t row, Vector& mean_bar) {
    for (std::int64_t i = size_ - 1; i >= 0; --i) {
      const Step<N, J, B>& s = steps_[index(i)];
      const std::int64_t id = p_.line->order[first_ + i];
      const N a = N(p_.a[row * p_.n + id]);
      const N b = N(p_.b[row * p_.n + id]);
      const Vector& mean = mean_[index(i)];
      N by_b = a;
      if (first_ + i + 1 < p_.n) {
        for (std::size_t j = 0; j < J; ++j) {
          for (std::size_t c = 0; c < B; ++c) {
            const std::size_t from = j / B * B + c;
            decay_bar_[index(i + 1)][j * B + c] += mean_bar[j] * (mean[from] + s.w[from] * b);
          }
        }
        carry_state<J, B, true>(steps_[index(i + 1)].decay, mean_bar.data());
      }
      for (std::size_t j = 0; j < J; ++j) {
        w_bar_[index(i)][j] += mean_bar[j] * b;
        by_b += s.w[j] * mean_bar[j];
        h_bar_[index(i)][j] += a * mean[j];
        mean_bar[j] += a * s.h[j];
      }
      store(p_.d_b, row * p_.n + id, result(by_b));
    }
  }

  /// Back over the point at place i, as observe_reverse().
  void reverse_point(std::int64_t i, Packed& cov_bar) {
    const std::int64_t id = p_.line->order[first_ + i];
    Vector& h_bar = h_bar_[index(i)];
    const N by_noise = observe_reverse<J>(steps_[index(i)], N(entry(p_.w, id)),
                                          w_bar_[index(i)].data(), h_bar.data(), cov_bar.data());
    store(p_.gradients.noise, id, result(by_noise));
    for (std::int64_t j = 0; j < J; ++j) {
      if (column(j) >= 0) {
        store(p_.gradients.loadings, id * p_.width + column(j), result(h_bar[index(j)]));
      }
    }
  }

  void reverse_filter(Packed& cov_bar) {
    bool by_root = false;
    if constexpr (B > 1) {
      by_root = p_.line->root;
      if (by_root) {
        reverse_filter_root();
      }
    }
    for (std::int64_t i = size_ - 1; !by_root && i >= 0; --i) {
      if (first_ + i + 1 < p_.n) {
        const Step<N, J, B>& next = steps_[index(i + 1)];
        if constexpr (B > 1) {
          transition_reverse<J>(filtered_[index(i)].data(), next, cov_bar.data(),
                                decay_bar_[index(i + 1)].data());
          keep_bars(i + 1, cov_bar);
          carry<J, B, true>(next.decay, cov_bar.data(), cov_bar.data());
        } else {
          Vector x_bar;
          predict_reverse<J>(filtered_[index(i)].data(), next, decay_bar_[index(i + 1)].data(),
                             x_bar.data(), cov_bar.data());
          N gap_bar = N(0.0);
          for (std::size_t j = 0; j < J; ++j) {
            const N by_gap = x_bar[j] / lengthscale_[j];
            gap_bar += by_gap;
            lengthscale_bar_[j] -= by_gap * next.x[j];
          }
          move_apart(i, gap_bar);
        }
      }
      reverse_point(i, cov_bar);
    }
    if constexpr (B > 1) {
      // The line begins with the stationary covariance; other chunks with what the one before them
      // does, where the point after its last is this one's first.
      const std::int64_t end = std::min(size_ + 1, p_.n - first_);
      if (first_ == 0 && !by_root) {
        keep_bars(0, cov_bar);
      }
      reverse_transitions(first_ == 0 ? 0 : 1, end);
      for (std::int64_t i = 0; i + 1 < end; ++i) {
        move_apart(i, gap_bar_[index(i + 1)]);
      }
    }
  }

  /// The derivative by the gap after place i of the chunk.
  void move_apart(std::int64_t i, N gap_bar) {
    if (p_.gradients.anchors != nullptr) {
      p_.gradients.anchors[p_.line->order[first_ + i]] -= result(gap_bar);
      p_.gradients.anchors[p_.line->order[first_ + i + 1]] += result(gap_bar);
    }
  }

  const Problem p_;
  const std::int64_t chunks_;
  Vector lengthscale_;
  Vector weights_;
  Vector lengthscale_bar_{};
  Vector weights_bar_{};
  // Of the chunk at hand:
  std::int64_t first_ = 0;
  std::int64_t size_ = 0;
  std::vector<Step<N, J, B>> steps_;         ///< and the point after it
  std::vector<Transitions<N>> transitions_;  ///< of each block
  std::vector<std::vector<N>> bars_;         ///< the derivatives by these: by A and by Q
  std::vector<N> x_bar_;
  std::vector<N> gap_bar_;
  std::vector<double> gap_slope_;
  std::vector<Packed> filtered_;
  std::vector<Vector> mean_;
  std::vector<Vector> w_bar_;
  std::vector<Vector> h_bar_;
  std::vector<Transition> decay_bar_;
  // Of every chunk's first point:
  std::vector<Packed> start_cov_;
  std::vector<Vector> start_mean_;
  RootChunk<N, J, B> root_;  ///< where RootFilter has the numbers
};

}  // namespace laplex::detail
