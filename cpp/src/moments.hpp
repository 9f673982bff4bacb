/// Products with a polynomial of the distance: Matern kernels, and derivatives by lengthscale and
/// frequency beyond the first. Cells exchange the moments of their sums (kernels/moments.hpp), and
/// moving a moment has positive terms alone, between cells as within them.
#pragma once

#include "block_pass.hpp"
#include "moment_line.hpp"
#include "profile.hpp"
#include "scan.hpp"

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
  /// Lays the values out and sums them up over the cells.
  template <class D>
  void set(PassShape shape, int degree, const Cells<T>& cells, const MomentLine<D>& line,
           const SideView<T>& side, std::int64_t count, const Vectors<const T>& values, Block block,
           bool conjugate, Array<std::byte>& scratch, int threads);
  /// On a line that other processes share: the totals that they need.
  template <class D>
  void send(const Cells<T>& cells, const MomentLine<D>& line, std::int64_t slot, Round& round);
  /// Goes down again to what enters each cell. `round` is null if the line is not shared.
  template <class D>
  void enter(const Cells<T>& cells, const MomentLine<D>& line, std::int64_t slot,
             const Round* round, int threads);

  /// What a product from `from` to `to` reads; results are the caller's to add.
  [[nodiscard]] const MomentJob<T>& job() const { return job_; }

 private:
  /// Calls f(moments, lanes, reverse) of constants, for both directions.
  template <class D, class F>
  void each_direction(const F& f) const;
  template <int P, int L, bool Reverse, class D>
  [[nodiscard]] Scan<Reverse, P, L, D, D> scan(const Cells<T>& cells, const MomentLine<D>& line,
                                               int threads) {
    Line<D> of = cells.template line<D>();
    of.points.position = (Reverse ? line.first : line.last).data();
    of.points.far = of.points.far != nullptr ? &line.far : nullptr;
    of.decays = Reverse ? &line.of_first : &line.of_last;
    return {of, above_[Reverse ? 1 : 0], threads};
  }
  template <int P, int L, bool Reverse, class D>
  void place(const Cells<T>& cells, const MomentLine<D>& line, int threads);
  template <int P, int L, bool Reverse, class D>
  void enter_from(const Cells<T>& cells, const MomentLine<D>& line, int threads);

  PassShape shape_{};
  int degree_ = 0;
  LaidOut<T> values_;
  Array<double> grown_;
  Array<double> shrunk_;
  Array<double> left_;
  Array<double> right_;
  Array<double> placed_[2];  ///< totals where they leave their cells
  ScanTotals above_[2];
  Array<double> sums_;
  MomentJob<T> job_{};
};

}  // namespace laplex::detail
