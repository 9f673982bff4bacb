/// The filter in factors of the state's covariance, for lines on which that itself has no digits
/// left: smooth processes without noise, at anchors close together.
#pragma once

#include "gram_state.hpp"

#include <cstdint>
#include <vector>

namespace laplex::detail {

/// The state's covariance as L diag(D) L^T, L unit lower triangular. Prediction and observation
/// rotate columns, without square roots (Gentleman, "Least squares computations by Givens
/// transformations without square roots", 1973). Weights D are products and quotients of positive
/// numbers; differences are between the numbers of two columns, as in any rotation.
template <class N>
class RootFilter {
 public:
  RootFilter(int columns, int block);

  /// From what keep() wrote.
  void start(const N* packed);
  /// L below the diagonal and D on it, packed.
  void keep(N* packed) const;
  /// L diag(D) L^T, packed.
  void covariance(N* packed) const;
  /// The variances of the state.
  void state_variances(N* to) const;

  /// Across a gap, of the transition and the process noise of Step. `map`, unless null, becomes the
  /// matrix T [J, J] with A L = L' T, for the L before and L' after.
  void predict(const N* decay, const N* gain, N* map = nullptr);

  /// Conditions on a point that observes h . state + noise, and returns its variance; sets gain().
  /// A point of infinite noise changes nothing and has the variance 1. Nothing is left to divide by
  /// where the variance is 0. `map`, unless null, becomes S with (1 - w h^T) L = L' S.
  N observe(const N* h, N noise, N* map = nullptr);

  /// What covariance derivatives B are as those by coordinates: L^-T B L^-1, packed.
  void from_columns(const N* b, N* packed) const;
  /// L^-T x, in place, of vectors whose numbers are `stride` apart.
  void solve_transposed(N* x, std::ptrdiff_t stride) const;
  /// L^T x.
  void along_columns(const N* x, N* to) const;
  /// Entry (k, r) of D L^T.
  [[nodiscard]] N weighted(int k, int r) const {
    return weights_[static_cast<std::size_t>(k)] * column(k)[r];
  }

  [[nodiscard]] const N* gain() const { return gain_.data(); }

 private:
  [[nodiscard]] N* column(int k) {
    return &columns_[static_cast<std::size_t>(k) * static_cast<std::size_t>(n_)];
  }
  [[nodiscard]] const N* column(int k) const {
    return &columns_[static_cast<std::size_t>(k) * static_cast<std::size_t>(n_)];
  }
  [[nodiscard]] N& weight(int k) { return weights_[static_cast<std::size_t>(k)]; }

  int n_;
  int block_;
  std::vector<N> columns_;  ///< [2 J, J]: those of L, and those of the process noise
  std::vector<N> weights_;  ///< [2 J]
  std::vector<N> gain_;     ///< [J]
  std::vector<N> seen_;     ///< [J]: h . columns
  std::vector<N> parts_;    ///< [J, 2 J]: the columns of A L as sums of the present ones
};

/// The derivative by a covariance, through what RootFilter does, in its columns: B = L^T bar L of
/// the matrix `bar` of derivatives. Its numbers times D are about those of derivatives by
/// logarithms, at whatever scales the state is, and the maps are rotations but for D.
template <class N>
class RootReverse {
 public:
  explicit RootReverse(int columns)
      : n_(columns), bar_(static_cast<std::size_t>(columns * columns)), half_(bar_.size()) {}

  /// Through a map of the columns: B becomes map^T B map.
  void back(const N* map);
  /// Adds (x y^T + y x^T) / 2, of vectors in columns.
  void add(const N* x, const N* y);
  /// Adds the derivative by the transition A to `decay_bar`, in the shape of Step::decay, from B of
  /// the predicted covariance: 2 L'^-T B T D L^T for filtered columns L.
  void by_transition(const RootFilter<N>& filtered, const RootFilter<N>& predicted, const N* map,
                     int block, N* decay_bar);
  [[nodiscard]] const N* bar() const { return bar_.data(); }

 private:
  int n_;
  std::vector<N> bar_;
  std::vector<N> half_;
};

extern template class RootFilter<double>;
extern template class RootFilter<Dual>;
extern template class RootReverse<double>;
extern template class RootReverse<Dual>;

/// Fills gain and variance of a line whose weights are not negative, and chunk_cov by what
/// RootFilter::keep() writes. Returns the first point whose variance cannot be told from 0, or -1.
[[nodiscard]] std::int64_t filter_root(GramLine& line, std::int64_t n, int columns, int block);

}  // namespace laplex::detail
