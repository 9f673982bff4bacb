#include "order.hpp"

#include "kernels/kernels.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <atomic>
#include <vector>

namespace laplex::detail {
namespace {

/// Below this many records a comparison sort is faster than counting digits.
constexpr std::int64_t kSmall = 128;

/// From this many records on, digits of up to 11 bits; below, where counting 2048 values costs more
/// than it saves, of 8. Three of them usually tell all records apart.
template <class T>
constexpr std::int64_t kWideDigits = sizeof(T) == 4 ? 1 << 12 : 1 << 13;
constexpr int kDigits = 3;

/// Each thread sorts at least this many.
constexpr std::int64_t kGrain = 1 << 16;

template <class T>
int highest_bit(Key<T> bits) {
  int bit = -1;
  while (bits != 0) {
    bits >>= 1;
    ++bit;
  }
  return bit;
}

/// Moves records to the places that `next` has for their digits.
template <int Bits, class T>
void move_by_digit(const Record<T>* from, std::int64_t begin, std::int64_t end, int shift,
                   std::uint32_t* next, Record<T>* to) {
  constexpr Key<T> kMask = (Key<T>(1) << Bits) - 1;
  // The next line of each run of places is asked for before it is written to: a store that misses
  // the cache holds up all stores behind it. Four at a time: their loads need not wait for the
  // stores, which might be to the same places for all the compiler knows.
  constexpr int kAhead = 4;
  constexpr int kGroup = 4;
  const auto put = [&](const Record<T>& record, std::size_t digit) {
    const std::uint32_t place = next[digit]++;
    to[place] = record;
    prefetch_for_write(to + place + kAhead);
  };
  std::int64_t k = begin;
  for (; k + kGroup <= end; k += kGroup) {
    Record<T> record[kGroup];
    std::size_t digit[kGroup];
    for (int j = 0; j < kGroup; ++j) {
      record[j] = from[k + j];
      digit[j] = static_cast<std::size_t>((record[j].key >> shift) & kMask);
    }
    for (int j = 0; j < kGroup; ++j) {
      put(record[j], digit[j]);
    }
  }
  for (; k < end; ++k) {
    put(from[k], static_cast<std::size_t>((from[k].key >> shift) & kMask));
  }
}

/// Sorts by `digits` digits of `Bits` bits from bit `shift` on, least significant first; stable.
/// The result is in `from`.
template <int Bits, class T>
void radix_passes(Record<T>*& from, Record<T>*& to, std::int64_t count, int shift, int digits,
                  int threads) {
  constexpr std::int64_t kValues = std::int64_t(1) << Bits;
  constexpr Key<T> kMask = static_cast<Key<T>>(kValues - 1);
  const std::int64_t parts = std::clamp<std::int64_t>(count / kGrain, 1, threads);
  std::vector<std::uint32_t> counts(
      static_cast<std::size_t>((parts > 1 ? parts : digits) * kValues));
  const auto digit_of = [](const Record<T>& r, int at) {
    return static_cast<std::size_t>((r.key >> at) & kMask);
  };
  if (parts == 1) {
    // One look at the records counts every digit. Neighbours count apart: the next increment of
    // the same number would wait for this one.
    std::vector<std::uint32_t> odd(static_cast<std::size_t>(digits * kValues));
    const auto count_digits = [&](const Record<T>& record, std::uint32_t* to_counts) {
      for (int d = 0; d < digits; ++d) {
        ++to_counts[static_cast<std::size_t>(d * kValues) + digit_of(record, shift + d * Bits)];
      }
    };
    const Record<T>* const records = from;
    std::int64_t k = 0;
    for (; k + 2 <= count; k += 2) {
      count_digits(records[k], counts.data());
      count_digits(records[k + 1], odd.data());
    }
    if (k < count) {
      count_digits(records[k], counts.data());
    }
    for (std::size_t v = 0; v < odd.size(); ++v) {
      counts[v] += odd[v];
    }
  }
  for (int d = 0; d < digits; ++d) {
    poll_interrupt();
    const int at = shift + d * Bits;
    const auto begin_of = [&](std::int64_t part) { return count * part / parts; };
    if (parts > 1) {
      std::fill(counts.begin(), counts.end(), 0);
      parallel_tasks(threads, parts, [&](std::int64_t part) {
        std::uint32_t* mine = counts.data() + part * kValues;
        for (std::int64_t k = begin_of(part); k < begin_of(part + 1); ++k) {
          ++mine[digit_of(from[k], at)];
        }
      });
    }
    std::uint32_t* const first = counts.data() + (parts > 1 ? 0 : d * kValues);
    std::uint32_t start = 0;
    bool single = false;
    for (std::int64_t value = 0; value < kValues; ++value) {
      const std::uint32_t before = start;
      for (std::int64_t part = 0; part < parts; ++part) {
        std::uint32_t& c = first[part * kValues + value];
        const std::uint32_t size = c;
        c = start;
        start += size;
      }
      single = single || start - before == static_cast<std::uint64_t>(count);
    }
    if (single) {
      continue;  // one digit value for all: nothing would move
    }
    parallel_tasks(threads, parts, [&](std::int64_t part) {
      move_by_digit<Bits, T>(from, begin_of(part), begin_of(part + 1), at, first + part * kValues,
                             to);
    });
    std::swap(from, to);
  }
}

/// Stable sort of records that stand in ascending order of their ids. Insensitive to the
/// distribution: digits are taken from the leading bits in which keys differ; what is still equal
/// then is sorted by the rest. Returns where the result is: `from` or `to`.
///
/// `varying` are the bits in which any two keys may differ.
template <class T>
Record<T>* sort_records(Record<T>* from, Record<T>* to, std::int64_t count, Key<T> varying,
                        int threads) {
  if (count <= kSmall) {
    std::sort(from, from + count);
    return from;
  }
  if (varying == 0) {
    return from;
  }
  const int top = highest_bit<T>(varying) + 1;
  const int most_bits = count >= kWideDigits<T> ? 11 : 8;
  const int digits = std::min((top + most_bits - 1) / most_bits, kDigits);
  const int bits = std::min((top + digits - 1) / digits, most_bits);  // no wider than needed
  const int shift = std::max(0, top - digits * bits);
  Record<T>* result = from;
  Record<T>* spare = to;
  if (bits <= 8) {
    radix_passes<8, T>(result, spare, count, shift, digits, threads);
  } else if (bits == 9) {
    radix_passes<9, T>(result, spare, count, shift, digits, threads);
  } else if (bits == 10) {
    radix_passes<10, T>(result, spare, count, shift, digits, threads);
  } else {
    radix_passes<11, T>(result, spare, count, shift, digits, threads);
  }
  if (shift == 0 || (varying & ((Key<T>(1) << shift) - 1)) == 0) {
    return result;
  }
  // Runs that agree in all the bits so far.
  for (std::int64_t k = 0; k < count;) {
    std::int64_t end = k + 1;
    while (end < count && (result[end].key >> shift) == (result[k].key >> shift)) {
      ++end;
    }
    if (end - k > 1) {
      Record<T>* run =
          sort_records(result + k, spare + k, end - k, varying & ((Key<T>(1) << shift) - 1), 1);
      if (run != result + k) {
        std::copy(run, run + (end - k), result + k);
      }
    }
    k = end;
  }
  return result;
}

/// Sorts records in any order.
template <class T>
void sort_disorder(Record<T>* records, Record<T>* spare, std::int64_t count) {
  Key<T> varying = 0;
  for (std::int64_t k = 1; k < count; ++k) {
    varying |= records[k].key ^ records[0].key;
  }
  const Record<T>* const sorted = sort_records(records, spare, count, varying, 1);
  if (sorted != records) {
    std::copy(sorted, sorted + count, records);
  }
  // Records of one key stand in the order that was given, which is not that of their ids.
  for (std::int64_t k = 0; k < count;) {
    std::int64_t end = k + 1;
    while (end < count && records[end].key == records[k].key) {
      ++end;
    }
    if (end - k > 1) {
      std::sort(records + k, records + end);
    }
    k = end;
  }
}

/// Whether values stand in ascending order.
template <class T>
bool is_ascending(const T* values, std::int64_t count) {
  // In blocks without a branch in each step; most disorder shows in the first.
  constexpr std::int64_t kBlock = 1024;
  for (std::int64_t begin = 1; begin < count; begin += kBlock) {
    const std::int64_t end = std::min(count, begin + kBlock);
    bool ascending = true;
    for (std::int64_t k = begin; k < end; ++k) {
      ascending &= values[k - 1] <= values[k];
    }
    if (!ascending) {
      return false;
    }
  }
  return true;
}

/// Merges two ascending sides, sources before targets at equal places: from both ends at once,
/// because each step waits for the one before (a load, a comparison, an addition).
template <class T>
void merge(const Anchors<T>& anchors, Record<T>* records) {
  const T* const x = anchors.targets;
  const T* const y = anchors.sources;
  const std::int64_t m = anchors.num_sources;
  // What is left of the targets, of the sources, and of the records.
  std::int64_t i = 0;
  std::int64_t j = 0;
  std::int64_t k = 0;
  std::int64_t i_end = anchors.num_targets;
  std::int64_t j_end = m;
  std::int64_t k_end = anchors.count();
  // Sources and targets alternate at random: a branch would be guessed wrong every other time, and
  // for a conditional expression compilers make one.
  const auto either = [](auto source, auto target, std::int64_t is_source) {
    return target ^ ((target ^ source) & static_cast<decltype(source)>(-is_source));
  };
  const auto record = [&](Key<T> source, std::int64_t j_at, Key<T> target, std::int64_t i_at,
                          std::int64_t is_source) {
    return Record<T>{either(source, target, is_source),
                     static_cast<std::uint32_t>(either(j_at, m + i_at, is_source))};
  };
  const auto put_first = [&] {
    const Key<T> target = key_of(x[i]);
    const Key<T> source = key_of(y[j]);
    const auto is_source = static_cast<std::int64_t>(source <= target);
    records[k++] = record(source, j, target, i, is_source);
    j += is_source;
    i += 1 - is_source;
  };
  const auto put_last = [&] {
    const Key<T> target = key_of(x[i_end - 1]);
    const Key<T> source = key_of(y[j_end - 1]);
    const auto is_source = static_cast<std::int64_t>(source > target);
    records[--k_end] = record(source, j_end - 1, target, i_end - 1, is_source);
    j_end -= is_source;
    i_end -= 1 - is_source;
  };
  const auto sure = [&] { return std::min(i_end - i, j_end - j); };  // so many need no look
  for (std::int64_t steps = sure(); steps > 0; steps = sure()) {
    put_first();
    for (std::int64_t step = 2; step < steps; step += 2) {
      put_last();
      put_first();
    }
  }
  for (; j < j_end; ++j) {
    records[k++] = {key_of(y[j]), static_cast<std::uint32_t>(j)};
  }
  for (; i < i_end; ++i) {
    records[k++] = {key_of(x[i]), static_cast<std::uint32_t>(m + i)};
  }
}

}  // namespace

template <class T>
void find_order_given(const Anchors<T>& anchors, Sorting<T>& sorting) {
  sorting.targets_as_given = is_ascending(anchors.targets, anchors.num_targets);
  sorting.sources_as_given = is_ascending(anchors.sources, anchors.num_sources);
}

template <class T>
void repair_order(Record<T>* records, Record<T>* spare, std::int64_t count) {
  const auto end_of = [count](std::int64_t k) { return std::min(count, k + kRepair); };
  const auto repair = [&](std::int64_t k) {
    return kernels<T>().sort_nearly_sorted(records + k, end_of(k) - k);
  };
  for (std::int64_t k = 0; k < count;) {
    std::int64_t end = end_of(k);
    if (!repair(k)) {
      // In a step of training most blocks are nearly sorted, and others, side by side, are not.
      while (end < count && !repair(end)) {
        end = end_of(end);
      }
      sort_disorder(records + k, spare + k, end - k);
    }
    join_runs(records, k, end);
    k = end;
  }
}

template <class T>
void join_runs(Record<T>* records, std::int64_t middle, std::int64_t end) {
  std::int64_t budget = 256;  // few pass from one run to the next, and not far, mostly
  for (std::int64_t k = middle; k < end; ++k) {
    const std::int64_t moved = sink(records, k);
    if (moved == 0) {
      return;
    }
    budget -= moved;
    if (budget < 0 && k + 1 < end) {
      Record<T>* const first = std::upper_bound(records, records + k + 1, records[k + 1]);
      std::inplace_merge(first, records + k + 1, records + end);
      return;
    }
  }
}

template <class T>
void sort_anchors(const Anchors<T>& anchors, Sorting<T>& sorting, int threads) {
  const std::int64_t count = anchors.count();
  find_order_given(anchors, sorting);
  sorting.records.reset(count);
  Record<T>* const records = sorting.records.data();
  if (sorting.targets_as_given && sorting.sources_as_given) {
    merge(anchors, records);
    return;
  }
  std::atomic<Key<T>> varying{0};
  parallel_ranges(threads, count, kGrain, [&](std::int64_t begin, std::int64_t end) {
    const Key<T> some =
        key_of(count == anchors.num_sources ? anchors.sources[0] : anchors.targets[0]);
    Key<T> differs = 0;
    const std::int64_t middle = std::clamp(anchors.num_sources, begin, end);
    for (std::int64_t k = begin; k < middle; ++k) {
      const Key<T> key = key_of(anchors.sources[k]);
      differs |= key ^ some;
      records[k] = {key, static_cast<std::uint32_t>(k)};
    }
    for (std::int64_t k = middle; k < end; ++k) {
      const Key<T> key = key_of(anchors.targets[k - anchors.num_sources]);
      differs |= key ^ some;
      records[k] = {key, static_cast<std::uint32_t>(k)};
    }
    varying |= differs;
  });
  if (count > kSmall) {
    sorting.other.reset(count);
  }
  if (sort_records(records, sorting.other.data(), count, varying.load(), threads) != records) {
    sorting.records.swap(sorting.other);
  }
}

template void find_order_given(const Anchors<float>&, Sorting<float>&);
template void find_order_given(const Anchors<double>&, Sorting<double>&);
template void repair_order(Record<float>*, Record<float>*, std::int64_t);
template void repair_order(Record<double>*, Record<double>*, std::int64_t);
template void join_runs(Record<float>*, std::int64_t, std::int64_t);
template void join_runs(Record<double>*, std::int64_t, std::int64_t);
template void sort_anchors(const Anchors<float>&, Sorting<float>&, int);
template void sort_anchors(const Anchors<double>&, Sorting<double>&, int);

}  // namespace laplex::detail
