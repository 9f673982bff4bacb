#include "gram_filter.hpp"

#include "gram_lanes.hpp"
#include "gram_root.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

namespace laplex::detail {
namespace {

/// Whole chunks, and so long that the work between segments does not count.
constexpr std::int64_t kSegments = 8 * kSide;

/// The part of its variance down to which a point's D keeps ten digits in filter(); RootFilter
/// takes some ten times as long.
constexpr double kRootPart = 0x1p-20;

/// The variance and the gain of points after one at which the filter ended.
constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

/// The points from which the runs side by side start, and where the line ends.
struct Starts {
  const std::int64_t* first;
  int count;
  std::int64_t end;
};

/// Point i of every run. Beyond the line's end there are points that observe nothing of anything.
template <class N, int J, int B>
void load(const GramLine& line, const Starts& starts, std::int64_t i, Step<N, J, B>& s) {
  for (int l = 0; l < starts.count; ++l) {
    const std::int64_t k = starts.first[l] + i;
    const bool there = k < starts.end;
    if constexpr (B == 1) {
      for (int j = 0; j < J; ++j) {
        const double fall = there ? line.fall[k * J + j] : 0.0;
        at(s.decay[j], l) = decay_of(fall);
        at(s.gain[j], l) = gain_of(fall);
      }
    } else {
      const double* const from = &line.transition[(there ? k : 0) * kTransitionStride<J, B>];
      for (int j = 0; j < J * B; ++j) {
        at(s.decay[j], l) = there ? from[j] : 0.0;
      }
      for (int j = 0; j < kBlockPacked<J, B>; ++j) {
        at(s.gain[j], l) = there ? from[J * B + j] : 0.0;
      }
    }
    for (int j = 0; j < J; ++j) {
      at(s.h[j], l) = there ? line.loadings[k * J + j] : 0.0;
    }
    at(s.noise, l) = there ? line.noise[k] : 1.0;
  }
}

/// The variance of point k without noise.
template <int J, int B>
double prior_variance(const GramLine& line, std::int64_t k) {
  const double* const h = &line.loadings[k * J];
  if constexpr (B > 1) {
    return variance_of<J, B>(line.state_variance.data(), h);
  }
  double prior = 0.0;
  for (int j = 0; j < J; ++j) {
    prior += h[j] * h[j];
  }
  return prior;
}

/// The filter over `size` points of every run from the covariance given what is before it,
/// `filtered`. Returns the first point whose variance is not more than `part` of that without noise
/// and without the points before, or -1.
template <class N, int J, int B>
std::int64_t filter(GramLine& line, const Starts& starts, std::int64_t size, double part,
                    N* filtered) {
  std::int64_t doubtful = -1;
  Step<N, J, B> s;
  for (std::int64_t i = 0; i < size; ++i) {
    load<N, J, B>(line, starts, i, s);
    predict<J>(filtered, s);
    if (i % kFilterChunk == 0) {
      for (int l = 0; l < starts.count && starts.first[l] + i < starts.end; ++l) {
        double* kept = &line.chunk_cov[(starts.first[l] + i) / kFilterChunk * kPacked<J>];
        for (int k = 0; k < kPacked<J>; ++k) {
          kept[k] = at(s.cov[k], l);
        }
      }
    }
    observe<J>(s, filtered);
    for (int l = 0; l < starts.count && starts.first[l] + i < starts.end; ++l) {
      const std::int64_t k = starts.first[l] + i;
      for (int j = 0; j < J; ++j) {
        line.gain[k * J + j] = at(s.w[j], l);
      }
      line.variance[k] = at(s.d, l);
      if (!(line.variance[k] > part * prior_variance<J, B>(line, k)) &&
          !std::isinf(line.noise[k]) && (doubtful < 0 || k < doubtful)) {
        doubtful = k;
      }
    }
    if (const std::int64_t k = starts.first[0] + i;
        starts.count == 1 && !(line.variance[k] > 0.0)) {  // of a point of no observation: overflow
      std::fill(line.variance.begin() + k + 1, line.variance.end(), kUnknown);
      std::fill(line.gain.begin() + (k + 1) * J, line.gain.end(), kUnknown);
      return doubtful < 0 ? k : doubtful;
    }
  }
  return doubtful;
}

/// Where filter() was in doubt: the first point of a variance that may be 0, or -1.
template <int J, int B>
std::int64_t first_singular(const GramLine& line, std::int64_t n) {
  const std::int64_t first = 0;
  Growth<J, B> growth;
  Step<double, J, B> s;
  for (std::int64_t k = 0; k < n; ++k) {
    load<double, J, B>(line, {&first, 1, n}, k, s);
    std::copy_n(&line.gain[k * J], J, s.w);
    const double least = kSingular<J> * growth.next(s, prior_variance<J, B>(line, k));
    if (s.observed() && !(line.variance[k] > least)) {
      return k;
    }
  }
  return -1;
}

/// What a point of one column does to the covariance x / y before it, as a map of (x, y) up to a
/// factor: p / y with p = r^2 x + q y is predicted, and then x' = noise p, y' = h^2 p + noise y.
struct RatioMap {
  double xx, xy, yx, yy;  ///< x' = xx x + xy y, y' = yx x + yy y
};

/// Steps until x and y are made numbers of about 1 again.
constexpr std::int64_t kRatioSteps = 4;

/// One column again, without the wait for divisions: what a step waits for is a product and a sum.
/// Everything is positive, so nothing cancels: d = y' / y and w = p h / y' have a few units in the
/// last place. Returns false where numbers leave the range of double: filter() has no such range.
bool filter_ratio(GramLine& line, std::int64_t begin, std::int64_t end, double before) {
  constexpr double kSmall = 1e-200;
  constexpr double kLarge = 1e200;
  double x = before;
  double y = 1.0;
  double over = 1.0;  // 1 / y
  bool in_range = true;
  for (std::int64_t k = begin; k < end; ++k) {
    const double fall = line.fall[k];
    const double r = decay_of(fall);
    const double stays = r * r;
    const double comes = gain_of(fall);
    const double h = line.loadings[k];
    const double noise = line.noise[k];
    const double square = h * h;
    const double p = stays * x + comes * y;
    const double next = square * stays * x + (square * comes + noise) * y;
    if (k % kFilterChunk == 0) {
      line.chunk_cov[k / kFilterChunk] = p * over;
    }
    in_range = in_range && next > kSmall && next < kLarge;
    line.variance[k] = next * over;
    const double last = over;
    over = 1.0 / next;
    line.gain[k] = p * h * over;
    x = noise * stays * x + noise * comes * y;
    y = next;
    if (k % kRatioSteps == 0) {
      // By what is at hand: y of the point before serves as well as its own.
      x *= last;
      y *= last;
      over = 1.0 / y;
    }
  }
  return in_range;
}

/// What a segment does to the covariance before it: P becomes cov + map (P^-1 + seen)^-1 map^T. An
/// element of the associative scan of Sarkka and Garcia-Fernandez, "Temporal Parallelization of
/// Bayesian Smoothers" (2021), without its means.
template <class N, int J>
struct Passage {
  N map[J * J];        ///< of the state before the segment to that after it
  N cov[kPacked<J>];   ///< of the state after the segment, given that before
  N seen[kPacked<J>];  ///< what the segment's points say about the state before: an inverse
};

/// Sets to 0 what is left of a state that was forgotten: numbers below the normal ones are slow.
template <int J>
void forget(Passage<Lanes, J>& p) {
  for (Lanes& m : p.map) {
    m = each([&](int l) { return std::fabs(m.lane[l]) < 1e-140 ? 0.0 : m.lane[l]; });
  }
}

template <class N, int J, int B>
void pass(const GramLine& line, const Starts& starts, std::int64_t size, Passage<N, J>& p) {
  for (int k = 0; k < kPacked<J>; ++k) {
    p.cov[k] = N(0.0);
    p.seen[k] = N(0.0);
  }
  for (int k = 0; k < J * J; ++k) {
    p.map[k] = N(k % (J + 1) == 0 ? 1.0 : 0.0);
  }
  Step<N, J, B> s;
  for (std::int64_t i = 0; i < size; ++i) {
    load<N, J, B>(line, starts, i, s);
    predict<J>(p.cov, s);
    observe<J>(s, p.cov);
    if (i % 16 == 0) {
      forget(p);
    }
    N through[J];  // h^T decay map: what of the state before the segment this point observes
    for (int c = 0; c < J; ++c) {
      through[c] = N(0.0);
      carry_state<J, B>(s.decay, p.map + c, J);
      for (int r = 0; r < J; ++r) {
        through[c] += s.h[r] * p.map[r * J + c];
      }
    }
    for (int c = 0; c < J; ++c) {
      if (J == 1) {
        p.map[0] = p.map[0] * (s.noise * s.inverse);
      }
      for (int r = 0; J > 1 && r < J; ++r) {
        p.map[r * J + c] = p.map[r * J + c] - s.w[r] * through[c];
      }
      for (int r = 0; r <= c; ++r) {
        p.seen[packed(r, c)] += through[r] * through[c] * s.inverse;
      }
    }
  }
}

/// P after the passage, from P before, both packed. With P = F F^T it is cov + (map F) M^-1 (map
/// F)^T, M = 1 + F^T seen F: symmetric, and M is never smaller than 1.
template <int J>
void through_passage(const Passage<double, J>& p, double* cov) {
  double f[J][J] = {};  // the Cholesky factor of P; a column of zeros where P is singular
  for (int c = 0; c < J; ++c) {
    for (int r = c; r < J; ++r) {
      double rest = cov[packed(r, c)];
      for (int k = 0; k < c; ++k) {
        rest -= f[r][k] * f[c][k];
      }
      const double pivot = r == c ? std::sqrt(std::max(rest, 0.0)) : f[c][c];
      f[r][c] = r == c ? pivot : (pivot > 0.0 ? rest / pivot : 0.0);
    }
  }
  double m[J][J];      // M, then its Cholesky factor
  double moved[J][J];  // map F, then (map F) M^-1/2
  for (int a = 0; a < J; ++a) {
    for (int b = 0; b < J; ++b) {
      m[a][b] = a == b ? 1.0 : 0.0;
      moved[a][b] = 0.0;
      for (int k = 0; k < J; ++k) {
        moved[a][b] += p.map[a * J + k] * f[k][b];
        for (int l = 0; l < J; ++l) {
          m[a][b] += f[k][a] * p.seen[packed(k, l)] * f[l][b];
        }
      }
    }
  }
  for (int c = 0; c < J; ++c) {
    for (int k = 0; k < c; ++k) {
      m[c][c] -= m[c][k] * m[c][k];
    }
    m[c][c] = std::sqrt(m[c][c]);
    for (int r = c + 1; r < J; ++r) {
      for (int k = 0; k < c; ++k) {
        m[r][c] -= m[r][k] * m[c][k];
      }
      m[r][c] /= m[c][c];
    }
    for (int r = 0; r < J; ++r) {
      for (int k = 0; k < c; ++k) {
        moved[r][c] -= moved[r][k] * m[c][k];
      }
      moved[r][c] /= m[c][c];
    }
  }
  for (int c = 0; c < J; ++c) {
    for (int r = 0; r <= c; ++r) {
      cov[packed(r, c)] = p.cov[packed(r, c)];
      for (int k = 0; k < J; ++k) {
        cov[packed(r, c)] += moved[r][k] * moved[c][k];
      }
    }
  }
}

/// All points of a segment in one map.
RatioMap pass_ratio(const GramLine& line, std::int64_t begin, std::int64_t end) {
  RatioMap m{1.0, 0.0, 0.0, 1.0};
  for (std::int64_t k = begin; k < end; ++k) {
    const double r = decay_of(line.fall[k]);
    const double stays = r * r;
    const double comes = gain_of(line.fall[k]);
    const double square = line.loadings[k] * line.loadings[k];
    const double noise = line.noise[k];
    const RatioMap one{noise * stays, noise * comes, square * stays, square * comes + noise};
    m = {one.xx * m.xx + one.xy * m.yx, one.xx * m.xy + one.xy * m.yy,
         one.yx * m.xx + one.yy * m.yx, one.yx * m.xy + one.yy * m.yy};
    if (k % kRatioSteps == 0) {
      const double over = 1.0 / (m.yx + m.yy);
      m = {m.xx * over, m.xy * over, m.yx * over, m.yy * over};
    }
  }
  return m;
}

/// filter_segments() for one column. Returns false where the numbers leave the range of double.
bool filter_ratio_segments(GramLine& line, std::int64_t n, int threads) {
  const std::int64_t size =
      (n + kSegments * kFilterChunk - 1) / (kSegments * kFilterChunk) * kFilterChunk;
  const auto start = [&](std::int64_t s) { return std::min(s * size, n); };
  std::array<RatioMap, kSegments> maps{};
  parallel_tasks(threads, kSegments, [&](std::int64_t s) {
    maps[static_cast<std::size_t>(s)] = pass_ratio(line, start(s), start(s + 1));
  });
  std::array<double, kSegments> before{};
  double ratio = 0.0;
  for (std::size_t s = 0; s < kSegments; ++s) {
    before[s] = ratio;
    ratio = (maps[s].xx * ratio + maps[s].xy) / (maps[s].yx * ratio + maps[s].yy);
  }
  if (!std::isfinite(ratio)) {
    return false;
  }
  std::array<char, kSegments> in_range{};
  parallel_tasks(threads, kSegments, [&](std::int64_t s) {
    const auto i = static_cast<std::size_t>(s);
    in_range[i] = filter_ratio(line, start(s), start(s + 1), before[i]) ? 1 : 0;
  });
  return std::all_of(in_range.begin(), in_range.end(), [](char yes) { return yes != 0; });
}

/// In segments: what each does to the covariance before it; from these, that before each; then all
/// of them again from there. Returns false where that found no numbers: a segment that begins with
/// coincident anchors without noise, whose passage has no inverse. `doubtful` becomes what filter()
/// returns.
template <int J, int B>
bool filter_segments(GramLine& line, std::int64_t n, int threads, double part,
                     std::int64_t& doubtful) {
  const std::int64_t size =
      (n + kSegments * kFilterChunk - 1) / (kSegments * kFilterChunk) * kFilterChunk;
  std::array<std::int64_t, kSegments> first{};
  for (std::int64_t s = 0; s < kSegments; ++s) {
    first[static_cast<std::size_t>(s)] = s * size;
  }
  const auto starts = [&](std::int64_t group) {
    return Starts{first.data() + group * kSide, kSide, n};
  };
  constexpr std::int64_t kGroups = kSegments / kSide;
  std::vector<Passage<Lanes, J>> passages(kGroups);
  parallel_tasks(threads, kGroups, [&](std::int64_t group) {
    pass<Lanes, J, B>(line, starts(group), size, passages[static_cast<std::size_t>(group)]);
  });
  std::vector<std::array<Lanes, kPacked<J>>> before(kGroups);
  double cov[kPacked<J>] = {};
  for (std::int64_t s = 0; s < kSegments; ++s) {
    const auto group = static_cast<std::size_t>(s / kSide);
    const int lane = static_cast<int>(s % kSide);
    Passage<double, J> one;
    for (int k = 0; k < J * J; ++k) {
      one.map[k] = passages[group].map[k].lane[lane];
    }
    for (int k = 0; k < kPacked<J>; ++k) {
      before[group][static_cast<std::size_t>(k)].lane[lane] = cov[k];
      one.cov[k] = passages[group].cov[k].lane[lane];
      one.seen[k] = passages[group].seen[k].lane[lane];
    }
    through_passage<J>(one, cov);
    if (!std::all_of(cov, cov + kPacked<J>, [](double x) { return std::isfinite(x); })) {
      return false;
    }
  }
  std::array<std::int64_t, kGroups> found{};
  parallel_tasks(threads, kGroups, [&](std::int64_t group) {
    const auto g = static_cast<std::size_t>(group);
    found[g] = filter<Lanes, J, B>(line, starts(group), size, part, before[g].data());
  });
  doubtful = -1;
  for (const std::int64_t k : found) {
    doubtful = k >= 0 && (doubtful < 0 || k < doubtful) ? k : doubtful;
  }
  return true;
}

}  // namespace

std::int64_t run_filter(GramLine& line, std::int64_t n, const Layout& layout, int threads) {
  std::int64_t singular = -1;
  with_shape(layout.block, layout.columns, [&](auto shape) {
    constexpr int J = decltype(shape)::columns;
    constexpr int B = decltype(shape)::block;
    line.chunk_cov.reset((n + kFilterChunk - 1) / kFilterChunk * kPacked<J>);
    const bool all_observed = std::none_of(line.noise.begin(), line.noise.end(),
                                           [](double noise) { return std::isinf(noise); });
    if constexpr (J == 1) {
      if (all_observed && (n >= kSegmentedLine ? filter_ratio_segments(line, n, threads)
                                               : filter_ratio(line, 0, n, 0.0))) {
        return;
      }
    }
    // The covariances have square roots unless a weight is negative.
    const bool definite = std::none_of(line.weights.begin(), line.weights.end(),
                                       [](double weight) { return weight < 0.0; });
    const bool can_root = B > 1 && definite;
    const double part = can_root ? std::max(kRootPart, safe_part<J>()) : safe_part<J>();
    bool in_segments = false;
    if constexpr (J > 1 && J <= 4) {
      in_segments = definite && all_observed && n >= kSegmentedLines &&
                    filter_segments<J, B>(line, n, threads, part, singular);
    }
    if (!in_segments) {
      const std::int64_t first = 0;
      double filtered[kPacked<J>] = {};
      singular = filter<double, J, B>(line, {&first, 1, n}, n, part, filtered);
    }
    line.root = singular >= 0 && can_root;
    if (line.root) {
      singular = filter_root(line, n, J, B);
    } else if constexpr (J > 1) {
      singular = singular < 0 ? -1 : first_singular<J, B>(line, n);
    }
  });
  return singular;
}

}  // namespace laplex::detail
