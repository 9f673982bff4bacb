// The one body of the inner loops. Each level's file compiles it into a namespace of its own.
#include "kernels.hpp"
#include "pack.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

// ---------------------------------------------------------------------------- exponentials

// exp(t) = 2^k exp(r), |r| <= ln(2)/2, and exp(+-r) = 1 + (cosh r - 1) +- sinh r: both signs for
// the price of one. Terms of the Taylor series: after the last one the rest is below a tenth of a
// unit of T. No fused operations, so that all levels agree.
template <class T>
LAPLEX_INLINE void exponential_pair(const Pack<double>& t, Pack<double>& up, Pack<double>& down) {
  // 1.5 * 2^52 + 1023: adding it rounds to an integer and leaves that integer, biased as an
  // exponent, in the low bits.
  const Pack<double> magic = splat(6755399441055744.0 + 1023.0);
  const Pack<double> shifted = t * splat(1.4426950408889634) + magic;
  const Pack<double> k = shifted - magic;
  // ln 2 in two parts; k times the first is exact.
  const Pack<double> r =
      (t - k * splat(0.693147180369123816490)) - k * splat(1.90821492927058770002e-10);
  const Pack<double> q = r * r;
  Pack<double> even;  // (cosh r - 1) / q
  Pack<double> odd;   // sinh r / r - 1, over q
  if constexpr (sizeof(T) == sizeof(double)) {
    even =
        ((((q * splat(1.0 / 479001600.0) + splat(1.0 / 3628800.0)) * q + splat(1.0 / 40320.0)) * q +
          splat(1.0 / 720.0)) *
             q +
         splat(1.0 / 24.0)) *
            q +
        splat(0.5);
    odd =
        ((((q * splat(1.0 / 6227020800.0) + splat(1.0 / 39916800.0)) * q + splat(1.0 / 362880.0)) *
              q +
          splat(1.0 / 5040.0)) *
             q +
         splat(1.0 / 120.0)) *
            q +
        splat(1.0 / 6.0);
  } else {
    even = (q * splat(1.0 / 720.0) + splat(1.0 / 24.0)) * q + splat(0.5);
    odd = (q * splat(1.0 / 5040.0) + splat(1.0 / 120.0)) * q + splat(1.0 / 6.0);
  }
  const Pack<double> c = q * even;
  const Pack<double> s = r + r * (q * odd);
  const Pack<double> one = splat(1.0);
  Pack<double> scale_up;
  Pack<double> scale_down;
#if defined(__GNUC__)
  using Bits = typename NativeOf<std::int64_t, kLanes<double>>::type;
  for (int p = 0; p < Pack<double>::kParts; ++p) {
    Bits bits;
    std::memcpy(&bits, &shifted.part[p], sizeof(bits));
    const Bits up_bits = bits << 52;
    // The low bits hold 1023 + k; 2046 - (1023 + k) = 1023 - k.
    const Bits down_bits = (2046 - bits) << 52;
    std::memcpy(&scale_up.part[p], &up_bits, sizeof(bits));
    std::memcpy(&scale_down.part[p], &down_bits, sizeof(bits));
  }
#else
  for (int l = 0; l < 8; ++l) {
    std::uint64_t bits;
    const double value = shifted.get(l);
    std::memcpy(&bits, &value, sizeof(bits));
    const std::uint64_t up_bits = bits << 52;
    const std::uint64_t down_bits = (std::uint64_t(2046) - bits) << 52;
    std::memcpy(&scale_up.part[l], &up_bits, sizeof(up_bits));
    std::memcpy(&scale_down.part[l], &down_bits, sizeof(down_bits));
  }
#endif
  up = (one + (c + s)) * scale_up;
  down = (one + (c - s)) * scale_down;
}

template <class T>
void exponentials(const T* position, std::int64_t count, double centre, double lengthscale, T* grow,
                  T* shrink) {
  const Pack<double> middle = splat(centre);
  const Pack<double> ell = splat(lengthscale);
  const auto group = [&](const Pack<T>& z, Pack<T>& up, Pack<T>& down) {
    Pack<double> up_wide;
    Pack<double> down_wide;
    exponential_pair<T>((widen(z) - middle) / ell, up_wide, down_wide);
    up = narrow<T>(up_wide);
    down = narrow<T>(down_wide);
  };
  Pack<T> up;
  Pack<T> down;
  std::int64_t k = 0;
  for (; k + 8 <= count; k += 8) {
    group(load(position + k), up, down);
    store(grow + k, up);
    store(shrink + k, down);
  }
  if (k < count) {
    T rest[8];
    for (std::int64_t j = 0; j < 8; ++j) {
      rest[j] = k + j < count ? position[k + j] : position[count - 1];
    }
    group(load(rest), up, down);
    for (std::int64_t j = 0; k + j < count; ++j) {
      grow[k + j] = up.get(static_cast<int>(j));
      shrink[k + j] = down.get(static_cast<int>(j));
    }
  }
}

// ---------------------------------------------------------------------------- one cell

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
LAPLEX_INLINE void load_values(const SideView<T>& side, const Input<T>& in, Range range, T* value0,
                               T* value1) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  const std::int64_t count = range.size();
  if (count == 0) {  // there may be no memory at all then
    return;
  }
  const std::uint32_t* index =
      side.index != nullptr && !in.sorted ? side.index + range.begin : nullptr;
  if constexpr (Wide) {
    const std::int64_t entry = in.paired ? 2 * kRows : kRows;
    const T sign = in.conjugate ? T(-1) : T(1);
    for (std::int64_t k = 0; k < count; ++k) {
      const T* from =
          in.base + (index != nullptr ? std::int64_t(index[k]) : range.begin + k) * entry;
      Pack<T> re = load(from);
      if constexpr (P == 2) {
        Pack<T> im = in.paired ? load(from + kRows) * splat(sign) : splat(T(0));
        if (side.phase_re != nullptr) {
          multiply(re, im, splat(side.phase_re[range.begin + k]),
                   splat(side.phase_im[range.begin + k]));
        }
        store(value1 + k * kRows, im);
      }
      store(value0 + k * kRows, re);
    }
  } else {
    if constexpr (P == 1) {
      if (index != nullptr) {
        if (in.step == 1) {
          for (std::int64_t k = 0; k < count; ++k) {
            value0[k] = in.base[index[k]];
          }
        } else {
          for (std::int64_t k = 0; k < count; ++k) {
            value0[k] = in.base[index[k] * in.step];
          }
        }
      } else if (in.step == 1) {
        std::memcpy(value0, in.base + range.begin, static_cast<std::size_t>(count) * sizeof(T));
      } else {
        for (std::int64_t k = 0; k < count; ++k) {
          value0[k] = in.base[(range.begin + k) * in.step];
        }
      }
    } else {
      for (std::int64_t k = 0; k < count; ++k) {
        const T* from =
            in.base + (index != nullptr ? std::int64_t(index[k]) : range.begin + k) * in.step;
        value0[k] = from[0];
        value1[k] = in.paired ? (in.conjugate ? -from[1] : from[1]) : T(0);
      }
      if (side.phase_re != nullptr && !in.sorted) {
        for (std::int64_t k = 0; k < count; ++k) {
          const T c = side.phase_re[range.begin + k];
          const T s = side.phase_im[range.begin + k];
          const T re = value0[k];
          const T im = value1[k];
          value0[k] = re * c - im * s;
          value1[k] = re * s + im * c;
        }
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

/// The value at place k times grow (or shrink), turned along with it.
template <Form F, bool Wide, bool Grow, class T>
LAPLEX_INLINE void weigh(const SideView<T>& side, std::int64_t begin, const T* value0,
                         const T* value1, std::int64_t k, Pack<T>& w0, Pack<T>& w1) {
  constexpr std::int64_t W = Wide ? kRows : 1;
  const Pack<T> e = at<Wide>(Grow ? side.grow : side.shrink, begin + k);
  w0 = load(value0 + k * W) * e;
  if constexpr (F != Form::real) {
    w1 = load(value1 + k * W) * e;
  }
  if constexpr (F == Form::oscillating) {
    const Pack<T> c = at<Wide>(side.turn_re, begin + k);
    const Pack<T> s = at<Wide>(side.turn_im, begin + k);
    if constexpr (Grow) {
      multiply_conj(w0, w1, c, s);
    } else {
      multiply(w0, w1, c, s);
    }
  }
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

/// Carries of a cell: planes of W numbers, or W pairs if oscillating.
template <Form F, bool Wide>
LAPLEX_INLINE void load_carry(const double* carries, std::int64_t cell, Carry<Wide>* carry) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  const double* from = carries + cell * P * W;
  for (int p = 0; p < P; ++p) {
    if constexpr (!Wide) {
      carry[p] = from[p];
    } else if constexpr (F == Form::oscillating) {
      carry[p] = make_pack<double>([&](int w) { return from[2 * w + p]; });
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
    } else if constexpr (F == Form::oscillating) {
      for (std::int64_t w = 0; w < kRows; ++w) {
        to[2 * w + p] = carry[p].get(static_cast<int>(w));
      }
    } else {
      store(to + p * W, carry[p]);
    }
  }
}

/// Fills the sums from the values. Returns the carry that leaves to the right.
template <Form F, bool Wide, class T, class Cell>
LAPLEX_INLINE void scan_cell(const SideView<T>& side, Range range, const Carries& carries,
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
      store(buffers.after(p) + whole * W, spread<T>(carry[p]));
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
      store(after[p] + whole, spread<T>(carry[p]));
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
      std::uint16_t where[8];
      for (int j = 0; j < 8; ++j) {
        where[j] = static_cast<std::uint16_t>(k + j);
      }
      load_pairs(buffers.pairs(p), where, before[p], after[p]);
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

/// Puts the pack at place k of `to` where the caller wants it, phases in.
template <Form F, bool Wide, class T>
LAPLEX_INLINE void put(const SideView<T>& to, Range range, std::int64_t k, Pack<T>* u,
                       const Output<T>& out) {
  constexpr int P = F == Form::real ? 1 : 2;
  if constexpr (F != Form::real) {
    if (to.phase_re != nullptr) {
      multiply(u[0], u[P - 1], at<Wide>(to.phase_re, range.begin + k),
               at<Wide>(to.phase_im, range.begin + k));
    }
  }
  if (out.scale != T(1) || out.conjugate) {
    for (int p = 0; p < P; ++p) {
      u[p] = u[p] * splat(p == 1 && out.conjugate ? -out.scale : out.scale);
    }
  }
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
    const std::uint32_t* const index = to.index != nullptr ? to.index + range.begin + k : nullptr;
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

// ---------------------------------------------------------------------------- totals

/// Groups of eight whose sum is formed in the precision of the values before it goes on in double.
inline constexpr std::int64_t kQuad = 4;

/// Sums of one piece: in each of the eight places of a group by itself, four groups at a time, then
/// those eight.
template <Form F, bool Wide, class T, class Cell>
LAPLEX_INLINE void sum_piece(const SideView<T>& side, const Input<T>& in, Range range,
                             Cell& buffers, Carry<Wide>* grown, Carry<Wide>* shrunk) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  T* const value0 = buffers.value[0];
  T* const value1 = buffers.value[P - 1];
  load_values<F, Wide>(side, in, range, value0, value1);
  const std::int64_t groups = (range.size() + 7) / 8;
  const std::int64_t quads = (groups + kQuad - 1) / kQuad;
  for (std::int64_t k = groups * 8 * W; k < quads * kQuad * 8 * W; ++k) {
    value0[k] = T(0);
    value1[k] = T(0);
  }
  // Adds what stands at place k of four groups to a sum of each plane.
  const auto add_quad = [&](auto grow, std::int64_t k, Pack<double>* sum) {
    Pack<T> w[kQuad][P];
    for (std::int64_t q = 0; q < kQuad; ++q) {
      weigh<F, Wide, decltype(grow)::value>(side, range.begin, value0, value1, k + 8 * q, w[q][0],
                                            w[q][P - 1]);
    }
    for (int p = 0; p < P; ++p) {
      sum[p] = sum[p] + widen((w[0][p] + w[1][p]) + (w[2][p] + w[3][p]));
    }
  };
  const auto add_places = [&](auto grow, Carry<Wide>* total) {
    const Pack<double> zero = splat(0.0);
    if constexpr (Wide) {
      Pack<double> sum[8][P];
      for (int j = 0; j < 8; ++j) {
        for (int p = 0; p < P; ++p) {
          sum[j][p] = zero;
        }
        for (std::int64_t q = 0; q < quads; ++q) {
          add_quad(grow, q * kQuad * 8 + j, sum[j]);
        }
      }
      for (int p = 0; p < P; ++p) {
        total[p] = ((sum[0][p] + sum[1][p]) + (sum[2][p] + sum[3][p])) +
                   ((sum[4][p] + sum[5][p]) + (sum[6][p] + sum[7][p]));
      }
    } else {
      Pack<double> sum[P];
      for (int p = 0; p < P; ++p) {
        sum[p] = zero;
      }
      for (std::int64_t q = 0; q < quads; ++q) {
        add_quad(grow, q * kQuad * 8, sum);
      }
      for (int p = 0; p < P; ++p) {
        total[p] = sum_lanes(sum[p]);
      }
    }
  };
  add_places(Constant<bool, true>{}, grown);
  add_places(Constant<bool, false>{}, shrunk);
}

/// Sums over a range of any length, halved until it is one piece: so many additions at one point
/// must not add up their roundings.
template <Form F, bool Wide, class T, class Cell>
void sum_range(const SideView<T>& side, const Input<T>& in, Range range, Cell& buffers,
               Carry<Wide>* grown, Carry<Wide>* shrunk) {
  constexpr int P = F == Form::real ? 1 : 2;
  if (range.size() <= kCell) {
    sum_piece<F, Wide>(side, in, range, buffers, grown, shrunk);
    return;
  }
  const std::int64_t middle = range.begin + (range.size() / 2 + kCell - 1) / kCell * kCell;
  sum_range<F, Wide>(side, in, {range.begin, middle}, buffers, grown, shrunk);
  Carry<Wide> more_grown[P];
  Carry<Wide> more_shrunk[P];
  sum_range<F, Wide>(side, in, {middle, range.end}, buffers, more_grown, more_shrunk);
  for (int p = 0; p < P; ++p) {
    grown[p] = grown[p] + more_grown[p];
    shrunk[p] = shrunk[p] + more_shrunk[p];
  }
}

template <Form F, bool Wide, class T>
void totals_of(const SideView<T>& from, const Input<T>& values, std::int64_t begin,
               std::int64_t end, double* grown, double* shrunk, void* scratch) {
  constexpr int P = F == Form::real ? 1 : 2;
  auto& buffers = *static_cast<Buffers<T, P, Wide ? kRows : 1>*>(scratch);
  for (std::int64_t cell = begin; cell < end; ++cell) {
    Carry<Wide> up[P];
    Carry<Wide> down[P];
    sum_range<F, Wide>(from, values, range_of(from, cell), buffers, up, down);
    store_carry<F, Wide>(grown, cell, up);
    store_carry<F, Wide>(shrunk, cell, down);
  }
}

// ---------------------------------------------------------------------------- products

template <Form F, bool Wide, class T>
void product_of(const SideView<T>& from, const SideView<T>& to, const std::uint16_t* left_at,
                const std::uint16_t* right_at, const Input<T>& values, const Carries& carries,
                std::int64_t begin, std::int64_t end, Combine combine, const Output<T>& out,
                void* scratch) {
  constexpr int P = F == Form::real ? 1 : 2;
  auto& buffers = *static_cast<Buffers<T, P, Wide ? kRows : 1>*>(scratch);
  for (std::int64_t cell = begin; cell < end; ++cell) {
    const Range sources = range_of(from, cell);
    const Range targets = range_of(to, cell);
    if (targets.size() == 0) {
      continue;
    }
    Carry<Wide> leaving[P];
    if (is_point(from, cell)) {
      scan_point<F, Wide, T>(carries, cell, buffers, leaving);
    } else {
      load_values<F, Wide>(from, values, sources, buffers.value[0], buffers.value[P - 1]);
      scan_cell<F, Wide>(from, sources, carries, cell, buffers, leaving);
    }
    const std::int64_t step = Wide ? 1 : 8;
    Pack<T> left[P];
    Pack<T> right[P];
    const bool one_place = left_at == right_at;
    for (std::int64_t k = 0; k < targets.size(); k += step) {
      look_up<Wide, P>(buffers, left_at + targets.begin, k, left, right);
      if (!one_place) {
        Pack<T> unused[P];
        look_up<Wide, P>(buffers, right_at + targets.begin, k, unused, right);
      }
      move_to<F, Wide, true>(to, targets.begin + k, left);
      move_to<F, Wide, false>(to, targets.begin + k, right);
      for (int p = 0; p < P; ++p) {
        if (combine == Combine::sum) {
          left[p] = left[p] + right[p];
        } else if (combine == Combine::difference) {
          left[p] = left[p] - right[p];
        } else if (combine == Combine::right) {
          left[p] = right[p];
        }
      }
      put<F, Wide>(to, targets, k, left, out);
    }
  }
}

// ---------------------------------------------------------------------------- gradients

/// Gradients of the anchors of a piece: numbers of the line as they come, or sums over eight rows.
/// Those are formed for eight anchors at a time, by turning their packs over.
template <bool Wide, class T>
class Collected {
 public:
  LAPLEX_INLINE void add(const Pack<T>& a, std::int64_t k) {
    if constexpr (Wide) {
      waiting_[k % 8] = a;
      if (k % 8 == 7) {
        sum_up(k - 7);
      }
    } else {
      store(value_ + k, widen(a));
    }
  }
  /// After the last of `count` anchors.
  LAPLEX_INLINE double* finish(std::int64_t count) {
    if constexpr (Wide) {
      if (count % 8 != 0) {
        for (std::int64_t k = count % 8; k < 8; ++k) {
          waiting_[k] = splat(T(0));
        }
        sum_up(count / 8 * 8);
      }
    }
    return value_;
  }

 private:
  LAPLEX_INLINE void sum_up(std::int64_t k) {
    Pack<T> x[8];
    for (int j = 0; j < 8; ++j) {
      x[j] = waiting_[j];
    }
    transpose8(x);
    store(value_ + k, widen(((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]))));
  }

  double value_[kCell + 8];
  Pack<T> waiting_[8];
};

template <class T>
LAPLEX_INLINE void flush(const SideView<T>& side, Range range, const double* gradient,
                         const Sink<T>& sink) {
  if (sink.sum != nullptr) {
    for (std::int64_t k = 0; k < range.size(); ++k) {
      sink.sum[range.begin + k] += gradient[k];
    }
  } else if (side.index != nullptr) {
    for (std::int64_t k = 0; k < range.size(); ++k) {
      sink.out[side.index[range.begin + k]] = static_cast<T>(gradient[k]);
    }
  } else {
    for (std::int64_t k = 0; k < range.size(); ++k) {
      sink.out[range.begin + k] = static_cast<T>(gradient[k]);
    }
  }
}

/// One side of the gradients: what the sums of the other side are at these anchors.
template <class T>
struct GradientSide {
  const SideView<T>* side;
  const Sink<T>* anchors;
  const Sink<T>* phases;
  double phase_sign;
  const Output<T>* values;  ///< null: not wanted
};

/// Whether some anchors of a range are tied with anchors of the other side.
template <class T>
LAPLEX_INLINE bool has_ties(const SideView<T>& side, Range range) {
  return std::memcmp(side.below + range.begin, side.upto + range.begin,
                     static_cast<std::size_t>(range.size()) * sizeof(std::uint16_t)) != 0;
}

template <Form F, bool Wide, class T, class Cell>
LAPLEX_INLINE void gradient_piece(const GradientJob<T>& job, const GradientSide<T>& g, Range range,
                                  const Cell& own, const Cell& other, bool point,
                                  Pack<double>* stretch) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  const SideView<T>& side = *g.side;
  const std::int64_t step = Wide ? 1 : 8;
  const bool ties = has_ties(side, range);
  const bool anchors = static_cast<bool>(*g.anchors);
  const bool phases = static_cast<bool>(*g.phases);
  Collected<Wide, T> collected_re;
  Collected<Wide, T> collected_im;
  Collected<Wide, T> collected_phase;
  for (std::int64_t k = 0; k < range.size(); k += step) {
    Pack<T> before[P];
    Pack<T> after[P];
    look_up<Wide, P>(other, side.split + range.begin, k, before, after);
    if (stretch != nullptr && !point) {
      // Between two neighbours of the line all pairs that straddle the gap pass: their sum, which
      // is a product of sums, times the gap's length.
      const Pack<T> gap = at<Wide>(side.gap, range.begin + k);
      const std::int64_t here = Wide ? 8 : range.size() - k;  // lanes of this cell
      Pack<T> own_before[P];
      Pack<T> own_after[P];
      look_at<Wide, P>(own, k + 1, own_before, own_after);
      if constexpr (P == 1) {
        const Pack<T> flow = before[0] * own_after[0] + after[0] * own_before[0];
        stretch[0] = stretch[0] + widen(first_lanes(flow * gap, here));
      } else {
        multiply(own_after[0], own_after[1], before[0], before[1]);
        multiply(own_before[0], own_before[1], after[0], after[1]);
        for (int p = 0; p < P; ++p) {
          stretch[p] = stretch[p] + widen(first_lanes((own_after[p] + own_before[p]) * gap, here));
        }
      }
    }
    // Ties are before a target, after a source, and in neither of the sums for anchors.
    Pack<T> left[P];
    Pack<T> right[P];
    for (int p = 0; p < P; ++p) {
      left[p] = before[p];
      right[p] = after[p];
    }
    if (anchors && ties) {
      Pack<T> unused[P];
      look_up<Wide, P>(other, side.below + range.begin, k, left, unused);
      look_up<Wide, P>(other, side.upto + range.begin, k, unused, right);
      move_to<F, Wide, true>(side, range.begin + k, left);
      move_to<F, Wide, false>(side, range.begin + k, right);
    }
    move_to<F, Wide, true>(side, range.begin + k, before);
    move_to<F, Wide, false>(side, range.begin + k, after);
    if (anchors) {
      Pack<T> odd[P];
      for (int p = 0; p < P; ++p) {
        odd[p] = ties ? left[p] - right[p] : before[p] - after[p];
      }
      Pack<T> a = load(own.value[0] + k * W);
      if constexpr (P == 1) {
        collected_re.add(a * odd[0], k);
      } else {
        Pack<T> b = load(own.value[1] + k * W);
        multiply(a, b, odd[0], odd[1]);
        collected_re.add(a, k);
        if constexpr (F == Form::oscillating) {
          collected_im.add(b, k);
        }
      }
    }
    for (int p = 0; p < P; ++p) {
      before[p] = before[p] + after[p];
    }
    if constexpr (P == 2) {
      if (phases) {
        Pack<T> a = load(own.value[0] + k * W);
        Pack<T> b = load(own.value[1] + k * W);
        multiply(a, b, before[0], before[1]);
        collected_phase.add(b, k);
      }
    }
    if (g.values != nullptr) {
      put<F, Wide>(side, range, k, before, *g.values);
    }
  }
  if (anchors) {
    double* const re = collected_re.finish(range.size());
    const double* const im = F == Form::oscillating ? collected_im.finish(range.size()) : re;
    for (std::int64_t k = 0; k < range.size(); ++k) {  // Re(-c z), c = 1/ell - i frequency
      re[k] = -job.inverse_lengthscale * re[k];
      if constexpr (F == Form::oscillating) {
        re[k] = re[k] - job.frequency * im[k];
      }
    }
    flush(side, range, re, *g.anchors);
  }
  if (phases) {
    double* const phase = collected_phase.finish(range.size());
    for (std::int64_t k = 0; k < range.size(); ++k) {
      phase[k] = P == 2 ? g.phase_sign * phase[k] : 0.0;
    }
    flush(side, range, phase, *g.phases);
  }
}

template <Form F, bool Wide, class T>
void gradients_of(const GradientJob<T>& job, std::int64_t begin, std::int64_t end, void* scratch) {
  constexpr int P = F == Form::real ? 1 : 2;
  using Cell = Buffers<T, P, Wide ? kRows : 1>;
  Cell* cells = static_cast<Cell*>(scratch);
  Cell& v = cells[0];
  Cell& g = cells[1];
  const GradientSide<T> at_targets{&job.targets, &job.d_targets, &job.d_target_phase, -1.0,
                                   nullptr};
  const GradientSide<T> at_sources{&job.sources, &job.d_sources, &job.d_source_phase, 1.0,
                                   job.d_values.base != nullptr ? &job.d_values : nullptr};
  for (std::int64_t cell = begin; cell < end; ++cell) {
    const Range sources = range_of(job.sources, cell);
    const Range targets = range_of(job.targets, cell);
    const bool point = is_point(job.targets, cell);
    Carry<Wide> v_leaving[P];
    Carry<Wide> g_leaving[P];
    Pack<double> stretch[P];
    for (int p = 0; p < P; ++p) {
      stretch[p] = splat(0.0);
    }
    if (point) {
      scan_point<F, Wide, T>(job.values_carries, cell, v, v_leaving);
      scan_point<F, Wide, T>(job.grad_carries, cell, g, g_leaving);
    } else {
      load_values<F, Wide>(job.sources, job.values, sources, v.value[0], v.value[P - 1]);
      scan_cell<F, Wide>(job.sources, sources, job.values_carries, cell, v, v_leaving);
      load_values<F, Wide>(job.targets, job.grad, targets, g.value[0], g.value[P - 1]);
      scan_cell<F, Wide>(job.targets, targets, job.grad_carries, cell, g, g_leaving);
    }
    in_pieces(targets, [&](Range piece) {
      if (point) {
        load_values<F, Wide>(job.targets, job.grad, piece, g.value[0], g.value[P - 1]);
      }
      gradient_piece<F, Wide>(job, at_targets, piece, g, v, point,
                              job.stretch != nullptr ? stretch : nullptr);
    });
    in_pieces(sources, [&](Range piece) {
      if (point) {
        load_values<F, Wide>(job.sources, job.values, piece, v.value[0], v.value[P - 1]);
      }
      gradient_piece<F, Wide>(job, at_sources, piece, v, g, point,
                              job.stretch != nullptr && !job.self ? stretch : nullptr);
    });
    if (job.stretch != nullptr) {
      // The gap to the next cell.
      Carry<Wide> v_right[P];
      Carry<Wide> g_right[P];
      load_carry<F, Wide>(job.values_carries.right, cell, v_right);
      load_carry<F, Wide>(job.grad_carries.right, cell, g_right);
      Carry<Wide> a[P];
      if constexpr (P == 1) {
        a[0] = v_leaving[0] * g_right[0] + v_right[0] * g_leaving[0];
      } else {
        a[0] = (v_leaving[0] * g_right[0] - v_leaving[1] * g_right[1]) +
               (v_right[0] * g_leaving[0] - v_right[1] * g_leaving[1]);
        a[1] = (v_leaving[0] * g_right[1] + v_leaving[1] * g_right[0]) +
               (v_right[0] * g_leaving[1] + v_right[1] * g_leaving[0]);
      }
      for (int p = 0; p < P; ++p) {
        double inside = sum_lanes(stretch[p]);
        double across = 0.0;
        if constexpr (Wide) {
          across = sum_lanes(a[p]);
        } else {
          across = a[p];
        }
        if (across != 0.0) {  // the length may be infinite where nothing passes
          inside = inside + across * job.gap_after[cell];
        }
        job.stretch[2 * cell + p] += inside;
      }
    }
  }
}

// ---------------------------------------------------------------------------- rows and tiles

template <class T>
LAPLEX_INLINE bool all_there(const T* const* rows) {
  bool there = true;
  for (int r = 0; r < 8; ++r) {
    there = there && rows[r] != nullptr;
  }
  return there;
}

template <class T>
void to_tile(const T* const* rows, std::int64_t step, std::int64_t begin, std::int64_t end, T* tile,
             std::int64_t tile_step) {
  std::int64_t k = begin;
  if (step == 1 && all_there(rows)) {
    const T* const row[8] = {rows[0], rows[1], rows[2], rows[3],
                             rows[4], rows[5], rows[6], rows[7]};
    for (; k + 8 <= end; k += 8) {
      Pack<T> x[8];
      for (int r = 0; r < 8; ++r) {
        x[r] = load(row[r] + k);
      }
      transpose8(x);
      for (int j = 0; j < 8; ++j) {
        store(tile + (k + j) * tile_step, x[j]);
      }
    }
  }
  for (; k < end; ++k) {
    for (int r = 0; r < 8; ++r) {
      tile[k * tile_step + r] = rows[r] != nullptr ? rows[r][k * step] : T(0);
    }
  }
}

template <class T>
void from_tile(const T* tile, std::int64_t tile_step, std::int64_t begin, std::int64_t end,
               T* const* rows, std::int64_t step) {
  std::int64_t k = begin;
  if (step == 1 && all_there(rows)) {
    T* const row[8] = {rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]};
    for (; k + 8 <= end; k += 8) {
      Pack<T> x[8];
      for (int j = 0; j < 8; ++j) {
        x[j] = load(tile + (k + j) * tile_step);
      }
      transpose8(x);
      for (int r = 0; r < 8; ++r) {
        store(row[r] + k, x[r]);
      }
    }
  }
  for (; k < end; ++k) {
    for (int r = 0; r < 8; ++r) {
      if (rows[r] != nullptr) {
        rows[r][k * step] = tile[k * tile_step + r];
      }
    }
  }
}

// ---------------------------------------------------------------------------- the table

template <class F>
LAPLEX_INLINE void with_form(Form form, bool wide, const F& f) {
  const auto with_width = [&](auto form_constant) {
    if (wide) {
      f(form_constant, Constant<bool, true>{});
    } else {
      f(form_constant, Constant<bool, false>{});
    }
  };
  switch (form) {
    case Form::real:
      return with_width(Constant<Form, Form::real>{});
    case Form::complex:
      return with_width(Constant<Form, Form::complex>{});
    default:
      return with_width(Constant<Form, Form::oscillating>{});
  }
}

template <class T>
void totals(Form form, bool wide, const SideView<T>& from, const Input<T>& values,
            std::int64_t begin, std::int64_t end, double* grown, double* shrunk, void* scratch) {
  with_form(form, wide, [&](auto f, auto w) {
    totals_of<decltype(f)::value, decltype(w)::value>(from, values, begin, end, grown, shrunk,
                                                      scratch);
  });
}

template <class T>
void product(Form form, bool wide, const SideView<T>& from, const SideView<T>& to,
             const std::uint16_t* left_at, const std::uint16_t* right_at, const Input<T>& values,
             const Carries& carries, std::int64_t begin, std::int64_t end, Combine combine,
             const Output<T>& out, void* scratch) {
  with_form(form, wide, [&](auto f, auto w) {
    product_of<decltype(f)::value, decltype(w)::value>(from, to, left_at, right_at, values, carries,
                                                       begin, end, combine, out, scratch);
  });
}

template <class T>
void gradients(Form form, bool wide, const GradientJob<T>& job, std::int64_t begin,
               std::int64_t end, void* scratch) {
  with_form(form, wide, [&](auto f, auto w) {
    gradients_of<decltype(f)::value, decltype(w)::value>(job, begin, end, scratch);
  });
}

/// Of a level; a constant, so that nothing of the level's code runs before it is chosen.
template <class T>
constexpr Kernels<T> table() {
  return {exponentials<T>, totals<T>, product<T>, gradients<T>, to_tile<T>, from_tile<T>};
}

// scratch_bytes() of instruction_set.cpp.
static_assert(2 * sizeof(Buffers<double, 2, 8>) <=
              std::size_t(2 * 3 * 2) * ((kCell + 16) * 8 * 8 + 64));
static_assert(2 * sizeof(Buffers<float, 2, 1>) <= std::size_t(2 * 3 * 2) * ((kCell + 16) * 4 + 64));

}  // namespace laplex::detail::LAPLEX_LEVEL
