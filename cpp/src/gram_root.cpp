#include "gram_root.hpp"

#include <algorithm>
#include <cmath>

namespace laplex::detail {
namespace {

std::size_t index(std::int64_t k) {
  return static_cast<std::size_t>(k);
}

/// Parts of variances that are none, so that their quotients are numbers.
constexpr double kNothing = 1e-280;

/// A symmetric block of process noise, packed, as unit lower columns `n` apart and their weights.
void factor_block(const double* q, int block, std::int64_t n, double* columns, double* weights) {
  for (int c = 0; c < block; ++c) {
    for (int r = c; r < block; ++r) {
      double rest = q[packed(c, r)];
      for (int k = 0; k < c; ++k) {
        rest -= columns[k * n + r] * columns[k * n + c] * weights[k];
      }
      if (r == c) {
        weights[c] = std::max(rest, 0.0);
      }
      columns[c * n + r] = r == c ? 1.0 : weights[c] > 0.0 ? rest / weights[c] : 0.0;
    }
  }
}

struct Rotation {
  double y, part_first, part_second;
};

/// Makes rotations of two columns of the weights a and b: in row `at` the first has 1 and keeps it,
/// and the second, which has y there, gets 0.
Rotation rotate(int at, int n, double y, double& a, double& b, double* first, double* second) {
  const double sum = a + b * y * y;
  const double part_first = a / sum;
  const double part_second = b * y / sum;
  for (int r = at; r < n; ++r) {
    const double z = second[r];
    second[r] = r == at ? 0.0 : z - y * first[r];
    first[r] = r == at ? 1.0 : part_first * first[r] + part_second * z;
  }
  b *= part_first;
  a = sum;
  return {y, part_first, part_second};
}

/// What rounding does to a standard deviation found by RootFilter, as a sum of squares in units of
/// epsilon; this carries it along the line, as Growth does that of the entries of the matrix.
///
/// A point that observes the first number of the state alone sees one number of L, and rotations
/// keep the relative digits of numbers that scale with powers of the gap: nothing is lost. Others
/// see sums of numbers that may cancel, and are found again in the factor only up to epsilon times
/// the lengths of its rows.
class RootError {
 public:
  RootError(int columns, int block)
      : n_(columns),
        block_(block),
        spread_(index(std::int64_t(columns) * columns)),
        moved_(spread_.size()),
        lengths_(index(columns)),
        along_(index(columns)) {}

  void predict(const double* decay) {
    for (int side = 0; side < 2; ++side) {  // A spread, and then A (A spread)^T
      for (int k = 0; k < n_; k += block_) {
        for (int r = k; r < k + block_; ++r) {
          for (int l = 0; l < n_; ++l) {
            double sum = 0.0;
            for (int m = 0; m < block_; ++m) {
              sum += decay[r * block_ + m] * spread_[index((k + m) * n_ + l)];
            }
            moved_[index(l * n_ + r)] = sum;
          }
        }
      }
      spread_.swap(moved_);
    }
  }

  /// The covariance from which observe() will start.
  void look(const RootFilter& predicted) { predicted.state_variances(lengths_.data()); }

  /// Of the standard deviation of h . state.
  [[nodiscard]] double of(const double* h) const {
    double sum = 0.0;
    for (int k = 0; k < n_; ++k) {
      for (int l = 0; l < n_; ++l) {
        sum += h[k] * h[l] * spread_[index(k * n_ + l)];
      }
    }
    return sum;
  }

  /// With the gain w of the point.
  void observe(const double* h, const double* w) {
    for (int side = 0; side < 2; ++side) {  // (1 - w h^T) spread, and then that of its transpose
      std::fill(along_.begin(), along_.end(), 0.0);
      for (int k = 0; k < n_; ++k) {
        for (int l = 0; l < n_; ++l) {
          along_[index(l)] += h[k] * spread_[index(k * n_ + l)];
        }
      }
      for (int k = 0; k < n_; ++k) {
        for (int l = 0; l < n_; ++l) {
          moved_[index(l * n_ + k)] = spread_[index(k * n_ + l)] - w[k] * along_[index(l)];
        }
      }
      spread_.swap(moved_);
    }
    if (std::any_of(h + 1, h + n_, [](double each) { return each != 0.0; })) {
      for (int k = 0; k < n_; ++k) {
        spread_[index(k * n_ + k)] += lengths_[index(k)];
      }
    }
  }

 private:
  int n_;
  int block_;
  std::vector<double> spread_;
  std::vector<double> moved_;
  std::vector<double> lengths_;
  std::vector<double> along_;
};

}  // namespace

RootFilter::RootFilter(int columns, int block)
    : n_(columns),
      block_(block),
      columns_(index(std::int64_t(2) * columns * columns)),
      weights_(index(std::int64_t(2) * columns)),
      gain_(index(columns)),
      seen_(gain_.size()),
      parts_(columns_.size()) {
  for (int k = 0; k < n_; ++k) {
    column(k)[k] = 1.0;
  }
}

void RootFilter::start(const double* packed_root) {
  for (int k = 0; k < n_; ++k) {
    std::fill_n(column(k), n_, 0.0);
    for (int r = k + 1; r < n_; ++r) {
      column(k)[r] = packed_root[packed(k, r)];
    }
    column(k)[k] = 1.0;
    weight(k) = packed_root[packed(k, k)];
  }
}

void RootFilter::keep(double* packed_root) const {
  for (int k = 0; k < n_; ++k) {
    for (int r = k + 1; r < n_; ++r) {
      packed_root[packed(k, r)] = column(k)[r];
    }
    packed_root[packed(k, k)] = weights_[index(k)];
  }
}

void RootFilter::covariance(double* packed_covariance) const {
  for (int l = 0; l < n_; ++l) {
    for (int k = 0; k <= l; ++k) {
      double sum = 0.0;
      for (int m = 0; m <= k; ++m) {
        sum += column(m)[k] * weights_[index(m)] * column(m)[l];
      }
      packed_covariance[packed(k, l)] = sum;
    }
  }
}

void RootFilter::state_variances(double* to) const {
  for (int k = 0; k < n_; ++k) {
    to[k] = 0.0;
    for (int m = 0; m <= k; ++m) {
      to[k] += column(m)[k] * column(m)[k] * weights_[index(m)];
    }
  }
}

void RootFilter::predict(const double* decay, const double* gain, double* map) {
  for (int c = 0; c < n_; ++c) {
    double* const z = column(c);
    for (int k = 0; k < n_; k += block_) {
      double before[3];
      std::copy_n(z + k, block_, before);
      for (int r = k; r < k + block_; ++r) {
        z[r] = 0.0;
        for (int m = 0; m < block_; ++m) {
          z[r] += decay[r * block_ + m] * before[m];
        }
      }
    }
  }
  for (int k = 0; k < n_; k += block_) {
    for (int c = 0; c < block_; ++c) {
      std::fill_n(column(n_ + k + c), n_, 0.0);
    }
    factor_block(&gain[k / block_ * (block_ * (block_ + 1) / 2)], block_, n_, column(n_ + k) + k,
                 &weight(n_ + k));
  }
  const auto part = [&](int c, int k) -> double& { return parts_[index(2 * c * n_ + k)]; };
  if (map != nullptr) {
    std::fill(parts_.begin(), parts_.end(), 0.0);
    for (int c = 0; c < n_; ++c) {
      part(c, c) = 1.0;
    }
  }
  for (int r = 0; r < n_; ++r) {
    int pivot = -1;
    for (int k = r; k < 2 * n_; ++k) {
      const double y = column(k)[r];
      if (!(weight(k) * y * y > kNothing)) {
        continue;
      }
      if (pivot < 0) {
        pivot = k;
        weight(k) *= y * y;
        std::for_each(column(k) + r, column(k) + n_, [&](double& z) { z /= y; });
        for (int c = 0; map != nullptr && c < n_; ++c) {
          part(c, k) *= y;
        }
      } else {
        const Rotation by = rotate(r, n_, y, weight(pivot), weight(k), column(pivot), column(k));
        for (int c = 0; map != nullptr && c < n_; ++c) {
          const double of_first = part(c, pivot);
          const double of_second = part(c, k);
          part(c, pivot) = of_first + by.y * of_second;
          part(c, k) = by.part_first * of_second - by.part_second * of_first;
        }
      }
    }
    if (pivot < 0) {  // known exactly: a column of the weight 0 makes room for one
      const auto least = std::min_element(weights_.begin() + r, weights_.end());
      pivot = static_cast<int>(least - weights_.begin());
      std::fill_n(column(pivot), n_, 0.0);
      column(pivot)[r] = 1.0;
      weight(pivot) = 0.0;
      for (int c = 0; map != nullptr && c < n_; ++c) {
        part(c, pivot) = 0.0;
      }
    }
    if (pivot != r) {
      std::swap_ranges(column(r), column(r) + n_, column(pivot));
      std::swap(weight(r), weight(pivot));
      for (int c = 0; map != nullptr && c < n_; ++c) {
        std::swap(part(c, r), part(c, pivot));
      }
    }
    std::fill_n(column(r), r, 0.0);
    for (int c = 0; map != nullptr && c < n_; ++c) {
      map[r * n_ + c] = part(c, r);
    }
  }
}

double RootFilter::observe(const double* h, double noise, double* map) {
  std::fill(gain_.begin(), gain_.end(), 0.0);
  for (int k = 0; map != nullptr && k < n_ * n_; ++k) {
    map[k] = k % (n_ + 1) == 0 ? 1.0 : 0.0;
  }
  if (std::isinf(noise)) {
    return 1.0;
  }
  double variance = noise;
  std::fill(seen_.begin(), seen_.end(), 0.0);
  // From the last column on, so that L stays triangular: gain_ is then 0 where it has its 1.
  for (int k = n_ - 1; k >= 0; --k) {
    double* const z = column(k);
    double y = 0.0;
    for (int r = k; r < n_; ++r) {
      y += h[r] * z[r];
    }
    if (!(weight(k) * y * y > 0.0)) {
      continue;
    }
    const double sum = variance + weight(k) * y * y;
    const double part = variance / sum;
    const double comes = weight(k) * y / sum;
    if (map != nullptr) {
      map[k * n_ + k] = part;
      for (int c = k + 1; c < n_; ++c) {
        map[k * n_ + c] = -comes * seen_[index(c)];
      }
      seen_[index(k)] = y;
    }
    for (int r = k; r < n_; ++r) {
      const double before = z[r];
      z[r] -= y * gain_[index(r)];
      gain_[index(r)] = part * gain_[index(r)] + comes * before;
    }
    weight(k) *= part;
    variance = sum;
  }
  return variance;
}

void RootFilter::solve_transposed(double* x, int stride) const {
  for (int k = n_ - 1; k >= 0; --k) {
    for (int r = k + 1; r < n_; ++r) {
      x[k * stride] -= column(k)[r] * x[r * stride];
    }
  }
}

void RootFilter::from_columns(const double* b, double* packed_bar) const {
  std::vector<double> bar(b, b + n_ * n_);
  for (int k = 0; k < n_; ++k) {
    solve_transposed(&bar[index(k)], n_);
  }
  for (int k = 0; k < n_; ++k) {
    solve_transposed(&bar[index(k * n_)], 1);
  }
  for (int l = 0; l < n_; ++l) {
    for (int k = 0; k <= l; ++k) {
      packed_bar[packed(k, l)] = bar[index(k * n_ + l)];
    }
  }
}

void RootFilter::along_columns(const double* x, double* to) const {
  for (int k = 0; k < n_; ++k) {
    to[k] = 0.0;
    for (int r = k; r < n_; ++r) {
      to[k] += column(k)[r] * x[r];
    }
  }
}

void RootReverse::back(const double* map) {
  for (int side = 0; side < 2; ++side) {
    for (int k = 0; k < n_; ++k) {
      for (int c = 0; c < n_; ++c) {
        double sum = 0.0;
        for (int m = 0; m < n_; ++m) {
          sum += map[m * n_ + k] * bar_[index(m * n_ + c)];
        }
        half_[index(c * n_ + k)] = sum;
      }
    }
    bar_.swap(half_);
  }
}

void RootReverse::add(const double* x, const double* y) {
  for (int k = 0; k < n_; ++k) {
    for (int c = 0; c < n_; ++c) {
      bar_[index(k * n_ + c)] += 0.5 * (x[k] * y[c] + y[k] * x[c]);
    }
  }
}

void RootReverse::by_transition(const RootFilter& filtered, const RootFilter& predicted,
                                const double* map, int block, double* decay_bar) {
  for (int k = 0; k < n_; ++k) {
    for (int c = 0; c < n_; ++c) {
      double sum = 0.0;
      for (int m = 0; m < n_; ++m) {
        sum += bar_[index(k * n_ + m)] * map[m * n_ + c];
      }
      half_[index(k * n_ + c)] = sum;
    }
  }
  for (int c = 0; c < n_; ++c) {
    predicted.solve_transposed(&half_[index(c)], n_);
  }
  for (int k = 0; k < n_; ++k) {
    for (int c = 0; c < block; ++c) {
      double sum = 0.0;
      for (int m = 0; m < n_; ++m) {
        sum += half_[index(k * n_ + m)] * filtered.weighted(m, k / block * block + c);
      }
      decay_bar[k * block + c] += 2.0 * sum;
    }
  }
}

std::int64_t filter_root(GramLine& line, std::int64_t n, int columns, int block) {
  const std::int64_t squares = std::int64_t(columns) * block;
  const std::int64_t stride = squares + columns / block * (block * (block + 1) / 2);
  const std::int64_t numbers = std::int64_t(columns) * (columns + 1) / 2;
  const double least = 4.0 * columns * 0x1p-52;
  RootFilter root(columns, block);
  RootError error(columns, block);
  for (std::int64_t k = 0; k < n; ++k) {
    const double* const decay = &line.transition[k * stride];
    const double* const h = &line.loadings[k * columns];
    error.predict(decay);
    root.predict(decay, decay + squares);
    if (k % kFilterChunk == 0) {
      root.keep(&line.chunk_cov[k / kFilterChunk * numbers]);
    }
    error.look(root);
    line.variance[k] = root.observe(h, line.noise[k]);
    std::copy_n(root.gain(), columns, &line.gain[k * columns]);
    if (!std::isinf(line.noise[k])) {
      if (!(line.variance[k] > least * least * error.of(h))) {
        return k;
      }
      error.observe(h, root.gain());
    }
  }
  return -1;
}

}  // namespace laplex::detail
