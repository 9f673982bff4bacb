/// Sums that are rounded once, at the end: whatever the order of the terms, and whoever adds them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace laplex::detail {

class SharedLine;

/// A sum of doubles as a fixed-point number that is wide enough for all of them (R. M. Neal, "Fast
/// exact summation using small and large superaccumulators", arXiv 1505.05571): the gradient of a
/// scalar must not lose digits to the number of anchors, nor depend on how they are spread over
/// threads and processes.
class ExactSum {
 public:
  void add(double x) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, &x, sizeof bits);
    const auto exponent = static_cast<std::uint32_t>(bits >> 52) & 0x7ff;
    if (exponent == 0x7ff) {
      special_ += x;
      return;
    }
    if (--room_ < 0) {
      normalise();
    }
    // x = mantissa * 2^(place - 1074)
    const std::uint32_t normal = exponent > 0 ? 1 : 0;
    const std::uint32_t place = exponent - normal;
    const std::uint64_t mantissa = (bits & ((std::uint64_t(1) << 52) - 1)) | std::uint64_t(normal)
                                                                                 << 52;
    const std::uint32_t shift = place % kBits;
    const auto low = static_cast<std::int64_t>(mantissa << shift & kMask);
    const auto high = static_cast<std::int64_t>(mantissa >> (kBits - shift));
    // -a is ~a + 1: signs come at random, and a branch on them would be guessed wrong.
    const std::int64_t negative = -static_cast<std::int64_t>(bits >> 63);
    std::int64_t* const limb = limbs_.data() + place / kBits;
    limb[0] += (low ^ negative) - negative;
    limb[1] += (high ^ negative) - negative;
  }
  /// Adds `count` terms, which are lost: leading bits of all of them first, and so on.
  void add(double* terms, std::int64_t count);
  void add(const ExactSum& other);
  [[nodiscard]] double value() const;

  /// The sum as doubles that are integers, so that messages can carry it.
  static constexpr std::size_t kWords = 70;
  [[nodiscard]] std::array<double, kWords> words() const;
  void add_words(const double* words);

 private:
  static constexpr std::uint32_t kBits = 32;
  static constexpr std::uint64_t kMask = (std::uint64_t(1) << kBits) - 1;
  static constexpr std::size_t kLimbs = kWords - 1;

  void normalise();

  /// Limb k counts 2^(kBits k - 1074).
  std::array<std::int64_t, kLimbs> limbs_{};
  std::int32_t room_ = kRoom;  ///< additions before a limb may overflow: each is below 2^53
  double special_ = 0.0;       ///< sum of terms that are infinite or NaN
  static constexpr std::int32_t kRoom = 1000;
};

/// Adds up what all processes have, if others share the line.
void add_over_processes(const SharedLine* line, std::vector<ExactSum*> sums);

}  // namespace laplex::detail
