/// \file
/// The plan of laplex/plan.hpp on a GPU: device pointers, a stream, memory from the caller.
///
/// These points differ from the CPU:
///
/// - A plan holds only the order of the anchors. Every call reads the lengthscales, frequencies and
///   phases from the caller's memory, so that they can be trained without a new plan. That memory
///   must live as long as the plan is used.
/// - Construction and Plan::update() inspect the anchors and wait for the outcome (are any NaN? are
///   they sorted already?), unless they are given a Report. Products and gradients never wait for
///   the device, and they allocate nothing if they are given a workspace.
/// - Sums are accumulated in double in a fixed order: the same input gives the same bits in every
///   run.
/// - With Kernel::part, all calls but holds() and anchors() are collective and wait for the stream,
///   because sums at the ends of the parts go through the host. They cannot be captured, and there
///   is no update(). Results depend on where the line is cut, within the promised accuracy.
///
/// **Capturing into a CUDA graph.** Products and gradients can be captured as they are, and use the
/// order that the plan has. An update(), or a plan that is built during the capture in lent
/// storage, is captured as a sort: every replay takes the anchors as they are by then. Nobody can
/// wait during a capture, so NaN anchors give NaN results, and a Report is how to hear of them. The
/// plan takes the captured
/// state only when the graph has run. Every pointer and all lent memory must live as long as the
/// graph is replayed.
///
/// All work runs on the current device and in the given stream. Pointers are pointers to memory of
/// that device, unless stated otherwise, and must be aligned to the size of their type. This header
/// needs no CUDA header.
#pragma once

#include <laplex/cuda/device.hpp>
#include <laplex/plan.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <type_traits>

/// \namespace laplex::cuda
/// The CUDA backend: the plans and covariance matrices of laplex over device pointers. It has not
/// run on a GPU yet; its kernels are tested in an emulation on the host.
namespace laplex::cuda {

/// Device memory that the caller lends for a call, or for the life of an object.
struct Memory {
  /// The address, aligned to 16 bytes. Null: the library allocates memory in the order of the
  /// stream.
  void* data = nullptr;
  std::size_t bytes = 0;  ///< The size.
};

/// Device memory for a sort: lent before the call, or by a function that the call asks when it has
/// to sort. By default the library allocates it then.
struct Scratch {
  Memory memory;  ///< What is lent before the call.
  /// Lends memory of at least that many bytes until the call returns, instead of `memory`. Called
  /// at most once in a call, and only if something is to be sorted.
  std::function<Memory(std::size_t bytes)> lend;

  /// Lends nothing.
  Scratch() = default;
  /// Lends memory.
  /// \param lent the memory
  Scratch(Memory lent) : memory(lent) {}  // NOLINT(google-explicit-constructor): as Memory was
  /// Lends memory.
  /// \param data the address, aligned to 16 bytes
  /// \param bytes the size
  Scratch(void* data, std::size_t bytes) : memory{data, bytes} {}
};

/// Receives what is wrong with anchors and parameters from a device that nobody waits for.
///
/// A constructor or an update() that is given a report never waits for the device. It sorts without
/// knowing whether it has to. Anchors that are NaN or infinite make all results of their head NaN,
/// a lengthscale that is not positive too, and the device writes to the report which they were.
///
/// A report lies in memory that host and device reach by the same address, such as cudaHostAlloc()
/// gives, and must live until all work that knows of it is done, replays of graphs included.
struct Report {
  std::uint64_t found = 0;  ///< 0: nothing was found. Otherwise a code that check() explains.

  /// Throws if something was found, and forgets it: the last that the device has written so far.
  /// Synchronise with the streams before, to know of all of their work.
  /// \throws Error `invalid_argument`, which names the argument and the entry
  void check();
};

/// \cond
namespace detail {
template <class T>
class State;
}
/// \endcond

/// The type in which the entries of vectors are stored. Half precision is for real values of
/// `Plan<float>`: it is widened when read and rounded when written.
enum class Storage {
  single_or_double,  ///< The type T of the plan; complex numbers are pairs of T.
  half,              ///< IEEE half precision, 16 bits.
  bfloat16,          ///< bfloat16, 16 bits.
};

/// A batch of vectors to write to: the same number of rows for each head.
struct Vectors {
  void* data = nullptr;                         ///< The first entry, a device pointer.
  bool complex = false;                         ///< Whether the entries are complex.
  Strides strides{};                            ///< The layout.
  Storage storage = Storage::single_or_double;  ///< The type of the entries.
};
/// A batch of vectors to read from: the same number of rows for each head.
struct ConstVectors {
  const void* data = nullptr;                   ///< The first entry, a device pointer.
  bool complex = false;                         ///< Whether the entries are complex.
  Strides strides{};                            ///< The layout.
  Storage storage = Storage::single_or_double;  ///< The type of the entries.

  /// No vectors.
  ConstVectors() = default;
  /// Describes vectors in device memory.
  /// \param p the first entry, a device pointer
  /// \param is_complex whether the entries are complex
  /// \param s the layout
  /// \param stored the type of the entries
  ConstVectors(const void* p, bool is_complex, Strides s,
               Storage stored = Storage::single_or_double)
      : data(p), complex(is_complex), strides(s), storage(stored) {}
  /// Describes the same memory for reading.
  /// \param v the vectors
  ConstVectors(const Vectors& v)  // NOLINT(google-explicit-constructor): as pointers convert
      : data(v.data), complex(v.complex), strides(v.strides), storage(v.storage) {}
};

/// The matrices of a Kernel in device memory, ready for products and gradients.
///
/// Copies of a plan share the order of their anchors. Every member that takes a stream throws
/// Error: `invalid_argument` for arguments outside their domain and for lent memory that is too
/// small or not aligned, `out_of_memory`, and `device` for errors of CUDA.
/// \tparam T the type of anchors and phases, float or double
template <class T>
class Plan {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "float or double");

 public:
  /// Sorts the anchors. Waits for the stream once, unless there is a report.
  /// \param kernel the description; all its pointers are device pointers, and num_threads is unused
  /// \param stream the stream; without `storage` it must outlive the plan, which frees memory in it
  /// \param storage holds the order for the life of the plan: storage_bytes()
  /// \param scratch is used until the call returns, if the anchors do not ascend: scratch_bytes()
  /// \param report receives what is wrong, and the call does not wait; null: it waits and throws
  /// \throws Error `invalid_argument` for anchors or phases that are NaN or infinite, a lengthscale
  ///   that is not positive, impossible sizes, and memory that is too small or not aligned;
  ///   `out_of_memory`; `device` if there is no device, or if the stream is being captured and
  ///   there is no `storage`
  Plan(const Kernel<T>& kernel, Stream stream, Memory storage = {}, const Scratch& scratch = {},
       Report* report = nullptr);

  /// A plan on the same anchors with other lengthscales, frequencies, phases, `profile`, `side`
  /// or `real_part`. Only the pointers are copied, and what they point to is not checked: a
  /// lengthscale that is not positive gives NaN.
  /// \param kernel the new parameters; its anchors, sizes and part are ignored
  /// \return the plan, which shares the order of the anchors with this one
  [[nodiscard]] Plan with_parameters(const Kernel<T>& kernel) const;

  /// Replaces the anchors, also for all copies of this plan, and keeps the order where it is still
  /// right. Results have the bits of a new plan. Waits for the stream once, unless there is a
  /// report: the anchors are then sorted again in any case. The plan is unchanged if this throws.
  /// \param targets the new targets, in the shape of Kernel::targets
  /// \param sources the new sources; null in the self case
  /// \param stream the stream
  /// \param scratch is used until the call returns, if the order is lost: scratch_bytes()
  /// \param report receives what is wrong, and the call does not wait; null: it waits and throws
  /// \throws Error `invalid_argument`, besides the usual reasons, if products of this plan were
  ///   captured while its anchors were in ascending order, and the new anchors are not or cannot be
  ///   inspected. Within one capture, update first and then apply.
  void update(const T* targets, const T* sources, Stream stream, const Scratch& scratch = {},
              Report* report = nullptr);

  /// Whether the plan's anchors are equal to these, number by number. Waits for the stream once.
  /// \param targets the targets to compare, in the shape of Kernel::targets
  /// \param sources the sources to compare; null in the self case
  /// \param stream the stream, which must not be in a capture
  /// \param scratch 64 bytes, used until the call returns
  [[nodiscard]] bool holds(const T* targets, const T* sources, Stream stream,
                           Memory scratch = {}) const;

  /// Computes a product `u = K v`, `K^T v` or `K^H v`; see laplex::Plan::apply().
  /// \param values the values
  /// \param rows the number of vectors of each head
  /// \param result where to write the result, complex if and only if the values or the kernel are;
  ///   half precision is possible where the result is real and T is float
  /// \param stream the stream
  /// \param mode the matrix: K, its transpose or its adjoint
  /// \param term the member of the family of sums; the default is the product itself
  /// \param workspace memory for the call: workspace_bytes()
  void apply(const ConstVectors& values, std::int64_t rows, const Vectors& result, Stream stream,
             Mode mode = Mode::plain, Term term = {}, Memory workspace = {}) const;

  /// Computes the two halves of a product, `K v = left + right`; see laplex::Plan::half_sums().
  /// \param values the values
  /// \param rows the number of vectors of each head
  /// \param left where to write the sums over the sources at or below each target
  /// \param right where to write the sums over the sources above each target, laid out like `left`
  /// \param stream the stream
  /// \param workspace memory for the call: workspace_bytes()
  void half_sums(const ConstVectors& values, std::int64_t rows, const Vectors& left,
                 const Vectors& right, Stream stream, Memory workspace = {}) const;

  /// Computes the places where the smoothed number of anchors below reaches given levels; see
  /// laplex::Plan::quantiles(). A level that does not lie between 0 and n gives NaN.
  /// \param levels the levels, `[heads, count]`, on the device
  /// \param count the number of levels of each head
  /// \param result receives the places, `[heads, count]`
  /// \param stream the stream
  /// \param workspace memory for the call: quantile_workspace_bytes()
  void quantiles(const double* levels, std::int64_t count, double* result, Stream stream,
                 Memory workspace = {}) const;

  /// Computes first-order gradients of `Re<grad, K values>`; see laplex::Plan::vjp().
  /// \param values the values
  /// \param grad the cotangent, of the result's type
  /// \param rows the number of vectors of each head
  /// \param gradients where to write the gradients, in device memory; null members are not
  /// computed.
  ///   The gradient by the values is contiguous, `[heads, rows, m]`, complex if they are, and never
  ///   in half precision. Those by targets and by sources must not be the same array.
  /// \param stream the stream
  /// \param term the member of the family of sums in place of K
  /// \param workspace memory for the call: gradient_workspace_bytes()
  void vjp(const ConstVectors& values, const ConstVectors& grad, std::int64_t rows,
           const Gradients<T, T>& gradients, Stream stream, Term term = {},
           Memory workspace = {}) const;

  /// The bytes of `storage` that the constructor needs.
  /// \param heads the number of heads; 1 if they share their anchors
  /// \param n the number of targets of each head
  /// \param m the number of sources of each head
  /// \param self whether the sources are the targets
  [[nodiscard]] static std::size_t storage_bytes(std::int64_t heads, std::int64_t n, std::int64_t m,
                                                 bool self);
  /// The bytes of `scratch` that the constructor and update() need to sort.
  /// \param heads the number of heads; 1 if they share their anchors
  /// \param n the number of targets of each head
  /// \param m the number of sources of each head
  /// \param self whether the sources are the targets
  [[nodiscard]] static std::size_t scratch_bytes(std::int64_t heads, std::int64_t n, std::int64_t m,
                                                 bool self);
  /// The bytes of `workspace` that apply() and half_sums() need, for the anchors that the plan has
  /// now. Ask again after an update() if the anchors were in ascending order before it.
  /// \param rows the number of vectors of each head
  /// \param values_complex whether the values are complex
  /// \param term the member of the family of sums
  [[nodiscard]] std::size_t workspace_bytes(std::int64_t rows, bool values_complex,
                                            Term term = {}) const;
  /// The bytes of `workspace` that vjp() needs for all gradients at once, which are enough for
  /// fewer.
  /// \param rows the number of vectors of each head
  /// \param values_complex whether the values are complex
  /// \param term the member of the family of sums in place of K
  [[nodiscard]] std::size_t gradient_workspace_bytes(std::int64_t rows, bool values_complex,
                                                     Term term = {}) const;

  /// The bytes of `workspace` that quantiles() needs, for the anchors that the plan has now.
  [[nodiscard]] std::size_t quantile_workspace_bytes() const;

  /// Copies the anchors to device memory, in the order in which they were given.
  /// \param targets receives the targets, in the shape of Kernel::targets; may be null
  /// \param sources receives the sources, likewise; may be null
  /// \param stream the stream
  void anchors(T* targets, T* sources, Stream stream) const;

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
  /// Whether the anchors of every head were given in ascending order on both sides. Products then
  /// need no permutation.
  [[nodiscard]] bool is_sorted() const noexcept;
  /// The bytes of device memory that the plan holds.
  [[nodiscard]] std::int64_t nbytes() const noexcept;

 private:
  Plan() = default;
  std::shared_ptr<detail::State<T>> state_;
  Kernel<T> parameters_{};
};

extern template class Plan<float>;
extern template class Plan<double>;

}  // namespace laplex::cuda
