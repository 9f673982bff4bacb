// Gradients of a term: products with the terms that its derivatives are made of, one after another
// into the same memory, and inner products with them.
#include "kernels/term_gradients.hpp"

#include "call.hpp"
#include "term_derivatives.hpp"

#include <algorithm>

namespace laplex::cuda::detail {
namespace {

using laplex::detail::slope_of;
using laplex::detail::stretch_of;
using laplex::detail::swing_of;
using laplex::detail::turn_of;

/// Runs twice: without memory it counts what it needs.
template <class T>
class TermGradients {
 public:
  TermGradients(const GradientCall<T>& call, const Term& term, Stream stream)
      : call_(call), term_(term), stream_(stream) {}

  std::size_t count() {
    every_gradient();
    Cutter cut;
    lay_out(cut);
    return cut.used();
  }

  /// After count(), in that many bytes.
  void run(void* memory) {
    Cutter cut(memory);
    lay_out(cut);
    runs_ = true;
    every_gradient();
  }

 private:
  enum class Place { targets, sources };

  void lay_out(Cutter& cut) {
    const std::int64_t entries = call_.state.heads() * call_.rows *
                                 std::max(call_.state.n(), call_.state.m()) *
                                 (call_.parameters.is_complex ? 2 : 1);
    plain_ = cut.take<T>(entries);
    turning_ = oscillates() || swings() ? cut.take<T>(entries) : nullptr;
    shares_ = wants_scalars() ? cut.take<Complex>(call_.state.heads() * parts()) : nullptr;
    work_ = {cut.take<unsigned char>(static_cast<std::int64_t>(product_bytes_)), product_bytes_};
  }

  void every_gradient() {
    by_anchors(Place::targets, call_.targets);
    by_anchors(Place::sources, call_.sources);
    if (wants_scalars()) {
      by_scalars();
    }
    if (call_.d_values.vectors.data != nullptr || !runs_) {
      product_of(Place::sources, term_, call_.d_values);
    }
  }

  void by_anchors(Place at, const AnchorGradients<T>& out) {
    if (out.position != nullptr) {
      sum(at, slope_of(term_), plain_);
      if (oscillates()) {
        sum(at, turn_of(term_), turning_);
      }
      inner_products(at, oscillates() ? turning_ : nullptr, false, out.position);
    }
    if (out.phase != nullptr) {
      sum(at, term_, plain_);
      inner_products(at, nullptr, true, out.phase);
    }
  }

  void by_scalars() {
    if (call_.lengthscale != nullptr) {
      sum(Place::targets, stretch_of(term_), plain_);
    }
    if (swings()) {
      sum(Place::targets, swing_of(term_), turning_);
    }
    if (runs_) {
      const std::int64_t heads = call_.state.heads();
      launch(shares_kernel<T>,
             {heads * parts(), kScalarThreads, kScalarThreads / kWarp * sizeof(double)}, stream_,
             SharesJob<T>{inner(Place::targets, call_.lengthscale != nullptr ? plain_ : nullptr,
                                swings() ? turning_ : nullptr),
                          parts(), shares_});
      launch(scalars_kernel, {heads, kScalarThreads, kScalarThreads / kWarp * sizeof(double)},
             stream_,
             ScalarsJob{shares_, parts(), call_.parameters.lengthscale, call_.parameters.frequency,
                        call_.lengthscale, call_.frequency});
      if (call_.state.shared_line() != nullptr) {
        call_.state.shared_line()->add_up(call_.lengthscale, call_.frequency, stream_);
      }
    }
  }

  /// A sum into working memory, with the phases of the side where it is read off.
  void sum(Place at, const Term& member, T* to) {
    const std::int64_t count = count_of(at);
    const bool back = at == Place::sources;
    const Vectors vectors{to, call_.parameters.is_complex, {call_.rows * count, count}};
    product_of(at, member, {vectors, (back ? call_.values : call_.grad).phases, back, 1.0});
  }

  void product_of(Place at, const Term& member, Output<T> output) {
    const bool back = at == Place::sources;
    // sign(x_i - y_j) seen from the source is its negative.
    output.scale = back && member.parity == Parity::odd ? -1.0 : 1.0;
    const ProductCall<T> sum{call_.state,
                             call_.parameters,
                             call_.rows,
                             back,
                             back ? call_.grad : call_.values,
                             output,
                             member.parity,
                             member.polynomial,
                             member.cumulative ? whole_part(back)
                             : back            ? turned(call_.part)
                                               : call_.part,
                             member.cumulative};
    if (runs_) {
      product(sum, work_, false, stream_);
    } else {
      product_bytes_ = std::max(product_bytes_, product(sum, {}, true, stream_));
    }
  }

  void inner_products(Place at, const T* turning, bool of_phases, T* out) const {
    if (runs_) {
      launch(anchors_kernel<T>, one_thread_each(call_.state.heads() * count_of(at)), stream_,
             AnchorsJob<T>{inner(at, plain_, turning), call_.parameters.lengthscale,
                           call_.parameters.frequency, at == Place::targets ? 1.0 : -1.0, of_phases,
                           out});
    }
  }

  [[nodiscard]] InnerJob<T> inner(Place at, const T* plain, const T* turning) const {
    return {(at == Place::targets ? call_.grad : call_.values).vectors,
            plain,
            turning,
            call_.parameters.is_complex,
            call_.state.heads(),
            call_.rows,
            count_of(at)};
  }
  [[nodiscard]] std::int64_t count_of(Place at) const {
    return at == Place::targets ? call_.state.n() : call_.state.m();
  }
  [[nodiscard]] bool oscillates() const { return call_.parameters.frequency != nullptr; }
  /// A kernel that does not oscillate has a derivative at frequency 0.
  [[nodiscard]] bool swings() const {
    return call_.frequency != nullptr && call_.parameters.is_complex;
  }
  [[nodiscard]] bool wants_scalars() const {
    return call_.lengthscale != nullptr || call_.frequency != nullptr;
  }
  [[nodiscard]] std::int64_t parts() const {
    return ceil_div(call_.rows * call_.state.n(), kShareEntries);
  }

  const GradientCall<T>& call_;
  Term term_;
  Stream stream_;
  bool runs_ = false;
  std::size_t product_bytes_ = 0;
  T* plain_ = nullptr;
  T* turning_ = nullptr;
  Complex* shares_ = nullptr;
  Memory work_;
};

}  // namespace

template <class T>
std::size_t term_gradients(const GradientCall<T>& call, const Term& term, Memory workspace,
                           bool counts, Stream stream) {
  TermGradients<T> gradients(call, term, stream);
  const std::size_t bytes = gradients.count();
  if (!counts) {
    const Lent lent(workspace, bytes, stream, "workspace");
    gradients.run(lent.data());
  }
  return bytes;
}

template std::size_t term_gradients<float>(const GradientCall<float>&, const Term&, Memory, bool,
                                           Stream);
template std::size_t term_gradients<double>(const GradientCall<double>&, const Term&, Memory, bool,
                                            Stream);

}  // namespace laplex::cuda::detail
