// Values come to sorted order and back, whatever the number of buckets, parts and threads.
#include "permutation.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

namespace laplex::detail {
namespace {

TEST(Permutation, IsWhatItsIndexSays) {
  std::mt19937_64 random(5);
  // Less than a bucket, a bucket, a bucket and one; two parts, of which the buckets do not begin
  // where they do.
  for (const std::int64_t count : {1, 1000, 1 << 16, (1 << 16) + 1, (1 << 21) + 12345}) {
    const auto size = static_cast<std::size_t>(count);
    std::vector<std::uint32_t> index(size);
    std::iota(index.begin(), index.end(), 0U);
    std::shuffle(index.begin(), index.end(), random);
    std::vector<float> given(size);
    std::iota(given.begin(), given.end(), 1.0F);
    for (const int threads : {1, 3}) {
      const Permutation permutation(index.data(), count, threads);
      Array<std::byte> scratch;
      std::vector<float> sorted(size);
      permutation.to_sorted(given.data(), sorted.data(), scratch, threads);
      std::int64_t wrong = 0;
      for (std::size_t k = 0; k < size; ++k) {
        wrong += sorted[k] == given[index[k]] ? 0 : 1;
      }
      EXPECT_EQ(wrong, 0) << count << " numbers, " << threads << " threads";
      std::vector<float> back(size);
      permutation.to_given(sorted.data(), back.data(), scratch, threads);
      EXPECT_EQ(back, given) << count << " numbers, " << threads << " threads";
      EXPECT_GE(permutation.nbytes(), 4 * count);
    }
  }
}

}  // namespace
}  // namespace laplex::detail
