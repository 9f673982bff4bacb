/// \file
/// The log density of values of one stationary Gaussian process on a line, with its gradients, in
/// one call that keeps no factor.
///
/// It is the density of laplex/gram.hpp for the covariance of one term: of a damped oscillator
/// (OscillatorProcess), or (Process)
///
///     A[i,j] = variance exp(-|t_i - t_j| / lengthscale) cos(frequency (t_i - t_j))
///              + noise_i [i = j],
///
/// whose filter needs neither loadings nor tables.
#pragma once

#include <cstdint>

namespace laplex {

/// Describes processes and their values: sizes, and pointers to the caller's arrays, which are
/// contiguous and in row-major order.
struct Process {
  std::int64_t batch = 1;               ///< The number of independent processes.
  std::int64_t n = 0;                   ///< The number of anchors of each.
  const double* anchors = nullptr;      ///< The anchors, `[batch, n]`, in any order.
  const double* values = nullptr;       ///< The values at the anchors, `[batch, n]`.
  const double* lengthscale = nullptr;  ///< The lengthscales, `[batch]`.
  const double* variance = nullptr;     ///< The variances, `[batch]`.
  const double* frequency = nullptr;    ///< The frequencies, `[batch]`. Null: 0.
  /// The noise variances, `[batch, n]`, or `[batch]` if `one_noise`. Null: 0.
  const double* noise = nullptr;
  bool one_noise = false;  ///< Whether all anchors of a process share one noise variance.
  int num_threads = 0;     ///< The number of threads. 0: default_num_threads().
};

/// Receives the derivatives of the log density, in the shapes of Process. Null members are not
/// computed.
struct ProcessGradients {
  double* anchors = nullptr;      ///< By the anchors, `[batch, n]`.
  double* values = nullptr;       ///< By the values, `[batch, n]`.
  double* lengthscale = nullptr;  ///< By the lengthscales, `[batch]`.
  double* variance = nullptr;     ///< By the variances, `[batch]`.
  double* frequency = nullptr;    ///< By the frequencies, `[batch]`.
  double* noise = nullptr;        ///< By the noise variances, `[batch, n]` or `[batch]`.
};

/// Computes the log densities, and their derivatives if `gradients` is not null.
///
/// The results have the same bits for any number of threads.
/// \param process the description
/// \param out receives the log densities, `[batch]`
/// \param gradients where to write the derivatives; may be null
/// \return false if this way does not lead to a result, and the class Gram must be asked: for
///   parameters out of range, NaN or infinite input, matrices that are singular or close to it, and
///   derivatives by anchors that coincide
/// \throws Error `invalid_argument` for impossible sizes and for null pointers to arrays that have
///   entries; `out_of_memory`
[[nodiscard]] bool log_density(const Process& process, double* out,
                               const ProcessGradients* gradients = nullptr);

/// Describes damped oscillators and their values, in the layout of Process. The parameters are
/// those of a block of two columns of Covariance (laplex/gram.hpp).
struct OscillatorProcess {
  std::int64_t batch = 1;           ///< The number of independent processes.
  std::int64_t n = 0;               ///< The number of anchors of each.
  const double* anchors = nullptr;  ///< The anchors, `[batch, n]`, in any order.
  const double* values = nullptr;   ///< The values at the anchors, `[batch, n]`.
  /// The inverses of the damping rates and of the undamped frequencies, `[batch]` each.
  const double* lengthscale[2] = {};
  const double* weight[2] = {};  ///< The weights of the two columns, `[batch]` each.
  /// The noise variances, `[batch, n]`, or `[batch]` if `one_noise`. Null: 0.
  const double* noise = nullptr;
  bool one_noise = false;  ///< Whether all anchors of a process share one noise variance.
  int num_threads = 0;     ///< The number of threads. 0: default_num_threads().
};

/// Receives the derivatives of the log density, in the shapes of OscillatorProcess. Null members
/// are not computed.
struct OscillatorGradients {
  double* anchors = nullptr;    ///< By the anchors, `[batch, n]`.
  double* values = nullptr;     ///< By the values, `[batch, n]`.
  double* lengthscale[2] = {};  ///< By the lengthscales, `[batch]` each.
  double* weight[2] = {};       ///< By the weights, `[batch]` each.
  double* noise = nullptr;      ///< By the noise variances, `[batch, n]` or `[batch]`.
};

/// Computes the log densities of damped oscillators, and their derivatives if `gradients` is not
/// null.
///
/// The results have the same bits for any number of threads.
/// \param process the description
/// \param out receives the log densities, `[batch]`
/// \param gradients where to write the derivatives; may be null
/// \return false if this way does not lead to a result, and the class Gram must be asked: as for
///   Process, and for negative weights
/// \throws Error `invalid_argument` for impossible sizes and for null pointers to arrays that have
///   entries; `out_of_memory`
[[nodiscard]] bool oscillator_log_density(const OscillatorProcess& process, double* out,
                                          const OscillatorGradients* gradients = nullptr);

}  // namespace laplex
