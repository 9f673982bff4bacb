// Orders are right, unique, and the same whether sorted, merged or repaired.
#include "order.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace laplex::detail {
namespace {

template <class T>
Anchors<T> anchors_of(const std::vector<T>& targets, const std::vector<T>& sources) {
  return {targets.data(), sources.data(), static_cast<std::int64_t>(targets.size()),
          static_cast<std::int64_t>(sources.size())};
}

/// The ids in the order that a stable sort of the sources, then the targets, gives.
template <class T>
std::vector<std::uint32_t> stable_order(const std::vector<T>& targets,
                                        const std::vector<T>& sources) {
  std::vector<T> values = sources;
  values.insert(values.end(), targets.begin(), targets.end());
  std::vector<std::uint32_t> ids(values.size());
  std::iota(ids.begin(), ids.end(), 0U);
  std::stable_sort(ids.begin(), ids.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return values[a] < values[b]; });
  return ids;
}

template <class T>
std::vector<std::uint32_t> sorted_ids(const std::vector<T>& targets, const std::vector<T>& sources,
                                      const std::uint32_t* hint = nullptr, int threads = 1) {
  Sorting<T> sorting;
  sort_anchors(anchors_of(targets, sources), hint, sorting, threads);
  std::vector<std::uint32_t> ids;
  for (const Record<T>& record : sorting.records) {
    ids.push_back(record.id);
    const T value =
        record.id < sources.size() ? sources[record.id] : targets[record.id - sources.size()];
    EXPECT_EQ(value_of<T>(record.key), value);
  }
  return ids;
}

template <class T>
class Order : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(Order, Precisions);

TYPED_TEST(Order, EqualsAStableSort) {
  std::mt19937_64 random(3);
  std::normal_distribution<double> normal;
  for (const std::size_t count : {0, 1, 2, 3, 95, 96, 97, 700, 5000, 200000}) {
    for (const int kind : {0, 1, 2, 3, 4}) {
      const auto draw = [&] {
        const double z = normal(random);
        switch (kind) {
          case 0:
            return std::pow(z, 3);
          case 1:
            return std::round(z);  // ties
          case 2:
            return std::round(z * 20) / 20;
          case 3:
            return 1.0 + z * 1e-12;  // equal in all the leading bits
          default:
            return z < 0 ? std::exp(40 * z) : 3.0 + z * 1e-13;  // both
        }
      };
      std::vector<TypeParam> x(count);
      std::vector<TypeParam> y(count / 2 + 1);
      for (auto* side : {&x, &y}) {
        for (TypeParam& value : *side) {
          value = static_cast<TypeParam>(draw());
        }
      }
      EXPECT_EQ(sorted_ids(x, y), stable_order(x, y)) << count << " kind " << kind;
      EXPECT_EQ(sorted_ids(x, y, nullptr, 3), stable_order(x, y)) << count << " kind " << kind;
      std::sort(x.begin(), x.end());
      std::sort(y.begin(), y.end());
      EXPECT_EQ(sorted_ids(x, y), stable_order(x, y)) << count << " sorted, kind " << kind;
    }
  }
}

TYPED_TEST(Order, SignedZerosAreOnePlace) {
  const std::vector<TypeParam> values{TypeParam(0), TypeParam(-0.0), TypeParam(0), TypeParam(-0.0)};
  EXPECT_EQ(sorted_ids(values, values), (std::vector<std::uint32_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_FALSE(std::signbit(value_of<TypeParam>(key_of(TypeParam(-0.0)))));
}

TYPED_TEST(Order, KeysKeepValuesAndTheirOrder) {
  using Limits = std::numeric_limits<TypeParam>;
  const TypeParam values[] = {-Limits::max(),        TypeParam(-1), -Limits::min(),
                              -Limits::denorm_min(), TypeParam(0),  Limits::denorm_min(),
                              Limits::min(),         TypeParam(1),  Limits::max()};
  for (std::size_t k = 0; k < std::size(values); ++k) {
    EXPECT_EQ(value_of<TypeParam>(key_of(values[k])), values[k]);
    EXPECT_TRUE(k == 0 || key_of(values[k - 1]) < key_of(values[k]));
  }
}

TYPED_TEST(Order, RepairGivesTheFreshOrder) {
  std::mt19937_64 random(4);
  std::normal_distribution<double> normal;
  for (const std::size_t count : {2, 100, 3000}) {
    std::vector<TypeParam> x(count);
    std::vector<TypeParam> y(count);
    for (auto* side : {&x, &y}) {
      for (TypeParam& value : *side)
        value = static_cast<TypeParam>(std::round(100 * normal(random)) / 100);
    }
    std::vector<std::uint32_t> ids = sorted_ids(x, y);
    for (const double step : {0.0, 1e-4, 1e-2, 1.0, 100.0}) {  // the last ones give up and sort
      for (auto* side : {&x, &y}) {
        for (TypeParam& value : *side)
          value += static_cast<TypeParam>(step * normal(random));
      }
      ids = sorted_ids(x, y, ids.data());
      ASSERT_EQ(ids, stable_order(x, y)) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace laplex::detail
