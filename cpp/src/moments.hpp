/// Products with a polynomial of the distance: Matern kernels, and derivatives by lengthscale and
/// frequency beyond the first. Cells exchange the moments of their sums (kernels/moments.hpp), and
/// moving a moment has positive terms alone, between cells as within them.
#pragma once

#include "block_pass.hpp"
#include "moment_line.hpp"
#include "profile.hpp"

#include <cstdint>

namespace laplex::detail {

/// The moments that a product with a polynomial of this degree carries: there are kernels for 1, 2
/// and kMaxMoment.
[[nodiscard]] int carried_degree(int degree);

/// Reads an output off a job's moments with this polynomial.
template <class T>
[[nodiscard]] MomentResult<T> moment_result(const Polynomial& polynomial, Combine combine,
                                            const std::uint16_t* left_at,
                                            const std::uint16_t* right_at, const Output<T>& out);

/// Values of a block of lanes with the moments that enter each cell. The memory is kept for the
/// next block.
template <class T>
class CarriedMoments {
 public:
  /// Lays the values out and scans them over the cells.
  template <class D>
  void set(PassShape shape, int degree, const Cells<T>& cells, const MomentLine<D>& line,
           const SideView<T>& side, std::int64_t count, const Vectors<const T>& values, Block block,
           bool conjugate, Array<std::byte>& scratch, int threads);

  /// What a product from `from` to `to` reads; results are the caller's to add.
  [[nodiscard]] const MomentJob<T>& job() const { return job_; }

 private:
  template <int P, int L, class D>
  void scan(const Cells<T>& cells, const MomentLine<D>& line, int threads);

  LaidOut<T> values_;
  Array<double> grown_;
  Array<double> shrunk_;
  Array<double> left_;
  Array<double> right_;
  Array<double> placed_;  ///< totals where they leave their cells
  Array<double> sums_;
  MomentJob<T> job_{};
};

}  // namespace laplex::detail
