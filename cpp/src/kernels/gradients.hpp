/// The gradients of a product by everything, cell by cell.
#pragma once

#include "cell.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

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
  } else if (side.index != nullptr && !sink.sorted) {
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
  const SideView<T> side = *g.side;
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

}  // namespace laplex::detail::LAPLEX_LEVEL
