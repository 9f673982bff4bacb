/// Passes over the cells that give products with one set of values: K v and other members of the
/// family of sums.
#pragma once

#include "block_pass.hpp"
#include "profile.hpp"
#include "state.hpp"

#include <laplex/plan.hpp>

#include <vector>

namespace laplex::detail {

/// One of the results of a pass: a sum of the family, or (`side` left or right) a part of it.
template <class T>
struct Result {
  Parity parity;
  Polynomial polynomial;
  Vectors<T> vectors;
  Combine side = Combine::sum;
  /// Whether running sums of the values, from the first to the last, are added to the odd sum,
  /// which then is -1/2 of a cumulative sum.
  bool cumulative = false;

  /// `seen` is the side of the plan as it is seen from where results go.
  [[nodiscard]] Combine combine(Side seen) const {
    if (seen != Side::both) {
      return combine_of(seen);
    }
    return parity == Parity::odd ? Combine::difference : side;
  }
  /// Whether tied pairs are left out.
  [[nodiscard]] bool strict() const { return parity != Parity::even; }
};

/// A sum of the family; the polynomial is its own times that of the kernel.
template <class T>
[[nodiscard]] Result<T> result_of(const Term& term, const Vectors<T>& vectors) {
  if (term.cumulative) {
    return {Parity::odd, {-0.5}, vectors, Combine::sum, true};
  }
  return {term.parity, term.polynomial, vectors};
}

/// The order of vectors: that of the anchors as they were given, or sorted as the anchors are.
enum class Order { given, sorted };

/// Sends every block of lanes through the cells: `rows` vectors of each head, from sources to
/// targets or (`transposed`) from targets to sources, with the conjugate of K if `conjugate`.
/// Results beyond the plain sum share one pass.
template <class T>
void run(const State<T>& state, const Vectors<const T>& values, std::int64_t rows, bool transposed,
         bool conjugate, const std::vector<Result<T>>& results, int num_threads,
         Order order = Order::given);

}  // namespace laplex::detail
