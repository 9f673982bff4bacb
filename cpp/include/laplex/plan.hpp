/// The plan: everything that depends on the anchors, computed once and applied many times.
///
/// An implementation of the operator class of arXiv 2605.24584 ("LAPLEX"). The matrix, never
/// formed, is
///
///     K[i,j] = exp(-(1/lengthscale - i*frequency) * |x_i - y_j|) * exp(i * (theta_i - phi_j))
///
/// with targets x[n], sources y[m], phases theta[n], phi[m]. Products cost O(n + m) after one sort.
#pragma once

#include <laplex/error.hpp>

#include <complex>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

namespace laplex {

namespace detail {
template <class T>
class State;
template <class T>
struct Spare;
}  // namespace detail

/// What a plan is built from. Nothing is copied before the constructor and nothing is referred to
/// after it.
template <class T>
struct Kernel {
  std::int64_t heads = 1;        ///< independent matrices of the same shape
  std::int64_t num_targets = 0;  ///< n
  std::int64_t num_sources = 0;  ///< m; must be n in the self case
  const T* targets = nullptr;    ///< [heads, n]
  const T* sources = nullptr;    ///< [heads, m]; null: the self case, sources are the targets
  const double* lengthscale = nullptr;  ///< [heads], positive; null: 1
  const double* frequency = nullptr;    ///< [heads]; null: the kernel does not oscillate
  const T* target_phase = nullptr;      ///< [heads, n], radians; null: 0
  const T* source_phase = nullptr;      ///< [heads, m], radians; null: 0
  bool real_part = false;               ///< use Re K (the cosine form): real in, real out
  int num_threads = 0;                  ///< default for the calls; 0: default_num_threads()
};

/// Which of the three matrices a product uses.
enum class Mode { plain = 0, transpose = 1, adjoint = 2 };

/// sign(x_i - y_j)^s in front of the kernel, sign(0) = 0. `even`: none. `odd`: the sign, so tied
/// pairs drop out. `strict`: its square, so tied pairs drop out and the rest keeps its value.
enum class Parity { even = 0, odd = 1, strict = 2 };

/// The family of sums that is closed under differentiation by every parameter:
///     u_i = sum_j sign(x_i - y_j)^parity * (|x_i - y_j| / lengthscale)^moment * K[i,j] * v_j.
struct Term {
  Parity parity = Parity::even;
  int moment = 0;  ///< 0..4
};

/// Where vector (head h, row r) starts: base + h * head_stride + r * row_stride, in elements of its
/// type. The entries of a vector are contiguous.
struct Strides {
  std::int64_t head = 0;
  std::int64_t row = 0;
};

/// First derivatives of Re<g, K v>; null entries are not computed. Gradients of everything but the
/// values are summed over the rows. At ties sign(0) = 0: tied pairs do not contribute to
/// derivatives by anchors. In the self case `targets` and `sources` are the two roles of one
/// anchor: add them.
template <class T, class V>
struct Gradients {
  V* values = nullptr;            ///< [heads, rows, m], contiguous
  T* targets = nullptr;           ///< [heads, n]
  T* sources = nullptr;           ///< [heads, m]
  double* lengthscale = nullptr;  ///< [heads]
  double* frequency = nullptr;    ///< [heads]
  T* target_phase = nullptr;      ///< [heads, n]
  T* source_phase = nullptr;      ///< [heads, m]
};

/// T is float or double: the type of anchors, phases and values; sums are accumulated in double
/// either way.
///
/// Accuracy: |error| <= 1e-14 (double) or 1e-6 (float) times sum_j |K_ij| |v_j|, at every size and
/// spread. The result depends on the data alone: not on the number of threads, not on the history
/// of updates. Const calls are safe from several threads, also while another thread calls update().
template <class T>
class Plan {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "float or double");

 public:
  /// Throws Error: NaN or infinite anchors or phases, lengthscale not positive, impossible sizes,
  /// no memory.
  explicit Plan(const Kernel<T>& kernel);

  /// Replaces the anchors (same shapes). An order that is nearly right is repaired rather than
  /// sorted anew. The plan is unchanged if this throws.
  void update(const T* targets, const T* sources = nullptr, int num_threads = 0);

  /// u = K v, K^T v or K^H v. V is T or std::complex<T>; R is complex iff result_is_complex<V>().
  /// plain: v [m], u [n]; otherwise v [n], u [m]. u must not overlap v.
  template <class V, class R>
  void apply(const V* v, R* u, std::int64_t rows, Strides v_strides, Strides u_strides,
             Mode mode = Mode::plain, Term term = {}, int num_threads = 0) const {
    apply_any(as_scalars(v), is_complex<V>, rows, v_strides, as_scalars(u), is_complex<R>,
              u_strides, mode, term, num_threads);
  }

  /// The same for contiguous [heads, rows, m] -> [heads, rows, n] (n and m exchanged for the other
  /// modes).
  template <class V, class R>
  void apply(const V* v, R* u, std::int64_t rows = 1, Mode mode = Mode::plain) const {
    const std::int64_t in = mode == Mode::plain ? num_sources() : num_targets();
    const std::int64_t out = mode == Mode::plain ? num_targets() : num_sources();
    apply(v, u, rows, Strides{rows * in, in}, Strides{rows * out, out}, mode);
  }

  template <class V, class R>
  void transpose(const V* u, R* v, std::int64_t rows = 1) const {
    apply(u, v, rows, Mode::transpose);
  }

  template <class V, class R>
  void adjoint(const V* u, R* v, std::int64_t rows = 1) const {
    apply(u, v, rows, Mode::adjoint);
  }

  /// The two halves of u = left + right: the sources at or below each target, and those above it.
  template <class V, class R>
  void half_sums(const V* v, R* left, R* right, std::int64_t rows, Strides v_strides,
                 Strides u_strides, int num_threads = 0) const {
    half_sums_any(as_scalars(v), is_complex<V>, rows, v_strides, as_scalars(left),
                  as_scalars(right), is_complex<R>, u_strides, num_threads);
  }

  /// First-order gradients for a cotangent g of the result's type (PyTorch's convention for complex
  /// numbers).
  template <class V, class R>
  void vjp(const V* v, Strides v_strides, const R* g, Strides g_strides, std::int64_t rows,
           const Gradients<T, V>& gradients, int num_threads = 0) const {
    Gradients<T, T> scalars{
        as_scalars(gradients.values), gradients.targets,   gradients.sources,
        gradients.lengthscale,        gradients.frequency, gradients.target_phase,
        gradients.source_phase};
    vjp_any(as_scalars(v), is_complex<V>, v_strides, as_scalars(g), is_complex<R>, g_strides, rows,
            scalars, num_threads);
  }

  /// Copies the anchors out, [heads, n] and [heads, m], in the order they were given, both of one
  /// moment; either may be null. A -0 comes back as 0.
  void anchors(T* targets, T* sources) const;

  /// The rank of each head's matrix in exact arithmetic, from the order alone, in O(n + m): each
  /// tied target-source pair counts 1 and splits the line; between them, the largest number of
  /// disjoint neighbouring (target, source) pairs. Throws for the cosine form, where no such rule
  /// is known.
  [[nodiscard]] std::vector<std::int64_t> rank() const;

  /// The matrix itself, [heads, n, m]; for tests and pictures. R is complex iff
  /// kernel_is_complex().
  template <class R>
  void to_dense(R* matrix) const {
    to_dense_any(as_scalars(matrix), is_complex<R>);
  }

  [[nodiscard]] std::int64_t heads() const noexcept;
  [[nodiscard]] std::int64_t num_targets() const noexcept;
  [[nodiscard]] std::int64_t num_sources() const noexcept;
  [[nodiscard]] bool is_self() const noexcept;
  /// Whether the matrix has complex entries (phases or a frequency, and not real_part).
  [[nodiscard]] bool kernel_is_complex() const noexcept;
  template <class V>
  [[nodiscard]] bool result_is_complex() const noexcept {
    return is_complex<V> || kernel_is_complex();
  }
  /// Bytes held now: the tables, those that derivatives beyond the first have asked for, and from
  /// the first update() on the memory of the next.
  [[nodiscard]] std::int64_t nbytes() const noexcept;

  /// The untyped forms behind the templates: complex numbers as pairs of T, strides in elements.
  void apply_any(const T* v, bool v_complex, std::int64_t rows, Strides v_strides, T* u,
                 bool u_complex, Strides u_strides, Mode mode, Term term, int num_threads) const;
  void half_sums_any(const T* v, bool v_complex, std::int64_t rows, Strides v_strides, T* left,
                     T* right, bool u_complex, Strides u_strides, int num_threads) const;
  void vjp_any(const T* v, bool v_complex, Strides v_strides, const T* g, bool g_complex,
               Strides g_strides, std::int64_t rows, const Gradients<T, T>& gradients,
               int num_threads) const;
  void to_dense_any(T* matrix, bool matrix_complex) const;

 private:
  template <class V>
  static constexpr bool is_complex = std::is_same_v<std::remove_const_t<V>, std::complex<T>>;

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
