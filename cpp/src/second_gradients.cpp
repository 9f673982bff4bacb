// With k = exp(-|x - y|/ell), F = sum_ij g_i k_ij v_j, and cotangents a, b, c, e of its gradients
// by v, x, y and ell,
//   J = sum_ij g_i (a_j k + v_j ((b_i - c_j) k_x + e k_ell))
// is the derivative of F along (a, b, c, e), and its gradients are asked for. Its kernels
//   k_x = -s k / ell,  k_ell = tau k / ell,  k_xx = s^2 k / ell^2,
//   k_x,ell = s (1 - tau) k / ell^2,  k_ell,ell = (tau^2 - 2 tau) k / ell^2,
// s = sign(x - y) and tau = |x - y| / ell, are members of the family of sums. So five passes are
// enough: over v, a and c v, read off at the targets, and over g and b g, read off at the sources.
// They run in sorted order, so that each input and each result is permuted once.
#include "second_gradients.hpp"

#include "array.hpp"
#include "exact_sum.hpp"
#include "parallel.hpp"
#include "product_pass.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <mutex>
#include <vector>

namespace laplex::detail {
namespace {

constexpr std::int64_t kGrain = 4096;

constexpr Polynomial kOne{1.0};
constexpr Polynomial kDistance{0.0, 1.0};
constexpr Polynomial kTurned{1.0, -1.0};       // of k_x,ell
constexpr Polynomial kCurved{0.0, -2.0, 1.0};  // of k_ell,ell

/// Vectors [heads, rows, count] in sorted order, and what is summed from them at the other side.
template <class T>
class SortedPass {
 public:
  SortedPass(std::int64_t heads, std::int64_t rows, std::int64_t from, std::int64_t to)
      : heads_(heads), rows_(rows), from_(from), to_(to) {
    values_.reset(heads * rows * from);
  }

  [[nodiscard]] T* values() { return values_.data(); }
  [[nodiscard]] const T* values() const { return values_.data(); }

  std::size_t add(Parity parity, const Polynomial& polynomial) {
    sums_.emplace_back().reset(heads_ * rows_ * to_);
    results_.push_back({parity, polynomial, {sums_.back().data(), false, {rows_ * to_, to_}, 1}});
    return sums_.size() - 1;
  }
  [[nodiscard]] const T* sum(std::size_t number) const { return sums_[number].data(); }

  void run_over(const State<T>& state, bool transposed, int threads) const {
    if (!results_.empty()) {
      const Vectors<const T> in{values_.data(), false, {rows_ * from_, from_}, 1};
      run<T>(state, in, rows_, transposed, false, results_, threads, Order::sorted);
    }
  }

 private:
  std::int64_t heads_;
  std::int64_t rows_;
  std::int64_t from_;
  std::int64_t to_;
  Array<T> values_;
  std::vector<Array<T>> sums_;
  std::vector<Result<T>> results_;
};

[[nodiscard]] std::int64_t given(const std::uint32_t* index, std::int64_t k) {
  return index != nullptr ? std::int64_t(index[k]) : k;
}

/// Rows [first, first + count) of all heads.
template <class T>
struct RowBlock {
  const State<T>& state;
  const Vectors<const T>& values;
  const Vectors<const T>& grad;
  std::int64_t rows;
  std::int64_t first;
  std::int64_t count;
  const GradientCotangents<T>& cotangents;
  const SecondGradients<T>& result;
  int threads;

  /// Calls body(head, row of the block, first and last sorted place, index) for all places of a
  /// side, in pieces of kGrain; the rows of a piece come one after the other.
  template <class Body>
  void each(Role side, const Body& body) const {
    const Fixed<T>& fixed = state.fixed();
    const std::int64_t size = side == Role::targets ? fixed.n : fixed.m;
    for (std::int64_t h = 0; h < fixed.heads; ++h) {
      const std::uint32_t* const index = state.side(h, side).index;
      parallel_ranges(threads, size, kGrain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = 0; r < count; ++r) {
          body(h, r, begin, end, index);
        }
      });
    }
  }
};

/// Adds the gradients of a block of rows to sums in sorted order: by the anchors [heads, n] and
/// [heads, m], and by the lengthscale [heads].
template <class T>
void add_rows(const RowBlock<T>& block, std::vector<double>& by_targets,
              std::vector<double>& by_sources, std::vector<ExactSum>& by_lengthscale) {
  const Fixed<T>& fixed = block.state.fixed();
  const GradientCotangents<T>& cot = block.cotangents;
  const std::int64_t n = fixed.n;
  const std::int64_t m = fixed.m;
  const std::int64_t rows = block.count;
  std::mutex adding;
  const bool by_a = cot.values != nullptr;
  const bool by_b = cot.targets != nullptr;
  const bool by_c = cot.sources != nullptr;
  const bool by_e = cot.lengthscale != nullptr;
  const bool by_ell = block.result.lengthscale != nullptr;
  SortedPass<T> v(fixed.heads, rows, m, n);
  SortedPass<T> a(fixed.heads, by_a ? rows : 0, m, n);
  SortedPass<T> cv(fixed.heads, by_c ? rows : 0, m, n);
  SortedPass<T> g(fixed.heads, rows, n, m);
  SortedPass<T> bg(fixed.heads, by_b ? rows : 0, n, m);
  Array<T> b_sorted;
  Array<T> c_sorted;
  b_sorted.reset(by_b ? fixed.heads * n : 0);
  c_sorted.reset(by_c ? fixed.heads * m : 0);
  block.each(Role::sources, [&](std::int64_t h, std::int64_t r, std::int64_t begin,
                                std::int64_t end, const std::uint32_t* index) {
    const T* const values = block.values.lane(h, block.first + r);
    const T* const of_values = by_a ? cot.values + (h * block.rows + block.first + r) * m : nullptr;
    const std::int64_t row = (h * rows + r) * m;
    for (std::int64_t k = begin; k < end; ++k) {
      const std::int64_t j = given(index, k);
      v.values()[row + k] = values[j];
      if (by_a) {
        a.values()[row + k] = of_values[j];
      }
      if (by_c) {
        const T c = cot.sources[h * m + j];
        c_sorted[h * m + k] = c;
        cv.values()[row + k] = c * values[j];
      }
    }
  });
  block.each(Role::targets, [&](std::int64_t h, std::int64_t r, std::int64_t begin,
                                std::int64_t end, const std::uint32_t* index) {
    const T* const grad = block.grad.lane(h, block.first + r);
    const std::int64_t row = (h * rows + r) * n;
    for (std::int64_t k = begin; k < end; ++k) {
      const std::int64_t i = given(index, k);
      g.values()[row + k] = grad[i];
      if (by_b) {
        const T b = cot.targets[h * n + i];
        b_sorted[h * n + k] = b;
        bg.values()[row + k] = b * grad[i];
      }
    }
  });

  // The numbers of sums that nobody asks for are not used.
  const auto if_asked = [](bool asked, SortedPass<T>& pass, Parity parity,
                           const Polynomial& polynomial) {
    return asked ? pass.add(parity, polynomial) : 0;
  };
  const std::size_t v_x = if_asked(by_b, v, Parity::odd, kOne);
  const std::size_t v_xx = if_asked(by_b, v, Parity::strict, kOne);
  const std::size_t v_x_ell = if_asked(by_e || (by_b && by_ell), v, Parity::odd, kTurned);
  const std::size_t v_ell = if_asked(by_e, v, Parity::even, kDistance);
  const std::size_t v_ell_ell = if_asked(by_e && by_ell, v, Parity::even, kCurved);
  const std::size_t a_0 = if_asked(by_a, a, Parity::even, kOne);
  const std::size_t a_x = if_asked(by_a, a, Parity::odd, kOne);
  const std::size_t a_ell = if_asked(by_a && by_ell, a, Parity::even, kDistance);
  const std::size_t cv_x = if_asked(by_c, cv, Parity::odd, kOne);
  const std::size_t cv_xx = if_asked(by_c, cv, Parity::strict, kOne);
  const std::size_t cv_x_ell = if_asked(by_c && by_ell, cv, Parity::odd, kTurned);
  const std::size_t g_x = if_asked(by_a || by_c, g, Parity::odd, kOne);
  const std::size_t g_xx = if_asked(by_c, g, Parity::strict, kOne);
  const std::size_t g_ell = if_asked(by_e, g, Parity::even, kDistance);
  const std::size_t g_x_ell = if_asked(by_e, g, Parity::odd, kTurned);
  const std::size_t bg_x = if_asked(by_b, bg, Parity::odd, kOne);
  const std::size_t bg_xx = if_asked(by_b, bg, Parity::strict, kOne);
  for (const SortedPass<T>* pass : {&v, &a, &cv}) {
    pass->run_over(block.state, false, block.threads);
  }
  for (const SortedPass<T>* pass : {&g, &bg}) {
    pass->run_over(block.state, true, block.threads);
  }

  const auto per = [&](std::int64_t h) {
    return 1.0 / fixed.rate[static_cast<std::size_t>(h)].lengthscale;
  };
  block.each(Role::targets, [&](std::int64_t h, std::int64_t r, std::int64_t begin,
                                std::int64_t end, const std::uint32_t* index) {
    const double u = per(h);
    const double e = by_e ? cot.lengthscale[h] : 0.0;
    const std::int64_t row = (h * rows + r) * n;
    T* const to = block.result.cotangent != nullptr
                      ? block.result.cotangent + (h * block.rows + block.first + r) * n
                      : nullptr;
    const bool by_x = block.result.targets != nullptr;
    std::array<double, kGrain> stretched;
    for (std::int64_t k = begin; k < end; ++k) {
      const auto get = [&](bool asked, const SortedPass<T>& pass, std::size_t number) {
        return asked ? static_cast<double>(pass.sum(number)[row + k]) : 0.0;
      };
      const double b = by_b ? static_cast<double>(b_sorted[h * n + k]) : 0.0;
      const auto here = static_cast<double>(g.values()[row + k]);
      if (to != nullptr) {
        to[given(index, k)] =
            static_cast<T>(get(by_a, a, a_0) + u * (get(by_c, cv, cv_x) - b * get(by_b, v, v_x) +
                                                    e * get(by_e, v, v_ell)));
      }
      if (by_x) {
        by_targets[static_cast<std::size_t>(h * n + k)] +=
            here * u *
            (u * (b * get(by_b, v, v_xx) - get(by_c, cv, cv_xx) + e * get(by_e, v, v_x_ell)) -
             get(by_a, a, a_x));
      }
      if (by_ell) {
        stretched[static_cast<std::size_t>(k - begin)] =
            u * here *
            (get(by_a, a, a_ell) + u * (b * get(by_b, v, v_x_ell) - get(by_c, cv, cv_x_ell) +
                                        e * get(by_e, v, v_ell_ell)));
      }
    }
    if (by_ell) {
      ExactSum sum;
      sum.add(stretched.data(), end - begin);
      const std::lock_guard<std::mutex> lock(adding);
      by_lengthscale[static_cast<std::size_t>(h)].add(sum);
    }
  });
  block.each(Role::sources, [&](std::int64_t h, std::int64_t r, std::int64_t begin,
                                std::int64_t end, const std::uint32_t* index) {
    const double u = per(h);
    const double e = by_e ? cot.lengthscale[h] : 0.0;
    const std::int64_t row = (h * rows + r) * m;
    T* const to = block.result.values != nullptr
                      ? block.result.values + (h * block.rows + block.first + r) * m
                      : nullptr;
    const bool by_y = block.result.sources != nullptr;
    for (std::int64_t k = begin; k < end; ++k) {
      const auto get = [&](bool asked, const SortedPass<T>& pass, std::size_t number) {
        return asked ? static_cast<double>(pass.sum(number)[row + k]) : 0.0;
      };
      const double c = by_c ? static_cast<double>(c_sorted[h * m + k]) : 0.0;
      const double along = get(by_a || by_c, g, g_x);
      if (to != nullptr) {
        to[given(index, k)] =
            static_cast<T>(u * (c * along - get(by_b, bg, bg_x) + e * get(by_e, g, g_ell)));
      }
      if (by_y) {
        const double by_source =
            u * (c * get(by_c, g, g_xx) - get(by_b, bg, bg_xx) - e * get(by_e, g, g_x_ell));
        const double a_here = by_a ? static_cast<double>(a.values()[row + k]) : 0.0;
        by_sources[static_cast<std::size_t>(h * m + k)] +=
            u * (static_cast<double>(v.values()[row + k]) * by_source + a_here * along);
      }
    }
  });
}

}  // namespace

template <class T>
void second_gradients(const State<T>& state, const Vectors<const T>& values,
                      const Vectors<const T>& grad, std::int64_t rows,
                      const GradientCotangents<T>& cotangents, const SecondGradients<T>& result,
                      int threads) {
  // The sums of so many rows are in memory at a time.
  constexpr std::int64_t kRowsAtOnce = kRows;
  const Fixed<T>& fixed = state.fixed();
  const std::int64_t n = fixed.n;
  const std::int64_t m = fixed.m;
  const auto size = [&](const void* wanted, std::int64_t each) {
    return static_cast<std::size_t>(wanted != nullptr ? fixed.heads * each : 0);
  };
  std::vector<double> by_targets(size(result.targets, n));
  std::vector<double> by_sources(size(result.sources, m));
  std::vector<ExactSum> by_lengthscale(size(result.lengthscale, 1));
  for (std::int64_t first = 0; first < rows; first += kRowsAtOnce) {
    const std::int64_t count = std::min(kRowsAtOnce, rows - first);
    add_rows<T>({state, values, grad, rows, first, count, cotangents, result, threads}, by_targets,
                by_sources, by_lengthscale);
  }
  for (std::int64_t h = 0; h < fixed.heads; ++h) {
    const auto deliver = [&](const std::vector<double>& sums, Role side, std::int64_t count,
                             T* to) {
      if (to != nullptr) {
        const std::uint32_t* const index = state.side(h, side).index;
        for (std::int64_t k = 0; k < count; ++k) {
          to[h * count + given(index, k)] =
              static_cast<T>(sums[static_cast<std::size_t>(h * count + k)]);
        }
      }
    };
    deliver(by_targets, Role::targets, n, result.targets);
    deliver(by_sources, Role::sources, m, result.sources);
    if (result.lengthscale != nullptr) {
      ExactSum& total = by_lengthscale[static_cast<std::size_t>(h)];
      add_over_processes(state.cells(h).shared(), {&total});
      result.lengthscale[h] = total.value();
    }
  }
}

template void second_gradients<float>(const State<float>&, const Vectors<const float>&,
                                      const Vectors<const float>&, std::int64_t,
                                      const GradientCotangents<float>&,
                                      const SecondGradients<float>&, int);
template void second_gradients<double>(const State<double>&, const Vectors<const double>&,
                                       const Vectors<const double>&, std::int64_t,
                                       const GradientCotangents<double>&,
                                       const SecondGradients<double>&, int);

}  // namespace laplex::detail
