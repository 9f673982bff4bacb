// Orders are right, unique, and the same whether sorted or repaired.
#include "order.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

namespace laplex::detail {
namespace {

template <class T>
std::vector<std::int64_t> stable_order(const std::vector<T>& values) {
  std::vector<std::int64_t> index(values.size());
  std::iota(index.begin(), index.end(), 0);
  std::stable_sort(index.begin(), index.end(), [&](std::int64_t a, std::int64_t b) {
    return values[static_cast<std::size_t>(a)] < values[static_cast<std::size_t>(b)];
  });
  return index;
}

template <class T>
class Order : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(Order, Precisions);

TYPED_TEST(Order, EqualsAStableSort) {
  std::mt19937_64 random(3);
  std::normal_distribution<double> normal;
  for (const std::size_t count : {0, 1, 2, 3, 511, 512, 513, 5000}) {
    for (const double cells : {0.0, 1.0, 20.0}) {  // 0: no grid; otherwise ties
      std::vector<TypeParam> values(count);
      for (TypeParam& value : values) {
        const double z = std::pow(normal(random), 3);
        value = static_cast<TypeParam>(cells > 0 ? std::round(z * cells) / cells : z);
      }
      const auto sorted = sort_anchors(values.data(), static_cast<std::int64_t>(count), nullptr);
      EXPECT_EQ(sorted.index, stable_order(values));
      EXPECT_TRUE(std::is_sorted(sorted.position.begin(), sorted.position.end()));
    }
  }
}

TYPED_TEST(Order, SignedZerosAreOnePlace) {
  const std::vector<TypeParam> values{TypeParam(0), TypeParam(-0.0), TypeParam(0), TypeParam(-0.0)};
  const auto sorted = sort_anchors(values.data(), 4, nullptr);
  EXPECT_EQ(sorted.index, (std::vector<std::int64_t>{0, 1, 2, 3}));
  EXPECT_FALSE(std::signbit(sorted.position[1]));
}

TYPED_TEST(Order, RepairGivesTheFreshOrder) {
  std::mt19937_64 random(4);
  std::normal_distribution<double> normal;
  for (const std::int64_t count : {2, 100, 3000}) {
    std::vector<TypeParam> values(static_cast<std::size_t>(count));
    for (TypeParam& value : values)
      value = static_cast<TypeParam>(std::round(100 * normal(random)) / 100);
    auto order = sort_anchors(values.data(), count, nullptr);
    for (const double step : {0.0, 1e-4, 1e-2, 1.0, 100.0}) {  // the last ones give up and sort
      for (TypeParam& value : values)
        value += static_cast<TypeParam>(step * normal(random));
      order = sort_anchors(values.data(), count, &order);
      const auto fresh = sort_anchors(values.data(), count, nullptr);
      ASSERT_EQ(order.index, fresh.index) << "step " << step;
      ASSERT_EQ(order.position, fresh.position);
    }
  }
}

}  // namespace
}  // namespace laplex::detail
