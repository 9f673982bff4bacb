/// Derivatives of what the factor of a Gram does: the filter's recurrence in reverse, and the same
/// again in dual numbers.
#include <laplex/gram.hpp>

#include "boundary.hpp"
#include "gram_blocks.hpp"
#include "gram_root.hpp"
#include "gram_state.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace laplex {

using namespace detail;

namespace {

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

double slope_of(double /*x*/) {
  return 0.0;
}
double slope_of(Dual x) {
  return x.slope;
}

template <class N>
N number(double value, double slope);
template <>
double number<double>(double value, double /*slope*/) {
  return value;
}
template <>
Dual number<Dual>(double value, double slope) {
  return {value, slope};
}

double entry(const double* array, std::int64_t k) {
  return array == nullptr ? 0.0 : array[k];
}

void store(double* array, std::int64_t k, double value) {
  if (array != nullptr) {
    array[k] = value;
  }
}

/// What leaves as the result: the derivative itself, or its slope.
double result(double x) {
  return x;
}
double result(Dual x) {
  return x.slope;
}

/// The reverse pass over one matrix, a chunk at a time from the last to the first: the chunk's
/// filter is run again from its kept start, then back.
template <class N, int J, int B>
class Reverse {
  static constexpr bool kDual = std::is_same_v<N, Dual>;
  using Vector = std::array<N, J>;
  using Transition = std::array<N, J * B>;
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
        start_mean_(index(chunks_ * p_.rows)),
        root_bar_(J),
        maps_(p_.line->root ? index((kFilterChunk + 1) * 2 * J * J) : 0) {
    for (std::int64_t j = 0; j < J; ++j) {
      const auto slope = [&](const double* along) {
        return column(j) < 0 ? 0.0 : entry(along, column(j));
      };
      lengthscale_[index(j)] =
          number<N>(p_.line->lengthscale[index(j)], slope(p_.tangent.lengthscale));
      weights_[index(j)] = number<N>(p_.line->weights[index(j)], slope(p_.tangent.weights));
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
          RootFilter<N> root = chunk == 0 ? RootFilter<N>(J, B) : observed_.back();
          root.predict(steps_[0].decay, steps_[0].gain);
          root.keep(steps_[0].cov);
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
        if constexpr (kDual) {
          filter_again_root(start_cov_[index(chunk)].data());
        } else {
          filter_again_root(kept);
        }
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

  /// The chunk's filter where only RootFilter has its numbers.
  void filter_again_root(const N* kept) {
    RootFilter<N> root(J, B);
    root.start(kept);
    predicted_.clear();
    observed_.clear();
    for (std::int64_t i = 0; i < size_; ++i) {
      Step<N, J, B>& s = steps_[index(i)];
      if (i > 0) {
        root.predict(s.decay, s.gain, map_of(i, 0));
      }
      predicted_.push_back(root);
      root.covariance(s.cov);
      s.d = root.observe(s.h, s.noise, map_of(i, 1));
      s.inverse = N(1.0) / s.d;
      for (int j = 0; j < J; ++j) {
        s.w[j] = root.gain()[j];
        s.v[j] = s.w[j] * s.d;
      }
      if (!s.observed()) {
        look<J>(s);
      }
      observed_.push_back(root);
      root.covariance(filtered_[index(i)].data());
    }
    if (first_ + size_ < p_.n) {
      const Step<N, J, B>& next = steps_[index(size_)];
      root.predict(next.decay, next.gain, map_of(size_, 0));
      predicted_.push_back(root);
    }
  }

  /// How the columns of the factor pass the gap before place i of the chunk, or the point there.
  N* map_of(std::int64_t i, int which) { return &maps_[index((2 * i + which) * J * J)]; }

  /// reverse_filter() through RootFilter, from the derivative by what is predicted for the point
  /// after the chunk, which becomes that for its first.
  void reverse_filter_root() {
    std::array<N, kPacked<J>> bar;
    std::array<N, J> seen;
    std::array<N, J> by_gain;
    std::array<N, J> moved;
    for (std::int64_t i = size_ - 1; i >= 0; --i) {
      const std::int64_t id = p_.line->order[first_ + i];
      const Step<N, J, B>& s = steps_[index(i)];
      const RootFilter<N>& root = observed_[index(i)];
      if (first_ + i + 1 < p_.n) {
        const N* const map = map_of(i + 1, 0);
        const RootFilter<N>& next = predicted_[index(i + 1)];
        root_bar_.by_transition(root, next, map, B, decay_bar_[index(i + 1)].data());
        next.from_columns(root_bar_.bar(), bar.data());
        keep_bars(i + 1, bar);
        root_bar_.back(map);
      }
      const N weight = N(entry(p_.w, id));
      root.from_columns(root_bar_.bar(), bar.data());
      Vector& h_bar = h_bar_[index(i)];
      const N by_noise =
          observe_reverse<J>(s, weight, w_bar_[index(i)].data(), h_bar.data(), bar.data());
      store(p_.gradients.noise, id, result(by_noise));
      for (std::int64_t j = 0; j < J; ++j) {
        if (column(j) >= 0) {
          store(p_.gradients.loadings, id * p_.width + column(j), result(h_bar[index(j)]));
        }
      }
      // With w = cov h / d: that by cov is weight / d h h^T, and of w (1 - w h^T)^T w_bar h^T / d.
      const N* const map = map_of(i, 1);
      const N scale = s.observed() ? s.inverse : change_of(s.noise);
      root.along_columns(w_bar_[index(i)].data(), by_gain.data());
      predicted_[index(i)].along_columns(s.h, seen.data());
      for (std::size_t k = 0; k < J; ++k) {
        moved[k] = weight * seen[k];
        for (std::size_t m = 0; m < J; ++m) {
          moved[k] += map[m * J + k] * by_gain[m];
        }
        moved[k] = moved[k] * scale;
      }
      root_bar_.back(map);
      root_bar_.add(moved.data(), seen.data());
    }
    if (first_ == 0) {
      predicted_[0].from_columns(root_bar_.bar(), bar.data());
      keep_bars(0, bar);
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
      s.h[j] =
          number<N>(line.loadings[k * J + j],
                    column(j) < 0 ? 0.0 : entry(p_.tangent.loadings, id * p_.width + column(j)));
    }
    s.noise = number<N>(line.noise[k], entry(p_.tangent.noise, id));
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
      s.x[j] = number<N>(x, slope);
      s.decay[j] = number<N>(r, -r * slope);
      s.gain[j] = number<N>(gain_of(fall), 2.0 * r * r * slope);
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
        std::copy(kept, kept + J * B, s.decay);
        std::copy(kept + J * B, kept + kTransitionStride<J, B>, s.gain);
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
            add(squares + k, squares + w * packed_of(size) + k, weights_[first + index(w)]);
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
              &each.values[index((squares + w * packed_of(size) + k) * each.stride)];
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

  void reverse_filter(Packed& cov_bar) {
    bool by_root = false;
    if constexpr (B > 1) {
      by_root = p_.line->root;
      if (by_root) {
        reverse_filter_root();
      }
    }
    for (std::int64_t i = size_ - 1; !by_root && i >= 0; --i) {
      const std::int64_t id = p_.line->order[first_ + i];
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
  std::vector<RootFilter<N>> predicted_;  ///< of a chunk, where RootFilter is needed
  std::vector<RootFilter<N>> observed_;
  RootReverse<N> root_bar_;
  std::vector<N> maps_;
};

double* offset(double* array, std::int64_t by) {
  return array == nullptr ? nullptr : array + by;
}
const double* offset(const double* array, std::int64_t by) {
  return array == nullptr ? nullptr : array + by;
}

template <class N>
void reverse_all(const GramState& state, Problem all, int num_threads) {
  const std::int64_t n = state.n;
  const std::int64_t width = state.width;
  const auto batch = static_cast<std::int64_t>(state.lines.size());
  const std::int64_t rows = all.rows;
  const int threads = threads_for(batch * (rows + width) * n * state.layout.columns,
                                  num_threads > 0 ? num_threads : state.num_threads);
  for (double* const each : {all.gradients.lengthscale, all.gradients.weights}) {
    if (each != nullptr) {  // where there are no anchors, and of columns that have no lengthscale
      std::fill(each, each + batch * width, 0.0);
    }
  }
  parallel_tasks(threads, n > 0 ? batch : 0, [&](std::int64_t m) {
    const Problem one{
        &state.layout,
        &state.lines[static_cast<std::size_t>(m)],
        n,
        width,
        rows,
        offset(all.a, m * rows * n),
        offset(all.b, m * rows * n),
        offset(all.w, m * n),
        {offset(all.tangent.anchors, m * n), offset(all.tangent.lengthscale, m * width),
         offset(all.tangent.loadings, m * n * width), offset(all.tangent.noise, m * n),
         offset(all.tangent.weights, m * width)},
        {offset(all.gradients.anchors, m * n), offset(all.gradients.lengthscale, m * width),
         offset(all.gradients.loadings, m * n * width), offset(all.gradients.noise, m * n),
         offset(all.gradients.weights, m * width)},
        offset(all.d_a, m * rows * n),
        offset(all.d_b, m * rows * n),
        offset(all.d_w, m * n)};
    with_shape(state.layout.block, state.layout.columns, [&](auto shape) {
      Reverse<N, decltype(shape)::columns, decltype(shape)::block>(one).run();
    });
  });
}

}  // namespace

void Gram::vjp(const double* a, const double* b, std::int64_t rows, const double* w,
               const GramGradients& gradients, double* d_b, int num_threads) const {
  guarded([&] {
    reverse_all<double>(
        *state_, {nullptr, nullptr, 0, 0, rows, a, b, w, {}, gradients, nullptr, d_b, nullptr},
        num_threads);
  });
}

void Gram::vjp_tangent(const double* a, const double* b, std::int64_t rows, const double* w,
                       const GramTangent& tangent, const GramGradients& gradients, double* d_a,
                       double* d_b, double* d_w, int num_threads) const {
  guarded([&] {
    reverse_all<Dual>(*state_,
                      {nullptr, nullptr, 0, 0, rows, a, b, w, tangent, gradients, d_a, d_b, d_w},
                      num_threads);
  });
}

}  // namespace laplex
