#include "exact_sum.hpp"

#include "kernels/kernels.hpp"
#include "shared_line.hpp"

#include <algorithm>
#include <cmath>

namespace laplex::detail {

void ExactSum::add(double* terms, std::int64_t count) {
  constexpr int kLogTerms = 12;
  constexpr std::int64_t kTerms = std::int64_t(1) << kLogTerms;
  for (std::int64_t begin = 0; begin < count; begin += kTerms) {
    double* const piece = terms + begin;
    const std::int64_t size = std::min(kTerms, count - begin);
    double largest = 0.0;
    bool ordinary = true;
    for (std::int64_t k = 0; k < size; ++k) {
      const double term = std::fabs(piece[k]);
      largest = std::max(largest, term);
      ordinary = ordinary && term < 0x1p1000;  // not so for NaN
    }
    if (!ordinary) {
      std::for_each(piece, piece + size, [this](double term) { add(term); });
      continue;
    }
    while (largest > 0.0) {
      // A term is below 2^(e + 1), and a sum of multiples of the last place of this anchor,
      // 2^(e + 1 + kLogTerms - 52), is below 2^(e + 1 + kLogTerms): it has 52 bits.
      const double anchor = std::ldexp(1.5, std::ilogb(largest) + 1 + kLogTerms);
      add(kernels<double>().extract(piece, size, anchor, &largest));
    }
  }
}

/// Brings all limbs but the last into [0, 2^kBits).
void ExactSum::normalise() {
  constexpr auto kLow = static_cast<std::int64_t>(kMask);
  std::int64_t carry = 0;
  for (std::size_t k = 0; k + 1 < kLimbs; ++k) {
    const std::int64_t limb = limbs_[k] + carry;
    limbs_[k] = limb & kLow;
    carry = (limb - limbs_[k]) / (kLow + 1);
  }
  limbs_.back() += carry;
  room_ = kRoom;
}

void ExactSum::add(const ExactSum& other) {
  const std::array<double, kWords> words = other.words();
  add_words(words.data());
}

std::array<double, ExactSum::kWords> ExactSum::words() const {
  ExactSum sum = *this;
  sum.normalise();
  std::array<double, kWords> words{};
  std::transform(sum.limbs_.begin(), sum.limbs_.end(), words.begin(),
                 [](std::int64_t limb) { return static_cast<double>(limb); });
  words.back() = special_;
  return words;
}

void ExactSum::add_words(const double* words) {
  if (room_ < 4) {
    normalise();
  }
  room_ -= 4;
  for (std::size_t k = 0; k < kLimbs; ++k) {
    limbs_[k] += static_cast<std::int64_t>(words[k]);
  }
  special_ += words[kLimbs];
}

double ExactSum::value() const {
  if (special_ != 0.0) {  // NaN among them
    return special_;
  }
  ExactSum sum = *this;
  sum.normalise();
  const bool negative = sum.limbs_.back() < 0;
  if (negative) {
    for (std::int64_t& limb : sum.limbs_) {
      limb = -limb;
    }
    sum.normalise();
  }
  std::size_t top = kLimbs;
  while (top > 0 && sum.limbs_[top - 1] == 0) {
    --top;
  }
  if (top == 0) {
    return 0.0;
  }
  // The leading 64 bits, whose last one stands for all that follow: rounding them is rounding the
  // sum, because a double has no more than 53.
  const auto limb = [&](std::size_t below) {
    return top > below ? static_cast<std::uint64_t>(sum.limbs_[top - 1 - below]) : 0;
  };
  std::uint64_t leading = limb(0) << kBits | limb(1);
  std::uint64_t rest = limb(2);
  std::uint32_t shift = 0;
  while (leading >> 63 == 0) {
    leading = leading << 1 | (rest >> (kBits - 1 - shift) & 1);
    ++shift;
  }
  bool more = (rest & ((std::uint64_t(1) << (kBits - shift)) - 1)) != 0;
  for (std::size_t k = 3; k < top; ++k) {
    more = more || limb(k) != 0;
  }
  leading |= more ? 1 : 0;
  const int place =
      static_cast<int>(kBits) * (static_cast<int>(top) - 2) - static_cast<int>(shift) - 1074;
  const double size = std::ldexp(static_cast<double>(leading), place);
  return negative ? -size : size;
}

void add_over_processes(const SharedLine* line, std::vector<ExactSum*> sums) {
  if (line == nullptr || sums.empty()) {
    return;
  }
  std::vector<double> mine;
  for (const ExactSum* sum : sums) {
    const auto words = sum->words();
    mine.insert(mine.end(), words.begin(), words.end());
  }
  std::vector<double> all;
  line->gather(mine,
               std::vector<std::int64_t>(static_cast<std::size_t>(line->size()),
                                         static_cast<std::int64_t>(mine.size())),
               all);
  for (std::size_t k = 0; k < sums.size(); ++k) {
    *sums[k] = ExactSum{};
    for (std::size_t at = k * ExactSum::kWords; at < all.size(); at += mine.size()) {
      sums[k]->add_words(all.data() + at);
    }
  }
}

}  // namespace laplex::detail
