/// Products weighted by a polynomial of the distance: the moments of each cell, read off at the
/// other side.
///
/// With tau = |x - y| / ell, a cell needs sum_j tau_ij^q exp(-tau_ij) v_j for q = 0..P. Expanded
/// about the centre of the cell, their binomials would cancel. So a sum belongs to a place z that
/// is not before its last source, and is moved on from there,
///     sum_j ((z' - y_j)/ell)^q w_j = sum_r C(q, r) ((z' - z)/ell)^(q-r) sum_j ((z - y_j)/ell)^r
///     w_j,
/// in which every factor is positive. The weights w = grow * v (or shrink * v from the right) are
/// those of plain products, so that moving costs no decays. Distances are differences of the
/// anchors themselves and not of their offsets from the centre: they keep their relative accuracy
/// however small they are.
#pragma once

#include "cell.hpp"
#include "totals.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

/// The memory of one cell's moments. Sum k of a plane is that of the first k values ("before"), at
/// the place of the last of them, or of values k, k + 1, ... ("after"), at the place of the first;
/// carries are at the cell's first and last anchor.
template <class T, int P, int D, int W>
struct MomentBuffers {
  static constexpr std::int64_t kRoom = kCell + 32;
  static constexpr std::int64_t kFirst = 8;  ///< of the places: there are some before it
  alignas(64) T value[P][kRoom * W];
  alignas(64) T memory[P][D + 1][2 * kRoom * W];
  alignas(64) T place[kRoom];     ///< of the values, then the last anchor
  alignas(64) T pair[2 * kRoom];  ///< places k - 1 and k, side by side; narrow

  [[nodiscard]] LAPLEX_INLINE T* places() { return place + kFirst; }
  [[nodiscard]] LAPLEX_INLINE const T* places() const { return place + kFirst; }
  [[nodiscard]] LAPLEX_INLINE T* place_pairs() { return pair + 14; }
  [[nodiscard]] LAPLEX_INLINE const T* place_pairs() const { return pair + 14; }
  [[nodiscard]] LAPLEX_INLINE T* pairs(int p, int q) { return memory[p][q] + 14; }
  [[nodiscard]] LAPLEX_INLINE const T* pairs(int p, int q) const { return memory[p][q] + 14; }
  [[nodiscard]] LAPLEX_INLINE T* before(int p, int q) { return memory[p][q]; }
  [[nodiscard]] LAPLEX_INLINE const T* before(int p, int q) const { return memory[p][q]; }
  [[nodiscard]] LAPLEX_INLINE T* after(int p, int q) { return memory[p][q] + kRoom * W; }
  [[nodiscard]] LAPLEX_INLINE const T* after(int p, int q) const {
    return memory[p][q] + kRoom * W;
  }
};

/// C(n, k), a constant once loops are unrolled.
constexpr double binomial(int n, int k) {
  double c = 1.0;
  for (int j = 1; j <= k; ++j) {
    c = c * (n - k + j) / j;
  }
  return c;
}

/// The distance between two places over the lengthscale.
template <class T>
LAPLEX_INLINE Pack<T> scaled(const Pack<T>& above, const Pack<T>& below, const Unit<T>& unit) {
  return ((above - below) * splat(unit.power)) * splat(unit.rest);
}
template <class T>
LAPLEX_INLINE double scaled(T above, T below, const Unit<T>& unit) {
  const double length = static_cast<double>(above) - static_cast<double>(below);
  return (length * static_cast<double>(unit.power)) * static_cast<double>(unit.rest);
}

LAPLEX_INLINE double times(double a, double b) {
  return a * b;
}
template <class X>
LAPLEX_INLINE Pack<X> times(const Pack<X>& a, double b) {
  return a * splat(static_cast<X>(b));
}

/// What moment q of `from` is at a place further on by `step`: Horner's rule.
template <int Q, class X, class S>
LAPLEX_INLINE X moved(const X* from, const S& step) {
  X h = from[0];
  for (int r = 1; r < Q; ++r) {
    h = h * step + times(from[r], binomial(Q, r));
  }
  return Q > 0 ? h * step + from[Q] : h;
}

/// Adds the moments of `from`, at a place further back by `step`.
template <int D, class X, class S>
LAPLEX_INLINE void add_moved(X* sums, const X* from, const S& step) {
  if constexpr (D > 0) {
    add_moved<D - 1>(sums, from, step);
  }
  sums[D] = sums[D] + moved<D>(from, step);
}

/// The first step of a scan: `from` is a single value, without moments yet, and so is `sums`.
template <int D, class X, class S>
LAPLEX_INLINE void add_first(X* sums, const X& from, const S& step) {
  sums[0] = sums[0] + from;
  X power = from;
  for (int q = 1; q <= D; ++q) {
    power = power * step;
    sums[q] = power;
  }
}

/// The lanes that a lane of a scan adds at each of its three steps, as places of a table: the one
/// before, the one two before, and the last of the first half.
template <bool Up, class T>
struct Steps {
  Pack<T> one;
  Pack<T> two;
  Pack<T> half;
  Pack<T> carry;

  /// `places` are those of the group; `edge` is where the carry stands.
  LAPLEX_INLINE Steps(const T* places, T edge, const Unit<T>& unit) {
    const Pack<T> here = load(places);
    if constexpr (Up) {
      one = scaled(here, load(places - 1), unit);
      two = scaled(here, load(places - 2), unit);
      half = scaled(here, splat(places[3]), unit);
      carry = scaled(here, splat(edge), unit);
    } else {
      one = scaled(load(places + 1), here, unit);
      two = scaled(load(places + 2), here, unit);
      half = scaled(splat(places[4]), here, unit);
      carry = scaled(splat(edge), here, unit);
    }
  }
};

#if defined(LAPLEX_VECTORS)
/// A pack moved by Step lanes within each half; zeros move in.
template <int Step, class T>
LAPLEX_INLINE Pack<T> shifted(const Pack<T>& a) {
  Pack<T> r;
  if constexpr (kLanes<T> == 2) {
    using V = Native<T>;
    const V zero = {};
    for (int h = 0; h < 4; h += 2) {
      const V low = a.part[h];
      const V high = a.part[h + 1];
      if constexpr (Step == 1) {
        r.part[h] = __builtin_shufflevector(low, zero, 2, 0);
        r.part[h + 1] = __builtin_shufflevector(low, high, 1, 2);
      } else if constexpr (Step == 2) {
        r.part[h] = zero;
        r.part[h + 1] = low;
      } else if constexpr (Step == -1) {
        r.part[h] = __builtin_shufflevector(low, high, 1, 2);
        r.part[h + 1] = __builtin_shufflevector(high, zero, 1, 2);
      } else {
        r.part[h] = high;
        r.part[h + 1] = zero;
      }
    }
  } else {
    for (int p = 0; p < Pack<T>::kParts; ++p) {
      r.part[p] = shift_lanes<Step>(a.part[p]);
    }
  }
  return r;
}

/// Lane 3 of a pack in each lane of its second half (Up), or lane 4 in each of the first; zeros
/// elsewhere.
template <bool Up, class T>
LAPLEX_INLINE Pack<T> half_of(const Pack<T>& a) {
  Pack<T> r;
  if constexpr (kLanes<T> == 8) {
    r.part[0] = half_total<Up>(a.part[0]);
  } else {
    const T total = a.get(Up ? 3 : 4);
    for (int p = 0; p < Pack<T>::kParts; ++p) {
      r.part[p] = splat_part((p < Pack<T>::kParts / 2) == Up ? T(0) : total);
    }
  }
  return r;
}
#else
template <int Step, class T>
LAPLEX_INLINE Pack<T> shifted(const Pack<T>& a) {
  return make_pack<T>([&](int k) {
    const int from = k - Step;
    return from >= 0 && from < 8 && from / 4 == k / 4 ? a.get(from) : T(0);
  });
}
template <bool Up, class T>
LAPLEX_INLINE Pack<T> half_of(const Pack<T>& a) {
  return make_pack<T>([&](int k) { return (k < 4) == Up ? T(0) : a.get(Up ? 3 : 4); });
}
#endif

/// The moments of a pack along the line, from its first lane to each (Up) or from its last: x[0]
/// are the values.
template <int D, bool Up, class T>
LAPLEX_INLINE void scan_pack(Pack<T>* x, const Steps<Up, T>& steps) {
  Pack<T> from[D + 1];
  add_first<D>(x, shifted<Up ? 1 : -1>(x[0]), steps.one);
  for (int q = 0; q <= D; ++q) {
    from[q] = shifted<Up ? 2 : -2>(x[q]);
  }
  add_moved<D>(x, from, steps.two);
  for (int q = 0; q <= D; ++q) {
    from[q] = half_of<Up>(x[q]);
  }
  add_moved<D>(x, from, steps.half);
}

/// The same over eight packs, lane by lane: x[j][q].
template <int D, bool Up, class T>
LAPLEX_INLINE void scan_group(Pack<T> (*x)[D + 1], const Steps<Up, T>& steps) {
  T one[8];
  T two[8];
  T half[8];
  store(one, steps.one);
  store(two, steps.two);
  store(half, steps.half);
  const auto lane = [](int k) { return Up ? k : 7 - k; };
  for (int h = 0; h < 8; h += 4) {
    for (int j = 3; j > 0; --j) {
      add_first<D>(x[lane(h + j)], x[lane(h + j - 1)][0], splat(one[lane(h + j)]));
    }
    for (int q = 1; q <= D; ++q) {
      x[lane(h)][q] = splat(T(0));
    }
    for (int j = 3; j > 1; --j) {
      add_moved<D>(x[lane(h + j)], x[lane(h + j - 2)], splat(two[lane(h + j)]));
    }
  }
  for (int j = 4; j < 8; ++j) {
    add_moved<D>(x[lane(j)], x[lane(3)], splat(half[lane(j)]));
  }
}

/// The carries of a cell, [D + 1][planes][lanes].
template <Form F, bool Wide, int D>
LAPLEX_INLINE void load_moments(const double* carries, std::int64_t cell,
                                Carry<Wide> (*carry)[D + 1]) {
  constexpr int P = F == Form::real ? 1 : 2;
  for (int q = 0; q <= D; ++q) {
    Carry<Wide> moment[P];
    load_carry<F, Wide>(carries, cell * (D + 1) + q, moment);
    for (int p = 0; p < P; ++p) {
      carry[p][q] = moment[p];
    }
  }
}

/// The places of a side's anchors in a cell, in the unit of distances.
template <class T, class Cell>
LAPLEX_INLINE void load_places(const SideView<T> side, Range range, const Unit<T>& unit, T first,
                               T last, Cell& buffers) {
  T* const places = buffers.places();
  const std::int64_t count = range.size();
  for (std::int64_t k = 0; k < count; ++k) {
    places[k] = side.position[range.begin + k] * unit.scale;
  }
  // Whole groups are scanned, and lanes two further on are read.
  const std::int64_t whole = (count + 7) / 8 * 8;
  for (std::int64_t k = count; k < whole + 8; ++k) {
    places[k] = last;
  }
  for (std::int64_t k = -Cell::kFirst; k < 0; ++k) {
    places[k] = first;
  }
}

/// Fills the moments from the values.
template <Form F, bool Wide, int D, class T, class Cell>
LAPLEX_INLINE void scan_moments(const SideView<T> side, Range range, const Carries& carries,
                                std::int64_t cell, const Unit<T> unit, Cell& buffers) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  const std::int64_t whole = (range.size() + 7) / 8 * 8;
  const T* const value0 = buffers.value[0];
  const T* const value1 = buffers.value[P - 1];
  const T* const places = buffers.places();
  Carry<Wide> carry[P][D + 1];
  const auto go_on = [&](Carry<Wide>* sums, double step, const auto& end) {
    Carry<Wide> next[D + 1];
    for (int q = 0; q <= D; ++q) {
      next[q] = end(q);
    }
    if constexpr (Wide) {
      add_moved<D>(next, sums, splat(step));
    } else {
      add_moved<D>(next, sums, step);
    }
    for (int q = 0; q <= D; ++q) {
      sums[q] = next[q];
    }
  };
  load_moments<F, Wide, D>(carries.right, cell, carry);
  if constexpr (Wide) {
    const auto scan = [&](auto up, std::int64_t k, T edge, auto to) {
      constexpr bool Up = decltype(up)::value;
      const Steps<Up, T> steps(places + k, edge, unit);
      Pack<T> x[P][8][D + 1];
      for (int j = 0; j < 8; ++j) {
        weigh<F, true, Up>(side, range.begin, value0, value1, k + j, x[0][j][0], x[P - 1][j][0]);
      }
      T step[8];
      store(step, steps.carry);
      for (int p = 0; p < P; ++p) {
        scan_group<D, Up>(x[p], steps);
        Pack<T> c[D + 1];
        for (int q = 0; q <= D; ++q) {
          c[q] = spread<T>(carry[p][q]);
        }
        go_on(carry[p], Up ? scaled(places[k + 7], edge, unit) : scaled(edge, places[k], unit),
              [&](int q) { return widen(x[p][Up ? 7 : 0][q]); });
        for (int j = 0; j < 8; ++j) {
          add_moved<D>(x[p][j], c, splat(step[j]));
          for (int q = 0; q <= D; ++q) {
            store(to(p, q) + (k + j) * W, x[p][j][q]);
          }
        }
      }
    };
    for (int p = 0; p < P; ++p) {
      for (int q = 0; q <= D; ++q) {
        store(buffers.after(p, q) + whole * W, spread<T>(carry[p][q]));
      }
    }
    for (std::int64_t k = whole - 8; k >= 0; k -= 8) {
      scan(Constant<bool, false>{}, k, places[k + 8],
           [&](int p, int q) { return buffers.after(p, q); });
    }
    load_moments<F, Wide, D>(carries.left, cell, carry);
    for (int p = 0; p < P; ++p) {
      for (int q = 0; q <= D; ++q) {
        store(buffers.before(p, q), spread<T>(carry[p][q]));
      }
    }
    for (std::int64_t k = 0; k < whole; k += 8) {
      scan(Constant<bool, true>{}, k, places[k - 1],
           [&](int p, int q) { return buffers.before(p, q) + W; });
    }
  } else {
    alignas(64) T after[P][D + 1][Cell::kRoom];
    for (int p = 0; p < P; ++p) {
      for (int q = 0; q <= D; ++q) {
        store(after[p][q] + whole, spread<T>(carry[p][q]));
      }
    }
    const auto scan = [&](auto up, std::int64_t k, T edge, const auto& put) {
      constexpr bool Up = decltype(up)::value;
      const Steps<Up, T> steps(places + k, edge, unit);
      Pack<T> x[P][D + 1];
      weigh<F, false, Up>(side, range.begin, value0, value1, k, x[0][0], x[P - 1][0]);
      const double step = Up ? scaled(places[k + 7], edge, unit) : scaled(edge, places[k], unit);
      for (int p = 0; p < P; ++p) {
        scan_pack<D>(x[p], steps);
        Pack<T> c[D + 1];
        for (int q = 0; q <= D; ++q) {
          c[q] = spread<T>(carry[p][q]);
        }
        go_on(carry[p], step, [&](int q) { return static_cast<double>(x[p][q].get(Up ? 7 : 0)); });
        add_moved<D>(x[p], c, steps.carry);
        for (int q = 0; q <= D; ++q) {
          put(p, q, x[p][q]);
        }
      }
    };
    for (std::int64_t k = whole - 8; k >= 0; k -= 8) {
      scan(Constant<bool, false>{}, k, places[k + 8],
           [&](int p, int q, const Pack<T>& s) { store(after[p][q] + k, s); });
    }
    load_moments<F, Wide, D>(carries.left, cell, carry);
    for (int p = 0; p < P; ++p) {
      for (int q = 0; q <= D; ++q) {
        buffers.pairs(p, q)[0] = static_cast<T>(carry[p][q]);
        buffers.pairs(p, q)[1] = after[p][q][0];
      }
    }
    T* const pairs = buffers.place_pairs();
    pairs[0] = places[-1];
    pairs[1] = places[0];
    for (std::int64_t k = 0; k < whole; k += 8) {
      store_pairs(pairs + 2 * (k + 1), load(places + k), load(places + k + 1));
      scan(Constant<bool, true>{}, k, places[k - 1], [&](int p, int q, const Pack<T>& s) {
        store_pairs(buffers.pairs(p, q) + 2 * (k + 1), s, load(after[p][q] + k + 1));
      });
    }
  }
}

/// The same for a cell at one point. Of its own values only moment 0 is not zero.
template <Form F, bool Wide, int D, class T, class Cell>
LAPLEX_INLINE void scan_moment_point(const Carries& carries, std::int64_t cell, T point,
                                     Cell& buffers) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  Carry<Wide> left[P][D + 1];
  Carry<Wide> right[P][D + 1];
  Carry<Wide> total[P][D + 1];
  load_moments<F, Wide, D>(carries.left, cell, left);
  load_moments<F, Wide, D>(carries.right, cell, right);
  load_moments<F, Wide, D>(carries.total, cell, total);
  for (int p = 0; p < P; ++p) {
    for (int q = 0; q <= D; ++q) {
      const Carry<Wide> up = q == 0 ? left[p][0] + total[p][0] : left[p][q];
      const Carry<Wide> all = q == 0 ? right[p][0] + total[p][0] : right[p][q];
      if constexpr (Wide) {
        store(buffers.before(p, q), spread<T>(left[p][q]));
        store(buffers.before(p, q) + W, spread<T>(up));
        store(buffers.after(p, q), spread<T>(all));
        store(buffers.after(p, q) + W, spread<T>(right[p][q]));
      } else {
        T* const pairs = buffers.pairs(p, q);
        pairs[0] = static_cast<T>(left[p][q]);
        pairs[1] = static_cast<T>(all);
        pairs[2] = static_cast<T>(up);
        pairs[3] = static_cast<T>(right[p][q]);
      }
    }
  }
  for (int k = 0; k < 4; ++k) {
    buffers.place_pairs()[k] = point;
  }
  for (int k = -1; k < 2; ++k) {
    buffers.places()[k] = point;
  }
}

/// The polynomial of the sums at a place further on by `step`: sum_q c_q sum_r C(q, r) step^(q-r)
/// sums_r, with the coefficients c_(r+s) C(r+s, r) at [r][s].
template <int D, class T>
LAPLEX_INLINE Pack<T> polynomial_of(const Pack<T>* sums, const Pack<T>& step,
                                    const T (*coefficient)[kMaxMoment + 1]) {
  Pack<T> total = sums[D] * splat(coefficient[D][0]);
  for (int r = D - 1; r >= 0; --r) {
    Pack<T> factor = splat(coefficient[r][D - r]);
    for (int s = D - r - 1; s >= 0; --s) {
      factor = factor * step + splat(coefficient[r][s]);
    }
    total = total + sums[r] * factor;
  }
  return total;
}

/// The moments of a plane at the places `where[k..]`: of the sums before and after them.
template <bool Wide, int D, class T, class Cell>
LAPLEX_INLINE void look_up_moments(const Cell& buffers, int p, const std::uint16_t* where,
                                   std::int64_t k, Pack<T>* before, Pack<T>* after) {
  for (int q = 0; q <= D; ++q) {
    if constexpr (Wide) {
      before[q] = load(buffers.before(p, q) + std::int64_t(where[k]) * kRows);
      after[q] = load(buffers.after(p, q) + std::int64_t(where[k]) * kRows);
    } else {
      load_pairs(buffers.pairs(p, q), where + k, before[q], after[q]);
    }
  }
}

/// The places at which those sums stand.
template <bool Wide, class T, class Cell>
LAPLEX_INLINE void look_up_places(const Cell& buffers, const std::uint16_t* where, std::int64_t k,
                                  Pack<T>& before, Pack<T>& after) {
  if constexpr (Wide) {
    before = splat(buffers.places()[std::ptrdiff_t(where[k]) - 1]);
    after = splat(buffers.places()[where[k]]);
  } else {
    load_pairs(buffers.place_pairs(), where + k, before, after);
  }
}

/// Reads one result of a cell off at its targets. `Same`: both sides are looked up at one place.
template <Form F, bool Wide, int D, bool Same, class T, class Cell>
LAPLEX_INLINE void read_moments(const Cell& buffers, const SideView<T> to, Range targets,
                                const Unit<T> unit, const MomentResult<T>& result) {
  constexpr int P = F == Form::real ? 1 : 2;
  const std::int64_t step = Wide ? 1 : 8;
  const Output<T> out = result.out;
  const Combine combine = result.combine;
  T coefficient[kMaxMoment + 1][kMaxMoment + 1];
  std::memcpy(coefficient, result.coefficient, sizeof(coefficient));
  const std::uint16_t* const left_at = result.left_at + targets.begin;
  const std::uint16_t* const right_at = result.right_at + targets.begin;
  for (std::int64_t k = 0; k < targets.size(); k += step) {
    const Pack<T> here = at<Wide>(to.position, targets.begin + k) * splat(unit.scale);
    Pack<T> before;
    Pack<T> after;
    Pack<T> unused;
    look_up_places<Wide>(buffers, left_at, k, before, after);
    if constexpr (!Same) {
      look_up_places<Wide>(buffers, right_at, k, unused, after);
    }
    const Pack<T> from_left = scaled(here, before, unit);
    const Pack<T> from_right = scaled(after, here, unit);
    Pack<T> left[P];
    Pack<T> right[P];
    for (int p = 0; p < P; ++p) {
      Pack<T> moments[D + 1];
      Pack<T> moments_after[D + 1];
      look_up_moments<Wide, D>(buffers, p, left_at, k, moments, moments_after);
      left[p] = polynomial_of<D>(moments, from_left, coefficient);
      if constexpr (!Same) {
        look_up_moments<Wide, D>(buffers, p, right_at, k, moments, moments_after);
      }
      right[p] = polynomial_of<D>(moments_after, from_right, coefficient);
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

/// Whether two tables say the same of a range: they do where nothing is tied.
LAPLEX_INLINE bool same_places(const std::uint16_t* a, const std::uint16_t* b, Range range) {
  return a == b || std::memcmp(a + range.begin, b + range.begin,
                               static_cast<std::size_t>(range.size()) * sizeof(*a)) == 0;
}

template <Form F, bool Wide, int D, class T>
void moment_products_of(const MomentJob<T>& job, std::int64_t begin, std::int64_t end,
                        void* scratch) {
  constexpr int P = F == Form::real ? 1 : 2;
  auto& buffers = *static_cast<MomentBuffers<T, P, D, Wide ? kRows : 1>*>(scratch);
  for (std::int64_t cell = begin; cell < end; ++cell) {
    const Range sources = range_of(job.from, cell);
    const Range targets = range_of(job.to, cell);
    if (targets.size() == 0) {
      continue;
    }
    const T first = job.first_of(cell);
    const T last = job.last_of(cell);
    if (is_point(job.from, cell)) {
      scan_moment_point<F, Wide, D, T>(job.carries, cell, first, buffers);
    } else {
      load_values<F, Wide>(job.from, job.values, sources, buffers.value[0], buffers.value[P - 1]);
      load_places(job.from, sources, job.unit, first, last, buffers);
      scan_moments<F, Wide, D>(job.from, sources, job.carries, cell, job.unit, buffers);
    }
    for (int r = 0; r < job.num_results; ++r) {
      const MomentResult<T>& result = job.results[r];
      if (same_places(result.left_at, result.right_at, targets)) {
        read_moments<F, Wide, D, true>(buffers, job.to, targets, job.unit, result);
      } else {
        read_moments<F, Wide, D, false>(buffers, job.to, targets, job.unit, result);
      }
    }
  }
}

/// The moments of one piece of a cell at its last and at its first anchor, summed as in sum_piece.
template <Form F, bool Wide, int D, class T, class Cell>
LAPLEX_INLINE void sum_moments(const MomentJob<T>& job, Range range, T first, T last, Cell& buffers,
                               Carry<Wide> (*grown)[D + 1], Carry<Wide> (*shrunk)[D + 1]) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  const SideView<T> side = job.from;
  const Unit<T> unit = job.unit;
  T* const value0 = buffers.value[0];
  T* const value1 = buffers.value[P - 1];
  const T* const places = buffers.places();
  load_values<F, Wide>(side, job.values, range, value0, value1);
  load_places(side, range, unit, first, last, buffers);
  const std::int64_t groups = (range.size() + 7) / 8;
  const std::int64_t quads = (groups + kQuad - 1) / kQuad;
  for (std::int64_t k = groups * 8; k < quads * kQuad * 8; ++k) {
    buffers.places()[k] = last;
    for (std::int64_t w = 0; w < W; ++w) {
      value0[k * W + w] = T(0);
      value1[k * W + w] = T(0);
    }
  }
  const auto sum = [&](auto grow, Carry<Wide>(*total)[D + 1]) {
    constexpr bool Grow = decltype(grow)::value;
    const Pack<T> end = splat(Grow ? last : first);
    Pack<double> sums[Wide ? 8 : 1][P][D + 1];
    for (int j = 0; j < (Wide ? 8 : 1); ++j) {
      for (int p = 0; p < P; ++p) {
        for (int q = 0; q <= D; ++q) {
          sums[j][p][q] = splat(0.0);
        }
      }
      for (std::int64_t quad = 0; quad < quads; ++quad) {
        Pack<T> w[P][kQuad];
        Pack<T> step[kQuad];
        for (int g = 0; g < kQuad; ++g) {
          const std::int64_t k = 8 * (kQuad * quad + g) + j;
          const Pack<T> here = at<Wide>(places, k);
          step[g] = Grow ? scaled(end, here, unit) : scaled(here, end, unit);
          weigh<F, Wide, Grow>(side, range.begin, value0, value1, k, w[0][g], w[P - 1][g]);
        }
        for (int p = 0; p < P; ++p) {
          for (int q = 0; q <= D; ++q) {
            sums[j][p][q] = sums[j][p][q] + widen((w[p][0] + w[p][1]) + (w[p][2] + w[p][3]));
            for (int g = 0; g < (q < D ? kQuad : 0); ++g) {
              w[p][g] = w[p][g] * step[g];
            }
          }
        }
      }
    }
    for (int p = 0; p < P; ++p) {
      for (int q = 0; q <= D; ++q) {
        if constexpr (Wide) {
          total[p][q] = ((sums[0][p][q] + sums[1][p][q]) + (sums[2][p][q] + sums[3][p][q])) +
                        ((sums[4][p][q] + sums[5][p][q]) + (sums[6][p][q] + sums[7][p][q]));
        } else {
          total[p][q] = sum_lanes(sums[0][p][q]);
        }
      }
    }
  };
  sum(Constant<bool, true>{}, grown);
  sum(Constant<bool, false>{}, shrunk);
}

/// As sum_range, for the same reason.
template <Form F, bool Wide, int D, class T, class Cell>
void sum_moment_range(const MomentJob<T>& job, Range range, T first, T last, Cell& buffers,
                      Carry<Wide> (*grown)[D + 1], Carry<Wide> (*shrunk)[D + 1]) {
  constexpr int P = F == Form::real ? 1 : 2;
  if (range.size() <= kCell) {
    sum_moments<F, Wide, D>(job, range, first, last, buffers, grown, shrunk);
    return;
  }
  const std::int64_t middle = range.begin + (range.size() / 2 + kCell - 1) / kCell * kCell;
  sum_moment_range<F, Wide, D>(job, {range.begin, middle}, first, last, buffers, grown, shrunk);
  Carry<Wide> more_grown[P][D + 1];
  Carry<Wide> more_shrunk[P][D + 1];
  sum_moment_range<F, Wide, D>(job, {middle, range.end}, first, last, buffers, more_grown,
                               more_shrunk);
  for (int p = 0; p < P; ++p) {
    for (int q = 0; q <= D; ++q) {
      grown[p][q] = grown[p][q] + more_grown[p][q];
      shrunk[p][q] = shrunk[p][q] + more_shrunk[p][q];
    }
  }
}

template <Form F, bool Wide, int D, class T>
void moment_totals_of(const MomentJob<T>& job, std::int64_t begin, std::int64_t end, double* grown,
                      double* shrunk, void* scratch) {
  constexpr int P = F == Form::real ? 1 : 2;
  auto& buffers = *static_cast<MomentBuffers<T, P, D, Wide ? kRows : 1>*>(scratch);
  for (std::int64_t cell = begin; cell < end; ++cell) {
    Carry<Wide> up[P][D + 1];
    Carry<Wide> down[P][D + 1];
    sum_moment_range<F, Wide, D>(job, range_of(job.from, cell), job.first_of(cell),
                                 job.last_of(cell), buffers, up, down);
    for (int q = 0; q <= D; ++q) {
      Carry<Wide> moment_up[P];
      Carry<Wide> moment_down[P];
      for (int p = 0; p < P; ++p) {
        moment_up[p] = up[p][q];
        moment_down[p] = down[p][q];
      }
      store_carry<F, Wide>(grown, cell * (D + 1) + q, moment_up);
      store_carry<F, Wide>(shrunk, cell * (D + 1) + q, moment_down);
    }
  }
}

}  // namespace laplex::detail::LAPLEX_LEVEL
