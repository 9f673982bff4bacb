/// Sums that are rounded once, at the end: whatever the order of the terms, and whoever adds them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace laplex::detail {

class SharedLine;

/// A sum of doubles as a fixed-point number that is wide enough for all of them (R. M. Neal, "Fast
/// exact summation using small and large superaccumulators", arXiv 1505.05571): the gradient of a
/// scalar must not lose digits to the number of anchors, nor depend on how they are spread over
/// threads and processes.
class ExactSum {
 public:
  void add(double x);
  void add(const ExactSum& other);
  [[nodiscard]] double value() const;

  /// The sum as doubles that are integers, so that messages can carry it.
  static constexpr std::size_t kWords = 70;
  [[nodiscard]] std::array<double, kWords> words() const;
  void add_words(const double* words);

 private:
  static constexpr int kBits = 32;  ///< of a limb, which has as many more for what carries over
  static constexpr std::size_t kLimbs = kWords - 1;

  void normalise();

  /// Limb k counts 2^(kBits k - 1074).
  std::array<std::int64_t, kLimbs> limbs_{};
  std::int32_t room_ = kRoom;  ///< additions before a limb may overflow
  double special_ = 0.0;       ///< sum of terms that are infinite or NaN
  static constexpr std::int32_t kRoom = 1 << 29;
};

/// Adds up what all processes have, if others share the line.
void add_over_processes(const SharedLine* line, std::vector<ExactSum*> sums);

}  // namespace laplex::detail
