/// Exact algebra with covariance matrices on a line.
///
/// With anchors t[n] on a line, the matrix, never formed, is
///
///     A[i,j] = sum_k H[i,k] H[j,k] exp(-|t_i - t_j| / lengthscale_k)  +  noise_i [i = j]
///
/// A sum of Laplace kernels between the same anchors, each between two diagonal matrices. It holds
/// the cosine forms too: exp(-d/l) cos(psi_i - psi_j) is two columns, H = (cos psi, sin psi), with
/// psi = phase + frequency * t. A = S S^T with S = L sqrt(D) comes from one pass of a Kalman filter
/// over the sorted anchors, O(n width^2), in which every quantity is a covariance: nothing grows,
/// and for width 1 nothing cancels. The factorisation is that of celerite (arXiv 1703.09710),
/// the filter's form of it that of Sarkka, "Bayesian Filtering and Smoothing" (2013), chapter 4.
#pragma once

#include <laplex/error.hpp>

#include <cstdint>
#include <memory>
#include <vector>

namespace laplex {

namespace detail {
struct GramState;
}

/// What a Gram is built from. Nothing is referred to after the constructor.
struct Covariance {
  std::int64_t batch = 1;  ///< independent matrices
  std::int64_t n = 0;
  std::int64_t width = 1;               ///< columns of H, at most kMostColumns
  const double* anchors = nullptr;      ///< [batch, n], in any order
  const double* lengthscale = nullptr;  ///< [batch, width]; null: 1
  const double* loadings = nullptr;     ///< H, [batch, n, width]; null: 1
  const double* noise = nullptr;        ///< variances, [batch, n]; null: 0
  /// Equal anchors are taken in the order of their numbers, or against it. A and all that belongs
  /// to it is the same in both; the mean of both orders' derivatives by anchors is the one with
  /// sign(0) = 0.
  bool ties_backwards = false;
  int num_threads = 0;  ///< default for the calls; 0: default_num_threads()
};

/// The most columns of H: sums of up to 32 real terms or 16 cosines.
inline constexpr std::int64_t kMostColumns = 32;

/// A noise of infinity is a point that was not observed: it takes part in no sum, its derivative by
/// `noise` is that by its precision 1/noise at 0, of log det the variance given the others.
[[nodiscard]] bool is_observed(double noise);

/// Which matrix Gram::apply() multiplies with. L is unit lower triangular in sorted order, D
/// diagonal, A = L D L^T; rows and columns are numbered as the anchors were given.
enum class Factor { lower = 0, lower_inverse = 1, upper = 2, upper_inverse = 3 };

/// Derivatives of f = sum_rows <a, L b> + sum_i w_i log D_i; null entries are not computed.
struct GramGradients {
  double* anchors = nullptr;      ///< [batch, n]
  double* lengthscale = nullptr;  ///< [batch, width]
  double* loadings = nullptr;     ///< [batch, n, width]
  double* noise = nullptr;        ///< [batch, n]
};

/// A direction in the space of parameters, laid out as GramGradients.
struct GramTangent {
  const double* anchors = nullptr;
  const double* lengthscale = nullptr;
  const double* loadings = nullptr;
  const double* noise = nullptr;
};

/// A factorised covariance matrix. Const calls are safe from several threads.
///
/// Vectors are [batch, rows, n], contiguous. The results do not depend on the number of threads.
class Gram {
 public:
  /// Throws Error: NaN or infinite input, lengthscale not positive, negative noise
  /// (invalid_argument); a matrix that is singular, or so nearly that its factor would have no
  /// correct digit (singular), naming the anchors.
  explicit Gram(const Covariance& covariance);

  /// out = F in for F = L, L^-1, L^T or L^-T, or with `scaled` the same of S = L sqrt(D): S, S^-1
  /// (whitening), S^T or S^-T. `out` may be `in`.
  void apply(Factor factor, bool scaled, const double* in, double* out, std::int64_t rows,
             int num_threads = 0) const;

  /// x = A^-1 b. `x` may be `b`.
  void solve(const double* b, double* x, std::int64_t rows, int num_threads = 0) const;

  /// log D_i, [batch, n]: the logarithm of each anchor's variance given those before it. Its sum is
  /// log det A. Of a point that was not observed: 0.
  void log_variances(double* out) const;

  /// log det A, [batch].
  void logdet(double* out) const;

  /// The log density of N(0, A) at v, [batch, rows].
  void log_prob(const double* v, double* out, std::int64_t rows, int num_threads = 0) const;

  /// The tridiagonal inverse in sorted order: diagonal [batch, n], off-diagonal [batch, n - 1]
  /// (entry i couples i and i + 1). Throws unless width is 1 and there is no noise.
  void precision(double* diagonal, double* off_diagonal) const;

  /// The numbers of the anchors in ascending order, [batch, n].
  void order(std::int64_t* out) const;

  /// Gradients of f for a, b [batch, rows, n] and w [batch, n] (null: 0). `d_b`, if not null,
  /// receives L^T a.
  void vjp(const double* a, const double* b, std::int64_t rows, const double* w,
           const GramGradients& gradients, double* d_b = nullptr, int num_threads = 0) const;

  /// The derivative of vjp()'s gradients along `tangent`, which is also, for a, b and w, that of
  /// the directional derivative of f: d_a = L' b, d_b = L'^T a, d_w = (log D)'.
  void vjp_tangent(const double* a, const double* b, std::int64_t rows, const double* w,
                   const GramTangent& tangent, const GramGradients& gradients, double* d_a,
                   double* d_b, double* d_w, int num_threads = 0) const;

  [[nodiscard]] std::int64_t batch() const noexcept;
  [[nodiscard]] std::int64_t size() const noexcept;
  [[nodiscard]] std::int64_t width() const noexcept;
  [[nodiscard]] bool has_ties() const noexcept;
  [[nodiscard]] std::int64_t nbytes() const noexcept;

 private:
  std::shared_ptr<const detail::GramState> state_;
};

}  // namespace laplex
