/// The covariance matrices of laplex/gram.hpp on a GPU: device pointers, a stream, memory from the
/// caller.
///
/// What differs from the CPU's, and why:
///  * The filter runs along all chunks of a line at once, from covariances that an associative scan
///    has found. Sums are formed in another order than on the CPU, but always in the same: the same
///    input gives the same bits.
///  * At most kMostColumns columns: a thread holds matrices of that size.
///  * The constructor waits for the stream, since it has to say what is singular, and so cannot run
///    in a stream that is captured. All other calls can, wait for nothing, and allocate nothing if
///    given a workspace.
///
/// Everything runs on the current device and on the given stream; pointers are device pointers of
/// that device. This header needs no CUDA header.
#pragma once

#include <laplex/cuda/device.hpp>
#include <laplex/cuda/plan.hpp>
#include <laplex/gram.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace laplex::cuda {

namespace detail {
struct GramState;
}

/// A factorised covariance matrix. Vectors are [batch, rows, n], contiguous.
class Gram {
 public:
  /// The most columns of H: sums of up to 8 real terms or 4 cosines.
  static constexpr std::int64_t kMostColumns = 8;

  /// All pointers of `covariance` are device pointers; Covariance::num_threads is not used.
  ///
  /// `storage` holds the factor from then on (storage_bytes); `scratch` is used until the call
  /// returns (scratch_bytes). Without storage the stream must outlive the matrix, which gives its
  /// memory back in it. Throws Error as laplex::Gram does, and for memory that is too small or not
  /// aligned, no memory, no device.
  Gram(const Covariance& covariance, Stream stream, Memory storage = {}, Memory scratch = {});

  /// See laplex::Gram. `out` may be `in`.
  void apply(Factor factor, bool scaled, const double* in, double* out, std::int64_t rows,
             Stream stream, Memory workspace = {}) const;

  /// x = A^-1 b. `x` may be `b`.
  void solve(const double* b, double* x, std::int64_t rows, Stream stream,
             Memory workspace = {}) const;

  /// log D_i, [batch, n].
  void log_variances(double* out, Stream stream) const;

  /// log det A, [batch].
  void logdet(double* out, Stream stream, Memory workspace = {}) const;

  /// The log density of N(0, A) at v, [batch, rows].
  void log_prob(const double* v, double* out, std::int64_t rows, Stream stream,
                Memory workspace = {}) const;

  /// The numbers of the anchors in ascending order, [batch, n].
  void order(std::int64_t* out, Stream stream) const;

  /// See laplex::Gram.
  void vjp(const double* a, const double* b, std::int64_t rows, const double* w,
           const GramGradients& gradients, double* d_b, Stream stream, Memory workspace = {}) const;
  void vjp_tangent(const double* a, const double* b, std::int64_t rows, const double* w,
                   const GramTangent& tangent, const GramGradients& gradients, double* d_a,
                   double* d_b, double* d_w, Stream stream, Memory workspace = {}) const;

  /// Bytes of memory to lend.
  [[nodiscard]] static std::size_t storage_bytes(std::int64_t batch, std::int64_t n,
                                                 std::int64_t width);
  [[nodiscard]] static std::size_t scratch_bytes(std::int64_t batch, std::int64_t n,
                                                 std::int64_t width);
  /// For apply(), solve() and log_prob(), and with no rows for logdet().
  [[nodiscard]] std::size_t workspace_bytes(std::int64_t rows) const;
  /// For vjp(), or with `tangent` for vjp_tangent().
  [[nodiscard]] std::size_t gradient_workspace_bytes(std::int64_t rows, bool tangent) const;

  [[nodiscard]] std::int64_t batch() const noexcept;
  [[nodiscard]] std::int64_t size() const noexcept;
  [[nodiscard]] std::int64_t width() const noexcept;
  [[nodiscard]] bool has_ties() const noexcept;
  /// Bytes of device memory.
  [[nodiscard]] std::int64_t nbytes() const noexcept;

 private:
  std::shared_ptr<const detail::GramState> state_;
};

}  // namespace laplex::cuda
