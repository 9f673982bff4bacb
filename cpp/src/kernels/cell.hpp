/// One cell in the first cache: its values in, their sums from both sides, what is read off at a
/// place, results out.
#pragma once

#include "kernels.hpp"
#include "pack.hpp"
#include "tiles.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

/// The memory of one cell's sums: small enough for the first cache. Sum k of a plane is the pair
///   before: the carry from the left and the first k values, grown,
///   after:  values k, k + 1, ... and the carry from the right, shrunk.
/// Across rows a sum is a pack and the two are apart. Along the line they are numbers side by side,
/// since both are looked up at the same place, and there is one load for both.
template <class T, int P, int W>
struct Buffers {
  static constexpr std::int64_t kRoom = kCell + 16;
  alignas(64) T value[P][kRoom * W];
  alignas(64) T memory[P][2 * kRoom * W];

  /// Along the line: pair k at [2 k]. Whole groups are written from k = 1 on: there it is aligned.
  [[nodiscard]] LAPLEX_INLINE T* pairs(int p) { return memory[p] + 14; }
  [[nodiscard]] LAPLEX_INLINE const T* pairs(int p) const { return memory[p] + 14; }
  /// Across rows: pack k at [k W].
  [[nodiscard]] LAPLEX_INLINE T* before(int p) { return memory[p]; }
  [[nodiscard]] LAPLEX_INLINE const T* before(int p) const { return memory[p]; }
  [[nodiscard]] LAPLEX_INLINE T* after(int p) { return memory[p] + kRoom * W; }
  [[nodiscard]] LAPLEX_INLINE const T* after(int p) const { return memory[p] + kRoom * W; }
};

struct Range {
  std::int64_t begin;
  std::int64_t end;
  [[nodiscard]] std::int64_t size() const { return end - begin; }
};

template <class T>
LAPLEX_INLINE Range range_of(const SideView<T>& side, std::int64_t cell) {
  return {side.first[cell], side.first[cell + 1]};
}

template <class T>
LAPLEX_INLINE bool is_point(const SideView<T>& side, std::int64_t cell) {
  return side.point != nullptr && side.point[cell] != 0;
}

/// A table's numbers for the pack at place k: eight of the line, or one for eight rows.
template <bool Wide, class T>
LAPLEX_INLINE Pack<T> at(const T* table, std::int64_t k) {
  if constexpr (Wide) {
    return splat(table[k]);
  } else {
    return load(table + k);
  }
}

template <class T>
LAPLEX_INLINE void multiply(Pack<T>& re, Pack<T>& im, const Pack<T>& c, const Pack<T>& s) {
  const Pack<T> r = re * c - im * s;
  im = re * s + im * c;
  re = r;
}

template <class T>
LAPLEX_INLINE void multiply_conj(Pack<T>& re, Pack<T>& im, const Pack<T>& c, const Pack<T>& s) {
  const Pack<T> r = re * c + im * s;
  im = im * c - re * s;
  re = r;
}

/// The values at sorted places [range), phases in, followed by zeros up to a whole group.
template <Form F, bool Wide, class T>
LAPLEX_INLINE void load_values(const SideView<T> side, const Input<T> in, Range range, T* value0,
                               T* value1) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  const std::int64_t count = range.size();
  if (count == 0) {  // there may be no memory at all then
    return;
  }
  const bool phased = P == 2 && side.phase_re != nullptr && !in.phased;
  if constexpr (Wide) {
    // A real value has no imaginary part that its phase would turn.
    const auto put_real = [&](std::int64_t k, const Pack<T>& value) {
      if constexpr (P == 2) {
        if (phased) {
          store(value0 + k * kRows, value * splat(side.phase_re[range.begin + k]));
          store(value1 + k * kRows, value * splat(side.phase_im[range.begin + k]));
          return;
        }
        store(value1 + k * kRows, splat(T(0)));
      }
      store(value0 + k * kRows, value);
    };
    if (in.base == nullptr) {
      const RowsOf<const T> rows = in.rows;
      for (std::int64_t k = 0; k < count; k += 8) {
        const std::int64_t place = range.begin + k;
        Pack<T> x[8];
        if (place + 8 <= rows.length) {
          load_group(rows.first + place, rows.stride, x);
        } else {
          load_part(rows.first + place, rows.stride, rows.length - place, x);
        }
        repeat<8>([&](auto j) { put_real(k + j.value, x[j.value]); });
      }
    } else {
      const std::uint32_t* const index = side.index != nullptr ? side.index + range.begin : nullptr;
      const auto place = [&](std::int64_t k) {
        return index != nullptr ? std::int64_t(index[k]) : range.begin + k;
      };
      if (P == 1 || !in.paired) {
        for (std::int64_t k = 0; k < count; ++k) {
          put_real(k, load(in.base + place(k) * kRows));
        }
      } else {
        const Pack<T> sign = splat(in.conjugate ? T(-1) : T(1));
        for (std::int64_t k = 0; k < count; ++k) {
          const T* const from = in.base + place(k) * 2 * kRows;
          Pack<T> re = load(from);
          Pack<T> im = load(from + kRows) * sign;
          if (phased) {
            multiply(re, im, splat(side.phase_re[range.begin + k]),
                     splat(side.phase_im[range.begin + k]));
          }
          store(value0 + k * kRows, re);
          store(value1 + k * kRows, im);
        }
      }
    }
  } else if constexpr (P == 1) {
    const T* from = in.base + range.begin * in.step;
    if (in.step == 1) {
      std::memcpy(value0, from, static_cast<std::size_t>(count) * sizeof(T));
    } else {
      for (std::int64_t k = 0; k < count; ++k) {
        value0[k] = from[k * in.step];
      }
    }
  } else {
    for (std::int64_t k = 0; k < count; ++k) {
      const T* from = in.base + (range.begin + k) * in.step;
      value0[k] = from[0];
      value1[k] = in.paired ? (in.conjugate ? -from[1] : from[1]) : T(0);
    }
    if (phased) {
      for (std::int64_t k = 0; k < count; ++k) {
        const T c = side.phase_re[range.begin + k];
        const T s = side.phase_im[range.begin + k];
        const T re = value0[k];
        const T im = value1[k];
        value0[k] = in.paired ? re * c - im * s : re * c;
        value1[k] = in.paired ? re * s + im * c : re * s;
      }
    }
  }
  const std::int64_t whole = (count + 7) / 8 * 8;
  for (std::int64_t k = count * W; k < whole * W; ++k) {
    value0[k] = T(0);
    if constexpr (P == 2) {
      value1[k] = T(0);
    }
  }
}

/// Values at a place times grow (or shrink), turned along with it.
template <Form F, bool Wide, bool Grow, class T>
LAPLEX_INLINE void weigh(const SideView<T>& side, std::int64_t place, Pack<T>& w0, Pack<T>& w1) {
  const Pack<T> e = at<Wide>(Grow ? side.grow : side.shrink, place);
  w0 = w0 * e;
  if constexpr (F != Form::real) {
    w1 = w1 * e;
  }
  if constexpr (F == Form::oscillating) {
    const Pack<T> c = at<Wide>(side.turn_re, place);
    const Pack<T> s = at<Wide>(side.turn_im, place);
    if constexpr (Grow) {
      multiply_conj(w0, w1, c, s);
    } else {
      multiply(w0, w1, c, s);
    }
  }
}

/// The same with the values at place k of a range, taken from memory.
template <Form F, bool Wide, bool Grow, class T>
LAPLEX_INLINE void weigh(const SideView<T>& side, std::int64_t begin, const T* value0,
                         const T* value1, std::int64_t k, Pack<T>& w0, Pack<T>& w1) {
  constexpr std::int64_t W = Wide ? kRows : 1;
  w0 = load(value0 + k * W);
  if constexpr (F != Form::real) {
    w1 = load(value1 + k * W);
  }
  weigh<F, Wide, Grow>(side, begin + k, w0, w1);
}

/// What a lane or eight of them carry.
template <bool Wide>
using Carry = std::conditional_t<Wide, Pack<double>, double>;

template <class T>
LAPLEX_INLINE Pack<T> spread(double carry) {
  return splat(static_cast<T>(carry));
}
template <class T>
LAPLEX_INLINE Pack<T> spread(const Pack<double>& carry) {
  return narrow<T>(carry);
}

/// Carries of a cell: planes of W numbers.
template <Form F, bool Wide>
LAPLEX_INLINE void load_carry(const double* carries, std::int64_t cell, Carry<Wide>* carry) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  const double* from = carries + cell * P * W;
  for (int p = 0; p < P; ++p) {
    if constexpr (!Wide) {
      carry[p] = from[p];
    } else {
      carry[p] = load(from + p * W);
    }
  }
}

template <Form F, bool Wide>
LAPLEX_INLINE void store_carry(double* carries, std::int64_t cell, const Carry<Wide>* carry) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  double* to = carries + cell * P * W;
  for (int p = 0; p < P; ++p) {
    if constexpr (!Wide) {
      to[p] = carry[p];
    } else {
      store(to + p * W, carry[p]);
    }
  }
}

/// Fills the sums from the values. Returns the carry that leaves to the right. What comes after the
/// last value is a sum of no values too: a zero is added to the carry, lest its sign depend on
/// where groups end.
template <Form F, bool Wide, class T, class Cell>
LAPLEX_INLINE void scan_cell(const SideView<T> side, Range range, const Carries& carries,
                             std::int64_t cell, Cell& buffers, Carry<Wide>* leaving) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  const std::int64_t whole = (range.size() + 7) / 8 * 8;
  const T* value0 = buffers.value[0];
  const T* value1 = buffers.value[P - 1];
  Carry<Wide> carry[P];
  load_carry<F, Wide>(carries.right, cell, carry);
  if constexpr (Wide) {
    for (int p = 0; p < P; ++p) {
      store(buffers.after(p) + whole * W, splat(T(0)) + spread<T>(carry[p]));
    }
    for (std::int64_t k = whole - 8; k >= 0; k -= 8) {
      Pack<T> x[P][8];
      for (int j = 0; j < 8; ++j) {
        weigh<F, Wide, false>(side, range.begin, value0, value1, k + j, x[0][j], x[P - 1][j]);
      }
      for (int p = 0; p < P; ++p) {
        suffix_group(x[p]);
        const Pack<T> c = spread<T>(carry[p]);
        for (int j = 0; j < 8; ++j) {
          store(buffers.after(p) + (k + j) * W, x[p][j] + c);
        }
        carry[p] = carry[p] + widen(x[p][0]);
      }
    }
    load_carry<F, Wide>(carries.left, cell, carry);
    for (int p = 0; p < P; ++p) {
      store(buffers.before(p), spread<T>(carry[p]));
    }
    for (std::int64_t k = 0; k < whole; k += 8) {
      Pack<T> x[P][8];
      for (int j = 0; j < 8; ++j) {
        weigh<F, Wide, true>(side, range.begin, value0, value1, k + j, x[0][j], x[P - 1][j]);
      }
      for (int p = 0; p < P; ++p) {
        prefix_group(x[p]);
        const Pack<T> c = spread<T>(carry[p]);
        for (int j = 0; j < 8; ++j) {
          store(buffers.before(p) + (k + j + 1) * W, x[p][j] + c);
        }
        carry[p] = carry[p] + widen(x[p][7]);
      }
    }
  } else {
    alignas(64) T after[P][Cell::kRoom];
    for (int p = 0; p < P; ++p) {
      store(after[p] + whole, splat(T(0)) + spread<T>(carry[p]));
    }
    for (std::int64_t k = whole - 8; k >= 0; k -= 8) {
      Pack<T> x[P];
      weigh<F, Wide, false>(side, range.begin, value0, value1, k, x[0], x[P - 1]);
      for (int p = 0; p < P; ++p) {
        const Pack<T> s = suffix8(x[p]);
        store(after[p] + k, s + spread<T>(carry[p]));
        carry[p] = carry[p] + static_cast<double>(s.get(0));
      }
    }
    load_carry<F, Wide>(carries.left, cell, carry);
    for (int p = 0; p < P; ++p) {
      buffers.pairs(p)[0] = static_cast<T>(carry[p]);
      buffers.pairs(p)[1] = after[p][0];
    }
    for (std::int64_t k = 0; k < whole; k += 8) {
      Pack<T> x[P];
      weigh<F, Wide, true>(side, range.begin, value0, value1, k, x[0], x[P - 1]);
      for (int p = 0; p < P; ++p) {
        const Pack<T> s = prefix8(x[p]);
        store_pairs(buffers.pairs(p) + 2 * (k + 1), s + spread<T>(carry[p]),
                    load(after[p] + k + 1));
        carry[p] = carry[p] + static_cast<double>(s.get(7));
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    leaving[p] = carry[p];
  }
}

/// The same for a cell at one point, where only two sums exist: with none of its values and with
/// all.
template <Form F, bool Wide, class T, class Cell>
LAPLEX_INLINE void scan_point(const Carries& carries, std::int64_t cell, Cell& buffers,
                              Carry<Wide>* leaving) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  Carry<Wide> left[P];
  Carry<Wide> right[P];
  Carry<Wide> total[P];
  load_carry<F, Wide>(carries.left, cell, left);
  load_carry<F, Wide>(carries.right, cell, right);
  load_carry<F, Wide>(carries.total, cell, total);
  for (int p = 0; p < P; ++p) {
    leaving[p] = left[p] + total[p];
    const Carry<Wide> all = right[p] + total[p];
    if constexpr (Wide) {
      store(buffers.before(p), spread<T>(left[p]));
      store(buffers.before(p) + W, spread<T>(leaving[p]));
      store(buffers.after(p), spread<T>(all));
      store(buffers.after(p) + W, spread<T>(right[p]));
    } else {
      T* const pairs = buffers.pairs(p);
      pairs[0] = static_cast<T>(left[p]);
      pairs[1] = static_cast<T>(all);
      pairs[2] = static_cast<T>(leaving[p]);
      pairs[3] = static_cast<T>(right[p]);
    }
  }
}

/// The two sums of each plane at the places `where[k..]`.
template <bool Wide, int P, class T, class Cell>
LAPLEX_INLINE void look_up(const Cell& buffers, const std::uint16_t* where, std::int64_t k,
                           Pack<T>* before, Pack<T>* after) {
  for (int p = 0; p < P; ++p) {
    if constexpr (Wide) {
      before[p] = load(buffers.before(p) + std::int64_t(where[k]) * kRows);
      after[p] = load(buffers.after(p) + std::int64_t(where[k]) * kRows);
    } else {
      load_pairs(buffers.pairs(p), where + k, before[p], after[p]);
    }
  }
}

/// The two sums of each plane at the places of the side itself, from k on.
template <bool Wide, int P, class T, class Cell>
LAPLEX_INLINE void look_at(const Cell& buffers, std::int64_t k, Pack<T>* before, Pack<T>* after) {
  for (int p = 0; p < P; ++p) {
    if constexpr (Wide) {
      before[p] = load(buffers.before(p) + k * kRows);
      after[p] = load(buffers.after(p) + k * kRows);
    } else {
      load_pairs(buffers.pairs(p) + 2 * k, before[p], after[p]);
    }
  }
}

/// Moves sums from the centre of the cell to the anchor at place k of `to`: sums from the left by
/// shrink, from the right by grow.
template <Form F, bool Wide, bool Left, class T>
LAPLEX_INLINE void move_to(const SideView<T>& to, std::int64_t place, Pack<T>* sum) {
  constexpr int P = F == Form::real ? 1 : 2;
  const Pack<T> e = at<Wide>(Left ? to.shrink : to.grow, place);
  for (int p = 0; p < P; ++p) {
    sum[p] = sum[p] * e;
  }
  if constexpr (F == Form::oscillating) {
    const Pack<T> c = at<Wide>(to.turn_re, place);
    const Pack<T> s = at<Wide>(to.turn_im, place);
    if constexpr (Left) {
      multiply(sum[0], sum[P - 1], c, s);
    } else {
      multiply_conj(sum[0], sum[P - 1], c, s);
    }
  }
}

/// The phases and the scale of a result at place k of `to`.
template <Form F, bool Wide, class T>
LAPLEX_INLINE void turn_result(const SideView<T>& to, std::int64_t place, Pack<T>* u,
                               const Output<T>& out) {
  constexpr int P = F == Form::real ? 1 : 2;
  if constexpr (F != Form::real) {
    if (to.phase_re != nullptr) {
      multiply(u[0], u[P - 1], at<Wide>(to.phase_re, place), at<Wide>(to.phase_im, place));
    }
  }
  if (out.scale != T(1) || out.conjugate) {
    for (int p = 0; p < P; ++p) {
      u[p] = u[p] * splat(p == 1 && out.conjugate ? -out.scale : out.scale);
    }
  }
}

/// Puts the pack at place k of `to` where the caller wants it, phases in.
template <Form F, bool Wide, class T>
LAPLEX_INLINE void put(const SideView<T>& to, Range range, std::int64_t k, Pack<T>* u,
                       const Output<T>& out) {
  constexpr int P = F == Form::real ? 1 : 2;
  turn_result<F, Wide>(to, range.begin + k, u, out);
  if constexpr (Wide) {
    const std::int64_t place =
        to.index != nullptr ? std::int64_t(to.index[range.begin + k]) : range.begin + k;
    T* at_place = out.base + place * (out.paired ? 2 * kRows : kRows);
    store(at_place, u[0]);
    if constexpr (P == 2) {
      if (out.paired) {
        store(at_place + kRows, u[1]);
      }
    }
  } else {
    const std::int64_t left = range.size() - k;
    const std::uint32_t* const index =
        to.index != nullptr && !out.sorted ? to.index + range.begin + k : nullptr;
    if (P == 1 && out.step == 1 && left >= 8) {
      if (index == nullptr) {
        store(out.base + range.begin + k, u[0]);
      } else {
        for (int j = 0; j < 8; ++j) {
          out.base[index[j]] = u[0].get(j);
        }
      }
      return;
    }
    T value[P][8];
    for (int p = 0; p < P; ++p) {
      store(value[p], u[p]);
    }
    const auto write = [&](int count) {
      for (int j = 0; j < count; ++j) {
        const std::int64_t place = index != nullptr ? std::int64_t(index[j]) : range.begin + k + j;
        T* at_place = out.base + place * out.step;
        at_place[0] = value[0][j];
        if constexpr (P == 2) {
          if (out.paired) {
            at_place[1] = value[1][j];
          }
        }
      }
    };
    if (left >= 8) {
      write(8);
    } else {
      write(static_cast<int>(left));
    }
  }
}

/// Calls body(range) for pieces of at most kCell places.
template <class Body>
LAPLEX_INLINE void in_pieces(Range range, const Body& body) {
  for (std::int64_t begin = range.begin; begin < range.end; begin += kCell) {
    body(Range{begin, begin + kCell < range.end ? begin + kCell : range.end});
  }
}

}  // namespace laplex::detail::LAPLEX_LEVEL
