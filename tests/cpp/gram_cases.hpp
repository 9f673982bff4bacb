/// Random covariances on a line, shared by the tests of the CPU and of the GPU.
#pragma once

#include "cases.hpp"

#include <laplex/gram.hpp>

#include <algorithm>
#include <numeric>

namespace laplex::tests {

using Vector = std::vector<double>;

inline std::size_t at(std::int64_t k) {
  return static_cast<std::size_t>(k);
}

inline Vector draw(std::int64_t count, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Vector v(at(count));
  std::generate(v.begin(), v.end(), [&] { return normal(random); });
  return v;
}

/// A covariance and the memory it refers to.
struct Model {
  std::int64_t batch = 1, n = 0, width = 1;
  Vector anchors, lengthscale, loadings, noise;
  Vector weights;           ///< empty: none
  std::vector<int> blocks;  ///< empty: all of size 1

  [[nodiscard]] Covariance covariance(bool ties_backwards = false) const {
    Covariance c;
    c.batch = batch;
    c.n = n;
    c.width = width;
    c.anchors = anchors.data();
    c.lengthscale = lengthscale.data();
    c.loadings = loadings.data();
    c.noise = noise.data();
    c.weights = weights.empty() ? nullptr : weights.data();
    c.blocks = blocks.data();
    c.num_blocks = static_cast<std::int64_t>(blocks.size());
    c.ties_backwards = ties_backwards;
    return c;
  }
};

inline Model make_model(Anchors kind, std::int64_t n, std::int64_t width, double noise,
                        std::uint64_t seed, std::int64_t batch = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  Model m;
  m.batch = batch;
  m.n = n;
  m.width = width;
  m.anchors = draw_anchors<double>(kind, batch * n, random);
  for (std::int64_t k = 0; k < batch * width; ++k) {
    m.lengthscale.push_back(0.2 + uniform(random));
  }
  for (std::int64_t k = 0; k < batch * n * width; ++k) {
    m.loadings.push_back(normal(random));
  }
  for (std::int64_t k = 0; k < batch * n; ++k) {
    m.noise.push_back(noise * (0.5 + uniform(random)));
  }
  return m;
}

/// The same of blocks, with weights.
inline Model make_block_model(Anchors kind, std::int64_t n, const std::vector<int>& blocks,
                              double noise, std::uint64_t seed, std::int64_t batch = 1) {
  Model m =
      make_model(kind, n, std::accumulate(blocks.begin(), blocks.end(), 0), noise, seed, batch);
  m.blocks = blocks;
  std::mt19937_64 random(seed + 1);
  std::uniform_real_distribution<double> uniform;
  for (std::int64_t k = 0; k < batch * m.width; ++k) {
    m.weights.push_back(uniform(random));
  }
  return m;
}

}  // namespace laplex::tests
