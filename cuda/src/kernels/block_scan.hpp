/// Sums along the line, and their scan over the threads of a block in both directions.
#pragma once

#include "gap.hpp"

namespace laplex::cuda::detail {

/// What passes a place: for q = 0..P the sum of tau^q decay v over the sources before it (`before`)
/// and, if ties matter, apart from it the values of the sources at the place itself (`here`).
template <class S, int P, bool Ties>
struct Sums {
  static constexpr int kWords = P + 1 + (Ties ? 1 : 0);
  S word[kWords];

  __host__ __device__ S& here() { return word[Ties ? P + 1 : 0]; }
  __host__ __device__ const S& here() const { return word[Ties ? P + 1 : 0]; }
  __host__ __device__ void clear() {
    for (int q = 0; q < kWords; ++q) {
      word[q] = S{};
    }
  }
  /// Takes up a source at this place.
  __host__ __device__ void add(S value) { here() = here() + value; }
  /// Goes on to the next place.
  template <class T, class D>
  __host__ __device__ void cross(const Gap<T, D, P>& gap) {
    if constexpr (Ties) {
      if (!gap.zero) {
        word[0] = word[0] + here();
        here() = S{};
        move<P>(word, gap);
      }
    } else {
      move<P>(word, gap);
    }
  }
  /// Adds the sums of others that end at this place.
  __host__ __device__ void join(const Sums& other) {
    for (int q = 0; q < kWords; ++q) {
      word[q] = word[q] + other.word[q];
    }
  }
  /// Goes on to the next place, and adds the sums of the places since then.
  template <class T, class D>
  __host__ __device__ void append(const Gap<T, D, P>& gap, const Sums& since) {
    cross(gap);
    join(since);
  }
};

/// A stretch of the line as a scan sees it: the sums at its end, and the way from the end of the
/// stretch before. Decays between ends come from their places: products of rounded decays drift. In
/// float, where the sums' double has digits to spare, they are products.
template <class T, class D, class S, int P, bool Ties>
struct Node {
  using Value = Sums<S, P, Ties>;
  static constexpr bool kProducts = Gap<T, D, P>::kPolynomial;
  static constexpr bool kPlaces = !kProducts || Ties;

  Value sums;
  D travel;  ///< with kProducts: the decay across the stretch
  T place;   ///< with kPlaces: where it ends

  __device__ static Node empty(T place) {
    Node node;
    node.sums.clear();
    node.travel = D{};
    if constexpr (kProducts) {
      node.travel = 1.0;
    }
    node.place = place;
    return node;
  }

  /// From `place` here.
  __device__ Gap<T, D, P> gap_from(T start, const LineRate& rate) const {
    if constexpr (kProducts) {
      Gap<T, D, P> gap{};
      gap.factor = travel;  // never negative: the decay itself
      gap.zero = Ties && start == place;
      if constexpr (P > 0) {
        gap.tau = std::fabs(static_cast<double>(start) - static_cast<double>(place)) * rate.inverse;
      }
      return gap;
    } else {
      return start > place ? gap_between<T, D, P>(start, place, rate)
                           : gap_between<T, D, P>(place, start, rate);
    }
  }

  /// This stretch with the one before it.
  __device__ Node after(const Node& earlier, const LineRate& rate) const {
    Node joined = *this;
    joined.sums = earlier.sums;
    joined.sums.append(gap_from(earlier.place, rate), sums);
    if constexpr (kProducts) {
      joined.travel = earlier.travel * travel;
    }
    return joined;
  }
};

template <bool Up, class V>
__device__ inline V shuffled(V value, unsigned delta) {
  constexpr unsigned kAll = 0xffffffffU;
  if constexpr (Up) {
    return __shfl_up_sync(kAll, value, delta);
  } else {
    return __shfl_down_sync(kAll, value, delta);
  }
}
template <bool Up>
__device__ inline Complex shuffled(Complex value, unsigned delta) {
  return {shuffled<Up>(value.re, delta), shuffled<Up>(value.im, delta)};
}
template <bool Up>
__device__ inline Cumulated shuffled(Cumulated value, unsigned delta) {
  return {shuffled<Up>(value.decayed, delta), shuffled<Up>(value.whole, delta)};
}
template <bool Up, class T, class D, class S, int P, bool Ties>
__device__ inline Node<T, D, S, P, Ties> shuffled(const Node<T, D, S, P, Ties>& node,
                                                  unsigned delta) {
  Node<T, D, S, P, Ties> other = node;
  for (int q = 0; q < Sums<S, P, Ties>::kWords; ++q) {
    other.sums.word[q] = shuffled<Up>(node.sums.word[q], delta);
  }
  if constexpr (Node<T, D, S, P, Ties>::kProducts) {
    other.travel = shuffled<Up>(node.travel, delta);
  }
  if constexpr (Node<T, D, S, P, Ties>::kPlaces) {
    other.place = shuffled<Up>(node.place, delta);
  }
  return other;
}

/// Each lane's stretch with all before it in the warp: those of lower lanes, or (Up = false)
/// higher.
template <bool Up, class N>
__device__ inline N warp_scan(N node, const LineRate& rate) {
  const unsigned lane = threadIdx.x % kWarp;
  for (unsigned delta = 1; delta < kWarp; delta *= 2) {
    const N other = shuffled<Up>(node, delta);
    if (Up ? lane >= delta : lane + delta < kWarp) {
      node = node.after(other, rate);
    }
  }
  return node;
}

/// The scan over a block of NT threads, from the left and from the right at once.
template <int NT, class N>
class BlockScan {
 public:
  using Value = typename N::Value;
  static constexpr int kWarps = NT / kWarp;
  static constexpr std::size_t kSharedBytes = (2 * kWarps * sizeof(N) + 15) / 16 * 16;

  /// `left` ends where the thread's items end, `right` where they begin; the block's begin at `low`
  /// and end at `high`. `shared` holds kSharedBytes.
  __device__ BlockScan(const N& left, const N& right, decltype(N::place) low,
                       decltype(N::place) high, const LineRate& rate, unsigned char* shared)
      : low_(low),
        high_(high),
        rate_(rate),
        left_(warp_scan<true>(left, rate)),
        right_(warp_scan<false>(right, rate)),
        from_left_(reinterpret_cast<N*>(shared)),
        from_right_(from_left_ + kWarps) {}

  /// Writes the block's own sums: from the left at `high`, from the right at `low`. Instead of
  /// scan().
  __device__ void totals(Value* out) const {
    const unsigned lane = threadIdx.x % kWarp;
    const unsigned warp = threadIdx.x / kWarp;
    if (lane == kWarp - 1) {
      from_left_[warp] = left_;
    }
    if (lane == 0) {
      from_right_[warp] = right_;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      N l = from_left_[0];
      N r = from_right_[kWarps - 1];
      for (int w = 1; w < kWarps; ++w) {
        l = from_left_[w].after(l, rate_);
        r = from_right_[kWarps - 1 - w].after(r, rate_);
      }
      out[0] = l.sums;
      out[1] = r.sums;
    }
  }

  /// Replaces what comes to the block from the left at `low` and from the right at `high` by what
  /// comes to the thread. `begin` and `end` are where the thread's items begin and end.
  __device__ void scan(Value& left, Value& right, decltype(N::place) begin,
                       decltype(N::place) end) const {
    const unsigned lane = threadIdx.x % kWarp;
    const unsigned warp = threadIdx.x / kWarp;
    N l = shuffled<true>(left_, 1);
    N r = shuffled<false>(right_, 1);
    if (lane == 0) {
      l = N::empty(begin);
    }
    if (lane == kWarp - 1) {
      r = N::empty(end);
    }
    auto low = low_;
    auto high = high_;
    if constexpr (kWarps > 1) {
      if (lane == kWarp - 1) {
        from_left_[warp] = left_;
      }
      if (lane == 0) {
        from_right_[warp] = right_;
      }
      __syncthreads();
      if (warp == 0) {
        scan_warps(left, right);
      }
      __syncthreads();
      left = from_left_[warp].sums;
      right = from_right_[warp].sums;
      low = from_left_[warp].place;
      high = from_right_[warp].place;
    }
    left.append(l.gap_from(low, rate_), l.sums);
    right.append(r.gap_from(high, rate_), r.sums);
  }

 private:
  /// In the first warp: from each warp's own stretch to what comes to it, at its places.
  __device__ void scan_warps(const Value& left, const Value& right) const {
    const unsigned lane = threadIdx.x;
    N l = lane < kWarps ? from_left_[lane] : N::empty(high_);
    N r = lane < kWarps ? from_right_[lane] : N::empty(high_);
    l = shuffled<true>(warp_scan<true>(l, rate_), 1);
    r = shuffled<false>(warp_scan<false>(r, rate_), 1);
    if (lane == 0) {
      l = N::empty(low_);
    }
    if (lane >= kWarps - 1) {
      r = N::empty(high_);
    }
    if (lane < kWarps) {
      Value to_left = left;
      to_left.append(l.gap_from(low_, rate_), l.sums);
      Value to_right = right;
      to_right.append(r.gap_from(high_, rate_), r.sums);
      from_left_[lane].sums = to_left;
      from_left_[lane].place = l.place;
      from_right_[lane].sums = to_right;
      from_right_[lane].place = r.place;
    }
  }

  decltype(N::place) low_;
  decltype(N::place) high_;
  const LineRate& rate_;
  N left_;
  N right_;
  N* from_left_;
  N* from_right_;
};

/// The sum of one number a thread over the block, in a fixed order; for thread 0.
template <int NT>
__device__ inline double block_sum(double value, unsigned char* shared) {
  auto* const sums = reinterpret_cast<double*>(shared);
  for (unsigned delta = kWarp / 2; delta > 0; delta /= 2) {
    value = value + shuffled<false>(value, delta);
  }
  __syncthreads();
  if (threadIdx.x % kWarp == 0) {
    sums[threadIdx.x / kWarp] = value;
  }
  __syncthreads();
  double total = 0.0;
  for (int w = 0; w < NT / kWarp; ++w) {
    total = total + sums[w];
  }
  return total;
}

}  // namespace laplex::cuda::detail
