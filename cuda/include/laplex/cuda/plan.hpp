/// The plan of laplex/plan.hpp on a GPU: device pointers, a stream, memory from the caller.
///
/// What differs from the CPU's, and why:
///  * A plan holds the order of the anchors alone. Lengthscales, frequencies and phases are read
///    where they are, at every call, so that they may be trained without a new plan: their memory
///    must live as long as the plan is used.
///  * Construction and update() look at the anchors and wait for what they find (NaN; already
///    sorted). Products and gradients never wait for the device, and allocate nothing if given a
///    workspace.
///  * Sums are accumulated in double, in a fixed order: the same input gives the same bits, run for
///    run.
///
/// **In a stream that is captured into a graph** products and gradients are captured as they are,
/// and go on with the order that the plan has. update(), or a plan built there in storage that is
/// lent, is captured as a sort: every replay then takes the anchors as they are by then. Nothing is
/// looked at: NaN among them makes NaN. What was captured is so of the plan only once the graph has
/// run, and every pointer and all lent memory must live as long as the graph is replayed.
///
/// Everything runs on the current device and on the given stream; pointers are device pointers of
/// that device unless said otherwise, aligned to their numbers. This header needs no CUDA header.
#pragma once

#include <laplex/cuda/device.hpp>
#include <laplex/plan.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace laplex::cuda {

/// Device memory lent by the caller, aligned to 16 bytes. Null: the library allocates for itself,
/// ordered in the stream.
struct Memory {
  void* data = nullptr;
  std::size_t bytes = 0;
};

namespace detail {
template <class T>
class State;
}

/// How the entries of a vector are stored; half precision goes with Plan<float> and is widened on
/// the way in and rounded on the way out, and complex numbers are pairs of T.
enum class Storage { single_or_double, half, bfloat16 };

/// `rows` vectors for each head: see laplex::Strides.
struct Vectors {
  void* data = nullptr;
  bool complex = false;
  Strides strides{};
  Storage storage = Storage::single_or_double;
};
struct ConstVectors {
  const void* data = nullptr;
  bool complex = false;
  Strides strides{};
  Storage storage = Storage::single_or_double;

  ConstVectors() = default;
  ConstVectors(const void* p, bool is_complex, Strides s,
               Storage stored = Storage::single_or_double)
      : data(p), complex(is_complex), strides(s), storage(stored) {}
  ConstVectors(const Vectors& v)  // NOLINT(google-explicit-constructor): as pointers convert
      : data(v.data), complex(v.complex), strides(v.strides), storage(v.storage) {}
};

/// T is float or double: the type of anchors and phases. Copies share the order of their anchors.
template <class T>
class Plan {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "float or double");

 public:
  /// All pointers of `kernel` are device pointers; Kernel::num_threads is not used.
  ///
  /// `storage` holds the order from then on (storage_bytes); `scratch` is used until the call
  /// returns (scratch_bytes). Without storage the stream must outlive the plan, which gives its
  /// memory back in it. Waits for the stream, once for each of anchors, lengthscale and frequency.
  /// Throws Error: NaN or infinite anchors, lengthscale not positive, impossible sizes, memory
  /// that is too small or not aligned, no memory, no device.
  Plan(const Kernel<T>& kernel, Stream stream, Memory storage = {}, Memory scratch = {});

  /// A plan on the same anchors with other lengthscales, frequencies, phases or real_part. Only
  /// pointers are taken over: nothing is looked at, and a lengthscale that is not positive makes
  /// NaN.
  [[nodiscard]] Plan with_parameters(const Kernel<T>& kernel) const;

  /// Moves the anchors, for all copies of this plan too. An order that is still right is kept. The
  /// plan is unchanged if this throws. Waits for the stream once. Throws Error also if products
  /// were captured while anchors ascended, and these do not or are not looked at: in one capture,
  /// update first, then apply.
  void update(const T* targets, const T* sources, Stream stream, Memory scratch = {});

  /// Whether the plan's anchors are these, number by number. Waits for the stream once; `scratch`
  /// of 64 bytes.
  [[nodiscard]] bool holds(const T* targets, const T* sources, Stream stream,
                           Memory scratch = {}) const;

  /// u = K v, K^T v or K^H v, and the family of `Term`: see laplex::Plan::apply. The result is
  /// complex iff the values or the kernel are, and half if it may be stored so.
  void apply(const ConstVectors& values, std::int64_t rows, const Vectors& result, Stream stream,
             Mode mode = Mode::plain, Term term = {}, Memory workspace = {}) const;

  /// The two halves of u = left + right; both laid out alike.
  void half_sums(const ConstVectors& values, std::int64_t rows, const Vectors& left,
                 const Vectors& right, Stream stream, Memory workspace = {}) const;

  /// First-order gradients of Re<grad, K values>; see laplex::Plan::vjp. Gradients::values is
  /// contiguous [heads, rows, m] of the values' type (never half).
  void vjp(const ConstVectors& values, const ConstVectors& grad, std::int64_t rows,
           const Gradients<T, T>& gradients, Stream stream, Memory workspace = {}) const;

  /// Bytes of memory to lend.
  [[nodiscard]] static std::size_t storage_bytes(std::int64_t heads, std::int64_t n, std::int64_t m,
                                                 bool self);
  [[nodiscard]] static std::size_t scratch_bytes(std::int64_t heads, std::int64_t n, std::int64_t m,
                                                 bool self);
  /// For products of `rows` rows a head, with anchors as the plan has them: to be asked again after
  /// an update() of anchors that ascended; `values_complex` as in the call.
  [[nodiscard]] std::size_t workspace_bytes(std::int64_t rows, bool values_complex,
                                            Term term = {}) const;
  /// For all gradients at once; those of fewer take no more.
  [[nodiscard]] std::size_t gradient_workspace_bytes(std::int64_t rows, bool values_complex) const;

  /// Copies the anchors out to device memory, in the order they were given; either may be null.
  void anchors(T* targets, T* sources, Stream stream) const;

  [[nodiscard]] std::int64_t heads() const noexcept;
  [[nodiscard]] std::int64_t num_targets() const noexcept;
  [[nodiscard]] std::int64_t num_sources() const noexcept;
  [[nodiscard]] bool is_self() const noexcept;
  [[nodiscard]] bool kernel_is_complex() const noexcept;
  /// Whether every head's anchors came sorted on both sides: products then permute nothing.
  [[nodiscard]] bool is_sorted() const noexcept;
  /// Bytes of device memory the plan holds.
  [[nodiscard]] std::int64_t nbytes() const noexcept;

 private:
  Plan() = default;
  std::shared_ptr<detail::State<T>> state_;
  Kernel<T> parameters_{};
};

extern template class Plan<float>;
extern template class Plan<double>;

}  // namespace laplex::cuda
