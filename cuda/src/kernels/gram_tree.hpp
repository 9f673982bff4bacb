/// Linear recurrences from chunk to chunk: up the tree sums are formed, down it they are spread.
///
/// A state that passes a node is moved by the node's transition, which is the same for all vectors,
/// and gains what the node's own points gave it. The orders of all sums are those of the tree.
#pragma once

#include "gram_line.hpp"

namespace laplex::cuda::detail {

/// Processes of B columns, each for itself.
template <class N_, int J, int B>
struct Fading {
  using N = N_;
  static constexpr int kTransition = J * B;
  static constexpr int kState = J;
  __device__ static void move(const N* decays, bool backwards, N* state) {
    if constexpr (B == 1) {
      for (int j = 0; j < J; ++j) {
        state[j] = decays[j] * state[j];
      }
    } else if (backwards) {
      laplex::detail::carry_state<J, B, true>(decays, state);
    } else {
      laplex::detail::carry_state<J, B>(decays, state);
    }
  }
};

/// decays <- next decays, of the transitions of one block, [B, B].
template <int B, class N>
__device__ inline void follow(const N* next, N* decays) {
  if constexpr (B == 1) {
    decays[0] = decays[0] * next[0];
  } else {
    for (int c = 0; c < B; ++c) {
      laplex::detail::carry_state<B, B>(next, decays + c, B);
    }
  }
}

template <int J, int B, class N>
__device__ inline void clear_decays(N* decays) {
  for (int k = 0; k < J * B; ++k) {
    decays[k] = N(k % B == k / B % B ? 1.0 : 0.0);
  }
}

/// state <- M state, or backwards M^T state.
template <int J>
struct Mapping {
  using N = double;
  static constexpr int kTransition = J * J;
  static constexpr int kState = J;
  __device__ static void move(const double* map, bool backwards, double* state) {
    double moved[J];
    for (int r = 0; r < J; ++r) {
      moved[r] = 0.0;
      for (int c = 0; c < J; ++c) {
        moved[r] += map[backwards ? c * J + r : r * J + c] * state[c];
      }
    }
    for (int r = 0; r < J; ++r) {
      state[r] = moved[r];
    }
  }
};

/// state <- M state M^T, or backwards M^T state M, of a packed symmetric matrix.
template <class N_, int J>
struct Congruence {
  using N = N_;
  static constexpr int kTransition = J * J;
  static constexpr int kState = kPacked<J>;
  __device__ static void move(const N* map, bool backwards, N* state) {
    N half[J * J];
    for (int r = 0; r < J; ++r) {
      for (int c = 0; c < J; ++c) {
        N sum = N(0.0);
        for (int k = 0; k < J; ++k) {
          sum += map[backwards ? k * J + r : r * J + k] * state[packed(k, c)];
        }
        half[r * J + c] = sum;
      }
    }
    for (int c = 0; c < J; ++c) {
      for (int r = 0; r <= c; ++r) {
        N sum = N(0.0);
        for (int k = 0; k < J; ++k) {
          sum += half[r * J + k] * map[backwards ? k * J + c : c * J + k];
        }
        state[packed(r, c)] = sum;
      }
    }
  }
};

template <class N>
struct SpreadJob {
  GramTree tree;
  std::int64_t vectors;  ///< of all lines
  std::int64_t rows;     ///< of a line
  int level;
  bool backwards;        ///< from the line's end to its beginning
  const N* transitions;  ///< [lines, tree, kTransition]
  N* states;             ///< [vectors, tree, kState]
};

/// The children of node `node` of the level above: calls f(child) in the order of the recurrence.
template <class F>
__device__ inline void for_children(const GramTree& tree, int level, std::int64_t node,
                                    bool backwards, const F& f) {
  const std::int64_t first = node * kFanout;
  const std::int64_t rest = tree.nodes[level] - first;
  const std::int64_t count = rest < kFanout ? rest : kFanout;
  for (std::int64_t k = 0; k < count; ++k) {
    f(backwards ? first + count - 1 - k : first + k);
  }
}

/// What a node's points give to the state, from what each of its children's do; a thread a node of
/// the level above job.level.
template <class Op>
__global__ void __launch_bounds__(kWalkThreads) sum_up_kernel(SpreadJob<typename Op::N> job) {
  using N = typename Op::N;
  const std::int64_t above = job.tree.nodes[job.level + 1];
  const std::int64_t number = walk_number();
  if (number >= job.vectors * above) {
    return;
  }
  const std::int64_t vector = number / above;
  const std::int64_t node = number % above;
  N state[Op::kState];
  for (N& x : state) {
    x = N(0.0);
  }
  for_children(job.tree, job.level, node, job.backwards, [&](std::int64_t child) {
    const N* const given =
        job.states + job.tree.at(vector, job.level, child) * std::int64_t(Op::kState);
    Op::move(job.transitions + job.tree.at(vector / job.rows, job.level, child) * Op::kTransition,
             job.backwards, state);
    for (int k = 0; k < Op::kState; ++k) {
      state[k] += given[k];
    }
  });
  N* const out = job.states + job.tree.at(vector, job.level + 1, node) * Op::kState;
  for (int k = 0; k < Op::kState; ++k) {
    out[k] = state[k];
  }
}

/// From the state that comes to a node, the states that come to its children, in place of what they
/// gave; a thread a node of the level above job.level, to whose top nothing comes.
template <class Op>
__global__ void __launch_bounds__(kWalkThreads) spread_kernel(SpreadJob<typename Op::N> job) {
  using N = typename Op::N;
  const bool top = job.level + 1 == job.tree.levels;
  const std::int64_t above = top ? 1 : job.tree.nodes[job.level + 1];
  const std::int64_t number = walk_number();
  if (number >= job.vectors * above) {
    return;
  }
  const std::int64_t vector = number / above;
  const std::int64_t node = number % above;
  N state[Op::kState];
  for (int k = 0; k < Op::kState; ++k) {
    state[k] = top ? N(0.0) : job.states[job.tree.at(vector, job.level + 1, node) * Op::kState + k];
  }
  for_children(job.tree, job.level, node, job.backwards, [&](std::int64_t child) {
    N* const place = job.states + job.tree.at(vector, job.level, child) * Op::kState;
    N given[Op::kState];
    for (int k = 0; k < Op::kState; ++k) {
      given[k] = place[k];
      place[k] = state[k];
    }
    Op::move(job.transitions + job.tree.at(vector / job.rows, job.level, child) * Op::kTransition,
             job.backwards, state);
    for (int k = 0; k < Op::kState; ++k) {
      state[k] += given[k];
    }
  });
}

/// States that came from chunks, at level 0, become those that come to them.
template <class Op>
void spread(const GramTree& tree, std::int64_t lines, std::int64_t rows, bool backwards,
            const typename Op::N* transitions, typename Op::N* states, Stream stream) {
  SpreadJob<typename Op::N> job{tree, lines * rows, rows, 0, backwards, transitions, states};
  for (; job.level + 1 < tree.levels; ++job.level) {
    launch(sum_up_kernel<Op>, one_walk_each(job.vectors * tree.nodes[job.level + 1]), stream, job);
  }
  for (; job.level >= 0; --job.level) {
    const bool top = job.level + 1 == tree.levels;
    launch(spread_kernel<Op>, one_walk_each(job.vectors * (top ? 1 : tree.nodes[job.level + 1])),
           stream, job);
  }
}

/// The transitions across the nodes of a level from those across their children.
template <class N>
struct ComposeJob {
  GramTree tree;
  std::int64_t lines;
  int level;
  N* decays;  ///< [lines, tree, J, B]
  N* maps;    ///< [lines, tree, J, J]
};

template <class N, int J, int B>
__global__ void __launch_bounds__(kWalkThreads) compose_kernel(ComposeJob<N> job) {
  const std::int64_t above = job.tree.nodes[job.level + 1];
  const std::int64_t number = walk_number();
  if (number >= job.lines * above) {
    return;
  }
  const std::int64_t line = number / above;
  const std::int64_t node = number % above;
  N decay[J * B];
  N map[J * J];
  for (int k = 0; k < J * J; ++k) {
    map[k] = N(k % (J + 1) == 0 ? 1.0 : 0.0);
  }
  clear_decays<J, B>(decay);
  for_children(job.tree, job.level, node, false, [&](std::int64_t child) {
    const std::int64_t at = job.tree.at(line, job.level, child);
    for (int c = 0; c < J; ++c) {
      if (c % B == 0) {
        follow<B>(job.decays + (at * J + c) * B, decay + c * B);
      }
      N column[J];
      for (int r = 0; r < J; ++r) {
        column[r] = N(0.0);
        for (int k = 0; k < J; ++k) {
          column[r] += job.maps[(at * J + r) * J + k] * map[k * J + c];
        }
      }
      for (int r = 0; r < J; ++r) {
        map[r * J + c] = column[r];
      }
    }
  });
  const std::int64_t at = job.tree.at(line, job.level + 1, node);
  for (int k = 0; k < J * B; ++k) {
    job.decays[at * J * B + k] = decay[k];
  }
  for (int k = 0; k < J * J; ++k) {
    job.maps[at * J * J + k] = map[k];
  }
}

template <class N, int J, int B>
void compose(const GramTree& tree, std::int64_t lines, N* decays, N* maps, Stream stream) {
  for (int level = 0; level + 1 < tree.levels; ++level) {
    launch(compose_kernel<N, J, B>, one_walk_each(lines * tree.nodes[level + 1]), stream,
           ComposeJob<N>{tree, lines, level, decays, maps});
  }
}

}  // namespace laplex::cuda::detail
