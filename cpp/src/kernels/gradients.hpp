/// The gradients of a product by everything, cell by cell.
#pragma once

#include "totals.hpp"

#include <cmath>

namespace laplex::detail::LAPLEX_LEVEL {

/// Gradients by the anchors of a piece, eight at a time: a pack along the line, or the sums over
/// eight rows of eight packs, which are formed by turning these over.
template <bool Wide, class T>
class Collected {
 public:
  LAPLEX_INLINE Collected() {
    for (Pack<T>& pack : waiting_) {
      pack = splat(T(0));
    }
  }
  LAPLEX_INLINE void add(const Pack<T>& a, std::int64_t k) { waiting_[k % kCount] = a; }
  /// Of the last eight anchors.
  [[nodiscard]] LAPLEX_INLINE Pack<double> sum() const {
    if constexpr (Wide) {
      Pack<T> x[8];
      for (int j = 0; j < 8; ++j) {
        x[j] = waiting_[j];
      }
      transpose8(x);
      return widen(((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7])));
    } else {
      return widen(waiting_[0]);
    }
  }

 private:
  static constexpr std::int64_t kCount = Wide ? 8 : 1;
  Pack<T> waiting_[kCount];
};

/// Numbers in memory that ends after `count` of them.
template <class T>
LAPLEX_INLINE Pack<T> load_first(const T* from, std::int64_t count) {
  if (count >= 8) {
    return load(from);
  }
  return make_pack<T>([&](int j) { return j < count ? from[j] : T(0); });
}

/// Takes the gradients by the first eight anchors of a range, or by all if there are fewer, to
/// where they go.
template <class T>
LAPLEX_INLINE void deliver(const SideView<T>& side, Range range, const Pack<double>& gradient,
                           const Sink<T>& sink) {
  if (sink.sum == nullptr) {
    Pack<T> narrowed = narrow<T>(gradient);
    if (sink.add) {
      narrowed = narrowed + load_first(sink.out + range.begin, range.size());
    }
    put<Form::real, false>(side, range, 0, &narrowed,
                           Output<T>{sink.out, 1, false, false, T(1), sink.sorted});
    return;
  }
  double* const sum = sink.sum + range.begin;
  if (range.size() >= 8) {
    store(sum, load(sum) + gradient);
  } else {
    for (int j = 0; j < range.size(); ++j) {
      sum[j] += gradient.get(j);
    }
  }
}

/// One side of the gradients: what the sums of the other side are at these anchors.
template <class T>
struct GradientSide {
  LAPLEX_INLINE GradientSide(const GradientJob<T>& job, bool at_targets)
      : side(at_targets ? job.targets : job.sources),
        ties_left(side.below != side.split),
        strict(ties_left ? side.below : side.upto),
        one_sided(job.side != Combine::sum),
        from_left(at_targets == (job.side == Combine::left)),
        with_ties(ties_left == from_left),
        targets(at_targets),
        anchors(at_targets ? job.d_targets : job.d_sources),
        phases(at_targets ? job.d_target_phase : job.d_source_phase),
        values(at_targets ? Output<T>{} : job.d_values),
        cumulative(job.cumulative),
        weight(job.cumulative ? (at_targets ? 0.5 : -0.5) * job.inverse_lengthscale
                              : -job.inverse_lengthscale),
        frequency(job.frequency),
        factor(static_cast<T>(weight)),
        plain(anchors.sum == nullptr && !phases && std::isnormal(factor) &&
              (values.base == nullptr || (values.step == 1 && values.scale == T(1)))) {}

  SideView<T> side;
  bool ties_left;               ///< `split` has ties in the sums from the left
  const std::uint16_t* strict;  ///< `split` with ties on the other side
  bool one_sided;               ///< only one of the two sums counts,
  bool from_left;               ///< this one,
  bool with_ties;               ///< and `split` has its ties, else `strict` has
  bool targets;
  Sink<T> anchors;
  Sink<T> phases;
  Output<T> values;  ///< base null: not wanted
  bool cumulative;
  double weight;  ///< of the gradients by anchors: -1/lengthscale, half of it if cumulative
  double frequency;
  T factor;  ///< the same
  /// There is one real row, so that nothing is added to its gradients by anchors, and they stay in
  /// the precision of the values: conversions to double and back would be a tenth of the work.
  bool plain;
};

/// Whether some anchors of a range are tied with anchors of the other side.
template <class T>
LAPLEX_INLINE bool has_ties(const SideView<T>& side, Range range) {
  return std::memcmp(side.below + range.begin, side.upto + range.begin,
                     static_cast<std::size_t>(range.size()) * sizeof(std::uint16_t)) != 0;
}

/// The sum that counts where the other does not, from `at_split`: that at `split`, at its anchors
/// already. `untied` leaves tied pairs out.
template <Form F, bool Wide, bool Ties, class T, class Cell>
LAPLEX_INLINE void one_sum(const GradientSide<T>& g, const Cell& other, std::int64_t place,
                           const Pack<T>* at_split, Pack<T>* sum, Pack<T>* untied) {
  constexpr int P = F == Form::real ? 1 : 2;
  for (int p = 0; p < P; ++p) {
    sum[p] = untied[p] = at_split[p];
  }
  if constexpr (Ties) {
    Pack<T> left[P];
    Pack<T> right[P];
    look_up<Wide, P>(other, g.strict, place, left, right);
    if (g.from_left) {
      move_to<F, Wide, true>(g.side, place, left);
    } else {
      move_to<F, Wide, false>(g.side, place, right);
    }
    for (int p = 0; p < P; ++p) {
      (g.with_ties ? untied : sum)[p] = g.from_left ? left[p] : right[p];
    }
  }
}

/// The gradients at the anchors of a piece, and what its gaps add to `stretch` unless that is null.
/// The views are copies, as in read_off.
template <Form F, bool Wide, bool Ties, bool Plain, bool OneSided, class T, class Cell>
void gradient_piece(const GradientSide<T> g, const Range range, const Cell& own, const Cell& other,
                    Pack<double>* const stretch) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr std::int64_t W = Wide ? kRows : 1;
  const SideView<T> side = g.side;
  const std::int64_t step = Wide ? 1 : 8;
  const std::int64_t size = range.size();
  Collected<Wide, T> collected_re;
  Collected<Wide, T> collected_im;
  Collected<Wide, T> collected_phase;
  Pack<T> flow[P];
  for (int p = 0; p < P; ++p) {
    flow[p] = splat(T(0));
  }
  const auto add = [&](std::int64_t k, auto is_whole) {
    constexpr bool Whole = decltype(is_whole)::value;
    const std::int64_t place = range.begin + k;
    const Range here{place, Whole && !Wide ? place + 8 : range.end};
    Pack<T> before[P];
    Pack<T> after[P];
    look_up<Wide, P>(other, side.split, place, before, after);
    if (stretch != nullptr) {
      // Between two neighbours of the line all pairs that straddle the gap pass: their sum, which
      // is a product of sums, times the gap's length.
      Pack<T> own_before[P];
      Pack<T> own_after[P];
      look_at<Wide, P>(own, k + 1, own_before, own_after);
      if constexpr (P == 1) {
        own_after[0] = before[0] * own_after[0];
        own_before[0] = after[0] * own_before[0];
      } else {
        multiply(own_after[0], own_after[1], before[0], before[1]);
        multiply(own_before[0], own_before[1], after[0], after[1]);
      }
      const Pack<T> gap = at<Wide>(side.gap, place);
      const bool last = k / step % kQuad == kQuad - 1;
      for (int p = 0; p < P; ++p) {
        Pack<T> passing = own_after[p] + own_before[p];
        if constexpr (OneSided) {
          passing = g.from_left ? own_after[p] : own_before[p];
        } else if (g.cumulative) {  // with the sign of target - source
          passing = g.targets ? own_after[p] - own_before[p] : own_before[p] - own_after[p];
        }
        passing = passing * gap;
        flow[p] = flow[p] + (Whole ? passing : first_lanes(passing, size - k));
        if (last) {
          stretch[p] = stretch[p] + widen(flow[p]);
          flow[p] = splat(T(0));
        }
      }
    }
    move_to<F, Wide, true>(side, place, before);
    move_to<F, Wide, false>(side, place, after);
    const bool complete = !Wide || k % 8 == 7 || k + 1 == size;
    const Range completed{Wide ? range.begin + k / 8 * 8 : place, range.end};
    Pack<T> a = load(own.value[0] + k * W);
    Pack<T> b = load(own.value[P - 1] + k * W);
    Pack<T> one_side[P];
    Pack<T> untied[P];
    if constexpr (OneSided) {
      one_sum<F, Wide, Ties>(g, other, place, g.from_left ? before : after, one_side, untied);
    }
    if (g.anchors) {
      Pack<T> odd[P];
      if constexpr (OneSided) {
        for (int p = 0; p < P; ++p) {
          odd[p] = untied[p] * splat(T(g.from_left ? 1 : -1));
        }
      } else if constexpr (Ties) {
        // Ties are before a target, after a source, and in neither of the sums for anchors.
        Pack<T> left[P];
        Pack<T> right[P];
        look_up<Wide, P>(other, g.strict, place, left, right);
        if (g.ties_left) {
          move_to<F, Wide, true>(side, place, left);
        } else {
          move_to<F, Wide, false>(side, place, right);
        }
        for (int p = 0; p < P; ++p) {
          odd[p] = g.ties_left ? left[p] - after[p] : before[p] - right[p];
        }
      } else {
        for (int p = 0; p < P; ++p) {
          odd[p] = g.cumulative ? before[p] + after[p] : before[p] - after[p];
        }
      }
      if constexpr (P == 1) {
        odd[0] = a * odd[0];
      } else {
        multiply(odd[0], odd[1], a, b);
        collected_im.add(odd[1], k);
      }
      if constexpr (Plain) {
        odd[0] = odd[0] * splat(g.factor);
        if (g.anchors.add) {
          odd[0] = odd[0] + load_first(g.anchors.out + place, here.size());
        }
        put<F, Wide>(side, here, 0, odd,
                     Output<T>{g.anchors.out, 1, false, false, T(1), g.anchors.sorted});
      } else {
        collected_re.add(odd[0], k);
        if (complete) {  // Re(-c z), c = 1/ell - i frequency
          Pack<double> gradient = splat(g.weight) * collected_re.sum();
          if constexpr (F == Form::oscillating) {
            gradient = gradient - splat(g.frequency) * collected_im.sum();
          }
          deliver(side, completed, gradient, g.anchors);
        }
      }
    }
    for (int p = 0; p < P; ++p) {
      before[p] = OneSided ? one_side[p] : before[p] + after[p];
    }
    if (!Plain && g.phases) {
      Pack<double> gradient = splat(0.0);
      if constexpr (P == 2) {
        multiply(a, b, before[0], before[1]);
        collected_phase.add(b, k);
        gradient = splat(g.targets ? -1.0 : 1.0) * collected_phase.sum();
      }
      if (complete) {
        deliver(side, completed, gradient, g.phases);
      }
    }
    if (g.values.base != nullptr) {
      if constexpr (Plain) {
        put<F, Wide>(side, here, 0, before,
                     Output<T>{g.values.base, 1, false, false, T(1), g.values.sorted});
      } else {
        put<F, Wide>(side, here, 0, before, g.values);
      }
    }
  };
  const std::int64_t whole = size / step * step;
  for (std::int64_t k = 0; k < whole; k += step) {
    add(k, Constant<bool, true>{});
  }
  if (whole < size) {
    add(whole, Constant<bool, false>{});
  }
  if (stretch != nullptr) {
    for (int p = 0; p < P; ++p) {
      stretch[p] = stretch[p] + widen(flow[p]);
    }
  }
}

template <Form F, bool Wide, class T>
void gradients_of(const GradientJob<T>& job, std::int64_t begin, std::int64_t end, void* scratch) {
  constexpr int P = F == Form::real ? 1 : 2;
  using Cell = Buffers<T, P, Wide ? kRows : 1>;
  Cell* cells = static_cast<Cell*>(scratch);
  Cell& v = cells[0];
  Cell& g = cells[1];
  const GradientSide<T> at_targets(job, true);
  const GradientSide<T> at_sources(job, false);
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
    const auto each_piece = [&](const GradientSide<T>& here, Range range, const Input<T>& values,
                                Cell& own, const Cell& other, Pack<double>* gaps) {
      in_pieces(range, [&](Range piece) {
        if (point) {
          load_values<F, Wide>(here.side, values, piece, own.value[0], own.value[P - 1]);
        }
        const auto run_as = [&](auto ties, auto one_sided) {
          constexpr bool Ties = decltype(ties)::value;
          constexpr bool OneSided = decltype(one_sided)::value;
          if constexpr (F == Form::real && !Wide) {
            if (here.plain) {
              gradient_piece<F, Wide, Ties, true, OneSided>(here, piece, own, other, gaps);
              return;
            }
          }
          gradient_piece<F, Wide, Ties, false, OneSided>(here, piece, own, other, gaps);
        };
        const auto run = [&](auto ties) {
          if (here.one_sided) {
            run_as(ties, Constant<bool, true>{});
          } else {
            run_as(ties, Constant<bool, false>{});
          }
        };
        // Ties are in the sums with which cumulative ones change.
        if (((here.anchors && !here.cumulative) || here.one_sided) && has_ties(here.side, piece)) {
          run(Constant<bool, true>{});
        } else {
          run(Constant<bool, false>{});
        }
      });
    };
    // There are none at a point.
    Pack<double>* const gaps = point || job.stretch == nullptr ? nullptr : stretch;
    each_piece(at_targets, targets, job.grad, g, v, gaps);
    each_piece(at_sources, sources, job.values, v, g, job.self ? nullptr : gaps);
    if (job.stretch != nullptr) {
      // The gap to the next cell.
      Carry<Wide> v_right[P];
      Carry<Wide> g_right[P];
      load_carry<F, Wide>(job.values_carries.right, cell, v_right);
      load_carry<F, Wide>(job.grad_carries.right, cell, g_right);
      if (job.side != Combine::sum) {
        for (int p = 0; p < P; ++p) {
          Carry<Wide>& of_values = job.side == Combine::left ? v_right[p] : v_leaving[p];
          Carry<Wide>& of_grad = job.side == Combine::left ? g_leaving[p] : g_right[p];
          of_values = of_grad = Carry<Wide>{};
        }
      }
      Carry<Wide> a[P];
      if constexpr (P == 1) {
        const Carry<Wide> back = v_right[0] * g_leaving[0];
        a[0] = v_leaving[0] * g_right[0];
        a[0] = job.cumulative ? a[0] - back : a[0] + back;
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

}  // namespace laplex::detail::LAPLEX_LEVEL
