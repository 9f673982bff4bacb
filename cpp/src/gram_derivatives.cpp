/// Derivatives of what the factor of a Gram does: the filter's recurrence in reverse, and the same
/// again in dual numbers.
#include <laplex/gram.hpp>

#include "boundary.hpp"
#include "gram_blocks.hpp"
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
        start_mean_(index(chunks_ * p_.rows)) {
    for (std::int64_t j = 0; j < J; ++j) {
      const auto slope = [&](const double* along) {
        return column(j) < 0 ? 0.0 : entry(along, column(j));
      };
      lengthscale_[index(j)] =
          number<N>(p_.line->lengthscale[index(j)], slope(p_.tangent.lengthscale));
      weights_[index(j)] = number<N>(p_.line->weights[index(j)], slope(p_.tangent.weights));
    }
    if (B > 1) {
      for (const Part& part : p_.layout->parts) {
        table_stride_ += kTransition[part.size];
      }
      tables_.resize(index(table_stride_) * (kFilterChunk + 1));
      gaps_.resize(p_.layout->parts.size() * (kFilterChunk + 1));
      gap_slope_.resize(kFilterChunk + 1);
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
        predict<J>(filtered.data(), steps_[0]);
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
      std::fill(std::begin(steps_[index(i)].decay), std::end(steps_[index(i)].decay), N(0.0));
      std::fill(std::begin(steps_[index(i)].gain), std::end(steps_[index(i)].gain), N(0.0));
    }
    Slopes<N>* tables = tables_.data();
    ScaledGap<N>* gaps = gaps_.data();
    for (const Part& part : p_.layout->parts) {
      const N* const lengthscale = &lengthscale_[index(part.first)];
      if constexpr (kDual) {
        for (std::int64_t i = 0; i < count; ++i) {
          const ScaledGap<N>& gap = gaps[i] =
              scaled_gap<N>(*p_.line, k + i, part.size, lengthscale, gap_slope_[index(i)]);
          find_transition(part.size, gap, lengthscale, tables + i * table_stride_);
        }
      } else {
        find_transitions(*p_.line, part.size, lengthscale, k, k + count, table_stride_, tables,
                         gaps);
      }
      place_all<B>(part, tables, table_stride_, count, &weights_[index(part.first)],
                   [&](std::int64_t i) {
                     Step<N, J, B>& s = steps_[index(i)];
                     return std::pair(s.decay, s.gain);
                   });
      gaps += kFilterChunk + 1;
      tables += kTransition[part.size];
    }
  }

  /// Adds the derivatives by lengthscales and weights that pass through the transition before place
  /// i of the chunk; returns that by the gap.
  N reverse_blocks(std::int64_t i, const Packed& cov_bar) {
    const Slopes<N>* table = &tables_[index(i * table_stride_)];
    const ScaledGap<N>* gap = &gaps_[index(i)];
    N gap_bar = N(0.0);
    for (const Part& part : p_.layout->parts) {
      const std::size_t first = index(part.first);
      N x_bar[2];
      with_size(part.size, [&](auto size) {
        if constexpr (decltype(size)::value <= B) {
          place_reverse<decltype(size)::value>(part.first, part.first % B, B, table,
                                               &weights_[first], decay_bar_[index(i)].data(),
                                               cov_bar.data(), x_bar, &weights_bar_[first]);
        }
      });
      for (std::size_t m = 0; m < (part.size == 2 ? 2 : 1); ++m) {
        const N by_gap = x_bar[m] / lengthscale_[first + m];
        gap_bar += gap->infinite ? N(0.0) : by_gap;
        lengthscale_bar_[first + m] -= by_gap * gap->x[m];
      }
      gap += kFilterChunk + 1;
      table += kTransition[part.size];
    }
    return gap_bar;
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
    for (std::int64_t i = size_ - 1; i >= 0; --i) {
      const std::int64_t id = p_.line->order[first_ + i];
      if (first_ + i + 1 < p_.n) {
        const Step<N, J, B>& next = steps_[index(i + 1)];
        N gap_bar = N(0.0);
        if constexpr (B > 1) {
          transition_reverse<J>(filtered_[index(i)].data(), next, cov_bar.data(),
                                decay_bar_[index(i + 1)].data());
          gap_bar = reverse_blocks(i + 1, cov_bar);
          carry<J, B, true>(next.decay, cov_bar.data(), cov_bar.data());
        } else {
          Vector x_bar;
          predict_reverse<J>(filtered_[index(i)].data(), next, decay_bar_[index(i + 1)].data(),
                             x_bar.data(), cov_bar.data());
          for (std::size_t j = 0; j < J; ++j) {
            const N by_gap = x_bar[j] / lengthscale_[j];
            gap_bar += by_gap;
            lengthscale_bar_[j] -= by_gap * next.x[j];
          }
        }
        if (p_.gradients.anchors != nullptr) {
          p_.gradients.anchors[id] -= result(gap_bar);
          p_.gradients.anchors[p_.line->order[first_ + i + 1]] += result(gap_bar);
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
    if (B > 1 && first_ == 0) {
      (void)reverse_blocks(0, cov_bar);  // the line begins with the stationary covariance
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
  std::vector<Step<N, J, B>> steps_;  ///< and the point after it
  std::int64_t table_stride_ = 0;
  std::vector<Slopes<N>> tables_;   ///< the transitions of the parts of each, see find_transition()
  std::vector<ScaledGap<N>> gaps_;  ///< before each, for each part
  std::vector<double> gap_slope_;
  std::vector<Packed> filtered_;
  std::vector<Vector> mean_;
  std::vector<Vector> w_bar_;
  std::vector<Vector> h_bar_;
  std::vector<Transition> decay_bar_;
  // Of every chunk's first point:
  std::vector<Packed> start_cov_;
  std::vector<Vector> start_mean_;
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
