// Covariances of processes whose state is 2 or 3 numbers on the device against the CPU's.
#include "gram_results.hpp"

namespace laplex::cuda::tests {
namespace {

/// One of each compiled shape and of each way to fill it.
const Blocks kBlocks[] = {
    {1}, {2},    {1, 1},    {2, 2}, {1, 2, 1},   {2, 2, 2}, {2, 2, 2, 2}, {1, 1, 1, 2, 2, 1},
    {3}, {3, 1}, {1, 2, 3}, {3, 3}, {3, 1, 1, 1}};

TEST(CudaGramBlocks, SmallBlocksAreAsOnTheCpu) {
  for (const Anchors kind :
       {Anchors::uniform, Anchors::grid, Anchors::equal, Anchors::skewed, Anchors::huge}) {
    for (const Blocks& blocks : kBlocks) {
      SCOPED_TRACE("anchors " + std::to_string(static_cast<int>(kind)) + ", " +
                   std::to_string(blocks.size()) + " blocks, the first of " +
                   std::to_string(blocks[0]));
      check(block_model_of(kind, 150, blocks, 0.3, 2), 2);
    }
  }
}

TEST(CudaGramBlocks, SmallNegativeWeights) {
  // In turn, as passages have roots.
  for (const Blocks& blocks : {Blocks{1, 1}, Blocks{2, 1}, Blocks{3, 1}, Blocks{2, 2}}) {
    Model m = block_model_of(Anchors::uniform, 300, blocks, 1.0, 2);
    for (std::int64_t k = 0; k < m.n * m.batch; ++k) {
      m.noise[at(k)] += 4.0;  // the sum is positive definite
      for (std::int64_t j = 0; j < m.width; ++j) {
        m.loadings[at(k * m.width + j)] *= 0.1;
      }
    }
    for (std::int64_t b = 0; b < m.batch; ++b) {
      m.weights[at((b + 1) * m.width - 1)] *= -1.0;
    }
    check(m, 2);
  }
}

TEST(CudaGramBlocks, SmallTinyGapsOfBlocksWhereChunksBegin) {
  // The same, where the variance given the state before falls with the third or fifth power of the
  // gap.
  for (const double gap : {1e-3, 1e-5, 1e-15, 1e-40, 0.0}) {
    for (const Blocks& blocks : {Blocks{2}, Blocks{3}, Blocks{2, 2}, Blocks{3, 1}}) {
      SCOPED_TRACE(gap);
      Model m = block_model_of(Anchors::uniform, 1000, blocks, 0.0);
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

TEST(CudaGramBlocks, SmallSmoothProcessesWithoutNoise) {
  // Of an oscillator and of a Matern-5/2 process, observed by itself.
  for (const int size : {2, 3}) {
    for (const double gap : {0.1, 1e-2}) {
      SCOPED_TRACE("size " + std::to_string(size) + ", gap " + std::to_string(gap));
      Model m = block_model_of(Anchors::uniform, 400, {size}, 0.0);
      std::sort(m.anchors.begin(), m.anchors.end());
      for (std::int64_t k = 0; k < m.n; ++k) {
        m.anchors[at(k)] = gap * (static_cast<double>(k) + 0.3 * std::sin(static_cast<double>(k)));
        for (std::int64_t j = 0; j < m.width; ++j) {
          m.loadings[at(k * m.width + j)] = j == 0 ? 1.0 : 0.0;
        }
      }
      m.lengthscale = size == 2 ? Vector{1.0, 0.8} : Vector{1.0, 1.0, 1.0};
      m.weights = size == 2 ? Vector{0.0, 1.0} : Vector{1.0, 0.0, 0.0};
      const OnDevice<double> got(400, 9.0);
      const OnDeviceModel model(m);
      model.gram().log_variances(got.data(), kStream);
      Vector want(400);
      laplex::Gram(m.covariance()).log_variances(want.data());
      // A few roundings of the prior variance, which is about 1, as a part of the least variance.
      const double bound = 16 * 0x1p-52 / std::exp(*std::min_element(want.begin(), want.end()));
      for (std::size_t k = 0; k < want.size(); ++k) {
        ASSERT_NEAR(got.host()[k], want[k], bound) << k;
      }
    }
  }
}

TEST(CudaGramBlocks, SmallOscillatorsOfAnyDamping) {
  for (const double ratio : {1e-6, 1e-2, 0.999999, 1.0, 1.000001, 1e2, 1e6}) {
    SCOPED_TRACE(ratio);
    Model m = block_model_of(Anchors::uniform, 300, {2, 1}, 0.3);
    m.lengthscale[1] = ratio * m.lengthscale[0];
    check(m, 1, 1e-10);
  }
}

TEST(CudaGramBlocks, SmallBytesOfBlocks) {
  const Model m = block_model_of(Anchors::uniform, 300, {2, 1}, 0.1, 2);
  const OnDeviceModel model(m);
  const std::size_t bytes = Gram::storage_bytes(model.covariance());
  EXPECT_EQ(model.gram().nbytes(), static_cast<std::int64_t>(bytes));
  EXPECT_GT(bytes, Gram::storage_bytes(2, 300, 3));
  const Model plain = model_of(Anchors::uniform, 300, 3, 0.1, 2);
  EXPECT_EQ(Gram::storage_bytes(plain.covariance()), Gram::storage_bytes(2, 300, 3));
  EXPECT_EQ(Gram::scratch_bytes(plain.covariance()), Gram::scratch_bytes(2, 300, 3));
}

TEST(CudaGramBlocks, SmallErrorsOfBlocksAreTheCpus) {
  const Model good = block_model_of(Anchors::uniform, 500, {2, 1}, 0.2, 3);
  Model m = good;
  m.weights[4] = std::nan("");
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.lengthscale[4] = -1.0;
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.blocks = {2, 2};
  expect_error(m, ErrorCode::invalid_argument);
  m.blocks = {4};
  expect_error(m, ErrorCode::invalid_argument);
  m = good;
  m.weights.clear();
  expect_error(m, ErrorCode::invalid_argument);
  m = block_model_of(Anchors::uniform, 50, {3}, 0.2);
  m.lengthscale[1] = m.lengthscale[2] = -1.0;  // not used
  static_cast<void>(OnDeviceModel(m).gram());
  for (const Blocks& blocks : {Blocks{2}, Blocks{3}, Blocks{2, 1}}) {
    for (const std::int64_t first : {100, 126, 127, 128}) {  // a chunk begins at 128
      SCOPED_TRACE(first);
      m = block_model_of(Anchors::uniform, 500, blocks, 0.2, 2);
      double* const anchors = m.anchors.data() + 500;
      std::sort(anchors, anchors + 500);
      for (std::int64_t k = first; k <= first + m.width; ++k) {
        anchors[k] = anchors[first];
        m.noise[at(500 + k)] = 0.0;
      }
      expect_error(m, ErrorCode::singular);
    }
  }
}

}  // namespace
}  // namespace laplex::cuda::tests
