// Cumulative sums on the device, sum_j L((x_i - y_j) / ell) v_j, against a recurrence over the
// sorted anchors in extended precision, and their gradients against products of the CPU's.
#include "cases.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>

namespace laplex::cuda::tests {
namespace {

using Long = std::vector<long double>;

Term cumulative() {
  Term term;
  term.cumulative = true;
  return term;
}

/// Adds to the result at each of `places` what the values at `anchors` below it contribute, and
/// half of what those at the place do: all are `sign` times the numbers given.
void add_below(const Long& places, const Long& anchors, long double ell, const Long& values,
               bool whole, Long& result) {
  const auto ascending = [](const Long& numbers) {
    std::vector<std::size_t> order(numbers.size());
    std::iota(order.begin(), order.end(), std::size_t(0));
    std::sort(order.begin(), order.end(),
              [&](std::size_t a, std::size_t b) { return numbers[a] < numbers[b]; });
    return order;
  };
  const auto sources = ascending(anchors);
  long double decayed = 0.0L;
  long double sum = 0.0L;
  long double here = 0.0L;  // at `last`
  long double last = -HUGE_VALL;
  const auto go_to = [&](long double place) {
    if (place > last) {
      sum += here;
      decayed = last == -HUGE_VALL ? 0.0L : (decayed + here) * std::exp((last - place) / ell);
      here = 0.0L;
      last = place;
    }
  };
  std::size_t next = 0;
  for (const std::size_t i : ascending(places)) {
    for (; next < sources.size() && anchors[sources[next]] <= places[i]; ++next) {
      go_to(anchors[sources[next]]);
      here += values[sources[next]];
    }
    go_to(places[i]);
    result[i] += (whole ? sum - decayed / 2 : decayed / 2) + here / 4;
  }
}

/// sum_j L((x_i - y_j) / ell) v_j.
Long reference(const Long& x, const Long& y, long double ell, const Long& v) {
  const auto negative = [](Long numbers) {
    for (long double& each : numbers)
      each = -each;
    return numbers;
  };
  Long result(x.size(), 0.0L);
  add_below(x, y, ell, v, true, result);
  add_below(negative(x), negative(y), ell, v, false, result);
  return result;
}

template <class T>
void check_products(const Case<T>& c, std::int64_t rows) {
  const DeviceCase<T> device(c);
  const Plan<T> plan = device.plan();
  for (const Mode mode : {Mode::plain, Mode::transpose}) {
    const bool back = mode == Mode::transpose;
    const std::int64_t in = back ? c.n : c.m;
    const std::int64_t out = back ? c.m : c.n;
    const auto v = draw_values<T>(c.heads * rows * in, 7);
    const auto got = device_product<T>(plan, v, rows, mode, cumulative());
    for (std::int64_t h = 0; h < c.heads; ++h) {
      const auto side = [&](const std::vector<T>& all, std::int64_t count, long double sign) {
        Long numbers;
        for (std::int64_t k = 0; k < count; ++k)
          numbers.push_back(sign *
                            static_cast<long double>(all[static_cast<std::size_t>(h * count + k)]));
        return numbers;
      };
      // L((x_i - y_j) / ell) is L((-y_j - -x_i) / ell).
      const auto& sources = c.self ? c.x : c.y;
      const Long to = back ? side(sources, c.m, -1.0L) : side(c.x, c.n, 1.0L);
      const Long from = back ? side(c.x, c.n, -1.0L) : side(sources, c.m, 1.0L);
      const auto ell = static_cast<long double>(c.lengthscale[static_cast<std::size_t>(h)]);
      for (std::int64_t r = 0; r < rows; ++r) {
        const auto* const first = v.data() + (h * rows + r) * in;
        const Long values(first, first + in);
        Long sizes;
        for (const long double each : values)
          sizes.push_back(std::fabs(each));
        const Long want = reference(to, from, ell, values);
        const Long scale = reference(to, from, ell, sizes);
        for (std::int64_t i = 0; i < out; ++i) {
          const auto k = static_cast<std::size_t>(i);
          const auto entry = static_cast<std::size_t>((h * rows + r) * out + i);
          const double allowed = static_cast<double>(promise<T>()) * static_cast<double>(scale[k]) +
                                 static_cast<double>(std::numeric_limits<T>::min());
          ASSERT_LE(std::fabs(static_cast<double>(static_cast<long double>(got[entry]) - want[k])),
                    allowed)
              << "entry " << i << ", head " << h << ", row " << r << (back ? ", transpose" : "");
        }
      }
    }
  }
}

template <class T>
class CudaCumulative : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(CudaCumulative, Precisions);

TYPED_TEST(CudaCumulative, SmallSumsOfEveryKind) {
  using T = TypeParam;
  std::uint64_t seed = 1;
  for (const Anchors kind : kAnchors) {
    for (const bool self : {false, true}) {
      for (const auto& [n, m] : std::vector<std::pair<std::int64_t, std::int64_t>>{
               {0, 0}, {0, 5}, {5, 0}, {1, 1}, {7, 2}, {31, 33}, {400, 300}}) {
        SCOPED_TRACE("anchors " + std::to_string(static_cast<int>(kind)) +
                     ", n = " + std::to_string(n) + (self ? ", self" : ""));
        check_products(make_case<T>(Form::real, kind, n, m, ++seed, self), 1);
      }
    }
  }
}

TYPED_TEST(CudaCumulative, SmallHeadsAndRows) {
  check_products(make_case<TypeParam>(Form::real, Anchors::uniform, 60, 70, 3, false, 3), 4);
  check_products(make_case<TypeParam>(Form::real, Anchors::grid, 60, 60, 4, true, 2), 3);
}

TYPED_TEST(CudaCumulative, SmallSumsFarBelowAllSourcesKeepTheirDigits) {
  using T = TypeParam;
  Case<T> c = make_case<T>(Form::real, Anchors::uniform, 50, 2000, 5);
  c.lengthscale = {0.02};
  for (T& each : c.y)
    each += T(1);
  check_products(c, 1);
}

TYPED_TEST(CudaCumulative, LongLines) {
  using T = TypeParam;
  for (const Anchors kind : kAnchors) {
    SCOPED_TRACE("anchors " + std::to_string(static_cast<int>(kind)));
    check_products(make_case<T>(Form::real, kind, 2300, 2200, 5), 2);
    check_products(make_case<T>(Form::real, kind, 2100, 2100, 6, true), 1);
  }
}

TYPED_TEST(CudaCumulative, LongMillionsOfItemsGoThroughTheTreeOfCarries) {
  check_products(make_case<TypeParam>(Form::real, Anchors::uniform, 1000000, 100000, 7), 1);
}

TYPED_TEST(CudaCumulative, SmallGradients) {
  using T = TypeParam;
  for (const bool self : {false, true}) {
    const std::int64_t rows = 2;
    const Case<T> c = make_case<T>(Form::real, Anchors::grid, 90, 80, 11, self, 2);
    const DeviceCase<T> device(c);
    const Plan<T> plan = device.plan();
    const auto v = draw_values<T>(c.heads * rows * c.m, 1);
    const auto g = draw_values<T>(c.heads * rows * c.n, 2);
    const OnDevice<T> values(v), grad(g);
    const OnDevice<T> d_values(v.size(), T(9)), d_x(c.x.size(), T(9));
    const OnDevice<T> d_y(static_cast<std::size_t>(c.heads * c.m), T(9));
    const OnDevice<double> d_ell(2, 9.0);
    Gradients<T, T> wanted;
    wanted.values = d_values.data();
    wanted.targets = d_x.data();
    wanted.sources = d_y.data();
    wanted.lengthscale = d_ell.data();
    plan.vjp({values.data(), false, {rows * c.m, c.m}}, {grad.data(), false, {rows * c.n, c.n}},
             rows, wanted, kStream, cumulative());

    Gradients<T, T> same = wanted;
    same.sources = wanted.targets;
    EXPECT_THROW(
        plan.vjp({values.data(), false, {rows * c.m, c.m}}, {grad.data(), false, {rows * c.n, c.n}},
                 rows, same, kStream, cumulative()),
        Error);

    // By the values: the transpose.
    EXPECT_EQ(d_values.host(), device_product<T>(plan, g, rows, Mode::transpose, cumulative()));
    // By the anchors and the lengthscale: dL/dt = exp(-|t|) / 2.
    const Case<double> wide = widened(c);
    const laplex::Plan<double> reference(wide.kernel());
    const auto product = [&](const std::vector<double>& in, bool back, const Term& term) {
      std::vector<double> out(static_cast<std::size_t>(c.heads * rows * (back ? c.m : c.n)));
      const Strides at_targets{rows * c.n, c.n};
      const Strides at_sources{rows * c.m, c.m};
      reference.apply(in.data(), out.data(), rows, back ? at_targets : at_sources,
                      back ? at_sources : at_targets, back ? Mode::transpose : Mode::plain, term);
      return out;
    };
    const auto sizes = [](std::vector<double> numbers) {
      for (double& each : numbers)
        each = std::fabs(each);
      return numbers;
    };
    const auto wide_v = widened(v);
    const auto wide_g = widened(g);
    const Term distance{Parity::odd, {0.0, 1.0}};
    const double unit = 4 * static_cast<double>(promise<T>());
    const auto check = [&](const std::vector<T>& got, const std::vector<double>& weights,
                           const std::vector<double>& from, bool back) {
      const auto sums = product(from, back, {});
      const auto sum_sizes = product(sizes(from), back, {});
      const std::int64_t count = back ? c.m : c.n;
      for (std::int64_t h = 0; h < c.heads; ++h) {
        for (std::int64_t i = 0; i < count; ++i) {
          double want = 0.0;
          double scale = 0.0;
          for (std::int64_t r = 0; r < rows; ++r) {
            const auto k = static_cast<std::size_t>((h * rows + r) * count + i);
            want += weights[k] * sums[k];
            scale += std::fabs(weights[k]) * sum_sizes[k];
          }
          const double factor = (back ? -0.5 : 0.5) / c.lengthscale[static_cast<std::size_t>(h)];
          ASSERT_NEAR(static_cast<double>(got[static_cast<std::size_t>(h * count + i)]),
                      factor * want, unit * std::fabs(factor) * scale)
              << i;
        }
      }
    };
    check(d_x.host(), wide_g, wide_v, false);
    check(d_y.host(), wide_v, wide_g, true);
    const auto stretch = product(wide_v, false, distance);
    const auto stretch_sizes = product(sizes(wide_v), false, {Parity::even, {0.0, 1.0}});
    for (std::int64_t h = 0; h < c.heads; ++h) {
      double want = 0.0;
      double scale = 0.0;
      for (std::int64_t k = h * rows * c.n; k < (h + 1) * rows * c.n; ++k) {
        const auto at = static_cast<std::size_t>(k);
        want -= wide_g[at] * stretch[at];
        scale += std::fabs(wide_g[at]) * stretch_sizes[at];
      }
      const double factor = 0.5 / c.lengthscale[static_cast<std::size_t>(h)];
      EXPECT_NEAR(d_ell.host()[static_cast<std::size_t>(h)], factor * want, unit * factor * scale);
    }
  }
}

TYPED_TEST(CudaCumulative, SmallSumsThatAreNotDefinedAreRefused) {
  using T = TypeParam;
  const auto refuses = [](const Case<T>& c, const Term& term) {
    const DeviceCase<T> device(c);
    const Plan<T> plan = device.plan();
    EXPECT_THROW(device_product<T>(plan, draw_values<T>(c.m, 1), 1, Mode::plain, term), Error);
    EXPECT_THROW(plan.vjp({nullptr, false, {}}, {nullptr, false, {}}, 1, {}, kStream, term), Error);
  };
  Case<T> c = make_case<T>(Form::real, Anchors::uniform, 5, 6, 1);
  Term odd = cumulative();
  odd.parity = Parity::odd;
  refuses(c, odd);
  c.profile = Profile::matern32;
  refuses(c, cumulative());
  refuses(make_case<T>(Form::cosine, Anchors::uniform, 5, 6, 1), cumulative());
}

TEST(CudaHalfPrecision, SmallCumulativeSumsOfSixteenBits) {
  const Case<float> c = make_case<float>(Form::real, Anchors::equal, 8, 8, 5);
  const DeviceCase<float> device(c);
  const Plan<float> plan = device.plan();
  const std::uint16_t one = 0x3C00;
  const std::uint16_t four = 0x4400;
  const OnDevice<std::uint16_t> values(8, one);
  const OnDevice<std::uint16_t> result(8, std::uint16_t(0));
  plan.apply({values.data(), false, {8, 8}, Storage::half}, 1,
             {result.data(), false, {8, 8}, Storage::half}, kStream, Mode::plain, cumulative());
  EXPECT_EQ(result.host(), std::vector<std::uint16_t>(8, four));  // each of 8 ties counts half
}

}  // namespace
}  // namespace laplex::cuda::tests
