/// Sorting of records that are nearly sorted already, in time that does not depend on chance.
#pragma once

#include "pack.hpp"

#include <algorithm>
#include <limits>

namespace laplex::detail::LAPLEX_LEVEL {

/// A record as a number that compares as it does: `key` and what tells equal keys apart. A double,
/// because every level has the smaller and the greater of two doubles as one instruction each, and
/// of two integers of 64 bits some have neither. With bit 62 it is at least 2, not a denormal,
/// which a processor may be told to take for 0. It is not a NaN, because the ten bits below are not
/// all 1: those of a finite float's key never are.
LAPLEX_INLINE double word_of(std::uint64_t key, std::uint64_t low, int low_bits) {
  const std::uint64_t bits = (std::uint64_t(1) << 62) | (key << low_bits) | low;
  double word = 0.0;
  std::memcpy(&word, &bits, sizeof(word));
  return word;
}

LAPLEX_INLINE std::uint64_t bits_of(double word) {
  std::uint64_t bits = 0;
  std::memcpy(&bits, &word, sizeof(bits));
  return bits;
}

/// The words of a block: those at even places and those at odd ones.
struct alignas(64) Words {
  double even[kRepair / 2 + 16];
  double odd[kRepair / 2 + 8];
};

/// Puts the smaller of each pair to a and the greater to b.
LAPLEX_INLINE void exchange(double* a, double* b, std::int64_t count) {
  for (std::int64_t k = 0; k < count; ++k) {
    const double x = a[k];
    const double y = b[k];
    a[k] = y < x ? y : x;
    b[k] = x < y ? y : x;
  }
}

/// Exchanges neighbours, in turn those at an even and the next odd place and those at an odd and
/// the next even place, until all ascend. A word moves by one place a round; false if that would
/// take too many.
LAPLEX_INLINE bool sort_words(Words& words, std::int64_t half) {
  // A round costs 0.2 to 0.5 cycles a record, and a radix sort 16 (measured).
  constexpr int kMostRounds = 32;
  constexpr std::int64_t kFar = 16;  // words of the same parity, so that 32 places lie between
  std::int64_t far = 0;
  for (std::int64_t k = 0; k + kFar < half; ++k) {
    far |= std::int64_t(words.even[k] > words.even[k + kFar]);
  }
  if (far != 0) {
    return false;
  }
  for (int rounds = 0;; rounds += 4) {
    std::int64_t descents = 0;
    for (std::int64_t k = 0; k < half; ++k) {
      descents |= std::int64_t(words.even[k] > words.odd[k]) |
                  std::int64_t(words.odd[k] > words.even[k + 1]);
    }
    if (descents == 0) {
      return true;
    }
    if (rounds == kMostRounds) {
      return false;
    }
    for (int twice = 0; twice < 2; ++twice) {
      exchange(words.even, words.odd, half);
      exchange(words.odd, words.even + 1, half);
    }
  }
}

template <class T>
bool sort_nearly_sorted(Record<T>* records, std::int64_t count) {
  constexpr bool kWhole = sizeof(T) == 4;  // a word holds all of a record
  constexpr int kLowBits = kWhole ? kRepairIdBits : 9;
  static_assert(kRepair == 1 << 9, "a place in the block has 9 bits");
  constexpr std::uint64_t kLow = (std::uint64_t(1) << kLowBits) - 1;
  Words words;
  Record<T> before[kWhole ? 1 : kRepair];
  Key<T> least = 0;
  int dropped = 0;
  if constexpr (!kWhole) {
    Key<T> most = least = records[0].key;
    for (std::int64_t k = 0; k < count; ++k) {
      before[k] = records[k];
      least = std::min(least, records[k].key);
      most = std::max(most, records[k].key);
    }
    while (((most - least) >> dropped) >> (61 - kLowBits) != 0) {  // so bit 61 is 0
      ++dropped;
    }
  }
  const auto word = [&](std::int64_t k) {
    if constexpr (kWhole) {
      return word_of(records[k].key, records[k].id, kLowBits);
    } else {
      return word_of((records[k].key - least) >> dropped, static_cast<std::uint64_t>(k), kLowBits);
    }
  };
  const auto put = [&](std::int64_t k, double from) {
    const std::uint64_t bits = bits_of(from);
    if constexpr (kWhole) {
      records[k] = {static_cast<Key<T>>(bits >> kLowBits), static_cast<std::uint32_t>(bits & kLow)};
    } else {
      records[k] = before[bits & kLow];
    }
  };
  const std::int64_t pairs = count / 2;
  for (std::int64_t k = 0; k < pairs; ++k) {
    words.even[k] = word(2 * k);
    words.odd[k] = word(2 * k + 1);
  }
  const std::int64_t half = (pairs + 8) / 8 * 8;  // beyond the end, words that stay there
  for (std::int64_t k = pairs; k < half; ++k) {
    words.even[k] = words.odd[k] = std::numeric_limits<double>::max();
  }
  words.even[half] = std::numeric_limits<double>::max();
  if (count % 2 != 0) {
    words.even[pairs] = word(count - 1);
  }
  if (!sort_words(words, half)) {
    return false;
  }
  for (std::int64_t k = 0; k < pairs; ++k) {
    put(2 * k, words.even[k]);
    put(2 * k + 1, words.odd[k]);
  }
  if (count % 2 != 0) {
    put(count - 1, words.even[pairs]);
  }
  if constexpr (!kWhole) {
    // Equal words, of equal keys nearly always, stand in the old order.
    std::int64_t budget = 4 * count;
    for (std::int64_t k = 1; k < count; ++k) {
      budget -= sink(records, k);
      if (budget < 0) {
        return false;
      }
    }
  }
  return true;
}

}  // namespace laplex::detail::LAPLEX_LEVEL
