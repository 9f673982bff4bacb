/// The line cut into cells, and what is known of every anchor within its cell.
///
/// A cell is a run of neighbouring anchors, targets and sources together, no wider than
/// kCellWidth lengthscales and of kCell anchors at most, so that exp(+-(z - centre)/ell) is a
/// harmless number for all of them. Anchors at one point always share a cell; if they are more than
/// kCell, they have one to themselves (a point cell). Cells exchange their sums by a scan over
/// their centres (scan.hpp).
#pragma once

#include "array.hpp"
#include "decays.hpp"
#include "kernels/kernels.hpp"
#include "order.hpp"
#include "shared_line.hpp"

#include <laplex/detail/decay.hpp>

#include <cstdint>
#include <memory>

namespace laplex::detail {

inline constexpr double kCellWidth = 8.0;

/// What a head's tables depend on beside its anchors. Phases are in the order given, or null.
struct Factors {
  Rate rate;
  bool oscillates = false;
  const Complex* target = nullptr;                 ///< [num_targets]
  const Complex* source = nullptr;                 ///< [num_sources]
  std::shared_ptr<const LinePart> part = nullptr;  ///< of a line that other processes share
};

/// The tables of one head. Arrays over anchors hold the sources first, then the targets, each in
/// sorted order; in the self case there are targets alone.
template <class T>
class Cells {
 public:
  /// Builds the tables from sorted records. Memory that is there already is used again. `same`, if
  /// not null, has the same anchors, built before, and lends their order for as long as both live.
  void build(const Anchors<T>& anchors, const Sorting<T>& sorting, const Factors& factors,
             const Cells* same, int threads);

  [[nodiscard]] bool self() const { return self_; }
  [[nodiscard]] std::int64_t num_targets() const { return num_targets_; }
  [[nodiscard]] std::int64_t num_sources() const { return self_ ? num_targets_ : num_sources_; }
  [[nodiscard]] std::int64_t count() const { return centre_.size(); }

  [[nodiscard]] SideView<T> targets() const { return view(num_sources_, target_order_, true); }
  [[nodiscard]] SideView<T> sources() const;
  [[nodiscard]] const T* target_positions() const { return position() + num_sources_; }
  [[nodiscard]] const T* source_positions() const {
    return self_ ? target_positions() : position();
  }

  [[nodiscard]] const double* gap_after() const { return gap_after_.data(); }

  /// The line of the cells' centres.
  template <class D>
  [[nodiscard]] Line<D> line() const {
    return {points(), &decays(D{}), rate_};
  }
  [[nodiscard]] Points points() const {
    return {centre_.data(), centre_.size(), {&tree_[0], &tree_[1]}, shared_ ? &far_ : nullptr};
  }
  /// How the line goes on in other processes; null if all of it is here.
  [[nodiscard]] const SharedLine* shared() const { return shared_.get(); }

  /// Whether the order here is so nearly that of these anchors that repairing it is cheaper than
  /// sorting them: by a look at some cells.
  [[nodiscard]] bool nearly_sorts(const Anchors<T>& anchors) const;

  /// Where the records of a cell begin in merged order.
  [[nodiscard]] std::int64_t first_record(std::int64_t cell) const {
    return static_cast<std::int64_t>(first_target_[cell]) + (self_ ? 0 : first_source_[cell]);
  }

  /// The records of cells [begin, end), to their places in `all`: those of `anchors`, in the order
  /// that is here; or, if null, those that are here.
  void records(const Anchors<T>* anchors, std::int64_t begin, std::int64_t end,
               Record<T>* all) const;

  [[nodiscard]] std::int64_t nbytes() const;

 private:
  /// Whether one side stands in the order in which it was given.
  enum class SideOrder { as_given, permuted };

  [[nodiscard]] SideView<T> view(std::int64_t offset, SideOrder order, bool targets) const;
  [[nodiscard]] const Cells& ordered() const { return same_ != nullptr ? *same_ : *this; }
  [[nodiscard]] const std::uint32_t* index() const { return ordered().index_.data(); }
  [[nodiscard]] const T* position() const { return ordered().position_.data(); }
  [[nodiscard]] const Decays<double>& decays(double) const { return real_decays_; }
  [[nodiscard]] const Decays<Complex>& decays(Complex) const { return complex_decays_; }

  struct Segment;
  void cut(const Sorting<T>& sorting, const LinePart* part, Segment& segment);
  void place(const Record<T>* records, std::int64_t begin, std::int64_t end, std::int64_t& source,
             std::int64_t& target);
  void place_own_ties(const Record<T>* records, std::int64_t begin, std::int64_t end,
                      std::int64_t first);
  void turn_and_phase(const Factors& factors, int threads);

  bool self_ = false;
  std::int64_t num_targets_ = 0;
  std::int64_t num_sources_ = 0;  ///< 0 in the self case
  Rate rate_;
  SideOrder target_order_ = SideOrder::permuted;
  SideOrder source_order_ = SideOrder::permuted;

  const Cells* same_ = nullptr;  ///< whose `index_` and `position_` are used; null: those here
  Array<std::uint32_t> index_;
  Array<T> position_;
  Array<T> grow_;
  Array<T> shrink_;
  Array<T> gap_;
  Array<T> turn_re_;
  Array<T> turn_im_;
  Array<T> phase_re_;
  Array<T> phase_im_;
  Array<std::uint16_t> split_;
  Array<std::uint16_t> other_;  ///< below of targets, upto of sources

  Array<std::uint32_t> first_target_;  ///< [cells + 1]
  Array<std::uint32_t> first_source_;  ///< [cells + 1]; empty in the self case
  Array<std::uint8_t> point_;          ///< [cells] 1 for a point cell; empty if there is none
  Array<double> centre_;
  Array<double> gap_after_;
  LineTree tree_[2];
  std::unique_ptr<const SharedLine> shared_;
  FarPoints far_;
  Decays<double> real_decays_;
  Decays<Complex> complex_decays_;
};

}  // namespace laplex::detail
