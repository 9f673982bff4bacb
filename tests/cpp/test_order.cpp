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
T value_of_id(const std::vector<T>& targets, const std::vector<T>& sources, std::uint32_t id) {
  return id < sources.size() ? sources[id] : targets[id - sources.size()];
}

template <class T>
std::vector<std::uint32_t> sorted_ids(const std::vector<T>& targets, const std::vector<T>& sources,
                                      int threads = 1) {
  Sorting<T> sorting;
  sort_anchors(anchors_of(targets, sources), sorting, threads);
  std::vector<std::uint32_t> ids;
  for (const Record<T>& record : sorting.records) {
    ids.push_back(record.id);
    EXPECT_EQ(value_of<T>(record.key), value_of_id(targets, sources, record.id));
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
      EXPECT_EQ(sorted_ids(x, y, 3), stable_order(x, y)) << count << " kind " << kind;
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

/// Repairs `ids`, an order of other anchors.
template <class T>
std::vector<std::uint32_t> repaired_ids(const std::vector<T>& targets,
                                        const std::vector<T>& sources,
                                        const std::vector<std::uint32_t>& ids) {
  std::vector<Record<T>> records;
  for (const std::uint32_t id : ids) {
    records.push_back({key_of(value_of_id(targets, sources, id)), id});
  }
  std::vector<Record<T>> spare(records.size());
  repair_order(records.data(), spare.data(), static_cast<std::int64_t>(records.size()));
  std::vector<std::uint32_t> repaired;
  for (const Record<T>& record : records) {
    repaired.push_back(record.id);
    EXPECT_EQ(value_of<T>(record.key), value_of_id(targets, sources, record.id));
  }
  return repaired;
}

TYPED_TEST(Order, RepairGivesTheFreshOrder) {
  std::mt19937_64 random(4);
  std::normal_distribution<double> normal;
  // Blocks and pairs of records, whole and broken; a spread over zero, ties, and the ends of the
  // range, where keys of 64 bits differ in more than a word holds.
  for (const std::size_t count : {1, 2, 100, 256, 257, 1000, 40000}) {
    for (const int kind : {0, 1, 2}) {
      const double spread = kind == 0 ? 1.0 : kind == 1 ? 1e-2 * static_cast<double>(count) : 1e30;
      const auto draw = [&](double step) {
        const double z = spread * step * normal(random);
        return static_cast<TypeParam>(kind == 1 ? std::round(z) : z);
      };
      std::vector<TypeParam> x(count);
      std::vector<TypeParam> y(count + 1);
      for (auto* side : {&x, &y}) {
        std::generate(side->begin(), side->end(), [&] { return draw(1.0); });
      }
      std::vector<std::uint32_t> ids = stable_order(x, y);
      EXPECT_EQ(repaired_ids(x, y, ids), ids) << count;
      for (const double step : {0.01, 0.3, 1.0, 30.0, 1e3}) {  // of the distance between anchors
        for (auto* side : {&x, &y}) {
          for (std::size_t k = 0; k < side->size(); ++k) {
            // As in training: here all stay in order, and there they do not.
            const bool quiet = std::fabs((*side)[k]) < 0.5 * spread;
            (*side)[k] += draw((quiet ? 0.1 : 1.0) * step / static_cast<double>(count));
          }
        }
        const auto repaired = repaired_ids(x, y, ids);
        ids = stable_order(x, y);
        EXPECT_EQ(repaired, ids) << count << " step " << step << " kind " << kind;
      }
      for (auto* side : {&x, &y}) {
        std::generate(side->begin(), side->end(), [&] { return draw(1.0); });
      }
      const auto repaired = repaired_ids(x, y, ids);
      EXPECT_EQ(repaired, stable_order(x, y)) << "another order";
    }
  }
}

}  // namespace
}  // namespace laplex::detail
