/// \file
/// The plan of a Laplace kernel: everything that depends on the anchors, computed once and applied
/// many times.
///
/// Plan implements the operator class of arXiv 2605.24584 ("LAPLEX"). The matrix, which is never
/// formed, is
///
///     K[i,j] = exp(-(1/lengthscale - i*frequency) * |x_i - y_j|) * exp(i * (theta_i - phi_j))
///
/// with targets `x[n]`, sources `y[m]` and phases `theta[n]` and `phi[m]`. A product costs O(n + m)
/// after one sort.
#pragma once

#include <laplex/error.hpp>
#include <laplex/line_part.hpp>

#include <array>
#include <complex>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

namespace laplex {

/// \cond
namespace detail {
template <class T>
class State;
template <class T>
struct Spare;
}  // namespace detail
/// \endcond

/// The shape of a kernel: a function of `r = |x - y| / lengthscale`, times the phases.
enum class Profile {
  matern12 = 0,  ///< `exp(-r)`, the Laplace kernel
  matern32 = 1,  ///< `(1 + s) exp(-s)` with `s = sqrt(3) r`
  matern52 = 2,  ///< `(1 + s + s^2/3) exp(-s)` with `s = sqrt(5) r`
};

/// The pairs of anchors that a matrix has entries for; the others are 0. A source that is tied with
/// a target counts on either side.
enum class Side {
  both = 0,   ///< all pairs
  left = 1,   ///< sources at or below the target, `y_j <= x_i`
  right = 2,  ///< sources at or above the target, `y_j >= x_i`
};

/// Describes the matrix that a plan is built from: sizes, and pointers to the caller's arrays.
///
/// The plan's constructor reads the arrays. Nothing is copied before it, and the arrays are not
/// needed after it. All arrays are contiguous and in row-major order.
/// \tparam T the type of anchors and phases, float or double
template <class T>
struct Kernel {
  std::int64_t heads = 1;        ///< The number of independent matrices of the same shape.
  std::int64_t num_targets = 0;  ///< The number n of targets of each head.
  std::int64_t num_sources = 0;  ///< The number m of sources of each head; n in the self case.
  const T* targets = nullptr;    ///< The targets, `[heads, n]`; `[n]` with `shared_anchors`.
  /// The sources, `[heads, m]`; `[m]` with `shared_anchors`. Null selects the self case, in which
  /// the targets are the sources.
  const T* sources = nullptr;
  /// The lengthscales, `[heads]`, positive, in the unit of the anchors. Null stands for 1.
  const double* lengthscale = nullptr;
  /// The frequencies, `[heads]`, in radians per unit of the anchors. Null: no oscillation.
  const double* frequency = nullptr;
  const T* target_phase = nullptr;      ///< The phases theta, `[heads, n]`, in radians. Null: 0.
  const T* source_phase = nullptr;      ///< The phases phi, `[heads, m]`, in radians. Null: 0.
  Profile profile = Profile::matern12;  ///< The shape of the kernel.
  /// The sources that count for each target. The transpose of a matrix with Side::left sums the
  /// targets at or above each source. Derivatives by the anchors are those of the entries: which
  /// pairs count is held fixed, and so is the jump at `x_i = y_j`.
  Side side = Side::both;
  bool real_part = false;  ///< Use Re K (the cosine form), which maps real to real.
  /// The number of threads of calls that do not give their own. 0: default_num_threads().
  int num_threads = 0;
  /// Whether all heads have the same anchors: `targets` is then `[n]` and `sources` `[m]`, sorted
  /// once. All other arrays, results and gradients stay per head; the sum over the heads of a
  /// gradient by the anchors is that by the shared ones.
  bool shared_anchors = false;
  /// The place of these anchors in a line that several processes share, or null. There is one head
  /// then. All processes make the plan and call its members together, with the same arguments but
  /// for the contents and sizes of their parts. Values and results are those of the part, and the
  /// derivatives by lengthscale and frequency those of the whole line. Whether a pointer above is
  /// null must be the same on all processes, also on one without targets or sources. Such a plan
  /// has no update(), rank() and to_dense(), and one call runs at a time.
  std::shared_ptr<const LinePart> part = nullptr;
};

/// What update() replaces, in the shapes of the Kernel. Null members stay as they are.
/// \tparam T the type of anchors, float or double
template <class T>
struct Changes {
  const T* targets = nullptr;  ///< The new targets, in the shape of Kernel::targets.
  /// The new sources, likewise. Given exactly if `targets` is, unless in the self case.
  const T* sources = nullptr;
  const double* lengthscale = nullptr;  ///< The new lengthscales, `[heads]`.

  /// Whether the anchors are among them. (The arrays of no anchors may be null.)
  [[nodiscard]] bool moves_anchors() const noexcept {
    return targets != nullptr || sources != nullptr || lengthscale == nullptr;
  }
};

/// The matrix that a product uses.
enum class Mode {
  plain = 0,      ///< K, from sources to targets.
  transpose = 1,  ///< The transpose of K, from targets to sources.
  adjoint = 2,    ///< The conjugate transpose of K, from targets to sources.
};

/// The power of `sign(x_i - y_j)` in front of the kernel, where sign(0) = 0.
enum class Parity {
  even = 0,    ///< No sign.
  odd = 1,     ///< The sign. Tied pairs contribute nothing.
  strict = 2,  ///< The square of the sign. Tied pairs contribute nothing; all others are unchanged.
};

/// A member of the family of sums that is closed under differentiation by every parameter:
///
///     u_i = sum_j sign(x_i - y_j)^parity * p(|x_i - y_j| / lengthscale) * K[i,j] * v_j
///
/// with a polynomial p. The lengthscale is that of the exponential: for a Matern kernel, divide
/// Kernel::lengthscale by sqrt(3) or sqrt(5). A Matern-3/2 kernel leaves degrees up to 3 for p, a
/// Matern-5/2 kernel degrees up to 2.
struct Term {
  Parity parity = Parity::even;  ///< The power of the sign.
  /// The coefficients of the powers 0 to 4 of the scaled distance. All are computed in one pass.
  std::array<double, 5> polynomial = {1.0, 0.0, 0.0, 0.0, 0.0};
  /// Whether the term comes from a kernel without a kink: then tied pairs count in derivatives by
  /// the anchors of a term with a sign. Matern-3/2 and -5/2 kernels have none.
  bool smooth = false;
  /// The cumulative sum instead, in which an entry is the integral of the kernel from the source to
  /// the target:
  ///
  ///     u_i = sum_j L((x_i - y_j) / lengthscale) v_j,
  ///     L(t) = exp(t)/2 for t < 0, and 1 - exp(-t)/2 for t >= 0.
  ///
  /// L is the distribution function of the standard Laplace distribution, so that the sum for
  /// `v_j = 1` is a smooth count of the sources below a target. It has a derivative at ties. The
  /// other members must be as they are by default; for real values and the kernel matern12 without
  /// phases and frequency, of Side::both, on a line of one process. The error is at most 1e-14
  /// (double) or 1e-6 (float) times `sum_j L |v_j|`.
  bool cumulative = false;
};

/// The layout of a batch of vectors. The vector of head h and row r starts at
/// `base + h * head + r * row`, and its entries are contiguous.
struct Strides {
  std::int64_t head = 0;  ///< The distance between heads, in elements of the vectors' type.
  std::int64_t row = 0;   ///< The distance between rows, in elements of the vectors' type.
};

/// Receives the first derivatives of `Re<g, K v>`. Null members are not computed.
///
/// The gradients of everything but the values are summed over the rows. The convention at ties is
/// sign(0) = 0: tied pairs contribute nothing to derivatives by anchors. In the self case an anchor
/// is both a target and a source, and its gradient is the sum of `targets` and `sources`; where
/// both are the same array, it receives that sum.
/// \tparam T the type of anchors and phases, float or double
/// \tparam V the type of the values, T or `std::complex<T>`
template <class T, class V>
struct Gradients {
  V* values = nullptr;            ///< By the values, `[heads, rows, m]`, contiguous.
  T* targets = nullptr;           ///< By the targets, `[heads, n]`.
  T* sources = nullptr;           ///< By the sources, `[heads, m]`.
  double* lengthscale = nullptr;  ///< By the lengthscales, `[heads]`.
  double* frequency = nullptr;    ///< By the frequencies, `[heads]`.
  T* target_phase = nullptr;      ///< By the phases of the targets, `[heads, n]`.
  T* source_phase = nullptr;      ///< By the phases of the sources, `[heads, m]`.
};

/// The cotangents of the gradients that Plan::vjp gives. Null members stand for zeros.
/// \tparam T the type of anchors and values, float or double
template <class T>
struct GradientCotangents {
  const T* values = nullptr;            ///< Of the gradient by the values, `[heads, rows, m]`.
  const T* targets = nullptr;           ///< Of the gradient by the targets, `[heads, n]`.
  const T* sources = nullptr;           ///< Of the gradient by the sources, `[heads, m]`.
  const double* lengthscale = nullptr;  ///< Of the gradient by the lengthscales, `[heads]`.
};

/// Receives the gradients of Plan::second_vjp. Null members are not computed.
/// \tparam T the type of anchors and values, float or double
template <class T>
struct SecondGradients {
  T* cotangent = nullptr;         ///< By the cotangent g of the product, `[heads, rows, n]`.
  T* values = nullptr;            ///< By the values, `[heads, rows, m]`.
  T* targets = nullptr;           ///< By the targets, `[heads, n]`.
  T* sources = nullptr;           ///< By the sources, `[heads, m]`.
  double* lengthscale = nullptr;  ///< By the lengthscales, `[heads]`.
};

/// The matrices of a Kernel, ready for products and gradients.
///
/// **Accuracy.** The error is at most 1e-14 (double) or 1e-6 (float) times
/// `sum_j |K_ij| |v_j|`, at every size and spread of the anchors; with Kernel::side, of the sources
/// on that side alone. Sums are accumulated in double.
/// The results depend only on the data: their bits do not depend on the number of threads or on the
/// history of updates.
///
/// **Threads.** Const members are safe to call from several threads at once, also while another
/// thread calls update().
/// Members that take `num_threads` treat 0 as Kernel::num_threads.
///
/// **Errors.** Members throw Error for arguments outside their domain (`invalid_argument`), also
/// for a null pointer to an array that has entries, and for lack of memory (`out_of_memory`). A
/// plan that was moved from has no heads and no anchors, and its other members throw.
/// \tparam T the type of anchors, phases and values, float or double
template <class T>
class Plan {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "float or double");

 public:
  /// Sorts the anchors and computes the tables that products use.
  /// \param kernel the description; its arrays are not needed afterwards
  /// \throws Error `invalid_argument` for anchors or phases that are NaN or infinite, a lengthscale
  ///   that is not positive, and impossible sizes; `out_of_memory`
  explicit Plan(const Kernel<T>& kernel);

  /// Replaces the anchors by others of the same shapes. The order of the anchors is repaired where
  /// it is nearly right, and computed anew otherwise. The plan is unchanged if this throws.
  /// \param targets the new targets, in the shape of Kernel::targets
  /// \param sources the new sources, likewise; null in the self case
  /// \param num_threads the number of threads
  void update(const T* targets, const T* sources = nullptr, int num_threads = 0) {
    update(Changes<T>{targets, sources, nullptr}, num_threads);
  }

  /// Replaces anchors, lengthscales, or both at once. A lengthscale alone leaves the order of the
  /// anchors as it is, and costs half of a new plan. The plan is unchanged if this throws.
  /// \param changes what to replace
  /// \param num_threads the number of threads
  void update(const Changes<T>& changes, int num_threads = 0);

  /// Computes a product `u = K v`, `K^T v` or `K^H v` for each row of each head.
  ///
  /// The type V of the values is T or `std::complex<T>`. The type R of the result is complex if and
  /// only if `result_is_complex<V>()`.
  /// \param v the values, of m entries a vector; of n entries unless `mode` is Mode::plain
  /// \param u receives the result, of n entries a vector (otherwise m); must not overlap v
  /// \param rows the number of vectors of each head
  /// \param v_strides the layout of v
  /// \param u_strides the layout of u
  /// \param mode the matrix: K, its transpose or its adjoint
  /// \param term the member of the family of sums; the default is the product itself
  /// \param num_threads the number of threads
  template <class V, class R>
  void apply(const V* v, R* u, std::int64_t rows, Strides v_strides, Strides u_strides,
             Mode mode = Mode::plain, Term term = {}, int num_threads = 0) const {
    apply_any(as_scalars(v), is_complex<V>, rows, v_strides, as_scalars(u), is_complex<R>,
              u_strides, mode, term, num_threads);
  }

  /// Computes products for contiguous arrays.
  /// \param v the values, `[heads, rows, m]`; `[heads, rows, n]` unless `mode` is Mode::plain
  /// \param u receives the result, `[heads, rows, n]` (otherwise `[heads, rows, m]`)
  /// \param rows the number of vectors of each head
  /// \param mode the matrix: K, its transpose or its adjoint
  template <class V, class R>
  void apply(const V* v, R* u, std::int64_t rows = 1, Mode mode = Mode::plain) const {
    const std::int64_t in = mode == Mode::plain ? num_sources() : num_targets();
    const std::int64_t out = mode == Mode::plain ? num_targets() : num_sources();
    apply(v, u, rows, contiguous(rows, in), contiguous(rows, out), mode);
  }

  /// Computes `v = K^T u` for contiguous arrays.
  /// \param u the values at the targets, `[heads, rows, n]`
  /// \param v receives the result at the sources, `[heads, rows, m]`
  /// \param rows the number of vectors of each head
  template <class V, class R>
  void transpose(const V* u, R* v, std::int64_t rows = 1) const {
    apply(u, v, rows, Mode::transpose);
  }

  /// Computes `v = K^H u` for contiguous arrays.
  /// \param u the values at the targets, `[heads, rows, n]`
  /// \param v receives the result at the sources, `[heads, rows, m]`
  /// \param rows the number of vectors of each head
  template <class V, class R>
  void adjoint(const V* u, R* v, std::int64_t rows = 1) const {
    apply(u, v, rows, Mode::adjoint);
  }

  /// Computes the two halves of a product, `K v = left + right`.
  /// \param v the values, of m entries a vector
  /// \param left receives the sums over the sources at or below each target, of n entries a vector
  /// \param right receives the sums over the sources above each target, of n entries a vector
  /// \param rows the number of vectors of each head
  /// \param v_strides the layout of v
  /// \param u_strides the layout of left and of right
  /// \param num_threads the number of threads
  /// \throws Error `invalid_argument` for a plan with Kernel::side, whose product is one of them
  template <class V, class R>
  void half_sums(const V* v, R* left, R* right, std::int64_t rows, Strides v_strides,
                 Strides u_strides, int num_threads = 0) const {
    half_sums_any(as_scalars(v), is_complex<V>, rows, v_strides, as_scalars(left),
                  as_scalars(right), is_complex<R>, u_strides, num_threads);
  }

  /// Computes quantiles of the sum of a Laplace distribution at each anchor: the b with
  ///
  ///     sum_j L((b - x_j) / lengthscale) = level,
  ///
  /// where L is the distribution function of the standard Laplace distribution, see
  /// Term::cumulative. One pass finds the sums at the anchors, a search the two neighbours of b,
  /// and between them b has a closed form. It keeps the digits of its distance from a neighbour,
  /// and it does not descend where the levels ascend. In single precision the sums have errors of
  /// 1e-6, so that many anchors should be doubles.
  /// \param levels the levels, `[heads, count]`, each above 0 and below the number of anchors
  /// \param count the number of levels of each head
  /// \param result receives b, `[heads, count]`
  /// \param num_threads the number of threads
  /// \throws Error `invalid_argument` for other levels, and unless this is a plan of the self case
  ///   for the kernel matern12 without phases and frequency, of Side::both, on a line of one
  ///   process
  void quantiles(const double* levels, std::int64_t count, double* result,
                 int num_threads = 0) const;

  /// Computes first-order gradients of `Re<g, K v>`: a vector-Jacobian product. Complex gradients
  /// follow PyTorch's convention.
  /// \param v the values, of m entries a vector
  /// \param v_strides the layout of v
  /// \param g the cotangent, of the result's type, of n entries a vector
  /// \param g_strides the layout of g
  /// \param rows the number of vectors of each head
  /// \param gradients where to write the gradients; null members are not computed
  /// \param term the member of the family of sums in place of K
  /// \param num_threads the number of threads
  template <class V, class R>
  void vjp(const V* v, Strides v_strides, const R* g, Strides g_strides, std::int64_t rows,
           const Gradients<T, V>& gradients, Term term = {}, int num_threads = 0) const {
    Gradients<T, T> scalars{
        as_scalars(gradients.values), gradients.targets,   gradients.sources,
        gradients.lengthscale,        gradients.frequency, gradients.target_phase,
        gradients.source_phase};
    vjp_any(as_scalars(v), is_complex<V>, v_strides, as_scalars(g), is_complex<R>, g_strides, rows,
            scalars, contiguous(rows, num_sources()), term, num_threads);
  }

  /// Backpropagates through vjp(): computes the gradients of the sum of its results, each times its
  /// cotangent. For real values and the Laplace kernel without phases and frequency.
  /// \param v the values, of m entries a vector
  /// \param v_strides the layout of v
  /// \param g the cotangent of the product, of n entries a vector
  /// \param g_strides the layout of g
  /// \param rows the number of vectors of each head
  /// \param cotangents the cotangents of the gradients
  /// \param gradients where to write the results
  /// \param num_threads the number of threads
  /// \throws Error `invalid_argument` for other kernels
  void second_vjp(const T* v, Strides v_strides, const T* g, Strides g_strides, std::int64_t rows,
                  const GradientCotangents<T>& cotangents, const SecondGradients<T>& gradients,
                  int num_threads = 0) const;

  /// Copies the anchors out, in the order in which they were given. All arrays are from the same
  /// update. An anchor given as -0 comes back as 0.
  /// \param targets receives the targets, in the shape of Kernel::targets; may be null
  /// \param sources receives the sources, likewise; may be null
  /// \param lengthscale receives the lengthscales, `[heads]`; may be null
  void anchors(T* targets, T* sources, double* lengthscale = nullptr) const;

  /// The rank of each head's matrix in exact arithmetic, from the order of the anchors alone, in
  /// O(n + m).
  ///
  /// A target that is tied with a source counts 1 and splits the line. Between such ties, the rank
  /// is the largest number of disjoint pairs of a target and a neighbouring source.
  /// \return the ranks, `[heads]`
  /// \throws Error `invalid_argument` for the cosine form, for other profiles than
  /// Profile::matern12,
  ///   and for a plan with Kernel::side, for which no such rule is known
  [[nodiscard]] std::vector<std::int64_t> rank() const;

  /// Writes the dense matrix, for tests and pictures. The type R is complex if and only if
  /// kernel_is_complex().
  /// \param matrix receives the entries, `[heads, n, m]`
  template <class R>
  void to_dense(R* matrix) const {
    to_dense_any(as_scalars(matrix), is_complex<R>);
  }

  /// The number of heads.
  [[nodiscard]] std::int64_t heads() const noexcept;
  /// The number n of targets of each head.
  [[nodiscard]] std::int64_t num_targets() const noexcept;
  /// The number m of sources of each head.
  [[nodiscard]] std::int64_t num_sources() const noexcept;
  /// Whether the sources are the targets.
  [[nodiscard]] bool is_self() const noexcept;
  /// Whether the matrix has complex entries: it has phases or a frequency, and `real_part` is
  /// false.
  [[nodiscard]] bool kernel_is_complex() const noexcept;
  /// Whether the result of a product with values of type V is complex: if V or the kernel is.
  template <class V>
  [[nodiscard]] bool result_is_complex() const noexcept {
    return is_complex<V> || kernel_is_complex();
  }
  /// The bytes of memory that the plan holds now: the tables, those that derivatives beyond the
  /// first have asked for, and, after the first update(), memory that the next one will reuse.
  [[nodiscard]] std::int64_t nbytes() const noexcept;

  /// The untyped form of apply(). Complex numbers are pairs of T, and strides count elements.
  /// \param v the values
  /// \param v_complex whether the values are complex
  /// \param rows the number of vectors of each head
  /// \param v_strides the layout of v
  /// \param u receives the result
  /// \param u_complex whether the result is complex
  /// \param u_strides the layout of u
  /// \param mode the matrix: K, its transpose or its adjoint
  /// \param term the member of the family of sums
  /// \param num_threads the number of threads
  void apply_any(const T* v, bool v_complex, std::int64_t rows, Strides v_strides, T* u,
                 bool u_complex, Strides u_strides, Mode mode, Term term, int num_threads) const;
  /// The untyped form of half_sums().
  /// \param v the values
  /// \param v_complex whether the values are complex
  /// \param rows the number of vectors of each head
  /// \param v_strides the layout of v
  /// \param left receives the sums over the sources at or below each target
  /// \param right receives the sums over the sources above each target
  /// \param u_complex whether the results are complex
  /// \param u_strides the layout of left and of right
  /// \param num_threads the number of threads
  void half_sums_any(const T* v, bool v_complex, std::int64_t rows, Strides v_strides, T* left,
                     T* right, bool u_complex, Strides u_strides, int num_threads) const;
  /// The untyped form of vjp().
  /// \param v the values
  /// \param v_complex whether the values are complex
  /// \param v_strides the layout of v
  /// \param g the cotangent
  /// \param g_complex whether the cotangent is complex
  /// \param g_strides the layout of g
  /// \param rows the number of vectors of each head
  /// \param gradients where to write the gradients; null members are not computed; those by the
  /// values may be written over v, in its layout
  /// \param d_strides the layout of the gradients by the values
  /// \param term the member of the family of sums in place of K
  /// \param num_threads the number of threads
  void vjp_any(const T* v, bool v_complex, Strides v_strides, const T* g, bool g_complex,
               Strides g_strides, std::int64_t rows, const Gradients<T, T>& gradients,
               Strides d_strides, Term term, int num_threads) const;
  /// The untyped form of to_dense().
  /// \param matrix receives the entries
  /// \param matrix_complex whether the entries are complex
  void to_dense_any(T* matrix, bool matrix_complex) const;

 private:
  template <class V>
  static constexpr bool is_complex = std::is_same_v<std::remove_const_t<V>, std::complex<T>>;

  /// Of sizes that are not checked yet: unsigned numbers may overflow.
  static Strides contiguous(std::int64_t rows, std::int64_t count) {
    return {static_cast<std::int64_t>(static_cast<std::uint64_t>(rows) *
                                      static_cast<std::uint64_t>(count)),
            count};
  }

  template <class V>
  static auto as_scalars(V* p) {
    static_assert(is_complex<V> || std::is_same_v<std::remove_const_t<V>, T>,
                  "values must be T or std::complex<T>");
    // The standard lays std::complex<T> out as T[2] and allows this cast.
    using Scalar = std::conditional_t<std::is_const_v<V>, const T, T>;
    return reinterpret_cast<Scalar*>(p);
  }

  [[nodiscard]] std::shared_ptr<const detail::State<T>> state() const;

  std::shared_ptr<detail::State<T>> state_;  ///< never changed once it is here
  std::shared_ptr<detail::Spare<T>> spare_;  ///< memory of former states, for update()
};

extern template class Plan<float>;
extern template class Plan<double>;

}  // namespace laplex
