// The rank rule against ranks that are known.
#include "cases.hpp"

#include <gtest/gtest.h>

namespace laplex::tests {
namespace {

std::int64_t rank(std::vector<double> x, std::vector<double> y) {
  Case<double> c;
  c.n = static_cast<std::int64_t>(x.size());
  c.m = static_cast<std::int64_t>(y.size());
  c.x = std::move(x);
  c.y = std::move(y);
  c.lengthscale = {1.0};
  return Plan<double>(c.kernel()).rank().at(0);
}

TEST(Rank, KnownCases) {
  EXPECT_EQ(rank({}, {}), 0);
  EXPECT_EQ(rank({1}, {}), 0);
  EXPECT_EQ(rank({1}, {2}), 1);
  EXPECT_EQ(rank({1, 2, 3}, {4, 5, 6}), 1);  // separated: an outer product
  EXPECT_EQ(rank({1, 3, 5}, {2, 4, 6}), 3);  // interlaced
  EXPECT_EQ(rank({1, 1, 3}, {2, 2, 4}), 2);  // equal rows and columns count once
  EXPECT_EQ(rank({0, 1}, {-1, 0}), 1);       // exp(-1), 1; exp(-2), exp(-1): a tie splits the line
  EXPECT_EQ(rank({1, 2, 3}, {1, 2, 3}), 3);  // positive definite
  EXPECT_EQ(rank({0, 0, 0}, {0, 0}), 1);
}

TEST(Rank, SelfCaseIsTheNumberOfDistinctAnchors) {
  Case<float> c = make_case<float>(Form::real, Anchors::grid, 100, 100, 5, true);
  EXPECT_EQ(Plan<float>(c.kernel()).rank().at(0), 8);
}

TEST(Rank, CosineFormHasNoRule) {
  const Case<double> c = make_case<double>(Form::cosine, Anchors::uniform, 5, 5, 5);
  EXPECT_THROW(static_cast<void>(Plan<double>(c.kernel()).rank()), Error);
}

}  // namespace
}  // namespace laplex::tests
