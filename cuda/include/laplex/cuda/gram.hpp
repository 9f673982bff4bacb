/// \file
/// The covariance matrices of laplex/gram.hpp on a GPU: device pointers, a stream, memory from the
/// caller.
///
/// These points differ from the CPU:
///
/// - The filter runs in all chunks of a line at once, from covariances that an associative scan has
///   found. Sums are formed in another order than on the CPU, but in a fixed one: the same input
///   gives the same bits.
/// - There are at most laplex::cuda::Gram::kMostColumns columns, because a thread holds matrices of
///   that size.
/// - The constructor waits for the stream, because it reports which matrix is singular. It
///   therefore cannot run in a stream that is being captured. All other calls can, wait for
///   nothing, and allocate nothing if they are given a workspace.
///
/// All work runs on the current device and in the given stream. Pointers are pointers to memory of
/// that device. This header needs no CUDA header.
#pragma once

#include <laplex/cuda/device.hpp>
#include <laplex/cuda/plan.hpp>
#include <laplex/gram.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace laplex::cuda {

/// \cond
namespace detail {
struct GramState;
}
/// \endcond

/// A batch of factorised covariance matrices in device memory.
///
/// Vectors are contiguous arrays `[batch, rows, n]`. Every member that takes a stream throws Error:
/// `invalid_argument` for arguments outside their domain and for lent memory that is too small or
/// not aligned, `out_of_memory`, and `device` for errors of CUDA.
class Gram {
 public:
  /// The largest number of columns of H, enough for a sum of 8 real terms or of 4 cosine terms or
  /// damped oscillators. With a block of 3 columns there is room for two groups of up to 3 columns,
  /// in which blocks stay whole.
  static constexpr std::int64_t kMostColumns = 8;

  /// Sorts the anchors and factorises the matrices. Waits for the stream.
  /// \param covariance the description; all its pointers but `blocks` are device pointers, and
  ///   num_threads is unused
  /// \param stream the stream; without `storage` it must outlive the object, which frees its memory
  ///   in it
  /// \param storage holds the factor for the life of the object: storage_bytes()
  /// \param scratch is used until the call returns: scratch_bytes()
  /// \throws Error as laplex::Gram does; also `invalid_argument` for memory that is too small or
  ///   not aligned, and `device` if there is no device or the stream is being captured
  Gram(const Covariance& covariance, Stream stream, Memory storage = {}, Memory scratch = {});

  /// Multiplies with a factor: `out = F in`; see laplex::Gram::apply().
  /// \param factor the matrix F: L, its inverse, its transpose, or the inverse of that
  /// \param scaled whether to use `S = L sqrt(D)` in place of L
  /// \param in the vectors, `[batch, rows, n]`
  /// \param out receives the result, `[batch, rows, n]`; may be `in`
  /// \param rows the number of vectors of each matrix
  /// \param stream the stream
  /// \param workspace memory for the call: workspace_bytes()
  void apply(Factor factor, bool scaled, const double* in, double* out, std::int64_t rows,
             Stream stream, Memory workspace = {}) const;

  /// Solves `A x = b`.
  /// \param b the right-hand sides, `[batch, rows, n]`
  /// \param x receives the solutions, `[batch, rows, n]`; may be `b`
  /// \param rows the number of vectors of each matrix
  /// \param stream the stream
  /// \param workspace memory for the call: workspace_bytes()
  void solve(const double* b, double* x, std::int64_t rows, Stream stream,
             Memory workspace = {}) const;

  /// Writes log D; see laplex::Gram::log_variances().
  /// \param out receives the logarithms, `[batch, n]`
  /// \param stream the stream
  void log_variances(double* out, Stream stream) const;

  /// Writes log det A.
  /// \param out receives the logarithms, `[batch]`
  /// \param stream the stream
  /// \param workspace memory for the call: workspace_bytes() of 0 rows
  void logdet(double* out, Stream stream, Memory workspace = {}) const;

  /// Computes the log density of the normal distribution N(0, A).
  /// \param v the points, `[batch, rows, n]`
  /// \param out receives the log densities, `[batch, rows]`
  /// \param rows the number of points of each matrix
  /// \param stream the stream
  /// \param workspace memory for the call: workspace_bytes()
  void log_prob(const double* v, double* out, std::int64_t rows, Stream stream,
                Memory workspace = {}) const;

  /// Writes the indices of the anchors in ascending order of the anchors.
  /// \param out receives the indices, `[batch, n]`
  /// \param stream the stream
  void order(std::int64_t* out, Stream stream) const;

  /// Computes the gradients of f (see GramGradients); see laplex::Gram::vjp().
  /// \param a the vectors a of f, `[batch, rows, n]`
  /// \param b the vectors b of f, `[batch, rows, n]`
  /// \param rows the number of vectors of each matrix
  /// \param w the weights of log D, `[batch, n]`; null: 0
  /// \param gradients where to write the gradients; null members are not computed
  /// \param d_b receives the gradient by b, `[batch, rows, n]`; may be null
  /// \param stream the stream
  /// \param workspace memory for the call: gradient_workspace_bytes()
  void vjp(const double* a, const double* b, std::int64_t rows, const double* w,
           const GramGradients& gradients, double* d_b, Stream stream, Memory workspace = {}) const;
  /// Computes the derivatives of the gradients of vjp() along a direction; see
  /// laplex::Gram::vjp_tangent().
  /// \param a the vectors a of f, `[batch, rows, n]`
  /// \param b the vectors b of f, `[batch, rows, n]`
  /// \param rows the number of vectors of each matrix
  /// \param w the weights of log D, `[batch, n]`; null: 0
  /// \param tangent the direction
  /// \param gradients where to write the derivatives; null members are not computed
  /// \param d_a receives the gradient by a, `[batch, rows, n]`; may be null
  /// \param d_b receives the gradient by b, `[batch, rows, n]`; may be null
  /// \param d_w receives the gradient by w, `[batch, n]`; may be null
  /// \param stream the stream
  /// \param workspace memory for the call: gradient_workspace_bytes() with `tangent`
  void vjp_tangent(const double* a, const double* b, std::int64_t rows, const double* w,
                   const GramTangent& tangent, const GramGradients& gradients, double* d_a,
                   double* d_b, double* d_w, Stream stream, Memory workspace = {}) const;

  /// The bytes of `storage` that the constructor needs. Reads the sizes and the blocks, and of
  /// weights whether there are any.
  /// \param covariance the description
  [[nodiscard]] static std::size_t storage_bytes(const Covariance& covariance);
  /// The bytes of `scratch` that the constructor needs.
  /// \param covariance the description
  [[nodiscard]] static std::size_t scratch_bytes(const Covariance& covariance);
  /// The bytes of `storage` that the constructor needs without weights and blocks.
  /// \param batch the number of matrices
  /// \param n the number of anchors of each matrix
  /// \param width the number of columns of H
  [[nodiscard]] static std::size_t storage_bytes(std::int64_t batch, std::int64_t n,
                                                 std::int64_t width);
  /// The bytes of `scratch` that the constructor needs without weights and blocks.
  /// \param batch the number of matrices
  /// \param n the number of anchors of each matrix
  /// \param width the number of columns of H
  [[nodiscard]] static std::size_t scratch_bytes(std::int64_t batch, std::int64_t n,
                                                 std::int64_t width);
  /// The bytes of `workspace` that apply(), solve() and log_prob() need, and with 0 rows those that
  /// logdet() needs.
  /// \param rows the number of vectors of each matrix
  [[nodiscard]] std::size_t workspace_bytes(std::int64_t rows) const;
  /// The bytes of `workspace` that vjp() or vjp_tangent() needs.
  /// \param rows the number of vectors of each matrix
  /// \param tangent false for vjp(), true for vjp_tangent()
  [[nodiscard]] std::size_t gradient_workspace_bytes(std::int64_t rows, bool tangent) const;

  /// The number of matrices.
  [[nodiscard]] std::int64_t batch() const noexcept;
  /// The number n of anchors of each matrix.
  [[nodiscard]] std::int64_t size() const noexcept;
  /// The number of columns of H.
  [[nodiscard]] std::int64_t width() const noexcept;
  /// Whether any matrix has two equal anchors.
  [[nodiscard]] bool has_ties() const noexcept;
  /// The bytes of device memory that the factors hold.
  [[nodiscard]] std::int64_t nbytes() const noexcept;

 private:
  std::shared_ptr<const detail::GramState> state_;
};

}  // namespace laplex::cuda
