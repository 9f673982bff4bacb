/// Products with the factor of a Gram: one recurrence along the line for each direction, several
/// rows at a time.
#include <laplex/gram.hpp>

#include "boundary.hpp"
#include "gram_state.hpp"
#include "parallel.hpp"

#include <cmath>

namespace laplex {

using namespace detail;

namespace {

/// Rows that go along the line together: independent chains, which hide each other's latency.
constexpr int kRows = 4;

constexpr double kPi = 3.14159265358979323846;

/// `Rows` vectors, [row, n], in the caller's numbers.
template <int Rows>
struct RowBlock {
  const double* in;
  double* out;
  std::int64_t n;

  void load(std::int64_t id, double* z) const {
    for (int r = 0; r < Rows; ++r) {
      z[r] = in[r * n + id];
    }
  }
  void store(std::int64_t id, const double* y) const {
    for (int r = 0; r < Rows; ++r) {
      out[r * n + id] = y[r];
    }
  }
};

/// The state across the gap before point k, or with `back` what is handed down across it.
template <int J, int B, int Rows, bool back>
void move(const GramLine& line, std::int64_t k, double (&state)[J][Rows]) {
  if constexpr (B == 1) {
    for (int j = 0; j < J; ++j) {
      const double decay = decay_of(line.fall[k * J + j]);
      for (int r = 0; r < Rows; ++r) {
        state[j][r] *= decay;
      }
    }
  } else {
    const double* const transition = &line.transition[k * kTransitionStride<J, B>];
    for (int r = 0; r < Rows; ++r) {
      carry_state<J, B, back>(transition, &state[0][r], Rows);
    }
  }
}

/// y = L z or z = L^-1 y, downwards along the line: state is the filter's mean given the points so
/// far, y_k = z_k + h_k . state.
template <int J, int B, int Rows, bool inverse>
void downwards(const GramLine& line, bool scaled, const RowBlock<Rows>& rows) {
  double state[J][Rows] = {};
  for (std::int64_t k = 0; k < rows.n; ++k) {
    double z[Rows];
    rows.load(line.order[k], z);
    const double root = scaled ? std::sqrt(line.variance[k]) : 1.0;
    double seen[Rows] = {};
    move<J, B, Rows, false>(line, k, state);
    for (int j = 0; j < J; ++j) {
      for (int r = 0; r < Rows; ++r) {
        seen[r] += line.loadings[k * J + j] * state[j][r];
      }
    }
    double y[Rows];
    for (int r = 0; r < Rows; ++r) {
      if (inverse) {
        z[r] -= seen[r];
        y[r] = z[r] / root;
      } else {
        z[r] *= root;
        y[r] = z[r] + seen[r];
      }
    }
    for (int j = 0; j < J; ++j) {
      for (int r = 0; r < Rows; ++r) {
        state[j][r] += line.gain[k * J + j] * z[r];
      }
    }
    rows.store(line.order[k], y);
  }
}

/// y = L^T z or z = L^-T y, upwards: state is what the points above hand down, y_k = z_k + w_k .
/// state.
template <int J, int B, int Rows, bool inverse>
void upwards(const GramLine& line, bool scaled, const RowBlock<Rows>& rows) {
  double state[J][Rows] = {};
  for (std::int64_t k = rows.n - 1; k >= 0; --k) {
    double z[Rows];
    rows.load(line.order[k], z);
    const double root = scaled ? std::sqrt(line.variance[k]) : 1.0;
    double seen[Rows] = {};
    for (int j = 0; j < J; ++j) {
      for (int r = 0; r < Rows; ++r) {
        seen[r] += line.gain[k * J + j] * state[j][r];
      }
    }
    double y[Rows];
    for (int r = 0; r < Rows; ++r) {
      if (inverse) {
        z[r] = z[r] / root - seen[r];
        y[r] = z[r];
      } else {
        y[r] = (z[r] + seen[r]) * root;
      }
    }
    for (int j = 0; j < J; ++j) {
      for (int r = 0; r < Rows; ++r) {
        state[j][r] += line.loadings[k * J + j] * z[r];
      }
    }
    move<J, B, Rows, true>(line, k, state);
    rows.store(line.order[k], y);
  }
}

/// log N(v; 0, A) up to the determinant's part: -1/2 |S^-1 v|^2, without writing S^-1 v.
template <int J, int B, int Rows>
void quadratic(const GramLine& line, const double* in, std::int64_t n, double* sum) {
  double state[J][Rows] = {};
  double high[Rows] = {};
  double low[Rows] = {};  // what the sums' roundings lost
  const RowBlock<Rows> rows{in, nullptr, n};
  for (std::int64_t k = 0; k < n; ++k) {
    double z[Rows];
    rows.load(line.order[k], z);
    move<J, B, Rows, false>(line, k, state);
    for (int j = 0; j < J; ++j) {
      for (int r = 0; r < Rows; ++r) {
        z[r] -= line.loadings[k * J + j] * state[j][r];
      }
    }
    for (int j = 0; j < J; ++j) {
      for (int r = 0; r < Rows; ++r) {
        state[j][r] += line.gain[k * J + j] * z[r];
      }
    }
    for (int r = 0; r < Rows; ++r) {
      const double term = z[r] * z[r] / line.variance[k];
      const double next = high[r] + term;
      low[r] += high[r] > term ? (high[r] - next) + term : (term - next) + high[r];
      high[r] = next;
    }
  }
  for (int r = 0; r < Rows; ++r) {
    sum[r] = -0.5 * (high[r] + low[r]);
  }
}

template <int J, int B, int Rows>
void apply_block(const GramLine& line, Factor factor, bool scaled, const RowBlock<Rows>& rows) {
  switch (factor) {
    case Factor::lower:
      return downwards<J, B, Rows, false>(line, scaled, rows);
    case Factor::lower_inverse:
      return downwards<J, B, Rows, true>(line, scaled, rows);
    case Factor::upper:
      return upwards<J, B, Rows, false>(line, scaled, rows);
    case Factor::upper_inverse:
      return upwards<J, B, Rows, true>(line, scaled, rows);
  }
}

/// Calls body(line, first row of all, whether it is a block of kRows) for blocks of kRows rows, and
/// the rest row by row.
template <class F>
void for_blocks(const GramState& state, std::int64_t rows, int num_threads, const F& body) {
  const std::int64_t whole = rows / kRows;
  const std::int64_t blocks = whole + rows % kRows;
  const auto batch = static_cast<std::int64_t>(state.lines.size());
  const int threads = threads_for(batch * rows * state.n * state.layout.columns,
                                  num_threads > 0 ? num_threads : state.num_threads);
  parallel_tasks(threads, batch * blocks, [&](std::int64_t task) {
    const std::int64_t b = task / blocks;
    const std::int64_t block = task % blocks;
    const std::int64_t row = block < whole ? block * kRows : whole * kRows + (block - whole);
    body(state.lines[static_cast<std::size_t>(b)], b * rows + row, block < whole);
  });
}

void apply_any(const GramLine& line, const Layout& layout, std::int64_t n, Factor factor,
               bool scaled, const double* in, double* out, bool whole) {
  with_shape(layout.block, layout.columns, [&](auto shape) {
    constexpr int J = decltype(shape)::columns;
    constexpr int B = decltype(shape)::block;
    if (whole) {
      apply_block<J, B, kRows>(line, factor, scaled, {in, out, n});
    } else {
      apply_block<J, B, 1>(line, factor, scaled, {in, out, n});
    }
  });
}

}  // namespace

void Gram::apply(Factor factor, bool scaled, const double* in, double* out, std::int64_t rows,
                 int num_threads) const {
  guarded([&] {
    check_factor(factor);
    check_rows(batch(), rows, size());
    check_array("in", in, batch() * rows * size());
    check_array("out", out, batch() * rows * size());
    for_blocks(checked(state_), rows, num_threads,
               [&](const GramLine& line, std::int64_t row, bool whole) {
                 apply_any(line, state_->layout, size(), factor, scaled, in + row * size(),
                           out + row * size(), whole);
               });
  });
}

void Gram::log_prob(const double* v, double* out, std::int64_t rows, int num_threads) const {
  guarded([&] {
    check_rows(batch(), rows, size());
    check_array("v", v, batch() * rows * size());
    check_array("out", out, batch() * rows);
    const std::int64_t n = size();
    for_blocks(checked(state_), rows, num_threads,
               [&](const GramLine& line, std::int64_t row, bool whole) {
                 const double same =
                     -0.5 * (line.logdet + static_cast<double>(n) * std::log(2.0 * kPi));
                 double sum[kRows];
                 with_shape(state_->layout.block, state_->layout.columns, [&](auto shape) {
                   constexpr int J = decltype(shape)::columns;
                   constexpr int B = decltype(shape)::block;
                   whole ? quadratic<J, B, kRows>(line, v + row * n, n, sum)
                         : quadratic<J, B, 1>(line, v + row * n, n, sum);
                 });
                 for (int r = 0; r < (whole ? kRows : 1); ++r) {
                   out[row + r] = same + sum[r];
                 }
               });
  });
}

void Gram::solve(const double* b, double* x, std::int64_t rows, int num_threads) const {
  guarded([&] {
    check_rows(batch(), rows, size());
    check_array("b", b, batch() * rows * size());
    check_array("x", x, batch() * rows * size());
    for_blocks(checked(state_), rows, num_threads,
               [&](const GramLine& line, std::int64_t row, bool whole) {
                 apply_any(line, state_->layout, size(), Factor::lower_inverse, true,
                           b + row * size(), x + row * size(), whole);
                 apply_any(line, state_->layout, size(), Factor::upper_inverse, true,
                           x + row * size(), x + row * size(), whole);
               });
  });
}

}  // namespace laplex
