#include <laplex/gram.hpp>

#include "boundary.hpp"
#include "checks.hpp"
#include "gram_blocks.hpp"
#include "gram_filter.hpp"
#include "gram_state.hpp"
#include "order.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

namespace laplex {

using namespace detail;

bool is_observed(double noise) {
  return !std::isinf(noise);
}

namespace {

constexpr std::int64_t kGrain = 4096;

void check_finite(const char* name, const double* values, std::int64_t batch, std::int64_t count) {
  // 0 * v is 0 for finite values alone. In eight places, so that it is done many at a time.
  constexpr std::int64_t kPlaces = 8;
  double zeros[kPlaces] = {};
  const std::int64_t all = values == nullptr ? 0 : batch * count;
  for (std::int64_t k = 0; k + kPlaces <= all; k += kPlaces) {
    for (std::int64_t j = 0; j < kPlaces; ++j) {
      zeros[j] += 0.0 * values[k + j];
    }
  }
  for (std::int64_t k = all / kPlaces * kPlaces; k < all; ++k) {
    zeros[0] += 0.0 * values[k];
  }
  if (std::all_of(zeros, zeros + kPlaces, [](double z) { return z == 0.0; })) {
    return;
  }
  for (std::int64_t k = 0; k < all; ++k) {
    if (!std::isfinite(values[k])) {
      not_finite(name, batch, count, k, values[k]);
    }
  }
}

void check(const Covariance& c) {
  check_sizes(c.batch, c.n, 0, kMostAnchors);
  if (c.width < 1 || c.width > kMostColumns) {
    invalid("a covariance has 1 to " + std::to_string(kMostColumns) + " columns, got " +
            std::to_string(c.width) +
            ": a block of state is 1, 2 or 3 columns, and a frequency or a phase doubles that");
  }
  check_rows(c.batch, c.n, c.width);
  check_blocks(c);
  check_array("anchors", c.anchors, c.batch * c.n);
  check_finite("anchors", c.anchors, c.batch, c.n);
  check_finite("loadings", c.loadings, c.batch, c.n * c.width);
  const std::vector<char> used = used_lengthscales(c);
  for (std::int64_t k = 0; c.lengthscale != nullptr && k < c.batch * c.width; ++k) {
    if (used[static_cast<std::size_t>(k % c.width)] != 0) {
      check_rate({c.lengthscale[k], 0.0}, k / c.width, c.batch);
    }
  }
  for (std::int64_t k = 0; c.noise != nullptr && k < c.batch * c.n; ++k) {
    if (!(c.noise[k] >= 0.0)) {
      not_a_variance(c.batch, c.n, k, c.noise[k]);
    }
  }
}

void sort_line(const Covariance& c, const double* anchors, int threads, GramLine& line) {
  line.order.reset(c.n);
  line.anchors.reset(c.n);
  if (std::is_sorted(anchors, anchors + c.n)) {
    std::iota(line.order.begin(), line.order.end(), 0U);
    std::copy(anchors, anchors + c.n, line.anchors.begin());
  } else {
    Sorting<double> sorting;
    sort_anchors<double>({anchors, nullptr, c.n, 0, true}, sorting, threads);
    for (std::int64_t k = 0; k < c.n; ++k) {
      line.order[k] = sorting.records[k].id;
      line.anchors[k] = value_of<double>(sorting.records[k].key);
    }
  }
  line.has_ties =
      std::adjacent_find(line.anchors.begin(), line.anchors.end()) != line.anchors.end();
  for (std::int64_t begin = 0; c.ties_backwards && line.has_ties && begin < c.n;) {
    std::int64_t end = begin + 1;
    while (end < c.n && line.anchors[end] == line.anchors[begin]) {
      ++end;
    }
    std::reverse(line.order.begin() + begin, line.order.begin() + end);
    begin = end;
  }
}

/// exp(-x) - 1 for 0 <= x <= 1/2 by its series, to a unit in the last place: many at a time, where
/// std::expm1 takes one.
double small_fall(double x) {
  constexpr int kTerms = 15;
  // 1/1!, 1/2!, ..., of which the last matters by 3e-17 at x = 1/2.
  constexpr double kInverse[kTerms] = {1.0,
                                       1.0 / 2.0,
                                       1.0 / 6.0,
                                       1.0 / 24.0,
                                       1.0 / 120.0,
                                       1.0 / 720.0,
                                       1.0 / 5040.0,
                                       1.0 / 40320.0,
                                       1.0 / 362880.0,
                                       1.0 / 3628800.0,
                                       1.0 / 39916800.0,
                                       1.0 / 479001600.0,
                                       1.0 / 6227020800.0,
                                       1.0 / 87178291200.0,
                                       1.0 / 1307674368000.0};
  double sum = kInverse[kTerms - 1];
  for (int k = kTerms - 2; k >= 0; --k) {
    sum = kInverse[k] - x * sum;
  }
  return -x * sum;
}

/// The decays of one column across the gaps before points [begin, end), `columns` apart.
void fill_falls(const GramLine& line, std::int64_t begin, std::int64_t end, double lengthscale,
                std::int64_t columns, double* fall) {
  constexpr std::int64_t kBlock = 64;
  double gap[kBlock];
  double small[kBlock];
  for (; begin < end; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, end - begin);
    for (std::int64_t i = 0; i < count; ++i) {
      gap[i] = (line.anchors[begin + i] - line.anchors[begin + i - 1]) / lengthscale;
    }
    for (std::int64_t i = 0; i < count; ++i) {
      small[i] = std::min(gap[i], 0.5);
    }
    for (std::int64_t i = 0; i < count; ++i) {
      small[i] = small_fall(small[i]);
    }
    for (std::int64_t i = 0; i < count; ++i) {
      fall[(begin + i) * columns] =
          gap[i] < 0.5
              ? small[i]
              : fall_across(line.anchors[begin + i], line.anchors[begin + i - 1], lengthscale);
    }
  }
}

/// Everything in sorted order, and the gaps' decays.
void fill_line(const Covariance& c, std::int64_t matrix, const Layout& layout, int threads,
               GramLine& line) {
  const std::int64_t columns = layout.columns;
  sort_line(c, c.anchors + matrix * c.n, threads, line);
  line.lengthscale.assign(static_cast<std::size_t>(columns),
                          std::numeric_limits<double>::infinity());
  line.weights.assign(static_cast<std::size_t>(columns), 0.0);
  for (std::size_t j = 0; j < layout.column.size(); ++j) {
    const std::int64_t at = matrix * c.width + layout.column[j];
    if (layout.column[j] >= 0) {
      line.lengthscale[j] = c.lengthscale == nullptr ? 1.0 : c.lengthscale[at];
      line.weights[j] = c.weights == nullptr ? 1.0 : c.weights[at];
    }
  }
  line.fall.reset(layout.block == 1 ? c.n * columns : 0);
  line.loadings.reset(c.n * columns);
  line.noise.reset(c.n);
  line.gain.reset(c.n * columns);
  line.variance.reset(c.n);
  parallel_ranges(threads, c.n, kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      const std::int64_t id = matrix * c.n + line.order[k];
      line.noise[k] = c.noise == nullptr ? 0.0 : c.noise[id];
      for (std::int64_t j = 0; j < columns; ++j) {
        const int from = layout.column[static_cast<std::size_t>(j)];
        line.loadings[k * columns + j] =
            from < 0 ? 0.0 : (c.loadings == nullptr ? 1.0 : c.loadings[id * c.width + from]);
      }
    }
    for (std::int64_t j = 0; layout.block == 1 && j < columns; ++j) {
      double* fall = line.fall.data() + j;
      if (begin == 0) {
        fall[0] = -1.0;  // the line begins with processes that know of nothing before
      }
      const double lengthscale = line.lengthscale[static_cast<std::size_t>(j)];
      if (j > 0 && lengthscale == line.lengthscale[static_cast<std::size_t>(j - 1)]) {
        for (std::int64_t k = begin; k < end; ++k) {
          fall[k * columns] = fall[k * columns - 1];
        }
      } else {
        fill_falls(line, std::max<std::int64_t>(begin, 1), end, lengthscale, columns, fall);
      }
    }
  });
  if (layout.block > 1) {
    fill_transitions(layout, c.n, threads, line);
  }
}

/// The sum of the logarithms, from those of products: of as many numbers as keep within range.
double sum_of_logs(const Array<double>& positive) {
  constexpr double kSmall = 1e-100;
  constexpr double kLarge = 1e100;
  double sum = 0.0;
  double low = 0.0;  // what the sum's roundings lost (Neumaier)
  const auto add = [&](double term) {
    const double next = sum + term;
    low += std::fabs(sum) >= std::fabs(term) ? (sum - next) + term : (term - next) + sum;
    sum = next;
  };
  double product = 1.0;
  int factors = 0;
  for (const double x : positive) {
    if (!(x > kSmall && x < kLarge)) {
      add(std::log(x));
      continue;
    }
    product *= x;
    if (!(product > kSmall && product < kLarge) || ++factors == 16) {
      add(std::log(product));
      product = 1.0;
      factors = 0;
    }
  }
  add(std::log(product));
  return sum + low;
}

}  // namespace

Gram::Gram(const Covariance& covariance) {
  guarded([&] {
    const Covariance& c = covariance;
    check(c);
    auto state = std::make_shared<GramState>();
    state->n = c.n;
    state->width = c.width;
    state->num_threads = c.num_threads;
    state->layout = lay_out(c);
    state->lines.resize(static_cast<std::size_t>(c.batch));
    const int threads = threads_for(c.batch * c.n * c.width, c.num_threads);
    const bool many = c.batch >= std::int64_t(2) * threads;
    const auto build = [&](std::int64_t b) {
      GramLine& line = state->lines[static_cast<std::size_t>(b)];
      fill_line(c, b, state->layout, many ? 1 : threads, line);
      const std::int64_t bad = run_filter(line, c.n, state->layout, many ? 1 : threads);
      if (bad >= 0) {
        const bool tied = bad > 0 && line.anchors[bad] == line.anchors[bad - 1];
        singular({b, c.batch, line.order[bad], tied ? std::int64_t(line.order[bad - 1]) : -1,
                  line.anchors[bad], line.variance[bad]});
      }
      line.logdet = sum_of_logs(line.variance);
    };
    if (many) {
      parallel_tasks(threads, c.batch, build);
    } else {
      for (std::int64_t b = 0; b < c.batch; ++b) {
        build(b);
      }
    }
    state_ = std::move(state);
  });
}

void Gram::log_variances(double* out) const {
  check_array("out", out, batch() * size());
  for (std::int64_t b = 0; b < batch(); ++b) {
    const GramLine& line = state_->lines[static_cast<std::size_t>(b)];
    for (std::int64_t k = 0; k < size(); ++k) {
      out[b * size() + line.order[k]] = std::log(line.variance[k]);
    }
  }
}

void Gram::logdet(double* out) const {
  check_array("out", out, batch());
  for (std::int64_t b = 0; b < batch(); ++b) {
    out[b] = state_->lines[static_cast<std::size_t>(b)].logdet;
  }
}

void Gram::precision(double* diagonal, double* off_diagonal) const {
  const GramState& state = checked(state_);
  for (const GramLine& line : state.lines) {
    if (state.width != 1 || state.layout.block != 1 ||
        std::any_of(line.noise.begin(), line.noise.end(),
                    [](double noise) { return noise != 0.0; })) {
      invalid("the inverse is tridiagonal for one real term without noise only: use solve()");
    }
  }
  const std::int64_t n = size();
  check_array("diagonal", diagonal, batch() * n);
  check_array("off_diagonal", off_diagonal, batch() * (n - 1));
  for (std::int64_t b = 0; b < batch(); ++b) {
    const GramLine& line = state_->lines[static_cast<std::size_t>(b)];
    for (std::int64_t k = 0; k < n; ++k) {
      double entry = 1.0 / line.variance[k];
      if (k + 1 < n) {
        const double step = line.loadings[k + 1] * decay_of(line.fall[k + 1]) / line.loadings[k];
        entry += step * step / line.variance[k + 1];
        off_diagonal[b * (n - 1) + k] = -step / line.variance[k + 1];
      }
      diagonal[b * n + k] = entry;
    }
  }
}

void Gram::order(std::int64_t* out) const {
  check_array("out", out, batch() * size());
  for (const GramLine& line : checked(state_).lines) {
    out = std::copy(line.order.begin(), line.order.end(), out);
  }
}

std::int64_t Gram::batch() const noexcept {
  return state_ == nullptr ? 0 : static_cast<std::int64_t>(state_->lines.size());
}
std::int64_t Gram::size() const noexcept {
  return state_ == nullptr ? 0 : state_->n;
}
std::int64_t Gram::width() const noexcept {
  return state_ == nullptr ? 0 : state_->width;
}
bool Gram::has_ties() const noexcept {
  return state_ != nullptr && std::any_of(state_->lines.begin(), state_->lines.end(),
                                          [](const GramLine& line) { return line.has_ties; });
}
std::int64_t Gram::nbytes() const noexcept {
  if (state_ == nullptr) {
    return 0;
  }
  std::int64_t bytes = 0;
  for (const GramLine& line : state_->lines) {
    bytes += line.order.nbytes() + line.anchors.nbytes() + line.fall.nbytes() +
             line.transition.nbytes() + line.loadings.nbytes() + line.noise.nbytes() +
             line.gain.nbytes() + line.variance.nbytes() + line.chunk_cov.nbytes();
  }
  return bytes;
}

}  // namespace laplex
