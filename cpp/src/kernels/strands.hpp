/// The filter of a stationary process along eight strands (strands.hpp), and its reverse.
///
/// A step waits for a division; of eight at a time, most of the waiting is over. Derivatives are
/// those of the filter's adjoint: with u = (A^-1 v)_i and D = (A^-1)_ii, that by the noise of point
/// i is (u^2 - D) / 2, and likewise for the rest (Koopman and Shephard, "Exact score for time
/// series models in state space form", 1992).
#pragma once

#include "exponentials.hpp"
#include "pack.hpp"
#include "tiles.hpp"

#include "../strands.hpp"

#include <cmath>

namespace laplex::detail::LAPLEX_LEVEL {

using Lanes = Pack<double>;

/// Of a chunk of each strand: number l of step i at [8 i + l].
using StrandTile = double[kStrandChunk * kStrands];

struct alignas(64) StrandTiles {
  StrandTile gap;    ///< before each point
  StrandTile decay;  ///< across it; with two components times the cosine of its angle
  StrandTile swing;  ///< the decay times the sine
  StrandTile gain;   ///< 1 - decay^2
  StrandTile value;  ///< in standard deviations; then what the filter makes of it, the innovation
  StrandTile noise;  ///< in variances
  StrandTile seen;
  StrandTile variance;  ///< D; then its inverse
  StrandTile mean[2];   ///< of the state, given the points before
  StrandTile cov[3];
  StrandTile by_anchors;
  StrandTile by_values;
  StrandTile by_noise;
};

/// exp(-x) and 1 - exp(-2 x) for 0 <= x <= 700, both to a few units in the last place.
LAPLEX_INLINE void decay_and_gain(const Lanes& x, Lanes& decay, Lanes& gain) {
  const ExponentialParts e = exponential_parts<double>(x);
  const Lanes one = splat(1.0);
  const Lanes fall = e.even - e.odd;  // exp(-r) - 1, which for small gaps is exp(-x) - 1
  decay = (one + fall) * e.scale_down;
  gain = ((one - e.scale_down) - fall * e.scale_down) * (one + decay);
}

/// The angles that `turn` takes.
constexpr double kNear = 8.0;

/// cos and sin of |angle| <= kNear: Taylor's series within an eighth of a turn, and quarter turns.
LAPLEX_INLINE void turn(const Lanes& angle, Lanes& cosine, Lanes& sine) {
  const Lanes magic = splat(6755399441055744.0);  // 1.5 * 2^52: adding it rounds to an integer
  const Lanes k = (angle * splat(0.6366197723675814) + magic) - magic;
  // pi / 2 in three parts; k times the first two is exact.
  const Lanes r =
      ((angle - k * splat(1.57079632673412561417)) - k * splat(6.07710050630396597660e-11)) -
      k * splat(2.02226624879595063154e-21);
  const Lanes q = r * r;
  const auto series = [&](auto... inverse) {
    Lanes sum = splat(0.0);
    ((sum = sum * q + splat(1.0 / inverse)), ...);
    return sum;
  };
  const Lanes s = r + r * (q * series(355687428096000.0, -1307674368000.0, 6227020800.0,
                                      -39916800.0, 362880.0, -5040.0, 120.0, -6.0));
  const Lanes c = splat(1.0) + q * series(20922789888000.0, -87178291200.0, 479001600.0, -3628800.0,
                                          40320.0, -720.0, 24.0, -2.0);
  // Of m = -2 .. 2 quarter turns, cos and sin are these polynomials.
  const Lanes m = k - splat(4.0) * ((k * splat(0.25) + magic) - magic);
  const Lanes mm = m * m;
  const Lanes one = splat(1.0);
  const Lanes a = one - mm + mm * (mm - one) * splat(1.0 / 6.0);
  const Lanes b = m * (splat(4.0) - mm) * splat(1.0 / 3.0);
  cosine = a * c - b * s;
  sine = a * s + b * c;
}

/// How many points of the chunk from `begin` on a strand has.
LAPLEX_INLINE std::int64_t points_there(const Strand& s, std::int64_t begin) {
  const std::int64_t left = s.count - begin;
  return left < 0 ? 0 : left < kStrandChunk ? left : kStrandChunk;
}

LAPLEX_INLINE bool is_whole(const StrandGroup& g, std::int64_t begin) {
  bool whole = true;
  for (const Strand& s : g.strand) {
    whole = whole && points_there(s, begin) == kStrandChunk;
  }
  return whole;
}

/// The chunk's part of an array of each strand; past its end, `rest(l)`.
template <class Rest>
void bring(const StrandGroup& g, std::int64_t begin, const double* Strand::* array, double* tile,
           const Rest& rest) {
  const double* rows[kStrands];
  double padded[kStrands][kStrandChunk];
  const bool whole = is_whole(g, begin);
  for (std::int64_t l = 0; l < kStrands; ++l) {
    const Strand& s = g.strand[l];
    const std::int64_t there = points_there(s, begin);
    rows[l] = s.*array + begin;
    if (!whole) {
      for (std::int64_t i = 0; i < kStrandChunk; ++i) {
        padded[l][i] = i < there ? rows[l][i] : rest(l);
      }
      rows[l] = padded[l];
    }
  }
  to_tile<double>(rows, 1, 0, kStrandChunk, tile, kStrands);
}

/// The reverse of `bring`, into arrays that are wanted.
inline void take(const StrandGroup& g, std::int64_t begin, double* Strand::* array,
                 const double* tile) {
  if (g.strand[0].*array == nullptr) {
    return;
  }
  double* rows[kStrands];
  const bool whole = is_whole(g, begin);
  for (std::int64_t l = 0; l < kStrands; ++l) {
    rows[l] = g.strand[l].*array + begin;
    if (!whole) {
      for (std::int64_t i = 0; i < points_there(g.strand[l], begin); ++i) {
        rows[l][i] = tile[i * kStrands + l];
      }
    }
  }
  if (whole) {
    from_tile<double>(tile, kStrands, 0, kStrandChunk, rows, 1);
  }
}

LAPLEX_INLINE Lanes inverse_of(const StrandNumbers& numbers) {
  return splat(1.0) / load(numbers);
}

/// Everything about a chunk but what the filter makes of it.
template <int J>
void prepare(const StrandGroup& g, std::int64_t begin, StrandTiles& t) {
  constexpr std::int64_t kEntries = kStrandChunk * kStrands;
  constexpr double kWidest = 700.0;  // lengthscales: no state outlives such a gap
  const auto last = [&](std::int64_t l) {
    const Strand& s = g.strand[l];
    return s.count > 0 ? s.anchors[s.count - 1] : 0.0;
  };
  bring(g, begin, &Strand::anchors, t.gap, last);
  StrandNumbers before;
  for (std::int64_t l = 0; l < kStrands; ++l) {
    const Strand& s = g.strand[l];
    before[l] = begin > s.count || s.count == 0 ? last(l)
                : begin == 0 && s.begins        ? s.anchors[0]
                                                : s.anchors[begin - 1];
  }
  Lanes previous = load(before);
  for (std::int64_t k = 0; k < kEntries; k += kStrands) {
    const Lanes here = load(t.gap + k);
    store(t.gap + k, here - previous);
    previous = here;
  }
  StrandNumbers widest;
  store(widest, splat(kWidest) * load(g.lengthscale));
  for (std::int64_t i = 0; i < kStrandChunk; ++i) {
    for (std::int64_t l = 0; l < kStrands; ++l) {  // NaN stays
      double& gap = t.gap[i * kStrands + l];
      gap = gap > widest[l] ? widest[l] : gap;
    }
  }
  const Lanes per_lengthscale = inverse_of(g.lengthscale);
  for (std::int64_t k = 0; k < kEntries; k += kStrands) {
    Lanes decay;
    Lanes gain;
    decay_and_gain(load(t.gap + k) * per_lengthscale, decay, gain);
    store(t.decay + k, decay);
    store(t.gain + k, gain);
  }
  if constexpr (J == 2) {
    const Lanes frequency = load(g.frequency);
    double farthest[kStrands] = {};
    StrandTile cosine;
    for (std::int64_t k = 0; k < kEntries; k += kStrands) {
      StrandNumbers angle;
      store(angle, load(t.gap + k) * frequency);
      for (std::int64_t l = 0; l < kStrands; ++l) {
        const double size = angle[l] < 0.0 ? -angle[l] : angle[l];
        farthest[l] = farthest[l] < size ? size : farthest[l];
      }
      Lanes c;
      Lanes s;
      turn(load(angle), c, s);
      store(cosine + k, c);
      store(t.swing + k, s);
    }
    for (std::int64_t l = 0; l < kStrands; ++l) {
      for (std::int64_t i = 0; farthest[l] > kNear && i < kStrandChunk; ++i) {
        const std::int64_t k = i * kStrands + l;
        turn_far(t.gap[k], g.frequency[l], cosine + k, t.swing + k);
      }
    }
    for (std::int64_t k = 0; k < kEntries; k += kStrands) {
      const Lanes decay = load(t.decay + k);
      store(t.decay + k, decay * load(cosine + k));
      store(t.swing + k, decay * load(t.swing + k));
    }
  }
  for (std::int64_t l = 0; l < kStrands && begin == 0; ++l) {
    if (g.strand[l].begins) {
      t.decay[l] = t.swing[l] = 0.0;
      t.gain[l] = 1.0;
    }
  }
  bring(g, begin, &Strand::values, t.value, [](std::int64_t) { return 0.0; });
  StrandNumbers deviation;
  for (std::int64_t l = 0; l < kStrands; ++l) {
    deviation[l] = std::sqrt(g.variance[l]);
  }
  const Lanes per_deviation = inverse_of(deviation);
  const Lanes per_variance = inverse_of(g.variance);
  if (g.has_noise) {
    bring(g, begin, &Strand::noise, t.noise, [&](std::int64_t l) { return g.variance[l]; });
  }
  for (std::int64_t k = 0; k < kEntries; k += kStrands) {
    store(t.value + k, load(t.value + k) * per_deviation);
    store(t.noise + k, load(g.has_noise ? t.noise + k : g.noise) * per_variance);
    store(t.seen + k, splat(1.0));
  }
  for (std::int64_t l = 0; l < kStrands; ++l) {
    for (std::int64_t i = points_there(g.strand[l], begin); i < kStrandChunk; ++i) {
      t.noise[i * kStrands + l] = 1.0;
      t.seen[i * kStrands + l] = 0.0;
    }
  }
}

/// The state's mean and covariance, or their adjoints, in registers.
template <int J>
struct StrandState {
  Lanes mean[J];
  Lanes cov[J == 1 ? 1 : 3];

  StrandState(const StrandNumbers* m, const StrandNumbers* c) {
    for (int j = 0; j < J; ++j) {
      mean[j] = load(m[j]);
    }
    for (int j = 0; j < (J == 1 ? 1 : 3); ++j) {
      cov[j] = load(c[j]);
    }
  }
  LAPLEX_INLINE void leave(StrandNumbers* m, StrandNumbers* c) const {
    for (int j = 0; j < J; ++j) {
      store(m[j], mean[j]);
    }
    for (int j = 0; j < (J == 1 ? 1 : 3); ++j) {
      store(c[j], cov[j]);
    }
  }
};

/// R cov R^T of the turn (a, b) = r (cos, sin), which takes r^2 in.
LAPLEX_INLINE void turn_covariance(const Lanes& a, const Lanes& b, Lanes* cov) {
  const Lanes q00 = a * cov[0] - b * cov[1];
  const Lanes q01 = a * cov[1] - b * cov[2];
  const Lanes q10 = b * cov[0] + a * cov[1];
  const Lanes q11 = b * cov[1] + a * cov[2];
  cov[0] = q00 * a - q01 * b;
  cov[1] = q00 * b + q01 * a;
  cov[2] = q10 * b + q11 * a;
}

/// What a step of the filter is made of.
template <int J>
struct StrandStep {
  Lanes innovation;
  Lanes variance;  ///< D
  Lanes inverse;
  Lanes stays;  ///< the part of the variance that the point leaves: noise / D
  Lanes w[J];   ///< the gain
};

/// Across the gap before the point: the state given the points before.
template <int J>
LAPLEX_INLINE void cross(const StrandTiles& t, std::int64_t k, StrandState<J>& x) {
  const Lanes a = load(t.decay + k);
  const Lanes gain = load(t.gain + k);
  if constexpr (J == 1) {
    x.mean[0] = a * x.mean[0];
    x.cov[0] = (a * a) * x.cov[0] + gain;
  } else {
    const Lanes b = load(t.swing + k);
    const Lanes m0 = a * x.mean[0] - b * x.mean[1];
    x.mean[1] = b * x.mean[0] + a * x.mean[1];
    x.mean[0] = m0;
    turn_covariance(a, b, x.cov);
    x.cov[0] = x.cov[0] + gain;
    x.cov[2] = x.cov[2] + gain;
  }
}

/// The state given the point too.
template <int J>
LAPLEX_INLINE StrandStep<J> observe(const StrandTiles& t, std::int64_t k, StrandState<J>& x) {
  const Lanes seen = load(t.seen + k);
  const Lanes noise = load(t.noise + k);
  StrandStep<J> s;
  const Lanes v = x.cov[0] * seen;
  s.variance = v * seen + noise;
  s.inverse = splat(1.0) / s.variance;
  s.stays = noise * s.inverse;
  s.w[0] = v * s.inverse;
  s.innovation = load(t.value + k) - seen * x.mean[0];
  if constexpr (J == 2) {
    const Lanes v1 = x.cov[1] * seen;
    s.w[1] = v1 * s.inverse;
    x.mean[1] = x.mean[1] + s.w[1] * s.innovation;
    x.cov[2] = x.cov[2] - v1 * s.w[1];
    x.cov[1] = x.cov[1] * s.stays;
  }
  x.mean[0] = x.mean[0] + s.w[0] * s.innovation;
  x.cov[0] = x.cov[0] * s.stays;
  return s;
}

/// What the strand so far does to the state before it.
template <int J>
struct Passage {
  Lanes map[J * J];
  Lanes seen[J == 1 ? 1 : 3];
  Lanes told[J];

  Passage() {
    for (int j = 0; j < J * J; ++j) {
      map[j] = splat(j % (J + 1) == 0 ? 1.0 : 0.0);
    }
    for (Lanes& x : seen) {
      x = splat(0.0);
    }
    for (Lanes& x : told) {
      x = splat(0.0);
    }
  }

  LAPLEX_INLINE void add(const StrandTiles& t, std::int64_t k, const StrandStep<J>& s) {
    const Lanes a = load(t.decay + k);
    const Lanes seen_here = load(t.seen + k);
    const Lanes news = s.innovation * s.inverse;
    Lanes through[J];  // of the state before the strand to what the point observes
    if constexpr (J == 1) {
      const Lanes moved = a * map[0];
      through[0] = seen_here * moved;
      map[0] = moved * s.stays;
    } else {
      const Lanes b = load(t.swing + k);
      for (int c = 0; c < 2; ++c) {
        const Lanes up = a * map[c] - b * map[2 + c];
        const Lanes down = b * map[c] + a * map[2 + c];
        through[c] = seen_here * up;
        map[c] = up * s.stays;
        map[2 + c] = down - s.w[1] * through[c];
      }
    }
    for (int c = 0; c < J; ++c) {
      told[c] = told[c] + through[c] * news;
      const Lanes scaled = through[c] * s.inverse;
      for (int r = 0; r <= c; ++r) {
        seen[r + c] = seen[r + c] + scaled * through[r];
      }
    }
  }

  /// Sets to 0 what is left of a state that was forgotten: numbers below the normal ones are slow.
  LAPLEX_INLINE void forget() {
    for (Lanes& x : map) {
      StrandNumbers numbers;
      store(numbers, x);
      for (double& one : numbers) {
        one = one < 1e-140 && one > -1e-140 ? 0.0 : one;
      }
      x = load(numbers);
    }
  }

  LAPLEX_INLINE void leave(StrandGroup& g) const {
    for (int j = 0; j < J * J; ++j) {
      store(g.map[j], map[j]);
    }
    for (int j = 0; j < (J == 1 ? 1 : 3); ++j) {
      store(g.seen[j], seen[j]);
    }
    for (int j = 0; j < J; ++j) {
      store(g.told[j], told[j]);
    }
  }
};

/// The chunk's part of log_det, least and largest, from t.variance.
inline void take_variances(const StrandTile& variance, StrandGroup& g) {
  constexpr std::int64_t kFourth = kStrandChunk / 4;
  constexpr double kLarge = 1e9;  // so that the product of a chunk's numbers is in range
  StrandNumbers least;
  StrandNumbers largest;
  double product[4][kStrands];
  for (std::int64_t l = 0; l < kStrands; ++l) {
    least[l] = largest[l] = variance[l];
    product[0][l] = product[1][l] = product[2][l] = product[3][l] = 1.0;
  }
  for (std::int64_t i = 0; i < kStrandChunk; ++i) {
    double* const p = product[i / kFourth];
    for (std::int64_t l = 0; l < kStrands; ++l) {
      const double d = variance[i * kStrands + l];
      p[l] *= d;
      least[l] = d < least[l] ? d : least[l];
      largest[l] = d > largest[l] ? d : largest[l];
    }
  }
  for (std::int64_t l = 0; l < kStrands; ++l) {
    if (least[l] > 1.0 / kLarge && largest[l] < kLarge) {
      g.log_det[l] += std::log((product[0][l] * product[1][l]) * (product[2][l] * product[3][l]));
    } else {
      for (const auto& p : product) {
        g.log_det[l] += std::log(p[l]);
      }
    }
    g.least[l] = least[l] < g.least[l] ? least[l] : g.least[l];
    g.largest[l] = largest[l] > g.largest[l] ? largest[l] : g.largest[l];
  }
}

template <int J, StrandPass pass>
void filter_strands(StrandGroup& g, StrandTiles& t) {
  constexpr bool kPassage = pass == StrandPass::passage || pass == StrandPass::density_for_parts;
  constexpr bool kDensity = pass != StrandPass::passage;
  constexpr bool kKept = kDensity && pass != StrandPass::density;
  StrandState<J> x(g.mean, g.cov);
  Passage<J> passage;
  Lanes square = splat(0.0);
  double* kept = g.kept;
  for (std::int64_t begin = 0; begin < g.steps; begin += kStrandChunk) {
    prepare<J>(g, begin, t);
    if constexpr (kKept) {
      for (int j = 0; j < J; ++j) {
        store(kept + j * kStrands, x.mean[j]);
      }
      for (int j = 0; j < (J == 1 ? 1 : 3); ++j) {
        store(kept + (J + j) * kStrands, x.cov[j]);
      }
      kept += (J == 1 ? 2 : 5) * kStrands;
    }
    Lanes part = splat(0.0);  // so that a sum of many has few roundings
    for (std::int64_t k = 0; k < kStrandChunk * kStrands; k += kStrands) {
      cross<J>(t, k, x);
      const StrandStep<J> s = observe<J>(t, k, x);
      if constexpr (kPassage) {
        passage.add(t, k, s);
      }
      if constexpr (kDensity) {
        part = part + (s.innovation * s.innovation) * s.inverse;
        store(t.variance + k, s.variance);
      }
    }
    if constexpr (kPassage) {
      passage.forget();
    }
    if constexpr (kDensity) {
      square = square + part;
      take_variances(t.variance, g);
    }
  }
  x.leave(g.mean, g.cov);
  if constexpr (kPassage) {
    passage.leave(g);
  }
  store(g.square, square);
}

/// Back along the strands.
template <int J>
void reverse_strands(StrandGroup& g, StrandTiles& t) {
  constexpr int kNumbers = J == 1 ? 2 : 5;
  StrandState<J> y(g.adjoint_mean, g.adjoint_cov);
  const Lanes per_lengthscale = inverse_of(g.lengthscale);
  const Lanes frequency = load(g.frequency);
  const Lanes half = splat(0.5);
  const Lanes one = splat(1.0);
  Lanes all_lengthscale = splat(0.0);
  Lanes all_scale[5] = {all_lengthscale, all_lengthscale, all_lengthscale, all_lengthscale,
                        all_lengthscale};
  Lanes all_frequency = splat(0.0);
  Lanes all_noise = splat(0.0);
  Lanes next_gap = splat(0.0);  // the derivative by the gap after the point
  StrandNumbers deviation;
  for (std::int64_t l = 0; l < kStrands; ++l) {
    deviation[l] = std::sqrt(g.variance[l]);
  }
  const Lanes per_deviation = inverse_of(deviation);
  const Lanes per_variance = inverse_of(g.variance);
  for (std::int64_t begin = (g.steps - 1) / kStrandChunk * kStrandChunk; begin >= 0;
       begin -= kStrandChunk) {
    prepare<J>(g, begin, t);
    const auto* const kept =
        reinterpret_cast<const StrandNumbers*>(g.kept + begin / kStrandChunk * kNumbers * kStrands);
    StrandState<J> x(kept, kept + J);
    for (std::int64_t k = 0; k < kStrandChunk * kStrands; k += kStrands) {
      cross<J>(t, k, x);
      for (int j = 0; j < J; ++j) {
        store(t.mean[j] + k, x.mean[j]);
      }
      for (int j = 0; j < (J == 1 ? 1 : 3); ++j) {
        store(t.cov[j] + k, x.cov[j]);
      }
      const StrandStep<J> s = observe<J>(t, k, x);
      store(t.value + k, s.innovation);
      store(t.variance + k, s.inverse);
    }
    Lanes lengthscale = splat(0.0);
    Lanes scale[5] = {lengthscale, lengthscale, lengthscale, lengthscale, lengthscale};
    Lanes turned = splat(0.0);
    Lanes noise_sum = splat(0.0);
    for (std::int64_t k = (kStrandChunk - 1) * kStrands; k >= 0; k -= kStrands) {
      const Lanes seen = load(t.seen + k);
      const Lanes noise = load(t.noise + k);
      const Lanes inverse = load(t.variance + k);
      const Lanes stays = noise * inverse;
      const Lanes told = seen * inverse;
      const Lanes p0 = load(t.cov[0] + k);
      const Lanes m0 = load(t.mean[0] + k);
      const Lanes w0 = p0 * told;
      Lanes u = load(t.value + k) * inverse - w0 * y.mean[0];
      Lanes wnw = (w0 * w0) * y.cov[0];
      Lanes gap_bar;
      Lanes smoothed;
      if constexpr (J == 1) {
        y.mean[0] = y.mean[0] + seen * u;
        y.cov[0] = (stays * stays) * y.cov[0] + told;
        smoothed = m0 + p0 * y.mean[0];
        gap_bar =
            ((y.mean[0] * y.mean[0] - y.cov[0]) * (one - p0) - y.mean[0] * m0) * per_lengthscale;
      } else {
        const Lanes p1 = load(t.cov[1] + k);
        const Lanes p2 = load(t.cov[2] + k);
        const Lanes m1 = load(t.mean[1] + k);
        const Lanes w1 = p1 * told;
        u = u - w1 * y.mean[1];
        wnw = wnw + w1 * (splat(2.0) * (w0 * y.cov[1]) + w1 * y.cov[2]);
        const Lanes w1_seen = w1 * seen;
        const Lanes n00 = y.cov[0] * stays - y.cov[1] * w1_seen;
        const Lanes n10 = y.cov[1] * stays - y.cov[2] * w1_seen;
        y.mean[0] = y.mean[0] + seen * u;
        y.cov[0] = stays * n00 - w1_seen * n10 + told;
        y.cov[1] = n10;
        smoothed = m0 + p0 * y.mean[0] + p1 * y.mean[1];
        const Lanes g00 = y.mean[0] * y.mean[0] - y.cov[0];
        const Lanes g01 = y.mean[0] * y.mean[1] - y.cov[1];
        const Lanes g11 = y.mean[1] * y.mean[1] - y.cov[2];
        const Lanes by_decay = (g00 * (one - p0) + g11 * (one - p2) - splat(2.0) * (g01 * p1)) -
                               (y.mean[0] * m0 + y.mean[1] * m1);
        const Lanes by_angle =
            (p1 * (g11 - g00) + g01 * (p0 - p2)) + (y.mean[1] * m0 - y.mean[0] * m1);
        turned = turned + by_angle * load(t.gap + k);
        gap_bar = by_decay * per_lengthscale;
        lengthscale = lengthscale + gap_bar * load(t.gap + k);
        gap_bar = gap_bar + frequency * by_angle;
      }
      if constexpr (J == 1) {
        lengthscale = lengthscale + gap_bar * load(t.gap + k);
      }
      const Lanes by_noise = half * (u * u - (told + wnw));
      const Lanes innovation = load(t.value + k);
      const Lanes whitened = (innovation * innovation) * inverse;
      const Lanes lost = (noise * seen) * (u * u);
      const Lanes news = smoothed - m0;
      const Lanes both = whitened + lost;
      scale[0] = scale[0] + (seen * w0 - noise * wnw);
      scale[1] = scale[1] + (whitened - lost);
      scale[2] = scale[2] + both * both;
      scale[3] = scale[3] + u * smoothed;
      scale[4] = scale[4] + (u * u) * (m0 * m0 + news * news);
      noise_sum = noise_sum + by_noise * seen;
      store(t.by_values + k, splat(0.0) - u * per_deviation);
      store(t.by_noise + k, by_noise * per_variance);
      store(t.by_anchors + k, gap_bar - next_gap);
      next_gap = gap_bar;
      const Lanes a = load(t.decay + k);
      if constexpr (J == 1) {
        y.mean[0] = a * y.mean[0];
        y.cov[0] = (a * a) * y.cov[0];
      } else {
        const Lanes b = load(t.swing + k);
        const Lanes l0 = a * y.mean[0] + b * y.mean[1];
        y.mean[1] = a * y.mean[1] - b * y.mean[0];
        y.mean[0] = l0;
        turn_covariance(a, splat(0.0) - b, y.cov);
      }
    }
    all_lengthscale = all_lengthscale + lengthscale;
    for (int j = 0; j < 5; ++j) {
      all_scale[j] = all_scale[j] + scale[j];
    }
    all_frequency = all_frequency + turned;
    all_noise = all_noise + noise_sum;
    take(g, begin, &Strand::by_anchors, t.by_anchors);
    take(g, begin, &Strand::by_values, t.by_values);
    take(g, begin, &Strand::by_noise, t.by_noise);
  }
  y.leave(g.adjoint_mean, g.adjoint_cov);
  store(g.by_lengthscale, splat(0.0) - all_lengthscale * per_lengthscale);
  for (int j = 0; j < 5; ++j) {
    store(g.by_scale[j], all_scale[j]);
  }
  store(g.by_frequency, all_frequency);
  store(g.by_noise, all_noise * per_variance);
  store(g.by_first, next_gap);
}

template <int J>
void pass_strands(StrandPass pass, StrandGroup& g) {
  StrandTiles t;
  switch (pass) {
    case StrandPass::passage:
      return filter_strands<J, StrandPass::passage>(g, t);
    case StrandPass::density:
      return filter_strands<J, StrandPass::density>(g, t);
    case StrandPass::density_for_whole:
      return filter_strands<J, StrandPass::density_for_whole>(g, t);
    case StrandPass::density_for_parts:
      return filter_strands<J, StrandPass::density_for_parts>(g, t);
    case StrandPass::gradients:
      return reverse_strands<J>(g, t);
  }
}

/// `turns`: whether the process has a frequency.
inline void strands(bool turns, StrandPass pass, StrandGroup& g) {
  turns ? pass_strands<2>(pass, g) : pass_strands<1>(pass, g);
}

}  // namespace laplex::detail::LAPLEX_LEVEL
