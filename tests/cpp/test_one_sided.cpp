// Plans that sum the sources on one side of each target.
#include "cases.hpp"
#include "expect_error.hpp"

#include <gtest/gtest.h>

#include <cstddef>

namespace laplex::tests {
namespace {

constexpr Side kOneSided[] = {Side::left, Side::right};

template <class T>
bool counts(const Case<T>& c, Side side, std::int64_t i, std::int64_t j) {
  const T x = c.x[static_cast<std::size_t>(i)];
  const T y = (c.self ? c.x : c.y)[static_cast<std::size_t>(j)];
  return side == Side::left ? y <= x : y >= x;
}

template <class T>
void expect_sums_of_one_side(const Case<T>& c, Side side) {
  Kernel<T> kernel = c.kernel();
  kernel.side = side;
  const Plan<T> plan(kernel);
  using Result = std::complex<T>;
  const auto expect = [&](std::int64_t in, std::int64_t out, Mode mode) {
    const std::vector<Result> v = draw_values<Result>(in, 7);
    std::vector<Result> u(static_cast<std::size_t>(out));
    plan.apply(v.data(), u.data(), 1, mode);
    for (std::int64_t a = 0; a < out; ++a) {
      Wide sum{};
      long double scale = 0.0L;
      for (std::int64_t b = 0; b < in; ++b) {
        const std::int64_t i = mode == Mode::plain ? a : b;
        const std::int64_t j = mode == Mode::plain ? b : a;
        if (counts(c, side, i, j)) {
          const Result value = v[static_cast<std::size_t>(b)];
          const Wide entry = c.entry(0, i, j);
          sum +=
              (mode == Mode::adjoint ? std::conj(entry) : entry) *
              Wide(static_cast<long double>(value.real()), static_cast<long double>(value.imag()));
          scale += c.modulus(0, i, j) * std::abs(Wide(value.real(), value.imag()));
        }
      }
      const Result got = u[static_cast<std::size_t>(a)];
      const Wide error = Wide(got.real(), got.imag()) - sum;
      EXPECT_LE(std::abs(error), promise<T>() * scale) << a;
    }
  };
  expect(c.m, c.n, Mode::plain);
  expect(c.n, c.m, Mode::transpose);
  expect(c.n, c.m, Mode::adjoint);
}

TEST(OneSided, ProductsAreSumsOfOneSide) {
  for (const Side side : kOneSided) {
    for (const Form form : {Form::real, Form::carrier, Form::oscillating}) {
      for (const Anchors anchors : {Anchors::uniform, Anchors::grid, Anchors::equal}) {
        for (const bool self : {false, true}) {
          SCOPED_TRACE(name(form));
          expect_sums_of_one_side(make_case<double>(form, anchors, 70, 50, 1, self), side);
          expect_sums_of_one_side(make_case<float>(form, anchors, 70, 50, 1, self), side);
        }
      }
    }
  }
}

TEST(OneSided, LeftIsTheLeftHalf) {
  const Case<double> c = make_case<double>(Form::oscillating, Anchors::grid, 300, 200, 3);
  Kernel<double> kernel = c.kernel();
  const std::vector<double> v = draw_values<double>(c.m, 2);
  std::vector<std::complex<double>> left(300);
  std::vector<std::complex<double>> right(300);
  std::vector<std::complex<double>> product(300);
  Plan<double>(kernel).half_sums(v.data(), left.data(), right.data(), 1, {}, {});
  kernel.side = Side::left;
  const Plan<double> plan(kernel);
  plan.apply(v.data(), product.data());
  EXPECT_EQ(product, left);
  expect_error([&] { plan.half_sums(v.data(), left.data(), right.data(), 1, {}, {}); },
               ErrorCode::invalid_argument, "half_sums needs a plan with side both");
  expect_error([&] { static_cast<void>(plan.rank()); }, ErrorCode::invalid_argument, "rank");
}

}  // namespace
}  // namespace laplex::tests
