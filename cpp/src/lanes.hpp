/// How vectors in the caller's memory become lanes of a scan and come back.
///
/// A lane is one vector of states. The cosine form is a real matrix made of complex states, so
/// complex values under it make two lanes a row, their real and imaginary parts; otherwise a row is
/// a lane. Lanes go through the scan W at a time, as tiles [count][W] in sorted order, all in
/// double.
#pragma once

#include "parallel.hpp"
#include "state.hpp"

#include <cstdint>
#include <type_traits>
#include <utility>

namespace laplex::detail {

/// A batch of vectors: [heads][rows][count] by strides; complex numbers are pairs of T.
template <class T>
struct Vectors {
  T* base;
  bool complex;
  Strides strides;
  int parts;  ///< lanes per row: 2 if real and imaginary parts are lanes of their own

  /// First scalar of a lane, and the step from one of its entries to the next.
  [[nodiscard]] T* lane(std::int64_t head, std::int64_t lane) const {
    const std::int64_t row = lane / parts;
    const std::int64_t start = head * strides.head + row * strides.row;
    return base + (complex ? 2 * start : start) + lane % parts;
  }
  [[nodiscard]] std::int64_t step() const { return complex ? 2 : 1; }
  /// Whether an entry of a lane is a pair (re, im).
  [[nodiscard]] bool paired() const { return complex && parts == 1; }
};

/// A run of up to W lanes.
struct Block {
  std::int64_t head;
  std::int64_t first;
  std::int64_t count;
};

template <class S>
[[nodiscard]] S make_state(double re, double im) {
  if constexpr (std::is_same_v<S, double>) {
    static_cast<void>(im);
    return re;
  } else {
    return {re, im};
  }
}

/// Lanes of a wide block, which have `length` entries each.
template <class T>
[[nodiscard]] RowsOf<T> rows_of(const Vectors<T>& vectors, Block block, std::int64_t length) {
  return {vectors.lane(block.head, block.first),
          vectors.strides.row * (vectors.complex ? 2 : 1),
          vectors.parts,
          vectors.step(),
          block.count,
          length};
}

/// S times a phase factor; real states have none.
[[nodiscard]] inline double times(double s, const Complex*) {
  return s;
}
[[nodiscard]] inline Complex times(Complex s, const Complex* factor) {
  return factor != nullptr ? *factor * s : s;
}

inline constexpr std::int64_t kLaneGrain = 4096;

/// tile[k][w] = factor[index] * (conjugated?) vector[index], index = order.index[k]; missing lanes
/// are 0. `factor` [count] is in the original order, or null.
template <int W, class T, class S>
void load(const Vectors<const T>& vectors, Block block, const SortedAnchors& order,
          const Complex* factor, bool conjugate, S* tile, int threads) {
  const T* lane[W] = {};
  for (std::int64_t w = 0; w < block.count; ++w) {
    lane[w] = vectors.lane(block.head, block.first + w);
  }
  const std::int64_t step = vectors.step();
  const bool paired = vectors.paired();
  const double sign = conjugate ? -1.0 : 1.0;
  parallel_ranges(threads, order.size(), kLaneGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      const std::int64_t index = order.index[static_cast<std::size_t>(k)];
      const Complex* f = factor != nullptr ? factor + index : nullptr;
      for (std::int64_t w = 0; w < block.count; ++w) {
        const T* p = lane[w] + index * step;
        tile[k * W + w] =
            times(make_state<S>(p[0], paired ? sign * static_cast<double>(p[1]) : 0.0), f);
      }
      for (std::int64_t w = block.count; w < W; ++w) {
        tile[k * W + w] = S{};
      }
    }
  });
}

/// The reverse of load: vector[index] = (conjugated?) factor[index] * scale * tile[k][w].
template <int W, class T, class S>
void store(const S* tile, Block block, const SortedAnchors& order, const Complex* factor,
           bool conjugate, double scale, const Vectors<T>& vectors, int threads) {
  T* lane[W] = {};
  for (std::int64_t w = 0; w < block.count; ++w) {
    lane[w] = vectors.lane(block.head, block.first + w);
  }
  const std::int64_t step = vectors.step();
  const bool paired = vectors.paired();
  const double sign = conjugate ? -1.0 : 1.0;
  parallel_ranges(threads, order.size(), kLaneGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      const std::int64_t index = order.index[static_cast<std::size_t>(k)];
      const Complex* f = factor != nullptr ? factor + index : nullptr;
      for (std::int64_t w = 0; w < block.count; ++w) {
        const S s = times(tile[k * W + w], f);
        T* p = lane[w] + index * step;
        p[0] = static_cast<T>(scale * real(s));
        if (paired) {
          p[1] = static_cast<T>(sign * scale * imag(s));
        }
      }
    }
  });
}

/// Tells a generic lambda the types and the number of lanes of a call.
template <class D_, class S_, int W_>
struct Shape {
  using D = D_;
  using S = S_;
  static constexpr int W = W_;
};

/// Lanes per row for values of this type.
template <class T>
[[nodiscard]] int parts_of(const Fixed<T>& fixed, bool values_complex) {
  return values_complex && fixed.real_part ? 2 : 1;
}

/// How a call runs: the form of its values, and whether it takes eight lanes at a time or one.
struct PassShape {
  Form form;
  bool wide;

  [[nodiscard]] std::int64_t width() const { return wide ? kRows : 1; }
  /// Numbers of double precision a cell and block carry.
  [[nodiscard]] std::int64_t carry() const { return planes_of(form) * width(); }
};

/// The width is a matter of speed and memory: every lane goes through the same operations whatever
/// stands beside it.
template <class T>
[[nodiscard]] PassShape pass_shape(const Fixed<T>& fixed, bool values_complex, std::int64_t lanes) {
  // A wide block takes as long as about three narrow ones, and its tiles take 64 bytes an anchor.
  constexpr std::int64_t kFewLanes = 3;
  constexpr std::int64_t kWideLimit = std::int64_t(1) << 22;
  PassShape shape{};
  shape.wide = lanes >= kFewLanes && fixed.n + fixed.m <= kWideLimit;
  shape.form = fixed.oscillates                                             ? Form::oscillating
               : fixed.has_phases() || (values_complex && !fixed.real_part) ? Form::complex
                                                                            : Form::real;
  return shape;
}

/// Calls f(Shape<D, S, W>{}) with the types and the number of lanes of a pass.
template <class F>
void with_shape(PassShape pass, const F& f) {
  const auto with_width = [&](auto d, auto s) {
    using D = decltype(d);
    using S = decltype(s);
    if (pass.wide) {
      f(Shape<D, S, kRows>{});
    } else {
      f(Shape<D, S, 1>{});
    }
  };
  switch (pass.form) {
    case Form::oscillating:
      return with_width(Complex{}, Complex{});
    case Form::complex:
      return with_width(double{}, Complex{});
    case Form::real:
      return with_width(double{}, double{});
  }
}

/// How a call over heads and blocks of lanes shares its threads: many small blocks run side by
/// side, a few long ones one after the other with all threads inside.
struct ThreadSplit {
  int outer = 1;
  int inner = 1;
};

[[nodiscard]] inline ThreadSplit split_threads(int threads, std::int64_t tasks,
                                               std::int64_t anchors) {
  constexpr std::int64_t kLong = 1 << 18;
  if (tasks >= threads && anchors < kLong) {
    return {threads, 1};
  }
  return {1, threads};
}

/// exp(i theta) for a head, or null if the form has no such phase.
[[nodiscard]] inline const Complex* factor_of(const std::vector<Complex>& factors,
                                              std::int64_t head, std::int64_t count) {
  return factors.empty() ? nullptr : factors.data() + head * count;
}

}  // namespace laplex::detail
