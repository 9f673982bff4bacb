#include "gram_blocks.hpp"

#include "parallel.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

namespace laplex::detail {
namespace {

constexpr std::int64_t kGrain = 4096;

std::vector<int> sizes_of(const Covariance& c) {
  if (c.num_blocks > 0) {
    return {c.blocks, c.blocks + c.num_blocks};
  }
  return std::vector<int>(static_cast<std::size_t>(c.width), 1);
}

}  // namespace

void check_blocks(const Covariance& c) {
  std::int64_t columns = 0;
  for (std::int64_t k = 0; k < c.num_blocks; ++k) {
    if (c.blocks[k] < 1 || c.blocks[k] > 3) {
      invalid("the blocks of a covariance have 1, 2 or 3 columns, but block " + std::to_string(k) +
              " has " + std::to_string(c.blocks[k]));
    }
    columns += c.blocks[k];
    if (c.blocks[k] > 1 && c.weights == nullptr) {
      invalid("weights is null, which stands for 1 only where all blocks have one column");
    }
  }
  if (c.num_blocks > 0 && columns != c.width) {
    invalid("the blocks have " + std::to_string(columns) + " columns, but the covariance has " +
            std::to_string(c.width));
  }
  for (std::int64_t k = 0; c.weights != nullptr && k < c.batch * c.width; ++k) {
    if (!std::isfinite(c.weights[k])) {
      not_finite("weights", c.batch, c.width, k, c.weights[k]);
    }
  }
}

std::vector<char> used_lengthscales(const Covariance& c) {
  std::vector<char> used;
  for (const int size : sizes_of(c)) {
    for (int k = 0; k < size; ++k) {
      used.push_back(size < 3 || k == 0 ? 1 : 0);
    }
  }
  return used;
}

Layout lay_out(const Covariance& c) {
  const std::vector<int> sizes = sizes_of(c);
  Layout layout;
  layout.block = sizes.empty() ? 1 : *std::max_element(sizes.begin(), sizes.end());
  layout.block = layout.block == 1 && c.weights != nullptr ? 2 : layout.block;
  // The largest first, each in the first slot that has room.
  std::vector<int> filled;
  for (int size = 3; size > 0; --size) {
    int column = 0;
    for (const int each : sizes) {
      if (each == size) {
        const auto slot = std::find_if(filled.begin(), filled.end(),
                                       [&](int used) { return used + size <= layout.block; });
        const auto number = static_cast<int>(slot - filled.begin());
        if (slot == filled.end()) {
          filled.push_back(0);
        }
        int& used = filled[static_cast<std::size_t>(number)];
        layout.parts.push_back({size, column, number * layout.block + used});
        used += size;
      }
      column += each;
    }
  }
  layout.columns = compiled_columns(layout.block, static_cast<int>(filled.size()) * layout.block);
  layout.column.assign(static_cast<std::size_t>(layout.columns), -1);
  for (const Part& part : layout.parts) {
    for (int k = 0; k < part.size; ++k) {
      layout.column[static_cast<std::size_t>(part.first + k)] = part.column + k;
    }
  }
  return layout;
}

void fill_transitions(const Layout& layout, std::int64_t n, int threads, GramLine& line) {
  with_shape(layout.block, layout.columns, [&](auto shape) {
    constexpr int J = decltype(shape)::columns;
    constexpr int B = decltype(shape)::block;
    constexpr int kStride = kTransitionStride<J, B>;
    if constexpr (B > 1) {
      line.transition.reset(n * kStride);
      line.state_variance.assign(kBlockPacked<J, B>, 0.0);
      std::vector<double> none(J * B);
      for (const Part& part : layout.parts) {
        const double* const lengthscale = &line.lengthscale[static_cast<std::size_t>(part.first)];
        const double* const weights = &line.weights[static_cast<std::size_t>(part.first)];
        const double sizes[2] = {std::fabs(weights[0]),
                                 part.size == 2 ? std::fabs(weights[1]) : 0.0};
        const auto endless = scaled_gap<double>(line, 0, part.size, lengthscale, 0.0);
        double table[kLargestTransition];
        find_transition(part.size, endless, endless.x, lengthscale, table);
        place<B>(part, table, sizes, none.data(), line.state_variance.data());
      }
      parallel_ranges(threads, n, kGrain, [&](std::int64_t begin, std::int64_t end) {
        std::fill(&line.transition[begin * kStride],
                  &line.transition[begin * kStride] + (end - begin) * kStride, 0.0);
        for (const Part& part : layout.parts) {
          const double* const lengthscale = &line.lengthscale[static_cast<std::size_t>(part.first)];
          const double* const weights = &line.weights[static_cast<std::size_t>(part.first)];
          double table[kLargestTransition];
          Distance last{-1.0, 0.0};
          for (std::int64_t k = begin; k < end; ++k) {
            const Distance here =
                k > 0 ? distance(line.anchors[k], line.anchors[k - 1]) : Distance{-1.0, 0.0};
            if (k == begin || here.high != last.high || here.low != last.low) {
              const auto gap = scaled_gap<double>(line, k, part.size, lengthscale, 0.0);
              find_transition(part.size, gap, gap.x, lengthscale, table);
            }
            last = here;
            double* const to = &line.transition[k * kStride];
            place<B>(part, table, weights, to, to + J * B);
          }
        }
      });
    }
  });
}

}  // namespace laplex::detail
