/// The blocks of columns of a covariance, and their transitions across the gaps of a line.
///
/// The filter is compiled for columns in slots of one size. A slot of 2 columns holds an
/// oscillator, or up to two processes of one column; a slot of 3 holds whatever fits.
#pragma once

#include <laplex/detail/transition.hpp>

#include "gram_state.hpp"

#include <cstdint>
#include <type_traits>
#include <vector>

namespace laplex::detail {

/// Throws where sizes do not add up or weights are not finite.
void check_blocks(const Covariance& c);

/// Which columns have a lengthscale: [width].
[[nodiscard]] std::vector<char> used_lengthscales(const Covariance& c);

/// Where each block goes.
[[nodiscard]] Layout lay_out(const Covariance& c);

/// Fills line.transition, of slots of more than one column, and line.state_variance.
void fill_transitions(const Layout& layout, std::int64_t n, int threads, GramLine& line);

/// The weights that belong to a block.
constexpr int weights_of(int size) {
  return size == 2 ? 2 : 1;
}
/// The numbers of a covariance of its state, packed.
constexpr int packed_of(int size) {
  return size * (size + 1) / 2;
}
/// The numbers of a transition: A, and one matrix Q, packed, for each weight.
constexpr int numbers_of(int size) {
  return size * size + weights_of(size) * packed_of(size);
}

/// The transitions of a block across the gaps before some points: an array over the points for each
/// number.
template <class N>
struct Transitions {
  Part part{};
  std::int64_t stride = 0;
  bool slopes = false;
  std::vector<N> x[2];         ///< [stride] the gaps in units of its lengthscales
  std::vector<char> infinite;  ///< [stride] nothing is left of the state; x is 1 / lengthscale then
  std::vector<N> values;       ///< [numbers_of(size), stride]
  std::vector<N> by[2];        ///< the derivatives by x, if there are to be any

  Transitions() = default;
  Transitions(const Part& p, std::int64_t points, bool with_slopes)
      : part(p), stride((points + 7) / 8 * 8), slopes(with_slopes) {
    const auto count = static_cast<std::size_t>(stride);
    const auto all = static_cast<std::size_t>(numbers_of(p.size)) * count;
    infinite.resize(count);
    values.resize(all);
    for (int m = 0; m < 2; ++m) {
      x[m].resize(count);
      by[m].resize(slopes ? all : 0);
    }
  }

  /// Those of points [begin, end) of a line of anchors; begin is a multiple of 8. `gap_slopes` are
  /// those of the gaps along the direction of dual numbers, and null for double.
  void find(const double* anchors, const N* lengthscale, const double* gap_slopes,
            std::int64_t begin, std::int64_t end);

  /// Writes those of point i to the arrays of a Step, which are 0 elsewhere.
  template <int B>
  void place(std::int64_t i, const N* weights, N* decay, N* gain) const;
};

extern template struct Transitions<double>;
extern template struct Transitions<Dual>;

/// Calls f with the size as a constant, as far as blocks of B can have it.
template <int B, class F>
void with_size(int size, const F& f) {
  if (size == 1) {
    f(std::integral_constant<int, 1>());
  } else if (size == 2) {
    f(std::integral_constant<int, 2>());
  } else if constexpr (B > 2) {
    f(std::integral_constant<int, 3>());
  }
}

template <class N>
template <int B>
void Transitions<N>::place(std::int64_t i, const N* weights, N* decay, N* gain) const {
  with_size<B>(part.size, [&](auto constant) {
    constexpr int size = decltype(constant)::value;
    const N* from = values.data() + i;
    const int at = size == B ? 0 : part.first % B;
    for (int r = 0; r < size; ++r) {
      for (int c = 0; c < size; ++c, from += stride) {
        decay[(part.first + r) * B + at + c] = *from;
      }
    }
    N* const to = gain + part.first / B * kPacked<B>;
    for (int w = 0; w < weights_of(size); ++w) {
      for (int c = 0; c < size; ++c) {
        for (int r = 0; r <= c; ++r, from += stride) {
          to[packed(at + r, at + c)] += weights[w] * *from;
        }
      }
    }
  });
}

}  // namespace laplex::detail
