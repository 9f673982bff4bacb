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
class RootFilter {
 public:
  RootFilter(int columns, int block);

  /// From what keep() wrote.
  void start(const double* packed);
  /// L below the diagonal and D on it, packed.
  void keep(double* packed) const;
  /// L diag(D) L^T, packed.
  void covariance(double* packed) const;
  /// The variances of the state.
  void state_variances(double* to) const;

  /// Across a gap, of the transition and the process noise of Step.
  void predict(const double* decay, const double* gain);

  /// Conditions on a point that observes h . state + noise, and returns its variance; sets gain().
  /// A point of infinite noise changes nothing and has the variance 1. Nothing is left to divide by
  /// where the variance is 0.
  double observe(const double* h, double noise);

  [[nodiscard]] const double* gain() const { return gain_.data(); }

 private:
  [[nodiscard]] double* column(int k) { return &columns_[static_cast<std::size_t>(k * n_)]; }
  [[nodiscard]] const double* column(int k) const {
    return &columns_[static_cast<std::size_t>(k * n_)];
  }
  [[nodiscard]] double& weight(int k) { return weights_[static_cast<std::size_t>(k)]; }

  int n_;
  int block_;
  std::vector<double> columns_;  ///< [2 J, J]: those of L, and those of the process noise
  std::vector<double> weights_;  ///< [2 J]
  std::vector<double> gain_;     ///< [J]
};

/// Fills gain and variance of a line whose weights are not negative, and chunk_cov by what
/// RootFilter::keep() writes. Returns the first point whose variance cannot be told from 0, or -1.
[[nodiscard]] std::int64_t filter_root(GramLine& line, std::int64_t n, int columns, int block);

}  // namespace laplex::detail
