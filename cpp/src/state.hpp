/// What a plan holds: one immutable snapshot, replaced as a whole by update().
#pragma once

#include "cells.hpp"
#include "lazy.hpp"
#include "moment_line.hpp"
#include "order.hpp"
#include "permutation.hpp"

#include <laplex/plan.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace laplex::detail {

/// What does not change when the anchors move.
template <class T>
struct Fixed {
  std::int64_t heads = 0;
  std::int64_t n = 0;
  std::int64_t m = 0;
  std::shared_ptr<const LinePart> part;  ///< null if all of the line is here
  bool self = false;
  bool oscillates = false;
  bool phased = false;
  bool real_part = false;
  bool shared_anchors = false;  ///< by several heads
  Profile profile = Profile::matern12;
  Side side = Side::both;
  int num_threads = 0;
  std::vector<double> lengthscale;     ///< [heads] as given
  std::vector<Rate> rate;              ///< [heads] of the exponential
  std::vector<Complex> target_factor;  ///< [heads, n] exp(i theta), or empty
  std::vector<Complex> source_factor;  ///< [heads, m] exp(-i phi), or empty

  /// How many sets of anchors there are.
  [[nodiscard]] std::int64_t anchor_sets() const { return shared_anchors ? 1 : heads; }
  [[nodiscard]] bool has_phases() const { return phased; }
  [[nodiscard]] bool complex_kernel() const { return oscillates || has_phases(); }
  /// Whether there are cumulative sums: of the Laplace kernel alone, between all pairs.
  [[nodiscard]] bool cumulates() const {
    return !complex_kernel() && profile == Profile::matern12 && side == Side::both &&
           part == nullptr;
  }
};

/// The side as the anchors of the other role see it.
[[nodiscard]] inline Side turned(Side side) {
  return side == Side::left ? Side::right : side == Side::right ? Side::left : side;
}

[[nodiscard]] inline Combine combine_of(Side side) {
  return side == Side::left ? Combine::left : side == Side::right ? Combine::right : Combine::sum;
}

enum class Role { targets, sources };

/// The tables of one head.
template <class T>
struct Head {
  Cells<T> cells;
  Lazy<MomentLine<double>> real_moments;      ///< used when the kernel does not oscillate
  Lazy<MomentLine<Complex>> complex_moments;  ///< used when it does
  Lazy<Permutation> permutation[2];           ///< of targets and of sources; of the first head for
                                              ///< all that share its anchors
  mutable std::atomic<int> permuted[2] = {};  ///< how often each was asked for
};

template <class T>
class State {
 public:
  explicit State(std::int64_t heads);

  /// Sorts the anchors and builds the tables, in memory that is there already where it fits.
  /// `previous`, another state of these sizes or null, has the anchors that do not move, and an
  /// order that may be nearly that of those that do. `sorting` is memory to sort in.
  void build(std::shared_ptr<const Fixed<T>> fixed, const Changes<T>& changes,
             const State* previous, Sorting<T>& sorting, int num_threads);

  [[nodiscard]] const Fixed<T>& fixed() const { return *fixed_; }
  [[nodiscard]] std::shared_ptr<const Fixed<T>> shared_fixed() const { return fixed_; }
  /// Targets and sources of a head, also those that other processes have: what decides how sums are
  /// grouped must be the same in all of them.
  [[nodiscard]] std::int64_t anchors() const {
    return fixed_->part != nullptr ? cells(0).shared()->anchors() : fixed_->n + fixed_->m;
  }

  [[nodiscard]] const Cells<T>& cells(std::int64_t head) const { return at(head).cells; }

  /// What moments need of the line of cells; made on first use.
  template <class D>
  [[nodiscard]] const MomentLine<D>& moments(std::int64_t head, int num_threads) const;

  [[nodiscard]] SideView<T> side(std::int64_t head, Role role) const {
    return role == Role::targets ? cells(head).targets() : cells(head).sources();
  }
  /// The same for a single lane, with a fast permutation if that is worth it: for values beyond the
  /// caches that go back and forth repeatedly.
  [[nodiscard]] SideView<T> permuted_side(std::int64_t head, Role role, int num_threads) const;

  [[nodiscard]] std::int64_t nbytes() const { return nbytes_.load(); }

 private:
  [[nodiscard]] const Head<T>& at(std::int64_t head) const {
    return *heads_[static_cast<std::size_t>(head)];
  }

  std::shared_ptr<const Fixed<T>> fixed_;
  std::vector<std::unique_ptr<Head<T>>> heads_;
  mutable std::atomic<std::int64_t> nbytes_{0};
};

}  // namespace laplex::detail
