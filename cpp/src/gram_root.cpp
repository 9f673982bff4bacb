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

/// Whether a column of the weight w adds nothing to the square of the row in which it has y, nor
/// derivatives of it.
bool is_nothing(double w, double y) {
  return !(w * y * y > kNothing);
}
bool is_nothing(Dual w, Dual y) {
  return is_nothing(w.value, y.value) && (w.slope == 0.0 || y.value == 0.0) &&
         (w.value == 0.0 || y.slope == 0.0);
}

/// x / y, and 0 for 0 / 0; of derivatives the ratio of both where the gap is 0.
double quotient(double x, double y) {
  return y > 0.0 ? x / y : 0.0;
}
Dual quotient(Dual x, Dual y) {
  return y.value > 0.0 ? x / y : Dual(y.slope != 0.0 ? x.slope / y.slope : 0.0);
}

/// A symmetric block of process noise, packed, as unit lower columns `n` apart and their weights.
template <class N>
void factor_block(const N* q, int block, std::int64_t n, N* columns, N* weights) {
  for (int c = 0; c < block; ++c) {
    for (int r = c; r < block; ++r) {
      N rest = q[packed(c, r)];
      for (int k = 0; k < c; ++k) {
        rest -= columns[k * n + r] * columns[k * n + c] * weights[k];
      }
      if (r == c) {
        weights[c] = value(rest) < 0.0 ? N(0.0) : rest;
      }
      columns[c * n + r] = r == c ? N(1.0) : quotient(rest, weights[c]);
    }
  }
}

template <class N>
struct Rotation {
  N y, part_first, part_second;
};

/// Makes rotations of two columns of the weights a and b: in row `at` the first has 1 and keeps it,
/// and the second, which has y there, gets 0.
template <class N>
Rotation<N> rotate(int at, int n, N y, N& a, N& b, N* first, N* second) {
  const N sum = a + b * y * y;
  const N part_first = a / sum;
  const N part_second = b * y / sum;
  for (int r = at; r < n; ++r) {
    const N z = second[r];
    second[r] = r == at ? N(0.0) : z - y * first[r];
    first[r] = r == at ? N(1.0) : part_first * first[r] + part_second * z;
  }
  b = b * part_first;
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
  void look(const RootFilter<double>& predicted) { predicted.state_variances(lengths_.data()); }

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

template <class N>
RootFilter<N>::RootFilter(int columns, int block)
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

template <class N>
void RootFilter<N>::start(const N* packed_root) {
  for (int k = 0; k < n_; ++k) {
    std::fill_n(column(k), n_, N(0.0));
    for (int r = k + 1; r < n_; ++r) {
      column(k)[r] = packed_root[packed(k, r)];
    }
    column(k)[k] = 1.0;
    weight(k) = packed_root[packed(k, k)];
  }
}

template <class N>
void RootFilter<N>::keep(N* packed_root) const {
  for (int k = 0; k < n_; ++k) {
    for (int r = k + 1; r < n_; ++r) {
      packed_root[packed(k, r)] = column(k)[r];
    }
    packed_root[packed(k, k)] = weights_[index(k)];
  }
}

template <class N>
void RootFilter<N>::covariance(N* packed_covariance) const {
  for (int l = 0; l < n_; ++l) {
    for (int k = 0; k <= l; ++k) {
      N sum = N(0.0);
      for (int m = 0; m <= k; ++m) {
        sum += column(m)[k] * weights_[index(m)] * column(m)[l];
      }
      packed_covariance[packed(k, l)] = sum;
    }
  }
}

template <class N>
void RootFilter<N>::state_variances(N* to) const {
  for (int k = 0; k < n_; ++k) {
    to[k] = N(0.0);
    for (int m = 0; m <= k; ++m) {
      to[k] += column(m)[k] * column(m)[k] * weights_[index(m)];
    }
  }
}

template <class N>
void RootFilter<N>::predict(const N* decay, const N* gain, N* map) {
  for (int c = 0; c < n_; ++c) {
    N* const z = column(c);
    for (int k = 0; k < n_; k += block_) {
      N before[3];
      std::copy_n(z + k, block_, before);
      for (int r = k; r < k + block_; ++r) {
        z[r] = N(0.0);
        for (int m = 0; m < block_; ++m) {
          z[r] += decay[r * block_ + m] * before[m];
        }
      }
    }
  }
  for (int k = 0; k < n_; k += block_) {
    for (int c = 0; c < block_; ++c) {
      std::fill_n(column(n_ + k + c), n_, N(0.0));
    }
    factor_block(&gain[std::ptrdiff_t(k / block_) * (std::ptrdiff_t(block_) * (block_ + 1) / 2)],
                 block_, n_, column(n_ + k) + k, &weight(n_ + k));
  }
  const auto part = [&](int c, int k) -> N& { return parts_[index(2 * c * n_ + k)]; };
  if (map != nullptr) {
    std::fill(parts_.begin(), parts_.end(), N(0.0));
    for (int c = 0; c < n_; ++c) {
      part(c, c) = 1.0;
    }
  }
  for (int r = 0; r < n_; ++r) {
    int pivot = r;
    while (pivot < 2 * n_ &&
           !(value(weight(pivot) * column(pivot)[r] * column(pivot)[r]) > kNothing)) {
      ++pivot;
    }
    if (pivot < 2 * n_) {
      const N scale = column(pivot)[r];
      weight(pivot) = weight(pivot) * scale * scale;
      std::for_each(column(pivot) + r, column(pivot) + n_, [&](N& z) { z = z / scale; });
      for (int c = 0; map != nullptr && c < n_; ++c) {
        part(c, pivot) = part(c, pivot) * scale;
      }
      for (int k = r; k < 2 * n_; ++k) {
        if (k == pivot || is_nothing(weight(k), column(k)[r])) {
          continue;
        }
        const Rotation<N> by =
            rotate(r, n_, column(k)[r], weight(pivot), weight(k), column(pivot), column(k));
        for (int c = 0; map != nullptr && c < n_; ++c) {
          const N of_first = part(c, pivot);
          const N of_second = part(c, k);
          part(c, pivot) = of_first + by.y * of_second;
          part(c, k) = by.part_first * of_second - by.part_second * of_first;
        }
      }
    } else {  // known exactly: a column of the weight 0 makes room for one
      const auto least =
          std::min_element(weights_.begin() + r, weights_.end(),
                           [](const N& x, const N& y) { return value(x) < value(y); });
      pivot = static_cast<int>(least - weights_.begin());
      std::fill_n(column(pivot), n_, N(0.0));
      column(pivot)[r] = N(1.0);
      for (int c = 0; map != nullptr && c < n_; ++c) {
        part(c, pivot) = N(0.0);
      }
    }
    if (pivot != r) {
      std::swap_ranges(column(r), column(r) + n_, column(pivot));
      std::swap(weight(r), weight(pivot));
      for (int c = 0; map != nullptr && c < n_; ++c) {
        std::swap(part(c, r), part(c, pivot));
      }
    }
    std::fill_n(column(r), r, N(0.0));
    for (int c = 0; map != nullptr && c < n_; ++c) {
      map[r * n_ + c] = part(c, r);
    }
  }
}

template <class N>
N RootFilter<N>::observe(const N* h, N noise, N* map) {
  std::fill(gain_.begin(), gain_.end(), N(0.0));
  for (int k = 0; map != nullptr && k < n_ * n_; ++k) {
    map[k] = k % (n_ + 1) == 0 ? N(1.0) : N(0.0);
  }
  // Without observation the precision is 0, and its slope is that of the noise.
  const bool observed = !std::isinf(value(noise));
  const N scale = observed ? N(1.0) : change_of(noise);
  N variance = observed ? noise : N(1.0);
  std::fill(seen_.begin(), seen_.end(), N(0.0));
  // From the last column on, so that L stays triangular: gain_ is then 0 where it has its 1.
  for (int k = n_ - 1; k >= 0; --k) {
    N* const z = column(k);
    N y = N(0.0);
    for (int r = k; r < n_; ++r) {
      y += h[r] * z[r];
    }
    const N sum = variance + scale * weight(k) * y * y;
    if (is_nothing(weight(k), y) || !(value(sum) > 0.0)) {
      continue;
    }
    const N part = variance / sum;
    const N comes = scale * weight(k) * y / sum;
    if (map != nullptr) {
      map[k * n_ + k] = part;
      for (int c = k + 1; c < n_; ++c) {
        map[k * n_ + c] = -comes * seen_[index(c)];
      }
      seen_[index(k)] = y;
    }
    for (int r = k; r < n_; ++r) {
      const N before = z[r];
      z[r] -= y * gain_[index(r)];
      gain_[index(r)] = part * gain_[index(r)] + comes * before;
    }
    weight(k) = weight(k) * part;
    variance = sum;
  }
  return variance;
}

template <class N>
void RootFilter<N>::solve_transposed(N* x, std::ptrdiff_t stride) const {
  for (int k = n_ - 1; k >= 0; --k) {
    for (int r = k + 1; r < n_; ++r) {
      x[k * stride] -= column(k)[r] * x[r * stride];
    }
  }
}

template <class N>
void RootFilter<N>::from_columns(const N* b, N* packed_bar) const {
  std::vector<N> bar(b, b + n_ * n_);
  for (int k = 0; k < n_; ++k) {
    solve_transposed(&bar[index(k)], n_);
  }
  for (int k = 0; k < n_; ++k) {
    solve_transposed(&bar[index(std::int64_t(k) * n_)], 1);
  }
  for (int l = 0; l < n_; ++l) {
    for (int k = 0; k <= l; ++k) {
      packed_bar[packed(k, l)] = bar[index(k * n_ + l)];
    }
  }
}

template <class N>
void RootFilter<N>::along_columns(const N* x, N* to) const {
  for (int k = 0; k < n_; ++k) {
    to[k] = N(0.0);
    for (int r = k; r < n_; ++r) {
      to[k] += column(k)[r] * x[r];
    }
  }
}

template <class N>
void RootReverse<N>::back(const N* map) {
  for (int side = 0; side < 2; ++side) {
    for (int k = 0; k < n_; ++k) {
      for (int c = 0; c < n_; ++c) {
        N sum = N(0.0);
        for (int m = 0; m < n_; ++m) {
          sum += map[m * n_ + k] * bar_[index(m * n_ + c)];
        }
        half_[index(c * n_ + k)] = sum;
      }
    }
    bar_.swap(half_);
  }
}

template <class N>
void RootReverse<N>::add(const N* x, const N* y) {
  for (int k = 0; k < n_; ++k) {
    for (int c = 0; c < n_; ++c) {
      bar_[index(k * n_ + c)] += 0.5 * (x[k] * y[c] + y[k] * x[c]);
    }
  }
}

template <class N>
void RootReverse<N>::by_transition(const RootFilter<N>& filtered, const RootFilter<N>& predicted,
                                   const N* map, int block, N* decay_bar) {
  for (int k = 0; k < n_; ++k) {
    for (int c = 0; c < n_; ++c) {
      N sum = N(0.0);
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
      N sum = N(0.0);
      for (int m = 0; m < n_; ++m) {
        sum += half_[index(k * n_ + m)] * filtered.weighted(m, k / block * block + c);
      }
      decay_bar[k * block + c] += 2.0 * sum;
    }
  }
}

template class RootFilter<double>;
template class RootFilter<Dual>;
template class RootReverse<double>;
template class RootReverse<Dual>;

std::int64_t filter_root(GramLine& line, std::int64_t n, int columns, int block) {
  const std::int64_t squares = std::int64_t(columns) * block;
  const std::int64_t stride =
      squares + std::int64_t(columns / block) * (std::int64_t(block) * (block + 1) / 2);
  const std::int64_t numbers = std::int64_t(columns) * (columns + 1) / 2;
  const double least = 4.0 * columns * 0x1p-52;
  RootFilter<double> root(columns, block);
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
