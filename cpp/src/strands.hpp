/// Eight strands side by side: runs of points, of one line or of several, along which the filter of
/// a stationary process goes at the same time.
///
/// The state is the process itself, of variance 1: one number, or two that turn with the distance,
///
///     state(x + g) = exp(-g/ell) R(frequency g) state(x) + independent noise,
///     R(a) = ((cos a, -sin a), (sin a, cos a)).
///
/// A point observes `seen` (1, or 0 past the end of a strand) times its first component, plus noise
/// in units of the process's variance. Angles of gaps are all that enters, so that nothing depends
/// on where the line lies, and only one entry of a covariance is found as a difference.
#pragma once

#include <cstdint>

namespace laplex::detail {

/// Points of each strand that are worked on at a time: everything about them is in the first cache.
inline constexpr std::int64_t kStrandChunk = 32;

inline constexpr std::int64_t kStrands = 8;

/// A number of each strand.
using StrandNumbers = double[kStrands];

/// `count` points in sorted order. Where a line goes on before the strand, so do its anchors.
struct Strand {
  const double* anchors;
  const double* values;
  const double* noise;  ///< null: of the process, see StrandGroup
  std::int64_t count;
  bool begins;         ///< the line begins here
  double* by_anchors;  ///< null where not wanted, and so are the next two
  double* by_values;
  double* by_noise;
};

/// What a pass over eight strands reads and writes. `cov` and `adjoint_cov` are packed (0,0),
/// (0,1), (1,1); with one component, only the first number of each array counts.
struct StrandGroup {
  Strand strand[kStrands];
  std::int64_t steps;  ///< points of the longest strand
  bool has_noise;      ///< the strands have noise of their own

  StrandNumbers lengthscale;
  StrandNumbers variance;
  StrandNumbers frequency;
  StrandNumbers noise;

  /// The state given everything before the strand; a pass leaves that given the strand too.
  StrandNumbers mean[2];
  StrandNumbers cov[3];
  double* kept;  ///< [chunks][5][8], the state before each chunk

  /// What the strand does to the state before it, s: s -> map s + mean, with variance `cov`, where
  /// the strand's points have told the information `seen` and `told` about s.
  StrandNumbers map[4];
  StrandNumbers seen[3];
  StrandNumbers told[2];

  StrandNumbers square;   ///< |S^-1 v|^2, of values in units of the standard deviation
  StrandNumbers log_det;  ///< sum of log D, in units of the variance
  StrandNumbers least;    ///< of D
  StrandNumbers largest;

  /// Derivatives of the log density by the state after the strand (twice that by the covariance is
  /// adjoint_mean adjoint_mean^T - adjoint_cov); a pass leaves those by the state before it.
  StrandNumbers adjoint_mean[2];
  StrandNumbers adjoint_cov[3];
  StrandNumbers by_lengthscale;
  /// Sums for the derivative by the variance, in units of it, with u = A^-1 v and the innovations
  /// e: of 1 - noise (A^-1)_ii; of e^2 / D - noise u^2; of u s, where s is the smoothed state. Over
  /// a whole line the last two are equal, but one cancels where there is little noise and the other
  /// where there is much: after each there is the sum of its parts' squares.
  StrandNumbers by_scale[5];
  StrandNumbers by_frequency;
  StrandNumbers by_noise;
  StrandNumbers by_first;  ///< by the gap before the strand
};

enum class StrandPass {
  passage,            ///< map, seen and told, from a state that is known to be 0
  density,            ///< square, log_det, least and largest
  density_for_whole,  ///< the same, and kept: of strands that are whole lines
  density_for_parts,  ///< the same, and map, seen and told from the state as it is
  gradients,          ///< back along the strands, from what was kept
};

/// cos and sin of frequency * gap, however large.
void turn_far(double gap, double frequency, double* cosine, double* sine);

}  // namespace laplex::detail
