/// The inner loops, as a table of functions for each instruction set.
///
/// A row of values is scanned cell by cell (cells.hpp). Within a cell,
///     exp(-(x - y)/ell) = shrink(x) * grow(y),  grow(z) = exp((z - centre)/ell),
///     shrink = 1/grow,
/// so the sums over a cell are plain prefix sums of grow * v, and the sums from the right of
/// shrink * v. What enters a cell from the other cells, the carry, is added to them in double.
///
/// Vectors run along the line where there is one row (narrow), and across eight rows where there
/// are many (wide). Both do the same operations in the same order, so a row's result does not
/// depend on the rows beside it; and no level uses an operation that another lacks, so it does not
/// depend on the processor either.
#pragma once

#include "../chunks.hpp"
#include "../inline.hpp"
#include "../record.hpp"
#include "../strands.hpp"

#include <laplex/detail/scan_element.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace laplex::detail {

class Permutation;

/// The most anchors of a cell, targets and sources together, unless all are at one point.
inline constexpr std::int64_t kCell = 256;

/// Records that are repaired at a time, so that they stay in the nearest cache; and the bits that
/// an id has at most then.
inline constexpr std::int64_t kRepair = 512;
inline constexpr int kRepairIdBits = 30;

/// Rows of a wide block.
inline constexpr std::int64_t kRows = 8;

/// What a value is made of: one plane of real numbers, or two planes (re, im) whose decays are real
/// or turn with the distance.
enum class Form { real, complex, oscillating };

[[nodiscard]] inline constexpr int planes_of(Form form) {
  return form == Form::real ? 1 : 2;
}

/// Targets or sources of one head in sorted order. Arrays are padded: whole groups of eight may be
/// read.
template <class T>
struct SideView {
  const std::uint32_t* first = nullptr;  ///< [cells + 1] first anchor of each cell
  const std::uint8_t* point = nullptr;   ///< [cells] 1 for a point cell; null if there is none
  const std::uint32_t* index = nullptr;  ///< index as given; null where that is the sorted order
  const Permutation* permutation = nullptr;  ///< a faster way than by `index`, or null
  const T* position = nullptr;
  const T* grow = nullptr;    ///< exp((z - centre of the cell) / ell)
  const T* shrink = nullptr;  ///< its inverse
  const T* gap = nullptr;     ///< distance to the next anchor of the cell, of either side, over ell
  const T* turn_re = nullptr;  ///< exp(i frequency (z - centre)); null unless oscillating
  const T* turn_im = nullptr;
  const T* phase_re = nullptr;  ///< the phase factor; null without phases
  const T* phase_im = nullptr;
  /// How many of the cell's anchors of the other side lie before this one; those tied with it are
  /// before targets and after sources. At a point cell 0 stands for none and 1 for all.
  const std::uint16_t* split = nullptr;
  const std::uint16_t* below = nullptr;  ///< how many lie strictly below
  const std::uint16_t* upto = nullptr;   ///< how many lie at it or below
};

/// The lanes of a wide block in the caller's memory.
template <class T>
struct RowsOf {
  T* first = nullptr;
  std::int64_t stride = 0;  ///< from one row to the next
  std::int64_t parts = 1;   ///< lanes of a row, side by side
  std::int64_t step = 1;    ///< from one number of a lane to the next
  std::int64_t count = 0;   ///< lanes, kRows at most
  std::int64_t length = 0;  ///< numbers of a lane

  [[nodiscard]] LAPLEX_INLINE T* lane(std::int64_t l) const {
    return first + l / parts * stride + l % parts;
  }
  /// Whether eight numbers of eight rows can be loaded at a time.
  [[nodiscard]] LAPLEX_INLINE bool whole() const { return step == 1 && count == kRows; }
};

/// Where the values of a block of lanes come from. Wide: a tile [count][planes][8], planes 2 if
/// paired, in the order given, or real rows in sorted order, which need no tile. Narrow: scalars in
/// the order of the side, `step` apart.
template <class T>
struct Input {
  const T* base;  ///< null: `rows`
  std::int64_t step;
  bool paired;     ///< (re, im) pairs
  bool conjugate;  ///< take -im
  bool phased;     ///< the phase factors are in already
  RowsOf<const T> rows = {};
};

template <class T>
struct Output {
  T* base;  ///< null: `rows`
  std::int64_t step;
  bool paired;
  bool conjugate;
  T scale;
  bool sorted = false;  ///< write in sorted order, not in that given
  RowsOf<T> rows = {};
};

/// Running sums of real values themselves, without weights: what stands before each cell or
/// (`reverse`) after it, [cells][lanes].
struct Running {
  const double* outside = nullptr;  ///< null: not wanted
  bool reverse = false;
};

/// What enters each cell from its left and from its right, and what it holds itself (the sum with
/// `grow`): [cells][planes][lanes], in double.
struct Carries {
  const double* left;
  const double* right;
  const double* total;
  Running running = {};
};

/// One level of the scan over cells, in one of its directions: elements [nodes][planes][lanes] and
/// the decay into each, a pair if it turns.
struct ChunkLevel {
  const double* values;
  const double* decays;
  std::int64_t nodes;
  bool cells;    ///< the lowest level
  bool reverse;  ///< node k is cell nodes - 1 - k, and the decay into it stands at nodes - k
};

/// What is made of the two sides of a target.
enum class Combine { sum, difference, left, right };

/// Where a gradient by an anchor or a phase goes: added to `sum` (sorted order) or, if that is
/// null, written to `out` (order as given, unless `sorted`).
template <class T>
struct Sink {
  double* sum = nullptr;
  T* out = nullptr;
  bool sorted = false;

  [[nodiscard]] explicit operator bool() const { return sum != nullptr || out != nullptr; }
};

template <class T>
struct GradientJob {
  SideView<T> targets;
  SideView<T> sources;
  Input<T> values;
  Input<T> grad;
  Carries values_carries;
  Carries grad_carries;
  const double* gap_after;  ///< [cells] distance from a cell's last anchor to the next, over ell
  bool self;
  Combine side;  ///< the sources that count for each target: sum (all), left or right
  double inverse_lengthscale;
  double frequency;
  Output<T> d_values;  ///< base null: not wanted
  Sink<T> d_targets;
  Sink<T> d_sources;
  Sink<T> d_target_phase;
  Sink<T> d_source_phase;
  double* stretch;  ///< [cells][2], added to: sum of conj(g_i) |x_i - y_j|/ell K_ij v_j; or null
};

/// How differences of anchors become distances in lengthscales, ((a - b) * power) * rest with a and
/// b scaled: one factor alone might not be a number of T. `power` is a power of two, and `scale` is
/// 1, or less where a difference might be beyond the largest number.
template <class T>
struct Unit {
  T scale;
  T power;
  T rest;
};

/// One of the results of a product with a polynomial of the distance.
template <class T>
struct MomentResult {
  const std::uint16_t* left_at;
  const std::uint16_t* right_at;
  Combine combine;
  /// [r][s]: the polynomial's coefficient of power r + s, times C(r + s, r).
  T coefficient[kMaxMoment + 1][kMaxMoment + 1];
  Output<T> out;
};

/// Calls f(a constant of the degree): products with powers above the second are rare, and share one
/// body.
template <class F>
LAPLEX_INLINE void with_degree(int degree, const F& f) {
  if (degree == 1) {
    f(std::integral_constant<int, 1>{});
  } else if (degree == 2) {
    f(std::integral_constant<int, 2>{});
  } else {
    f(std::integral_constant<int, kMaxMoment>{});
  }
}

/// Carries and totals are [cells][moments][planes][lanes]. From the left, they are those at the
/// first and at the last anchor of a cell; from the right, the reverse; all weighted as if they
/// were at its centre.
template <class T>
struct MomentJob {
  SideView<T> from;
  SideView<T> to;
  Input<T> values;
  Carries carries;
  const double* first;  ///< [cells] the first anchor of either side
  const double* last;
  Unit<T> unit;
  const MomentResult<T>* results;
  int num_results;

  [[nodiscard]] T first_of(std::int64_t cell) const {
    return static_cast<T>(first[cell]) * unit.scale;
  }
  [[nodiscard]] T last_of(std::int64_t cell) const {
    return static_cast<T>(last[cell]) * unit.scale;
  }
};

/// Where one side of a cell goes: its next places in the tables of the side.
template <class T>
struct PlacedSide {
  std::uint32_t* index;  ///< null, and so is `position`, where both are there already
  T* position;
  T* gap;  ///< to the next anchor of the cell, over ell; 0 of the last
  std::uint16_t* split;
  std::uint16_t* other;  ///< as split, which is right unless anchors are tied
};

template <class T>
struct Kernels {
  /// Sorts `count` records, kRepair at most, of which none is far from its place. False, and
  /// disorder, if that takes longer than sorting anew.
  bool (*sort_nearly_sorted)(Record<T>* records, std::int64_t count);
  /// Puts `count` records of a cell, kCell at most, to the places of their sides, and returns how
  /// many are sources.
  std::int64_t (*place)(const Record<T>* records, std::int64_t count, std::uint32_t num_sources,
                        double per_lengthscale, const PlacedSide<T>& sources,
                        const PlacedSide<T>& targets);
  /// grow and shrink of `count` anchors around `centre`, no further from it than 4.5 lengthscales.
  void (*exponentials)(const T* position, std::int64_t count, double centre, double lengthscale,
                       T* grow, T* shrink);
  /// The sums of grow * v and of shrink * v over cells [begin, end).
  void (*totals)(Form form, bool wide, const SideView<T>& from, const Input<T>& values,
                 std::int64_t begin, std::int64_t end, double* grown, double* shrunk,
                 void* scratch);
  /// The sums of the real values themselves.
  void (*plain_sums)(bool wide, const SideView<T>& from, const Input<T>& values, std::int64_t begin,
                     std::int64_t end, double* sums, void* scratch);
  /// The sums of chunks [begin, end) of a level.
  void (*sum_chunks)(Form form, bool wide, const ChunkLevel& level, std::int64_t begin,
                     std::int64_t end, double* sums);
  /// From what comes to each chunk: what enters each cell, or what comes to each node above them,
  /// which may replace the values.
  void (*spread_chunks)(Form form, bool wide, const ChunkLevel& level, std::int64_t begin,
                        std::int64_t end, const double* comes, double* out);
  /// Reads the sums over `from` off at the anchors of `to`; `left_at`, `right_at` say where. With
  /// running sums in the carries, which go with differences of real sums, the running sums at both
  /// places are added to the differences if they are reverse, and else subtracted from them.
  void (*product)(Form form, bool wide, const SideView<T>& from, const SideView<T>& to,
                  const std::uint16_t* left_at, const std::uint16_t* right_at,
                  const Input<T>& values, const Carries& carries, std::int64_t begin,
                  std::int64_t end, Combine combine, const Output<T>& out, void* scratch);
  void (*gradients)(Form form, bool wide, const GradientJob<T>& job, std::int64_t begin,
                    std::int64_t end, void* scratch);
  /// The moments 0..degree (1, 2 or 4) of grow * v at the last anchor of cells [begin, end), and of
  /// shrink * v at the first.
  void (*moment_totals)(Form form, bool wide, int degree, const MomentJob<T>& job,
                        std::int64_t begin, std::int64_t end, double* grown, double* shrunk,
                        void* scratch);
  /// Reads polynomials of the moments off.
  void (*moment_products)(Form form, bool wide, int degree, const MomentJob<T>& job,
                          std::int64_t begin, std::int64_t end, void* scratch);
  /// Numbers [begin, end) of rows to a tile, zeros for missing rows: number k of row r to
  /// tile[k * tile_step + r].
  void (*to_tile)(const RowsOf<const T>& rows, std::int64_t begin, std::int64_t end, T* tile,
                  std::int64_t tile_step);
  /// The reverse, for the rows that exist.
  void (*from_tile)(const T* tile, std::int64_t tile_step, std::int64_t begin, std::int64_t end,
                    const RowsOf<T>& rows);
  /// A pass of the filter of stationary processes, which have a frequency or have none.
  void (*strands)(bool turns, StrandPass pass, StrandGroup& group);
  /// The leading bits of terms; see extract.hpp.
  double (*extract)(double* terms, std::int64_t count, double anchor, double* largest);
};

/// Bytes of scratch memory, aligned to 64, that `totals`, `product` and `gradients` need: two cells
/// of at most two planes with three numbers for each value and room for a group at either end.
[[nodiscard]] constexpr std::int64_t scratch_bytes(std::size_t scalar, bool wide) {
  const auto numbers = static_cast<std::size_t>((kCell + 16) * (wide ? kRows : 1));
  return static_cast<std::int64_t>(12 * numbers * scalar);
}

/// The same for `moment_totals` and `moment_products`: a cell of two planes with up to five
/// moments, and its places.
[[nodiscard]] constexpr std::int64_t moment_scratch_bytes(std::size_t scalar, bool wide) {
  const std::int64_t lanes = wide ? kRows : 1;
  constexpr std::int64_t kMoments = kMaxMoment + 1;
  return static_cast<std::int64_t>(scalar) * (kCell + 32) * (2 * lanes + 4 * kMoments * lanes + 3);
}

/// The functions of the level in use (instruction_set.hpp).
template <class T>
[[nodiscard]] const Kernels<T>& kernels();
template <>
[[nodiscard]] const Kernels<float>& kernels<float>();
template <>
[[nodiscard]] const Kernels<double>& kernels<double>();

}  // namespace laplex::detail
