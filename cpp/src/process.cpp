/// Lines are cut into strands, and eight strands go side by side (strands.hpp): what each does to
/// any state before it is found first, from that the state before each, then the density, and
/// backwards likewise the derivatives. How a line is cut depends on its length alone.
#include <laplex/process.hpp>

#include <laplex/detail/decay.hpp>

#include "array.hpp"
#include "boundary.hpp"
#include "kernels/kernels.hpp"
#include "parallel.hpp"
#include "process_line.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace laplex {

using namespace detail;

void detail::turn_far(double gap, double frequency, double* cosine, double* sine) {
  const Complex turn = rotation({gap, 0.0}, frequency);
  *cosine = turn.re;
  *sine = turn.im;
}

namespace {

constexpr double kPi = 3.14159265358979323846;

/// From these lengths on a line is cut into as many strands as a group has, and as eight groups
/// have: for threads. Finding the states before the strands doubles the arithmetic.
constexpr std::int64_t kOneGroup = 512;
constexpr std::int64_t kManyGroups = std::int64_t(1) << 14;

/// The range of D, in units of the variance, in which products of eight have no overflow.
constexpr double kRange = 1e37;

/// Below this D, with two components, the matrix may be singular up to rounding: what is safe of
/// Gram's filter (safe_part), whose covariances are found as differences likewise.
constexpr double kUnsafe = 3e-8;

/// A symmetric matrix of two components, packed; with one component only the first number counts,
/// and the others are 0.
struct State {
  double mean[2] = {};
  double cov[3] = {};
};

/// A strand's number of each array; with one component, those after the first are 0.
template <std::size_t N>
std::array<double, N> numbers_of(const StrandNumbers (&arrays)[N], std::int64_t strand) {
  std::array<double, N> numbers{};
  for (std::size_t k = 0; k < N; ++k) {
    numbers[k] = arrays[k][strand];
  }
  return numbers;
}

/// The state after strand `l` of a group, from that before it.
State after(const StrandGroup& g, std::int64_t l, bool turns, const State& before) {
  const double* const p = before.cov;
  const auto s = numbers_of(g.seen, l);
  const auto a = numbers_of(g.map, l);
  const auto told = numbers_of(g.told, l);
  const auto mean = numbers_of(g.mean, l);
  const auto cov = numbers_of(g.cov, l);
  // (P^-1 + seen)^-1 = (P + |P| adj(seen)) / (1 + tr(P seen) + |P| |seen|): no inverse of P.
  const double det_p = std::max(p[0] * p[2] - p[1] * p[1], 0.0);
  const double det_s = std::max(s[0] * s[2] - s[1] * s[1], 0.0);
  const double over = 1.0 / (1.0 + (p[0] * s[0] + 2.0 * p[1] * s[1] + p[2] * s[2]) + det_p * det_s);
  const double c[3] = {(p[0] + det_p * s[2]) * over, (p[1] - det_p * s[1]) * over,
                       (p[2] + det_p * s[0]) * over};
  const double* const m = before.mean;
  const double news[2] = {told[0] - (s[0] * m[0] + s[1] * m[1]),
                          told[1] - (s[1] * m[0] + s[2] * m[1])};
  const double known[2] = {m[0] + (c[0] * news[0] + c[1] * news[1]),
                           m[1] + (c[1] * news[0] + c[2] * news[1])};
  const double ac[4] = {a[0] * c[0] + a[1] * c[1], a[0] * c[1] + a[1] * c[2],
                        a[2] * c[0] + a[3] * c[1], a[2] * c[1] + a[3] * c[2]};
  State next;
  next.mean[0] = mean[0] + (a[0] * known[0] + a[1] * known[1]);
  next.cov[0] = cov[0] + (ac[0] * a[0] + ac[1] * a[1]);
  if (turns) {
    next.mean[1] = mean[1] + (a[2] * known[0] + a[3] * known[1]);
    next.cov[1] = cov[1] + (ac[0] * a[2] + ac[1] * a[3]);
    next.cov[2] = cov[2] + (ac[2] * a[2] + ac[3] * a[3]);
  }
  return next;
}

/// The adjoint of the state before a strand, from that of the state after it.
State before(const StrandGroup& g, std::int64_t l, bool turns, const State& after) {
  const auto a = numbers_of(g.map, l);
  const auto told = numbers_of(g.told, l);
  const auto seen = numbers_of(g.seen, l);
  const double* const m = after.mean;
  const double* const n = after.cov;
  const double na[4] = {n[0] * a[0] + n[1] * a[2], n[0] * a[1] + n[1] * a[3],
                        n[1] * a[0] + n[2] * a[2], n[1] * a[1] + n[2] * a[3]};
  State last;
  last.mean[0] = told[0] + (a[0] * m[0] + a[2] * m[1]);
  last.cov[0] = seen[0] + (a[0] * na[0] + a[2] * na[2]);
  if (turns) {
    last.mean[1] = told[1] + (a[1] * m[0] + a[3] * m[1]);
    last.cov[1] = seen[1] + (a[0] * na[1] + a[2] * na[3]);
    last.cov[2] = seen[2] + (a[1] * na[1] + a[3] * na[3]);
  }
  return last;
}

void set(StrandNumbers* mean, StrandNumbers* cov, std::int64_t l, const State& state) {
  for (int j = 0; j < 2; ++j) {
    mean[j][l] = state.mean[j];
  }
  for (int j = 0; j < 3; ++j) {
    cov[j][l] = state.cov[j];
  }
}

/// Lines that are worked on together: up to eight whole ones, or the strands of one.
class Block {
 public:
  Block(const Process& p, double* out, const ProcessGradients* gradients)
      : p_(p),
        out_(out),
        gradients_(gradients),
        to_(gradients == nullptr ? ProcessGradients{} : *gradients),
        turns_(p.frequency != nullptr),
        strands_(p.n < kOneGroup     ? 1
                 : p.n < kManyGroups ? kStrands
                                     : kStrands * kStrands) {}

  /// How many lines a block takes.
  [[nodiscard]] std::int64_t lines() const { return strands_ == 1 ? kStrands : 1; }

  /// Returns false where the result has to be found in another way.
  bool run(std::int64_t first, int threads) {
    lines_.resize(static_cast<std::size_t>(std::min(lines(), p_.batch - first)));
    for (ProcessLine& line : lines_) {
      if (!read_line(p_, to_, first++, threads, line)) {
        return false;
      }
    }
    lay_out();
    const auto pass_all = [&](StrandPass pass) {
      parallel_tasks(threads, static_cast<std::int64_t>(groups_.size()), [&](std::int64_t g) {
        kernels<double>().strands(turns_, pass, groups_[static_cast<std::size_t>(g)]);
      });
    };
    if (strands_ > 1) {
      pass_all(StrandPass::passage);
      State state;
      for (std::int64_t s = 0; s < strands_; ++s) {
        StrandGroup& g = group_of(s);
        const State next = after(g, s % kStrands, turns_, state);
        set(g.mean, g.cov, s % kStrands, state);
        state = next;
      }
    }
    pass_all(gradients_ == nullptr ? StrandPass::density
             : strands_ == 1       ? StrandPass::density_for_whole
                                   : StrandPass::density_for_parts);
    if (!add_up()) {
      return false;
    }
    if (gradients_ != nullptr) {
      State adjoint;
      for (std::int64_t s = strands_ - 1; s >= 0; --s) {
        StrandGroup& g = group_of(s);
        set(g.adjoint_mean, g.adjoint_cov, s % kStrands, adjoint);
        adjoint = before(g, s % kStrands, turns_, adjoint);
      }
      pass_all(StrandPass::gradients);
      write();
    }
    return true;
  }

 private:
  StrandGroup& group_of(std::int64_t strand) {
    return groups_[static_cast<std::size_t>(strand / kStrands)];
  }

  void lay_out() {
    groups_.assign(static_cast<std::size_t>(std::max<std::int64_t>(strands_ / kStrands, 1)), {});
    const std::int64_t pieces = strands_ * kStrandChunk;
    const std::int64_t size = (p_.n + pieces - 1) / pieces * kStrandChunk;
    const std::int64_t numbers = size / kStrandChunk * (turns_ ? 5 : 2) * kStrands;
    if (gradients_ != nullptr) {
      kept_.reset(numbers * static_cast<std::int64_t>(groups_.size()));
    }
    double* kept = kept_.data();
    for (std::size_t k = 0; k < groups_.size(); ++k) {
      StrandGroup& g = groups_[k];
      g.steps = strands_ == 1 ? p_.n : size;
      g.kept = kept;
      kept = offset(kept, numbers);
      for (std::int64_t l = 0; l < kStrands; ++l) {
        const auto line = std::min(static_cast<std::size_t>(l), lines_.size() - 1);
        const std::int64_t begin =
            std::min((static_cast<std::int64_t>(k) * kStrands + l) * size, p_.n);
        if (strands_ > 1) {
          set_strand(g, l, lines_[0], begin, std::min(size, p_.n - begin));
        } else {
          set_strand(g, l, lines_[line], 0, static_cast<std::size_t>(l) == line ? p_.n : 0);
        }
      }
    }
  }

  void set_strand(StrandGroup& g, std::int64_t l, const ProcessLine& line, std::int64_t begin,
                  std::int64_t count) const {
    const std::int64_t b = line.number;
    g.strand[l] = {line.anchors + begin,
                   line.values + begin,
                   offset(line.noise, begin),
                   count,
                   begin == 0,
                   offset(line.by_anchors, begin),
                   offset(line.by_values, begin),
                   offset(line.by_noise, begin)};
    g.has_noise = line.noise != nullptr;
    g.lengthscale[l] = p_.lengthscale[b];
    g.variance[l] = p_.variance[b];
    g.frequency[l] = turns_ ? p_.frequency[b] : 0.0;
    g.noise[l] = p_.one_noise && p_.noise != nullptr ? p_.noise[b] : 0.0;
    g.least[l] = std::numeric_limits<double>::infinity();
  }

  /// Calls add(group, strand in it) for the strands of a line.
  template <class F>
  void for_strands(std::size_t line, const F& add) {
    if (strands_ == 1) {
      add(groups_[0], static_cast<std::int64_t>(line));
    }
    for (std::int64_t s = 0; strands_ > 1 && s < strands_; ++s) {
      add(group_of(s), s % kStrands);
    }
  }

  /// The log densities; false where they cannot be trusted.
  bool add_up() {
    bool safe = true;
    for (std::size_t k = 0; k < lines_.size(); ++k) {
      double sum = 0.0;
      for_strands(k, [&](const StrandGroup& g, std::int64_t l) {
        sum += g.square[l] + g.log_det[l];
        safe = safe && g.least[l] > (turns_ ? kUnsafe : 1.0 / kRange) && g.largest[l] < kRange;
      });
      const std::int64_t b = lines_[k].number;
      const double same = std::log(p_.variance[b]) + std::log(2.0 * kPi);
      out_[b] = -0.5 * (sum + static_cast<double>(p_.n) * same);
      safe = safe && std::isfinite(out_[b]);
    }
    return safe;
  }

  void write() {
    for (std::size_t k = 0; k < lines_.size(); ++k) {
      const ProcessLine& line = lines_[k];
      double lengthscale = 0.0;
      double scale[5] = {};
      double frequency = 0.0;
      double noise = 0.0;
      for_strands(k, [&](const StrandGroup& g, std::int64_t l) {
        lengthscale += g.by_lengthscale[l];
        for (int j = 0; j < 5; ++j) {
          scale[j] += g.by_scale[j][l];
        }
        frequency += g.by_frequency[l];
        noise += g.by_noise[l];
        const Strand& s = g.strand[l];
        if (!s.begins && s.by_anchors != nullptr) {
          s.by_anchors[-1] -= g.by_first[l];
        }
      });
      const auto put = [&](double* array, double value) {
        if (array != nullptr) {
          array[line.number] = value;
        }
      };
      put(to_.lengthscale, lengthscale);
      const double by_log_variance = 0.5 * ((scale[2] < scale[4] ? scale[1] : scale[3]) - scale[0]);
      put(to_.variance, by_log_variance / p_.variance[line.number]);
      put(to_.frequency, frequency);
      put(p_.one_noise ? to_.noise : nullptr, noise);
      write_line(p_, to_, line);
    }
  }

  const Process& p_;
  double* out_;
  const ProcessGradients* gradients_;
  ProcessGradients to_;
  bool turns_;
  std::int64_t strands_;  ///< of a line
  std::vector<ProcessLine> lines_;
  std::vector<StrandGroup> groups_;
  Array<double> kept_;
};

/// Whether all parameters are such that the filter's numbers mean something.
bool in_range(const Process& p) {
  for (std::int64_t b = 0; b < p.batch; ++b) {
    if (!is_scale(p.lengthscale[b]) || !is_scale(p.variance[b]) ||
        (p.frequency != nullptr && !std::isfinite(p.frequency[b]))) {
      return false;
    }
  }
  return has_valid_noise(p);
}

}  // namespace

bool log_density(const Process& process, double* out, const ProcessGradients* gradients) {
  return guarded([&] {
    const Process& p = process;
    check_process(p, out, {p.lengthscale, p.variance});
    if (p.n < 1 || !in_range(p)) {
      return false;
    }
    const int threads = threads_for(p.batch * p.n * (gradients == nullptr ? 1 : 3), p.num_threads);
    const std::int64_t lines = Block(p, out, gradients).lines();
    const std::int64_t blocks = (p.batch + lines - 1) / lines;
    if (blocks < std::int64_t(2) * threads) {
      bool done = true;
      for (std::int64_t k = 0; k < blocks && done; ++k) {
        done = Block(p, out, gradients).run(k * lines, threads);
      }
      return done;
    }
    std::atomic<bool> done{true};
    parallel_tasks(threads, blocks, [&](std::int64_t k) {
      if (done.load(std::memory_order_relaxed) && !Block(p, out, gradients).run(k * lines, 1)) {
        done.store(false, std::memory_order_relaxed);
      }
    });
    return done.load();
  });
}

}  // namespace laplex
