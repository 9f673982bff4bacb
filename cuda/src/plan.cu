#include "call.hpp"
#include "checks.hpp"
#include "profile.hpp"
#include "state.hpp"

#include <laplex/cuda/plan.hpp>

#include <string>

namespace laplex::cuda {

using namespace detail;
using laplex::detail::check_cumulative;
using laplex::detail::check_mode;
using laplex::detail::check_type;
using laplex::detail::has_complex_entries;
using laplex::detail::invalid;
using laplex::detail::polynomial_of;

namespace {

template <class T>
void check_stream(const State<T>& state, Stream stream) {
  if (state.shared_line() != nullptr) {
    check_may_wait_for_others(stream);
  }
}

void check_values(bool complex, bool real_part) {
  if (complex && real_part) {
    invalid("complex values with real_part: pass their real and imaginary parts as two rows");
  }
}

/// Vectors [heads, rows, count].
template <class T>
void check_vectors(const State<T>& state, const ConstVectors& vectors, std::int64_t rows,
                   std::int64_t count, const char* name) {
  laplex::detail::check_rows(state.heads(), rows, count);
  laplex::detail::check_array(name, vectors.data, state.heads() * rows * count);
  check_aligned(vectors.data,
                vectors.storage == Storage::single_or_double ? sizeof(T) : sizeof(std::uint16_t),
                name);
  if (vectors.storage != Storage::single_or_double &&
      (!std::is_same_v<T, float> || vectors.complex)) {
    invalid("half precision is for real values of a float plan");
  }
}

template <class T>
Parameters parameters_of(const Kernel<T>& kernel, bool values_complex) {
  return {{kernel.lengthscale, laplex::detail::lengths_of(kernel.profile)},
          kernel.frequency,
          values_complex || has_complex_entries(kernel)};
}

/// Whether there are cumulative sums and quantiles of the kernel.
template <class T>
bool cumulates(const State<T>& state, const Kernel<T>& kernel) {
  return !has_complex_entries(kernel) && kernel.profile == Profile::matern12 &&
         kernel.side == Side::both && state.shared_line() == nullptr;
}

/// The factors of a side, as K and K^T have them: exp(i theta) of targets, exp(-i phi) of sources.
template <class T>
Phases<T> target_phases(const Kernel<T>& kernel) {
  return {kernel.target_phase, 1.0};
}
template <class T>
Phases<T> source_phases(const Kernel<T>& kernel) {
  return {kernel.source_phase, -1.0};
}

template <class T>
ProductCall<T> product_call(const State<T>& state, const Kernel<T>& kernel,
                            const ConstVectors& values, std::int64_t rows, const Vectors& result,
                            Mode mode, const Term& term, Part part) {
  const bool swapped = mode != Mode::plain;
  const bool conjugate = mode == Mode::adjoint;
  // sign(x_i - y_j) seen from the source is its negative.
  const double scale = swapped && term.parity == Parity::odd ? -1.0 : 1.0;
  return {state,
          parameters_of(kernel, values.complex),
          rows,
          swapped,
          {values, swapped ? target_phases(kernel) : source_phases(kernel), conjugate, nullptr},
          {result, swapped ? source_phases(kernel) : target_phases(kernel), conjugate, scale},
          term.parity,
          polynomial_of(term, kernel.profile),
          term.cumulative ? whole_part(swapped) : part,
          term.cumulative};
}

}  // namespace

void Report::check() {
  const std::uint64_t word = *static_cast<volatile std::uint64_t*>(&found);
  if (word == 0) {
    return;
  }
  found = 0;
  const auto what = static_cast<Looked>((word >> 60) - 1);  // see reported()
  const std::string name = kLookedNames[static_cast<int>(what)];
  const std::string head =
      (word >> 59 & 1) != 0 ? " of head " + std::to_string(word >> 32 & ((1U << 27) - 1)) : "";
  const bool is_lengthscale = what == Looked::lengthscale;
  const std::string rule = is_lengthscale ? "positive and finite" : "finite";
  const std::string where =
      is_lengthscale || what == Looked::frequency
          ? (head.empty() ? "it was not" : "that" + head + " was not")
          : "entry " + std::to_string(word & 0xFFFFFFFFU) + head + " was NaN or infinite";
  invalid(name + " must be " + rule + ", but in an earlier call " + where +
          ": its results are NaN");
}

template <class T>
Plan<T>::Plan(const Kernel<T>& kernel, Stream stream, Memory storage, const Scratch& scratch,
              Report* report)
    : state_(std::make_shared<State<T>>(kernel, stream, storage, scratch, report)),
      parameters_(kernel) {}

template <class T>
Plan<T> Plan<T>::with_parameters(const Kernel<T>& kernel) const {
  Plan<T> plan;
  plan.state_ = state_;
  plan.parameters_ = kernel;
  return plan;
}

template <class T>
void Plan<T>::update(const T* targets, const T* sources, Stream stream, const Scratch& scratch,
                     Report* report) {
  state_->update(targets, sources, stream, scratch, report);
}

template <class T>
bool Plan<T>::holds(const T* targets, const T* sources, Stream stream, Memory scratch) const {
  return state_->holds(targets, sources, stream, scratch);
}

template <class T>
void Plan<T>::apply(const ConstVectors& values, std::int64_t rows, const Vectors& result,
                    Stream stream, Mode mode, Term term, Memory workspace) const {
  check_mode(mode);
  const bool plain = mode == Mode::plain;
  check_type("result", result.complex, values.complex || kernel_is_complex());
  check_values(values.complex, parameters_.real_part);
  check_vectors<T>(*state_, values, rows, plain ? num_sources() : num_targets(), "values");
  check_vectors<T>(*state_, result, rows, plain ? num_targets() : num_sources(), "result");
  check_cumulative(term, cumulates(*state_, parameters_), values.complex);
  check_stream(*state_, stream);
  const Part part = part_of(parameters_.side, mode != Mode::plain);
  product(product_call(*state_, parameters_, values, rows, result, mode, term, part), workspace,
          false, stream);
  state_->used_in(stream);
}

template <class T>
void Plan<T>::half_sums(const ConstVectors& values, std::int64_t rows, const Vectors& left,
                        const Vectors& right, Stream stream, Memory workspace) const {
  if (parameters_.side != Side::both) {
    invalid("half_sums needs a plan with side both: the product with this one is one of them");
  }
  for (const Vectors& half : {left, right}) {
    check_type("result", half.complex, values.complex || kernel_is_complex());
    check_vectors<T>(*state_, half, rows, num_targets(), "half sums");
  }
  check_values(values.complex, parameters_.real_part);
  check_vectors<T>(*state_, values, rows, num_sources(), "values");
  check_stream(*state_, stream);
  product(product_call(*state_, parameters_, values, rows, left, Mode::plain, {}, Part::left),
          workspace, false, stream);
  product(product_call(*state_, parameters_, values, rows, right, Mode::plain, {}, Part::above),
          workspace, false, stream);
  state_->used_in(stream);
}

template <class T>
void Plan<T>::quantiles(const double* levels, std::int64_t count, double* result, Stream stream,
                        Memory workspace) const {
  // The levels are on the device: nobody waits to look at them.
  laplex::detail::check_levels(nullptr, 0, 0, state_->n(),
                               state_->self() && cumulates(*state_, parameters_));
  laplex::detail::check_rows(heads(), count, 1);
  laplex::detail::check_array("levels", levels, heads() * count);
  laplex::detail::check_array("result", result, heads() * count);
  detail::quantiles<T>({*state_, parameters_of(parameters_, false), levels, count, result},
                       workspace, false, stream);
  state_->used_in(stream);
}

namespace {

template <class T>
GradientCall<T> gradient_call(const State<T>& state, const Kernel<T>& kernel,
                              const ConstVectors& values, const ConstVectors& grad,
                              std::int64_t rows, const Gradients<T, T>& gradients) {
  const std::int64_t m = state.m();
  const Vectors d_values{gradients.values, values.complex, {rows * m, m}};
  return {state,
          parameters_of(kernel, values.complex),
          rows,
          {values, source_phases(kernel), false, nullptr},
          {grad, target_phases(kernel), true, nullptr},
          {d_values, source_phases(kernel), true, 1.0},
          {gradients.targets, gradients.target_phase},
          {gradients.sources, gradients.source_phase},
          gradients.lengthscale,
          gradients.frequency,
          part_of(kernel.side, false)};
}

/// In one pass of its own those of the Laplace kernel, and those of other terms and of one-sided
/// sums by products.
template <class T>
std::size_t any_gradients(const GradientCall<T>& call, const Term& term, Profile profile,
                          Memory workspace, bool counts, Stream stream) {
  const laplex::detail::Polynomial polynomial = polynomial_of(term, profile);
  if (!term.cumulative && term.parity == Parity::even &&
      polynomial == polynomial_of(Profile::matern12) && call.part == Part::both) {
    return gradients(call, workspace, counts, stream);
  }
  const bool smooth = term.smooth || profile != Profile::matern12;
  return term_gradients(call, {term.parity, polynomial, smooth, term.cumulative}, workspace, counts,
                        stream);
}

}  // namespace

template <class T>
void Plan<T>::vjp(const ConstVectors& values, const ConstVectors& grad, std::int64_t rows,
                  const Gradients<T, T>& gradients, Stream stream, Term term,
                  Memory workspace) const {
  check_type("cotangent", grad.complex, values.complex || kernel_is_complex());
  check_values(values.complex, parameters_.real_part);
  check_vectors<T>(*state_, values, rows, num_sources(), "values");
  check_vectors<T>(*state_, grad, rows, num_targets(), "grad");
  if (gradients.targets != nullptr && gradients.targets == gradients.sources) {
    invalid("on a GPU, the gradients by targets and by sources need an array each: add them up");
  }
  check_cumulative(term, cumulates(*state_, parameters_), values.complex);
  check_stream(*state_, stream);
  any_gradients(gradient_call(*state_, parameters_, values, grad, rows, gradients), term,
                parameters_.profile, workspace, false, stream);
  state_->used_in(stream);
}

template <class T>
std::size_t Plan<T>::storage_bytes(std::int64_t heads, std::int64_t n, std::int64_t m, bool self) {
  return State<T>::storage_bytes(heads, n, m, self);
}

template <class T>
std::size_t Plan<T>::scratch_bytes(std::int64_t heads, std::int64_t n, std::int64_t m, bool self) {
  return State<T>::scratch_bytes(heads, n, m, self);
}

template <class T>
std::size_t Plan<T>::workspace_bytes(std::int64_t rows, bool values_complex, Term term) const {
  std::size_t most = 0;
  for (const Mode mode : {Mode::plain, Mode::transpose}) {
    for (const Part part : {Part::both, Part::left}) {
      const std::size_t bytes =
          product(product_call(*state_, parameters_, {nullptr, values_complex, {}}, rows, {}, mode,
                               term, part),
                  {}, true, nullptr);
      most = bytes > most ? bytes : most;
    }
  }
  return most;
}

template <class T>
std::size_t Plan<T>::gradient_workspace_bytes(std::int64_t rows, bool values_complex,
                                              Term term) const {
  Gradients<T, T> all;
  T any{};
  double scalar = 0.0;
  if (polynomial_of(term, parameters_.profile).back() == 0.0) {  // otherwise vjp() refuses these
    all.lengthscale = all.frequency = &scalar;
  }
  all.targets = all.sources = &any;
  if (has_complex_entries(parameters_)) {
    all.target_phase = all.source_phase = &any;
  }
  return any_gradients(
      gradient_call(*state_, parameters_, {nullptr, values_complex, {}}, {}, rows, all), term,
      parameters_.profile, {}, true, nullptr);
}

template <class T>
std::size_t Plan<T>::quantile_workspace_bytes() const {
  return detail::quantiles<T>({*state_, parameters_of(parameters_, false), nullptr, 0, nullptr}, {},
                              true, nullptr);
}

template <class T>
void Plan<T>::anchors(T* targets, T* sources, Stream stream) const {
  state_->anchors(targets, sources, stream);
}

template <class T>
std::int64_t Plan<T>::heads() const noexcept {
  return state_->heads();
}
template <class T>
std::int64_t Plan<T>::num_targets() const noexcept {
  return state_->n();
}
template <class T>
std::int64_t Plan<T>::num_sources() const noexcept {
  return state_->m();
}
template <class T>
bool Plan<T>::is_self() const noexcept {
  return state_->self();
}
template <class T>
bool Plan<T>::kernel_is_complex() const noexcept {
  return has_complex_entries(parameters_) && !parameters_.real_part;
}
template <class T>
bool Plan<T>::is_sorted() const noexcept {
  return state_->sorted();
}
template <class T>
std::int64_t Plan<T>::nbytes() const noexcept {
  return state_->nbytes();
}

template class Plan<float>;
template class Plan<double>;

}  // namespace laplex::cuda
