#include "permutation.hpp"

#include "inline.hpp"
#include "parallel.hpp"

#include <algorithm>

namespace laplex::detail {
namespace {

/// A bucket of floats is 256 KiB, half of a small second cache.
constexpr int kBucketBits = 16;
constexpr std::int64_t kBucket = std::int64_t(1) << kBucketBits;

/// Numbers of the order given that one task deals, at least.
constexpr std::int64_t kPart = std::int64_t(1) << 20;
constexpr std::int64_t kMostParts = 64;

/// How far ahead of its last number the line of a bucket is asked for.
constexpr std::int64_t kAhead = 16;

}  // namespace

template <class Body>
void Permutation::each_part(int threads, const Body& body) const {
  parallel_tasks(threads, parts_, [&](std::int64_t part) {
    const auto first = first_.begin() + part * buckets_;
    std::vector<std::uint32_t> next(first, first + buckets_);
    body(part, count() * part / parts_, count() * (part + 1) / parts_, next.data());
  });
}

Permutation::Permutation(const std::uint32_t* index, std::int64_t count, int threads)
    : buckets_((count + kBucket - 1) / kBucket),
      parts_(std::clamp<std::int64_t>(count / kPart, 1, kMostParts)) {
  bucket_.reset(count);
  place_.reset(count);
  Array<std::uint32_t> sorted_place;  // of each number in the order given
  sorted_place.reset(count);
  parallel_ranges(threads, count, kBucket, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t k = begin; k < end; ++k) {
      sorted_place[index[k]] = static_cast<std::uint32_t>(k);
    }
  });
  first_.resize(static_cast<std::size_t>(parts_ * buckets_));
  each_part(threads,
            [&](std::int64_t part, std::int64_t begin, std::int64_t end, std::uint32_t* counts) {
              for (std::int64_t i = begin; i < end; ++i) {
                const std::uint32_t bucket = sorted_place[i] >> kBucketBits;
                bucket_[i] = static_cast<std::uint16_t>(bucket);
                ++counts[bucket];
              }
              std::copy(counts, counts + buckets_, first_.begin() + part * buckets_);
            });
  for (std::int64_t b = 0; b < buckets_; ++b) {
    auto start = static_cast<std::uint32_t>(b * kBucket);
    for (std::int64_t part = 0; part < parts_; ++part) {
      std::uint32_t& first = first_[static_cast<std::size_t>(part * buckets_ + b)];
      const std::uint32_t size = first;
      first = start;
      start += size;
    }
  }
  each_part(threads, [&](std::int64_t, std::int64_t begin, std::int64_t end, std::uint32_t* next) {
    for (std::int64_t i = begin; i < end; ++i) {
      place_[next[bucket_[i]]++] = static_cast<std::uint16_t>(sorted_place[i] & (kBucket - 1));
    }
  });
}

template <class T>
T* Permutation::dealt(Array<std::byte>& scratch) const {
  scratch.reset_to_hold(count() * static_cast<std::int64_t>(sizeof(T)));
  return reinterpret_cast<T*>(scratch.data());
}

template <class T>
void Permutation::to_sorted(const T* given, T* sorted, Array<std::byte>& scratch,
                            int threads) const {
  T* const dealt = this->dealt<T>(scratch);
  each_part(threads, [&](std::int64_t, std::int64_t begin, std::int64_t end, std::uint32_t* next) {
    T* const to = dealt;
    const std::uint16_t* const bucket = bucket_.data();
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint32_t at = next[bucket[i]]++;
      to[at] = given[i];
      prefetch_for_write(to + at + kAhead);
    }
  });
  parallel_ranges(threads, count(), kBucket, [&](std::int64_t begin, std::int64_t end) {
    T* const to = sorted + begin;
    for (std::int64_t k = begin; k < end; ++k) {
      to[place_[k]] = dealt[k];
    }
  });
}

template <class T>
void Permutation::to_given(const T* sorted, T* given, Array<std::byte>& scratch,
                           int threads) const {
  T* const dealt = this->dealt<T>(scratch);
  parallel_ranges(threads, count(), kBucket, [&](std::int64_t begin, std::int64_t end) {
    const T* const from = sorted + begin;
    T* const to = dealt;
    const std::uint16_t* const place = place_.data();
    for (std::int64_t k = begin; k < end; ++k) {
      to[k] = from[place[k]];
    }
  });
  each_part(threads, [&](std::int64_t, std::int64_t begin, std::int64_t end, std::uint32_t* next) {
    const T* const from = dealt;
    const std::uint16_t* const bucket = bucket_.data();
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint32_t at = next[bucket[i]]++;
      given[i] = from[at];
      prefetch_for_read(from + at + kAhead);
    }
  });
}

std::int64_t Permutation::nbytes() const {
  return bucket_.nbytes() + place_.nbytes() +
         static_cast<std::int64_t>(first_.size() * sizeof(std::uint32_t));
}

#define LAPLEX_PERMUTE(T)                                                              \
  template void Permutation::to_sorted<T>(const T*, T*, Array<std::byte>&, int) const; \
  template void Permutation::to_given<T>(const T*, T*, Array<std::byte>&, int) const;
LAPLEX_PERMUTE(float)
LAPLEX_PERMUTE(double)
LAPLEX_PERMUTE(Pair<float>)
LAPLEX_PERMUTE(Pair<double>)
#undef LAPLEX_PERMUTE

}  // namespace laplex::detail
