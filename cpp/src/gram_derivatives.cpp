/// Derivatives of what the factor of a Gram does: the filter's recurrence in reverse, and the same
/// again in dual numbers.
#include <laplex/gram.hpp>

#include "boundary.hpp"
#include "gram_state.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <array>
#include <vector>

namespace laplex {

using namespace detail;

namespace {

/// What belongs to one matrix of the arguments of Gram::vjp_tangent().
struct Problem {
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

/// The reverse pass over one matrix, a chunk at a time from the last to the first: the chunk's
/// filter is run again from its kept start, then back.
template <class N, int J>
class Reverse {
  static constexpr bool kDual = std::is_same_v<N, Dual>;
  using Vector = std::array<N, J>;
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
      lengthscale_[index(j)] = number<N>(p_.line->lengthscale[index(j)],
                                         j < p_.width ? entry(p_.tangent.lengthscale, j) : 0.0);
    }
  }

  void run() {
    if (p_.gradients.anchors != nullptr) {
      std::fill(p_.gradients.anchors, p_.gradients.anchors + p_.n, 0.0);
    }
    forward();
    Packed cov_bar{};
    std::vector<Vector> mean_bar(index(p_.rows));
    Vector lengthscale_bar{};
    for (std::int64_t chunk = chunks_ - 1; chunk >= 0; --chunk) {
      begin(chunk);
      std::fill(w_bar_.begin(), w_bar_.end(), Vector{});
      std::fill(h_bar_.begin(), h_bar_.end(), Vector{});
      std::fill(decay_bar_.begin(), decay_bar_.end(), Vector{});
      for (std::int64_t row = 0; row < p_.rows; ++row) {
        Vector mean = start_mean_[index(chunk * p_.rows + row)];
        forward_row(row, mean, true);
        reverse_row(row, mean_bar[index(row)]);
      }
      reverse_filter(cov_bar, lengthscale_bar);
    }
    for (std::int64_t j = 0; j < p_.width; ++j) {
      store(p_.gradients.lengthscale, j, result(lengthscale_bar[index(j)]));
    }
  }

 private:
  static std::size_t index(std::int64_t k) { return static_cast<std::size_t>(k); }

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
        load(chunk * kFilterChunk, steps_[0]);
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
    for (std::int64_t i = 0; i < size_ + 1 && first_ + i < p_.n; ++i) {
      load(first_ + i, steps_[index(i)]);
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

  void load(std::int64_t k, Step<N, J>& s) const {
    const GramLine& line = *p_.line;
    const std::int64_t id = line.order[k];
    const double gap_slope =
        k > 0 ? entry(p_.tangent.anchors, id) - entry(p_.tangent.anchors, line.order[k - 1]) : 0.0;
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
      s.h[j] = number<N>(line.loadings[k * J + j],
                         j < p_.width ? entry(p_.tangent.loadings, id * p_.width + j) : 0.0);
    }
    s.noise = number<N>(line.noise[k], entry(p_.tangent.noise, id));
  }

  /// L b along the chunk, from the state's mean predicted for its first point, which becomes that
  /// predicted for the point after its last.
  void forward_row(std::int64_t row, Vector& mean, bool keep) {
    for (std::int64_t i = 0; i < size_; ++i) {
      const Step<N, J>& s = steps_[index(i)];
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
        if (first_ + i + 1 < p_.n) {
          mean[j] = mean[j] * steps_[index(i + 1)].decay[j];
        }
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
      const Step<N, J>& s = steps_[index(i)];
      const std::int64_t id = p_.line->order[first_ + i];
      const N a = N(p_.a[row * p_.n + id]);
      const N b = N(p_.b[row * p_.n + id]);
      const Vector& mean = mean_[index(i)];
      N by_b = a;
      for (std::size_t j = 0; j < J; ++j) {
        if (first_ + i + 1 < p_.n) {
          decay_bar_[index(i + 1)][j] += mean_bar[j] * (mean[j] + s.w[j] * b);
          mean_bar[j] = mean_bar[j] * steps_[index(i + 1)].decay[j];
        }
        w_bar_[index(i)][j] += mean_bar[j] * b;
        by_b += s.w[j] * mean_bar[j];
        h_bar_[index(i)][j] += a * mean[j];
        mean_bar[j] += a * s.h[j];
      }
      store(p_.d_b, row * p_.n + id, result(by_b));
    }
  }

  void reverse_filter(Packed& cov_bar, Vector& lengthscale_bar) {
    for (std::int64_t i = size_ - 1; i >= 0; --i) {
      const std::int64_t id = p_.line->order[first_ + i];
      if (first_ + i + 1 < p_.n) {
        const Step<N, J>& next = steps_[index(i + 1)];
        Vector x_bar;
        predict_reverse<J>(filtered_[index(i)].data(), next, decay_bar_[index(i + 1)].data(),
                           x_bar.data(), cov_bar.data());
        N gap_bar = N(0.0);
        for (std::size_t j = 0; j < J; ++j) {
          const N by_gap = x_bar[j] / lengthscale_[j];
          gap_bar += by_gap;
          lengthscale_bar[j] -= by_gap * next.x[j];
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
      for (std::int64_t j = 0; j < p_.width; ++j) {
        store(p_.gradients.loadings, id * p_.width + j, result(h_bar[index(j)]));
      }
    }
  }

  const Problem p_;
  const std::int64_t chunks_;
  Vector lengthscale_;
  // Of the chunk at hand:
  std::int64_t first_ = 0;
  std::int64_t size_ = 0;
  std::vector<Step<N, J>> steps_;  ///< and the point after it
  std::vector<Packed> filtered_;
  std::vector<Vector> mean_;
  std::vector<Vector> w_bar_;
  std::vector<Vector> h_bar_;
  std::vector<Vector> decay_bar_;
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
  const int threads = threads_for(batch * (rows + width) * n * state.columns,
                                  num_threads > 0 ? num_threads : state.num_threads);
  if (n == 0 && all.gradients.lengthscale != nullptr) {
    std::fill(all.gradients.lengthscale, all.gradients.lengthscale + batch * width, 0.0);
  }
  parallel_tasks(threads, n > 0 ? batch : 0, [&](std::int64_t m) {
    const Problem one{
        &state.lines[static_cast<std::size_t>(m)],
        n,
        width,
        rows,
        offset(all.a, m * rows * n),
        offset(all.b, m * rows * n),
        offset(all.w, m * n),
        {offset(all.tangent.anchors, m * n), offset(all.tangent.lengthscale, m * width),
         offset(all.tangent.loadings, m * n * width), offset(all.tangent.noise, m * n)},
        {offset(all.gradients.anchors, m * n), offset(all.gradients.lengthscale, m * width),
         offset(all.gradients.loadings, m * n * width), offset(all.gradients.noise, m * n)},
        offset(all.d_a, m * rows * n),
        offset(all.d_b, m * rows * n),
        offset(all.d_w, m * n)};
    with_width(state.columns, [&](auto j) { Reverse<N, decltype(j)::value>(one).run(); });
  });
}

}  // namespace

void Gram::vjp(const double* a, const double* b, std::int64_t rows, const double* w,
               const GramGradients& gradients, double* d_b, int num_threads) const {
  guarded([&] {
    reverse_all<double>(
        *state_, {nullptr, 0, 0, rows, a, b, w, {}, gradients, nullptr, d_b, nullptr}, num_threads);
  });
}

void Gram::vjp_tangent(const double* a, const double* b, std::int64_t rows, const double* w,
                       const GramTangent& tangent, const GramGradients& gradients, double* d_a,
                       double* d_b, double* d_w, int num_threads) const {
  guarded([&] {
    reverse_all<Dual>(*state_, {nullptr, 0, 0, rows, a, b, w, tangent, gradients, d_a, d_b, d_w},
                      num_threads);
  });
}

}  // namespace laplex
