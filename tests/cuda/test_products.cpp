// Products on the device against the CPU's in double, at every form, size edge and member of the
// family.
#include "cases.hpp"

#include <gtest/gtest.h>

#include <string>
#include <tuple>

namespace laplex::cuda::tests {
namespace {

using Sizes = std::vector<std::pair<std::int64_t, std::int64_t>>;

template <class T>
void check_all(const Sizes& sizes, bool self, const std::vector<Form>& forms,
               const std::vector<Anchors>& kinds) {
  std::uint64_t seed = 1;
  for (const auto& [n, m] : sizes) {
    for (const Form form : forms) {
      for (const Anchors kind : kinds) {
        const Case<T> c = make_case<T>(form, kind, n, m, ++seed, self);
        const DeviceCase<T> device(c);
        const Plan<T> plan = device.plan();
        SCOPED_TRACE(laplex::tests::name(form) + ", anchors " +
                     std::to_string(static_cast<int>(kind)) + ", n = " + std::to_string(c.n) +
                     ", m = " + std::to_string(c.m));
        for (const Mode mode : {Mode::plain, Mode::transpose, Mode::adjoint}) {
          const std::int64_t in = mode == Mode::plain ? c.m : c.n;
          ASSERT_LE(product_error(c, plan, draw_values<T>(in, seed), 1, mode), 1.0);
          if (!c.real_part) {
            ASSERT_LE(product_error(c, plan, draw_values<std::complex<T>>(in, seed), 1, mode), 1.0);
          }
        }
      }
    }
  }
}

template <class T>
class CudaProducts : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(CudaProducts, Precisions);

const std::vector<Form> kAllForms(std::begin(kForms), std::end(kForms));
const std::vector<Anchors> kAllAnchors(std::begin(kAnchors), std::end(kAnchors));

TYPED_TEST(CudaProducts, SmallLinesOfEveryKind) {
  check_all<TypeParam>({{0, 0}, {0, 5}, {5, 0}, {1, 1}, {1, 2}, {7, 2}, {31, 33}, {60, 70}}, false,
                       kAllForms, kAllAnchors);
  check_all<TypeParam>({{0, 0}, {1, 1}, {2, 2}, {33, 33}, {70, 70}}, true, kAllForms, kAllAnchors);
}

TYPED_TEST(CudaProducts, EdgesOfWarpsBlocksAndTiles) {
  Sizes sizes;
  // Items of a warp's tile, of a block's with four and eight items a thread, of the largest
  // block's.
  for (const std::int64_t items : {128, 256, 1024, 2048, 4096, 8192}) {
    for (const std::int64_t off : {0, 1}) {
      sizes.emplace_back((items + off) / 3, items + off - (items + off) / 3);
    }
  }
  check_all<TypeParam>(sizes, false, {Form::real, Form::cosine}, {Anchors::uniform, Anchors::grid});
  Sizes squares;
  for (const std::int64_t items : {255, 256, 257, 1025, 2047, 2049, 8193}) {
    squares.emplace_back(items, items);
  }
  check_all<TypeParam>(squares, true, {Form::real, Form::carrier}, {Anchors::uniform});
}

TYPED_TEST(CudaProducts, LongSeveralTilesOfEveryKind) {
  check_all<TypeParam>({{4300, 4200}}, false, kAllForms, kAllAnchors);
  check_all<TypeParam>({{9000, 100}, {3, 9000}}, false, {Form::real}, kAllAnchors);
  check_all<TypeParam>({{8500, 8500}}, true, {Form::real, Form::cosine}, {Anchors::grid});
}

/// The product, powers, and the Matern-5/2 kernel.
constexpr std::array<double, 5> kPolynomials[] = {
    {1.0}, {0.0, 1.0}, {0.0, 0.0, 0.0, 0.0, 1.0}, {1.0, 1.0, 1.0 / 3.0}};

TYPED_TEST(CudaProducts, LongAndShortOfTheWholeFamily) {
  using T = TypeParam;
  std::uint64_t seed = 1000;
  for (const Form form : kForms) {
    for (const Anchors kind : kAnchors) {
      for (const Parity parity : {Parity::even, Parity::odd, Parity::strict}) {
        for (const auto& polynomial : kPolynomials) {
          for (const std::int64_t n : {23, 700}) {
            if (n > 23 && kind != Anchors::uniform && kind != Anchors::grid)
              continue;
            const Case<T> c = make_case<T>(form, kind, n, 2 * n, ++seed);
            const DeviceCase<T> device(c);
            const Plan<T> plan = device.plan();
            SCOPED_TRACE(laplex::tests::name(form) + ", anchors " +
                         std::to_string(static_cast<int>(kind)) + ", parity " +
                         std::to_string(static_cast<int>(parity)) + ", polynomial " +
                         std::to_string(&polynomial - kPolynomials) + ", n = " + std::to_string(n));
            const Term term{parity, polynomial};
            ASSERT_LE(product_error(c, plan, draw_values<T>(2 * n, seed), 1, Mode::plain, term),
                      1.0);
            ASSERT_LE(product_error(c, plan, draw_values<T>(n, seed), 1, Mode::adjoint, term), 1.0);
          }
        }
      }
    }
  }
}

TYPED_TEST(CudaProducts, SmallMaternKernelsAndTheirTerms) {
  using T = TypeParam;
  const Term wide{Parity::odd, {0.5, 0.0, 1.0}};
  std::uint64_t seed = 2000;
  for (const Profile profile : {Profile::matern32, Profile::matern52}) {
    for (const Form form : kForms) {
      for (const Anchors kind : kAnchors) {
        for (const std::int64_t n : {23, 1100}) {
          if (n > 23 && (kind != Anchors::grid || form != Form::real))
            continue;
          Case<T> c = make_case<T>(form, kind, n, 2 * n, ++seed, false, 2);
          c.profile = profile;
          const DeviceCase<T> device(c);
          const Plan<T> plan = device.plan();
          SCOPED_TRACE(laplex::tests::name(form) + ", anchors " +
                       std::to_string(static_cast<int>(kind)) + ", profile " +
                       std::to_string(static_cast<int>(profile)) + ", n = " + std::to_string(n));
          ASSERT_LE(product_error(c, plan, draw_values<T>(4 * n, seed), 1), 1.0);
          ASSERT_LE(product_error(c, plan, draw_values<T>(2 * n, seed), 1, Mode::adjoint), 1.0);
          ASSERT_LE(product_error(c, plan, draw_values<T>(4 * n, seed), 1, Mode::plain, wide), 1.0);
        }
      }
    }
  }
}

TYPED_TEST(CudaProducts, LongMillionsOfItemsGoThroughTheTreeOfCarries) {
  using T = TypeParam;
  // More tiles than one block of the tree takes.
  const Case<T> c = make_case<T>(Form::real, Anchors::uniform, 1100000, 1200000, 3);
  const DeviceCase<T> device(c);
  const Plan<T> plan = device.plan();
  EXPECT_LE(product_error(c, plan, draw_values<T>(c.m, 4), 1), 1.0);
}

TYPED_TEST(CudaProducts, SmallHeadsAndRowsDoNotSeeEachOther) {
  using T = TypeParam;
  for (const auto& [form, n, rows] :
       std::vector<std::tuple<Form, std::int64_t, std::int64_t>>{{Form::cosine, 60, 4},
                                                                 {Form::cosine, 1500, 4},
                                                                 {Form::real, 1500, 4},
                                                                 {Form::real, 150, 520},
                                                                 {Form::real, 4200, 120}}) {
    if (sizeof(T) == 8 && rows > 4)
      continue;  // rows in groups are for float

    const Case<T> c = make_case<T>(form, Anchors::uniform, n, n + 10, 5, false, 3);
    const DeviceCase<T> device(c);
    const Plan<T> plan = device.plan();
    const auto v = draw_values<T>(3 * rows * c.m, 6);
    EXPECT_LE(product_error(c, plan, v, rows), 1.0);
    const auto all = device_product<T>(plan, v, rows);
    for (std::int64_t r = 0; r < rows; r += rows / 4) {
      std::vector<T> one;
      for (std::int64_t h = 0; h < 3; ++h) {
        const auto from = v.begin() + (h * rows + r) * c.m;
        one.insert(one.end(), from, from + c.m);
      }
      const auto alone = device_product<T>(plan, one, 1);
      for (std::int64_t h = 0; h < 3; ++h) {
        for (std::int64_t i = 0; i < n; ++i) {
          ASSERT_EQ(alone[static_cast<std::size_t>(h * n + i)],
                    all[static_cast<std::size_t>((h * rows + r) * n + i)]);
        }
      }
    }
  }
}

TYPED_TEST(CudaProducts, SmallHalvesAddUpAndTiesAreLeft) {
  using T = TypeParam;
  for (const Anchors kind : kAnchors) {
    for (const bool self : {false, true}) {
      for (const auto& [n, profile] :
           std::vector<std::pair<std::int64_t, Profile>>{{5, Profile::matern12},
                                                         {2000, Profile::matern12},
                                                         {5, Profile::matern32},
                                                         {1500, Profile::matern52}}) {
        Case<T> c = make_case<T>(Form::real, kind, n, n + 4, 3, self);
        c.profile = profile;
        const DeviceCase<T> device(c);
        const Plan<T> plan = device.plan();
        const auto v = draw_values<T>(c.m, 4);
        const OnDevice<T> values(v);
        const OnDevice<T> left(static_cast<std::size_t>(n), T(9));
        const OnDevice<T> right(static_cast<std::size_t>(n), T(9));
        plan.half_sums({values.data(), false, {c.m, c.m}}, 1, {left.data(), false, {n, n}},
                       {right.data(), false, {n, n}}, kStream);
        const laplex::Plan<T> reference(c.kernel());
        std::vector<T> want_left(static_cast<std::size_t>(n));
        std::vector<T> want_right(want_left);
        reference.half_sums(v.data(), want_left.data(), want_right.data(), 1, Strides{c.m, c.m},
                            Strides{n, n});
        const auto l = left.host();
        const auto r = right.host();
        std::vector<double> sizes;
        for (const T each : v)
          sizes.push_back(std::fabs(static_cast<double>(each)));
        std::vector<double> scale(static_cast<std::size_t>(n));
        laplex::Plan<double>(moduli(widened(c)).kernel()).apply(sizes.data(), scale.data());
        for (std::size_t i = 0; i < l.size(); ++i) {
          const double allowed = 2 * static_cast<double>(promise<T>()) * scale[i] +
                                 static_cast<double>(std::numeric_limits<T>::min());
          ASSERT_NEAR(l[i], want_left[i], allowed) << i;
          ASSERT_NEAR(r[i], want_right[i], allowed) << i;
        }
      }
    }
  }
}

TYPED_TEST(CudaProducts, SmallOneHotValuesAreExactFarAway) {
  // Every entry of the matrix by itself: what is far is small, and exact relative to itself.
  using T = TypeParam;
  for (const Anchors kind : {Anchors::uniform, Anchors::skewed}) {
    Case<T> c = make_case<T>(Form::real, kind, 900, 3000, 9);
    c.lengthscale = {0.004};  // the line is hundreds of lengthscales long
    const DeviceCase<T> device(c);
    const Plan<T> plan = device.plan();
    for (const std::int64_t j : {0, 1234, 2999}) {
      std::vector<T> v(3000, T(0));
      v[static_cast<std::size_t>(j)] = T(1);
      EXPECT_LE(product_error(c, plan, v, 1), 1.0) << j;
    }
  }
}

TYPED_TEST(CudaProducts, SmallStridesAndRepeatedRows) {
  using T = TypeParam;
  const Case<T> c = make_case<T>(Form::real, Anchors::uniform, 40, 50, 5);
  const DeviceCase<T> device(c);
  const Plan<T> plan = device.plan();
  const auto v = draw_values<T>(3 * 64, 6);
  const OnDevice<T> values(v);
  const OnDevice<T> result(std::size_t(3 * 100), T(9));
  plan.apply({values.data(), false, {0, 64}}, 3, {result.data(), false, {0, 100}}, kStream);
  const auto u = result.host();
  for (std::size_t r = 0; r < 3; ++r) {
    const std::vector<T> row(v.begin() + static_cast<std::ptrdiff_t>(64 * r),
                             v.begin() + static_cast<std::ptrdiff_t>(64 * r + 50));
    const auto want = device_product<T>(plan, row, 1);
    for (std::size_t i = 0; i < 100; ++i) {
      ASSERT_EQ(u[100 * r + i], i < 40 ? want[i] : T(9));
    }
  }
  plan.apply({values.data(), false, {0, 0}}, 2, {result.data(), false, {0, 100}}, kStream);
  const auto repeated = result.host();
  for (std::size_t i = 0; i < 40; ++i) {
    ASSERT_EQ(repeated[i], repeated[100 + i]);
  }
}

TEST(CudaHalfPrecision, SmallValuesOfSixteenBits) {
  const Case<float> c = make_case<float>(Form::real, Anchors::uniform, 300, 200, 5);
  const DeviceCase<float> device(c);
  const Plan<float> plan = device.plan();
  for (const Storage storage : {Storage::half, Storage::bfloat16}) {
    const bool half = storage == Storage::half;
    const std::uint16_t one = half ? 0x3C00 : 0x3F80;
    const OnDevice<std::uint16_t> values(200, one);
    const OnDevice<std::uint16_t> result(300, std::uint16_t(0));
    plan.apply({values.data(), false, {200, 200}, storage}, 1,
               {result.data(), false, {300, 300}, storage}, kStream);
    const auto want = device_product<float>(plan, std::vector<float>(200, 1.0F), 1);
    const auto got = result.host();
    for (std::size_t i = 0; i < want.size(); ++i) {
      // Values between 64 and 256: the exponent and the first bits of the mantissa.
      float wide = 0.0F;
      if (half) {
        wide = std::ldexp(static_cast<float>((got[i] & 1023) + 1024), (got[i] >> 10) - 25);
      } else {
        const std::uint32_t bits = static_cast<std::uint32_t>(got[i]) << 16;
        std::memcpy(&wide, &bits, sizeof(wide));
      }
      ASSERT_NEAR(wide, want[i], want[i] * (half ? 0x1p-11F : 0x1p-8F));
    }
  }
  EXPECT_THROW(
      Plan<double>(
          DeviceCase<double>(make_case<double>(Form::real, Anchors::uniform, 3, 3, 1)).plan())
          .apply({nullptr, false, {}, Storage::half}, 1, {nullptr, false, {}}, kStream),
      Error);
}

}  // namespace
}  // namespace laplex::cuda::tests
