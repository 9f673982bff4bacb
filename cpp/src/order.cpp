#include "order.hpp"

#include "parallel.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

namespace laplex::detail {
namespace {

/// A value as an unsigned integer of the same order.
template <class T>
using Key = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

template <class T>
Key<T> key_of(T value) {
  value += T(0);  // -0 and +0 are the same place on the line
  Key<T> bits;
  std::memcpy(&bits, &value, sizeof(bits));
  constexpr Key<T> sign = Key<T>(1) << (8 * sizeof(T) - 1);
  return (bits & sign) ? ~bits : (bits | sign);
}

template <class T>
T value_of(Key<T> key) {
  constexpr Key<T> sign = Key<T>(1) << (8 * sizeof(T) - 1);
  const Key<T> bits = (key & sign) ? (key ^ sign) : ~key;
  T value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <class T>
struct Record {
  Key<T> key;
  std::int64_t index;

  bool operator<(const Record& other) const {
    return key < other.key || (key == other.key && index < other.index);
  }
};

/// Least-significant-digit radix sort, stable, insensitive to the distribution of the keys.
template <class T>
void radix_sort(std::vector<Record<T>>& records) {
  constexpr int kDigits = static_cast<int>(sizeof(T));
  std::array<std::array<std::int64_t, 256>, kDigits> counts{};
  for (const Record<T>& record : records) {
    for (int digit = 0; digit < kDigits; ++digit) {
      ++counts[static_cast<std::size_t>(digit)][(record.key >> (8 * digit)) & 255];
    }
  }
  std::vector<Record<T>> other(records.size());
  for (int digit = 0; digit < kDigits; ++digit) {
    poll_interrupt();
    auto& count = counts[static_cast<std::size_t>(digit)];
    const auto total = static_cast<std::int64_t>(records.size());
    if (std::find(count.begin(), count.end(), total) != count.end()) {
      continue;  // one digit value for all: nothing would move
    }
    std::int64_t start = 0;
    for (std::int64_t& c : count) {
      const std::int64_t size = c;
      c = start;
      start += size;
    }
    for (const Record<T>& record : records) {
      std::int64_t& place = count[(record.key >> (8 * digit)) & 255];
      other[static_cast<std::size_t>(place++)] = record;
    }
    records.swap(other);
  }
}

/// Insertion sort that gives up when it has done more than a few exchanges of neighbours per record
/// so far, and leaves the records in disorder then.
template <class T>
bool insertion_repair(std::vector<Record<T>>& records) {
  // A sort costs about as much as four exchanges an anchor (measured at 1e4..1e6); then it is
  // dearer to go on than to sort. Asked along the way, so that an order that is wrong everywhere is
  // given up at once, with a start for one that is wrong only there.
  constexpr std::int64_t kExchanges = 4;
  std::int64_t budget = 4096;
  for (std::size_t k = 1; k < records.size(); ++k) {
    budget += kExchanges;
    if (!(records[k] < records[k - 1])) {
      continue;
    }
    const Record<T> moving = records[k];
    std::size_t place = k;
    while (place > 0 && moving < records[place - 1]) {
      if (--budget < 0) {
        records[place] = moving;
        return false;
      }
      records[place] = records[place - 1];
      --place;
    }
    records[place] = moving;
  }
  return true;
}

}  // namespace

template <class T>
SortedAnchors sort_anchors(const T* values, std::int64_t count, const SortedAnchors* hint) {
  // Below a few hundred anchors the 256-way counts of the radix sort cost more than a comparison
  // sort.
  constexpr std::int64_t kSmall = 512;
  const auto size = static_cast<std::size_t>(count);
  std::vector<Record<T>> records(size);
  const auto read = [&](std::size_t place, std::int64_t index) {
    records[place] = {key_of(values[index]), index};
  };
  bool sorted = false;
  if (hint != nullptr && hint->size() == count) {
    for (std::size_t k = 0; k < size; ++k) {
      read(k, hint->index[k]);
    }
    sorted = insertion_repair(records);
  }
  if (!sorted) {
    for (std::size_t k = 0; k < size; ++k) {
      read(k, static_cast<std::int64_t>(k));
    }
    if (!std::is_sorted(records.begin(), records.end())) {
      if (count <= kSmall) {
        std::sort(records.begin(), records.end());
      } else {
        radix_sort<T>(records);
      }
    }
  }
  SortedAnchors result;
  result.position.resize(size);
  result.index.resize(size);
  for (std::size_t k = 0; k < size; ++k) {
    result.position[k] = static_cast<double>(value_of<T>(records[k].key));
    result.index[k] = records[k].index;
  }
  return result;
}

template SortedAnchors sort_anchors<float>(const float*, std::int64_t, const SortedAnchors*);
template SortedAnchors sort_anchors<double>(const double*, std::int64_t, const SortedAnchors*);

}  // namespace laplex::detail
