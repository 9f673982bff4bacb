// Covariances on a line on the device against the CPU's, which has tests of its own.
#include "gram_results.hpp"

#include <limits>

#if defined(LAPLEX_CUDA_EMULATION)
#include "emulated_runtime.hpp"
#include "emulation.hpp"
#endif

namespace laplex::cuda::tests {
namespace {

TEST(CudaGram, SmallEverythingIsAsOnTheCpu) {
  for (const Anchors kind :
       {Anchors::uniform, Anchors::grid, Anchors::equal, Anchors::skewed, Anchors::huge}) {
    for (const std::int64_t width : {1, 2, 3, 8}) {
      SCOPED_TRACE("anchors " + std::to_string(static_cast<int>(kind)));
      check(model_of(kind, 150, width, 0.3, 2), 2);
    }
  }
}

TEST(CudaGram, EdgesOfChunksAndOfTheirTree) {
  for (const std::int64_t n : {0, 1, 2, 63, 64, 65, 128, 2047, 2048, 2049, 5000}) {
    check(model_of(Anchors::uniform, n, 1, 0.1), 1);
    check(model_of(Anchors::uniform, n, 2, 0.1), 1);
  }
  check(model_of(Anchors::uniform, 70000, 1, 0.1), 1);  // chunks of chunks of chunks
  check(model_of(Anchors::uniform, 3000, 4, 0.1, 3), 3);
  check(model_of(Anchors::uniform, 4200, 8, 0.1), 1);
  for (const Blocks& blocks : {Blocks{2}, Blocks{2, 2, 1}, Blocks{3}, Blocks{3, 2, 1}}) {
    for (const std::int64_t n : {0, 1, 2, 64, 65, 2049}) {
      check(block_model_of(Anchors::uniform, n, blocks, 0.1), 1);
    }
  }
  check(block_model_of(Anchors::uniform, 70000, {2}, 0.1), 1);
}

TEST(CudaGram, SmallTiesInBothOrders) {
  for (const bool backwards : {false, true}) {
    check(model_of(Anchors::grid, 300, 2, 0.2, 2), 2, 1e-11, backwards);
    const Model m = model_of(Anchors::grid, 300, 2, 0.2, 2);
    const OnDeviceModel model(m, backwards);
    const Gram gram = model.gram();
    EXPECT_TRUE(gram.has_ties());
    std::vector<std::int64_t> want(600);
    laplex::Gram(m.covariance(backwards)).order(want.data());
    const OnDevice<std::int64_t> order(600, std::int64_t(9));
    gram.order(order.data(), kStream);
    EXPECT_EQ(order.host(), want);
    check(block_model_of(Anchors::grid, 300, {2, 3}, 0.2, 2), 2, 1e-11, backwards);
  }
  EXPECT_FALSE(OnDeviceModel(model_of(Anchors::uniform, 300, 1, 0.2)).gram().has_ties());
}

TEST(CudaGram, SmallManyRowsAndNone) {
  check(model_of(Anchors::uniform, 300, 2, 0.1, 2), 11);  // more than there are groups
  check(model_of(Anchors::uniform, 300, 2, 0.1, 2), 0);
  check(block_model_of(Anchors::uniform, 300, {2, 1}, 0.1, 2), 11);
  check(block_model_of(Anchors::uniform, 300, {3}, 0.1, 2), 0);
}

TEST(CudaGram, SmallWithoutNoiseOneColumnIsAsExactAsOnTheCpu) {
  // Gaps from 1e-300 to 1e8, wherever chunks begin.
  Model m = model_of(Anchors::uniform, 700, 1, 0.0);
  std::mt19937_64 random(3);
  std::uniform_real_distribution<double> exponent(-300.0, 8.0);
  double x = 0.0;
  for (double& anchor : m.anchors) {
    anchor = x;
    x += std::pow(10.0, std::min(exponent(random), x == 0.0 ? -250.0 : 8.0));
    x = std::max(x, std::nextafter(anchor, HUGE_VAL));
  }
  const OnDeviceModel model(m);
  const OnDevice<double> got(700, 9.0);
  model.gram().log_variances(got.data(), kStream);
  Vector want(700);
  laplex::Gram(m.covariance()).log_variances(want.data());
  for (std::size_t k = 0; k < want.size(); ++k) {
    EXPECT_NEAR(got.host()[k], want[k], 1e-14 * (1 + std::fabs(want[k]))) << k;
  }
}

TEST(CudaGram, SmallTinyGapsWhereChunksBegin) {
  // Points 64 k - 1 and 64 k nearly or quite coincide, without noise. More columns than points at
  // one place: no matrix is singular.
  for (const double gap : {1e-6, 1e-12, 1e-15, 1e-40, 0.0}) {
    for (const std::int64_t width : {2, 3, 8}) {
      SCOPED_TRACE(gap);
      Model m = model_of(Anchors::uniform, 1000, width, 0.0);
      std::sort(m.anchors.begin(), m.anchors.end());
      for (std::int64_t k = 0; k < m.n; ++k) {
        m.anchors[at(k)] = static_cast<double>(k);
        m.noise[at(k)] = k % 64 == 63 || k % 64 == 0 ? 0.0 : 0.1;
        if (k % 64 == 0 && k > 0) {
          m.anchors[at(k)] = std::max(m.anchors[at(k - 1)] + gap, 0.0);
        }
      }
      for (double& lengthscale : m.lengthscale) {
        lengthscale *= 30.0;
      }
      check(m, 1, 1e-9);
    }
  }
}

TEST(CudaGram, SmallDenseLinesWithoutNoise) {
  for (const std::int64_t width : {1, 2, 4}) {
    Model m = model_of(Anchors::uniform, 500, width, 0.0);
    check(m, 1, width == 1 ? 1e-10 : 1e-6);
  }
}

TEST(CudaGram, SmallPointsThatWereNotObserved) {
  for (const std::int64_t width : {1, 2}) {
    Model m = model_of(Anchors::uniform, 400, width, 0.2);
    for (std::int64_t k = 0; k < m.n; ++k) {
      if (k % 3 == 0 || (k > 100 && k < 250)) {
        m.noise[at(k)] = std::numeric_limits<double>::infinity();
      }
    }
    check(m, 2);
  }
  for (const Blocks& blocks : {Blocks{2}, Blocks{3, 1}}) {
    Model m = block_model_of(Anchors::uniform, 400, blocks, 0.2);
    for (std::int64_t k = 0; k < m.n; ++k) {
      if (k % 3 == 0 || (k > 100 && k < 250)) {
        m.noise[at(k)] = std::numeric_limits<double>::infinity();
      }
    }
    check(m, 2);
  }
}

TEST(CudaGram, SmallWideGaps) {
  for (const Blocks& blocks : {Blocks{}, Blocks{2, 2}, Blocks{3, 2}}) {
    Model m = blocks.empty() ? model_of(Anchors::uniform, 300, 2, 0.1)
                             : block_model_of(Anchors::uniform, 300, blocks, 0.1);
    for (std::int64_t k = 0; k < m.n; ++k) {
      m.anchors[at(k)] += std::pow(10.0, static_cast<double>(k / 20));
    }
    m.anchors[0] = -1.7e308;
    m.anchors[299] = 1.7e308;
    check(m, 1);
  }
}

TEST(CudaGram, SmallDefaultsAndGradientsThatAreNotWanted) {
  const Model m = model_of(Anchors::uniform, 200, 1, 1.0);
  OnDeviceModel model(m);
  Covariance c;
  c.n = 200;
  c.anchors = model.covariance().anchors;
  const Gram gram(c, kStream);
  Covariance on_cpu = c;
  on_cpu.anchors = m.anchors.data();
  const laplex::Gram reference(on_cpu);
  Vector want(200), found(200, 9.0);
  reference.log_variances(want.data());
  const OnDevice<double> got(200, 9.0);
  gram.log_variances(got.data(), kStream);
  found = got.host();
  for (std::size_t k = 0; k < 200; ++k) {
    EXPECT_NEAR(found[k], want[k], 1e-13 * (1 + std::fabs(want[k])));
  }
  const Vector w = draw(200, 1);
  const OnDevice<double> weights(w);
  gram.vjp(nullptr, nullptr, 0, weights.data(), {nullptr, nullptr, nullptr, got.data()}, nullptr,
           kStream);
  reference.vjp(nullptr, nullptr, 0, w.data(), {nullptr, nullptr, nullptr, want.data()});
  found = got.host();
  for (std::size_t k = 0; k < 200; ++k) {
    EXPECT_NEAR(found[k], want[k], 1e-10 * (1 + std::fabs(want[k])));
  }
}

TEST(CudaGram, SmallResultsMayTakeTheInputsPlace) {
  const Model m = model_of(Anchors::uniform, 200, 2, 0.1);
  const OnDeviceModel model(m);
  const Gram gram = model.gram();
  const Vector b = draw(400, 1);
  const OnDevice<double> in(b), out(400, 9.0);
  gram.solve(in.data(), out.data(), 2, kStream);
  gram.solve(in.data(), in.data(), 2, kStream);
  EXPECT_EQ(in.host(), out.host());
}

TEST(CudaGram, SmallLentMemoryIsAllThereIs) {
  const Model m = model_of(Anchors::uniform, 300, 3, 0.1, 2);
  const OnDeviceModel model(m);
  const std::size_t storage_bytes = Gram::storage_bytes(2, 300, 3);
  const std::size_t scratch_bytes = Gram::scratch_bytes(2, 300, 3);
  const DeviceMemory storage(storage_bytes, kStream), scratch(scratch_bytes, kStream);
  const Gram gram(model.covariance(), kStream, {storage.data(), storage_bytes},
                  {scratch.data(), scratch_bytes});
  EXPECT_EQ(gram.nbytes(), static_cast<std::int64_t>(storage_bytes));
  const OnDevice<double> in(draw(1200, 1)), out(1200, 9.0), parameters(1800, 0.0);
  const std::size_t bytes = std::max(
      {gram.workspace_bytes(2), gram.workspace_bytes(0), gram.gradient_workspace_bytes(2, true)});
  const DeviceMemory workspace(bytes, kStream);
  const Memory lent{workspace.data(), bytes};
#if defined(LAPLEX_CUDA_EMULATION)
  const std::int64_t before = emulation::runtime().allocations;
  emulation::runtime().fails_after = 0;
#endif
  gram.solve(in.data(), out.data(), 2, kStream, lent);
  gram.logdet(out.data(), kStream, lent);
  gram.log_prob(in.data(), out.data(), 2, kStream, lent);
  const GramGradients all{parameters.data(), parameters.data() + 600, parameters.data(),
                          parameters.data()};
  gram.vjp(in.data(), in.data(), 2, nullptr, all, out.data(), kStream, lent);
  gram.vjp_tangent(in.data(), in.data(), 2, nullptr, {}, all, out.data(), nullptr, nullptr, kStream,
                   lent);
#if defined(LAPLEX_CUDA_EMULATION)
  emulation::runtime().fails_after = -1;
  EXPECT_EQ(emulation::runtime().allocations, before);
#endif
  EXPECT_THROW(gram.solve(in.data(), out.data(), 2, kStream, {workspace.data(), 16}), Error);
}

TEST(CudaGram, BytesAreThoseOfTheDocumentation) {
  constexpr std::int64_t n = 100000;
  for (const std::int64_t width : {1, 2, 8}) {
    const auto j = static_cast<double>(width);
    const auto a_point = [](std::size_t bytes) { return static_cast<double>(bytes) / n; };
    EXPECT_NEAR(a_point(Gram::storage_bytes(1, n, width)), 28 + 24 * j + j * (j + 1) / 5.2, 1.0);
#if defined(LAPLEX_CUDA_EMULATION)  // where CUB takes nothing
    EXPECT_NEAR(a_point(Gram::scratch_bytes(1, n, width)), 24 + (j + 2 * j * j) / 7.8, 1.0);
#endif
    if (width < 8) {
      const OnDeviceModel model(model_of(Anchors::uniform, n, width, 0.1));
      const Gram gram = model.gram();
      EXPECT_NEAR(a_point(gram.workspace_bytes(1)), 0.13 * j + 0.13, 0.1);
      const double first = a_point(gram.gradient_workspace_bytes(0, false));
      const double second = a_point(gram.gradient_workspace_bytes(0, true));
      EXPECT_NEAR(first, 8 + 36 * j + 4 * j * j, 2.0);
      EXPECT_NEAR(second / first, 2.9, 0.1);
    }
  }
  for (const Blocks& blocks :
       {Blocks{2}, Blocks{2, 2}, Blocks{2, 2, 2, 2}, Blocks{3}, Blocks{3, 3}}) {
    const Model m = block_model_of(Anchors::uniform, n, blocks, 0.1);
    const double j = static_cast<double>(m.width), b = blocks[0];
    const double bytes = static_cast<double>(Gram::storage_bytes(m.covariance())) / n;
    EXPECT_NEAR(bytes, 28 + 16 * j + 8 * j * (b + (b + 1) / 2) + j * (b + j + (j + 1) / 2) / 7.8,
                0.005 * bytes);
    if (m.width < 4) {
      const Gram gram = OnDeviceModel(m).gram();
      const double first = static_cast<double>(gram.gradient_workspace_bytes(0, false)) / n;
      const double second = static_cast<double>(gram.gradient_workspace_bytes(0, true)) / n;
      EXPECT_NEAR(first, blocks[0] == 2 ? 137 : 250, 1.0);
      EXPECT_NEAR(second / first, 3.3, 0.1);
    }
  }
}

TEST(CudaGram, SmallErrorsAreTheCpus) {
  const Model good = model_of(Anchors::uniform, 200, 2, 0.1, 3);
  Model m = good;
  m.anchors[250] = std::nan("");
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.loadings[5] = HUGE_VAL;
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.lengthscale[3] = 0.0;
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.noise[450] = -1.0;
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.noise[450] = std::nan("");
  expect_error(m, ErrorCode::invalid_argument);
  for (const std::int64_t width : {1, 2}) {
    for (const std::int64_t matrix : {0, 2}) {
      for (const std::int64_t first : {100, 126, 127, 128}) {  // a chunk begins at 128
        m = model_of(Anchors::uniform, 500, width, 0.2, 3);
        double* const anchors = m.anchors.data() + matrix * 500;
        std::sort(anchors, anchors + 500);
        for (std::int64_t k = first; k <= first + width; ++k) {
          anchors[k] = anchors[first];
          m.noise[at(matrix * 500 + k)] = 0.0;
        }
        expect_error(m, ErrorCode::singular);
      }
    }
  }
  m = model_of(Anchors::uniform, 200, 1, 0.0);
  m.loadings[77] = 0.0;
  expect_error(m, ErrorCode::singular);
}

TEST(CudaGram, SmallSingularWithLoadingsOfManySizes) {
  // More points at one place than columns, and what rounding leaves of the last variance is not
  // small.
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> exponent(-3.0, 3.0);
  for (const std::int64_t width : {2, 3, 8}) {
    for (const std::int64_t first : {40, 122, 125, 127, 128}) {  // a chunk begins at 128
      Model m = model_of(Anchors::uniform, 300, width, 0.2);
      std::sort(m.anchors.begin(), m.anchors.end());
      for (std::int64_t k = first; k <= first + width; ++k) {
        m.anchors[at(k)] = m.anchors[at(first)];
        m.noise[at(k)] = 0.0;
        const double size = std::pow(10.0, exponent(random));
        for (std::int64_t j = 0; j < width; ++j) {
          m.loadings[at(k * width + j)] *= size;
        }
      }
      expect_error(m, ErrorCode::singular);
    }
  }
}

TEST(CudaGram, SmallWidthsThatTheDeviceDoesNotHave) {
  EXPECT_NE(message_of([] { static_cast<void>(Gram::storage_bytes(1, 10, 9)); },
                       ErrorCode::invalid_argument)
                .find("1 to 8 columns, got 9"),
            std::string::npos);
  for (const Blocks& blocks : {Blocks{3, 2, 2}, Blocks{3, 3, 1}, Blocks{3, 1, 1, 1, 1}}) {
    const Model m = block_model_of(Anchors::uniform, 10, blocks, 0.2);
    const OnDeviceModel model(m);
    EXPECT_NE(message_of([&] { static_cast<void>(model.gram()); }, ErrorCode::invalid_argument)
                  .find("these blocks need 3 groups"),
              std::string::npos);
  }
}

#if defined(LAPLEX_CUDA_EMULATION)

TEST(CudaGram, SmallTheSameBitsInWhicheverOrderBlocksAndThreadsRun) {
  for (const Model& m : {model_of(Anchors::uniform, 2500, 2, 0.1, 2),
                         block_model_of(Anchors::uniform, 2500, {2, 1}, 0.1, 2)}) {
    const Results want = on_device(m, 3);
    for (const auto order : {emulation::Order::descending, emulation::Order::shuffled}) {
      emulation::settings().blocks = emulation::settings().threads = order;
      const Results got = on_device(m, 3);
      emulation::settings() = {};
      for (std::size_t k = 0; k < want.all.size(); ++k) {
        EXPECT_EQ(got.all[k].second, want.all[k].second) << want.all[k].first;
      }
    }
  }
}

TEST(CudaGram, SmallNothingIsFactorisedInACapture) {
  const OnDeviceModel model(model_of(Anchors::uniform, 100, 1, 0.1));
  const Gram gram = model.gram();
  emulation::runtime().capture = 1;
  EXPECT_THROW(static_cast<void>(model.gram()), Error);
  const OnDevice<double> out(100, 9.0);
  const std::int64_t waits = emulation::runtime().waits;
  gram.log_variances(out.data(), kStream);
  gram.solve(out.data(), out.data(), 1, kStream);
  EXPECT_EQ(emulation::runtime().waits, waits);
  emulation::runtime().capture.reset();
}

#endif

}  // namespace
}  // namespace laplex::cuda::tests
