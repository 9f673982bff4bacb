/// \file
/// Exact algebra with covariance matrices on a line.
///
/// With anchors `t[n]` on a line, the matrix, which is never formed, is
///
///     A[i,j] = sum_k H[i,k] H[j,k] exp(-|t_i - t_j| / lengthscale_k)  +  noise_i [i = j]
///
/// This is a sum of Laplace kernels over the same anchors, each multiplied by a diagonal matrix on
/// both sides, plus a diagonal. The cosine form `exp(-d/l) cos(psi_i - psi_j)` is included: it is
/// two columns `H = (cos psi, sin psi)` with `psi = phase + frequency * t`.
///
/// In general A is the covariance of a sum of independent stationary linear processes. Each has a
/// block of columns of H, which observe its state: 1 column for the Ornstein-Uhlenbeck process
/// above, 2 for the stochastically driven damped oscillator, 3 for a Matern-5/2 process (see
/// Covariance::blocks). For t_i >= t_j a block adds `h_i A(t_i - t_j) P h_j`, with A(d) the
/// transition of the state across a gap d, and P its stationary covariance.
///
/// The factorisation `A = S S^T` with `S = L sqrt(D)` comes from one pass of a Kalman filter over
/// the sorted anchors, in O(n width^2). Every quantity in it is a covariance: nothing grows, and
/// for width 1 nothing cancels. The factorisation is that of celerite (arXiv 1703.09710). Its form
/// as a filter is that of Sarkka, "Bayesian Filtering and Smoothing" (2013), chapter 4.
#pragma once

#include <laplex/error.hpp>

#include <cstdint>
#include <memory>
#include <vector>

namespace laplex {

/// \cond
namespace detail {
struct GramState;
}
/// \endcond

/// Describes the covariance matrices that a Gram is built from: sizes, and pointers to the caller's
/// arrays.
///
/// The constructor of Gram reads the arrays, and they are not needed after it. All arrays are
/// contiguous and in row-major order.
struct Covariance {
  std::int64_t batch = 1;               ///< The number of independent matrices.
  std::int64_t n = 0;                   ///< The number of anchors of each matrix.
  std::int64_t width = 1;               ///< The number of columns of H, 1 to kMostColumns.
  const double* anchors = nullptr;      ///< The anchors, `[batch, n]`, in any order.
  const double* lengthscale = nullptr;  ///< The lengthscales, `[batch, width]`. Null: 1.
  const double* loadings = nullptr;     ///< The matrix H, `[batch, n, width]`. Null: 1.
  const double* noise = nullptr;        ///< The noise variances, `[batch, n]`. Null: 0.
  /// The weights of the processes, `[batch, width]`. Null: 1, where all blocks are of size 1.
  ///
  /// They may be negative as long as A is positive definite.
  const double* weights = nullptr;
  /// The sizes of the blocks of columns, `[num_blocks]`, each 1, 2 or 3. Null: all of size 1.
  ///
  /// - 1, at column j: `k(d) = weights[j] exp(-d / lengthscale[j])`.
  /// - 2, at columns j and j + 1: the damped oscillator, with the damping rate `gamma = 1 /
  ///   lengthscale[j]` and the undamped frequency `omega = 1 / lengthscale[j + 1]`. Its state is
  ///   `(x, x' / omega)`. Observed by the loadings (1, 0), with `e = weights[j]`, `f = weights[j +
  ///   1]` and `q^2 = omega^2 - gamma^2`, it has the covariance
  ///   `exp(-gamma d) ((f + e) / 2 cos(q d) + gamma (f - e) / 2 sin(q d) / q)`. The stationary
  ///   covariance of the state, with `z = gamma / omega`, is `(e + f) / 2 [[1, 0], [0, 1]] +
  ///   e [[0, -z], [-z, 2 z^2]]`.
  /// - 3, at columns j to j + 2: Matern-5/2, of the rate `r = 1 / lengthscale[j]` and the variance
  ///   weights[j]. Its state is `(x, x' / r, x'' / r^2)`. Observed by (1, 0, 0), it has the
  ///   covariance `weights[j] exp(-r d) (1 + r d + (r d)^2 / 3)`. The other two lengthscales and
  ///   weights are not used.
  const int* blocks = nullptr;
  std::int64_t num_blocks = 0;  ///< The number of blocks. 0: all of size 1.
  /// The order in which equal anchors are taken: ascending by their index, or descending.
  ///
  /// The matrix and everything derived from it are the same for both. The derivatives by tied
  /// anchors are one-sided, and the mean over the two orders follows the convention sign(0) = 0.
  bool ties_backwards = false;
  /// The number of threads of calls that do not give their own. 0: default_num_threads().
  int num_threads = 0;
};

/// The largest number of columns of H, enough for a sum of 32 real terms or 16 cosine terms.
inline constexpr std::int64_t kMostColumns = 32;

/// Whether a noise variance belongs to a point that was observed.
///
/// An infinite noise marks a point that was not observed, which contributes to no sum. Its
/// derivative by `noise` is taken with respect to the precision 1/noise at 0. For log det A this is
/// the variance of the point given the others.
/// \param noise the noise variance
/// \return false if `noise` is infinite
[[nodiscard]] bool is_observed(double noise);

/// The matrix that Gram::apply() multiplies with.
///
/// In `A = L D L^T`, L is unit lower triangular in the sorted order of the anchors, and D is
/// diagonal. Rows and columns are numbered in the order in which the anchors were given.
enum class Factor {
  lower = 0,          ///< L.
  lower_inverse = 1,  ///< The inverse of L.
  upper = 2,          ///< The transpose of L.
  upper_inverse = 3,  ///< The inverse of the transpose of L.
};

/// Receives the derivatives of `f = sum_rows <a, L b> + sum_i w_i log D_i`. Null members are not
/// computed.
struct GramGradients {
  double* anchors = nullptr;      ///< By the anchors, `[batch, n]`.
  double* lengthscale = nullptr;  ///< By the lengthscales, `[batch, width]`.
  double* loadings = nullptr;     ///< By the loadings H, `[batch, n, width]`.
  double* noise = nullptr;        ///< By the noise variances, `[batch, n]`.
  double* weights = nullptr;      ///< By the weights, `[batch, width]`.
};

/// A direction in the space of the parameters, laid out like GramGradients. Null members stand
/// for 0.
struct GramTangent {
  const double* anchors = nullptr;      ///< The part along the anchors, `[batch, n]`.
  const double* lengthscale = nullptr;  ///< The part along the lengthscales, `[batch, width]`.
  const double* loadings = nullptr;     ///< The part along the loadings, `[batch, n, width]`.
  const double* noise = nullptr;        ///< The part along the noise variances, `[batch, n]`.
  const double* weights = nullptr;      ///< The part along the weights, `[batch, width]`.
};

/// A batch of factorised covariance matrices.
///
/// Vectors are contiguous arrays `[batch, rows, n]`. All results have the same bits for any number
/// of threads. Const members are safe to call from several threads at once. Every member that takes
/// `num_threads` treats 0 as Covariance::num_threads. A null pointer to an array that has entries
/// is an Error `invalid_argument`. A Gram that was moved from has no matrices, and its other
/// members throw.
class Gram {
 public:
  /// Sorts the anchors and factorises the matrices.
  /// \param covariance the description; its arrays are not needed afterwards
  /// \throws Error `invalid_argument` for NaN or infinite input, a lengthscale that is not
  /// positive,
  ///   negative noise, and blocks that do not add up to the width; `singular`, with the anchors
  ///   named, for a matrix that is singular, or so nearly singular that its factor would have no
  ///   correct digit; `out_of_memory`
  explicit Gram(const Covariance& covariance);

  /// Multiplies with a factor: `out = F in`.
  /// \param factor the matrix F: L, its inverse, its transpose, or the inverse of that
  /// \param scaled whether to use `S = L sqrt(D)` in place of L; its inverse whitens
  /// \param in the vectors, `[batch, rows, n]`
  /// \param out receives the result, `[batch, rows, n]`; may be `in`
  /// \param rows the number of vectors of each matrix
  /// \param num_threads the number of threads
  void apply(Factor factor, bool scaled, const double* in, double* out, std::int64_t rows,
             int num_threads = 0) const;

  /// Solves `A x = b`.
  /// \param b the right-hand sides, `[batch, rows, n]`
  /// \param x receives the solutions, `[batch, rows, n]`; may be `b`
  /// \param rows the number of vectors of each matrix
  /// \param num_threads the number of threads
  void solve(const double* b, double* x, std::int64_t rows, int num_threads = 0) const;

  /// Writes log D: the logarithm of the variance of each anchor given those before it in sorted
  /// order. The entries of a matrix add up to log det A. Points that were not observed have 0.
  /// \param out receives the logarithms, `[batch, n]`
  void log_variances(double* out) const;

  /// Writes log det A.
  /// \param out receives the logarithms, `[batch]`
  void logdet(double* out) const;

  /// Computes the log density of the normal distribution N(0, A).
  /// \param v the points, `[batch, rows, n]`
  /// \param out receives the log densities, `[batch, rows]`
  /// \param rows the number of points of each matrix
  /// \param num_threads the number of threads
  void log_prob(const double* v, double* out, std::int64_t rows, int num_threads = 0) const;

  /// Writes the inverse of A, which is tridiagonal in the sorted order of the anchors if `width` is
  /// 1 and there is no noise.
  /// \param diagonal receives the diagonal, `[batch, n]`
  /// \param off_diagonal receives the entries beside it, `[batch, n - 1]`; entry i couples the
  ///   sorted anchors i and i + 1
  /// \throws Error `invalid_argument` if `width` is not 1 or there is noise
  void precision(double* diagonal, double* off_diagonal) const;

  /// Writes the indices of the anchors in ascending order of the anchors.
  /// \param out receives the indices, `[batch, n]`
  void order(std::int64_t* out) const;

  /// Computes the gradients of f (see GramGradients).
  /// \param a the vectors a of f, `[batch, rows, n]`
  /// \param b the vectors b of f, `[batch, rows, n]`
  /// \param rows the number of vectors of each matrix
  /// \param w the weights of log D, `[batch, n]`; null: 0
  /// \param gradients where to write the gradients; null members are not computed
  /// \param d_b receives the gradient by b, which is `L^T a`, `[batch, rows, n]`; may be null
  /// \param num_threads the number of threads
  void vjp(const double* a, const double* b, std::int64_t rows, const double* w,
           const GramGradients& gradients, double* d_b = nullptr, int num_threads = 0) const;

  /// Computes the derivatives of the gradients of vjp() along a direction.
  ///
  /// These are also the gradients of the derivative of f along the direction. Where dL and dlogD
  /// are the derivatives of L and log D along it, the gradients by a, b and w are `dL b`, `dL^T a`
  /// and `dlogD`.
  /// \param a the vectors a of f, `[batch, rows, n]`
  /// \param b the vectors b of f, `[batch, rows, n]`
  /// \param rows the number of vectors of each matrix
  /// \param w the weights of log D, `[batch, n]`; null: 0
  /// \param tangent the direction
  /// \param gradients where to write the derivatives; null members are not computed
  /// \param d_a receives the gradient by a, `[batch, rows, n]`; may be null
  /// \param d_b receives the gradient by b, `[batch, rows, n]`; may be null
  /// \param d_w receives the gradient by w, `[batch, n]`; may be null
  /// \param num_threads the number of threads
  void vjp_tangent(const double* a, const double* b, std::int64_t rows, const double* w,
                   const GramTangent& tangent, const GramGradients& gradients, double* d_a,
                   double* d_b, double* d_w, int num_threads = 0) const;

  /// The number of matrices.
  [[nodiscard]] std::int64_t batch() const noexcept;
  /// The number n of anchors of each matrix.
  [[nodiscard]] std::int64_t size() const noexcept;
  /// The number of columns of H.
  [[nodiscard]] std::int64_t width() const noexcept;
  /// Whether any matrix has two equal anchors.
  [[nodiscard]] bool has_ties() const noexcept;
  /// The bytes of memory that the factors hold.
  [[nodiscard]] std::int64_t nbytes() const noexcept;

 private:
  std::shared_ptr<const detail::GramState> state_;
};

}  // namespace laplex
