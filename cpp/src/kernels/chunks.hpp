/// The scan over cells, chunk by chunk (chunks.hpp of the folder above). A step of a chunk waits
/// for the one before, so eight lanes run side by side: those of a wide block, or eight chunks.
#pragma once

#include "small_cells.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

/// One step along the line of an element of P numbers, or of a pair that turns.
template <int P, bool Turn, class V>
LAPLEX_INLINE void decay_by(const V* decay, V* sum) {
  if constexpr (Turn) {
    const V re = decay[0] * sum[0] - decay[1] * sum[1];
    sum[1] = decay[0] * sum[1] + decay[1] * sum[0];
    sum[0] = re;
  } else {
    for (int p = 0; p < P; ++p) {
      sum[p] = decay[0] * sum[p];
    }
  }
}

/// N numbers of each of eight chunks, `stride` from one to the next, as packs of the eight. Whole
/// packs are read.
template <int N>
LAPLEX_INLINE void load_columns(const double* from, std::int64_t stride, Pack<double>* x) {
  for (int t = 0; t < N; t += 8) {
    for (int c = 0; c < 8; ++c) {
      x[t + c] = load(from + c * stride + t);
    }
    transpose8(x + t);
  }
}

template <int N>
LAPLEX_INLINE void store_columns(double* to, std::int64_t stride, Pack<double>* x) {
  for (int t = 0; t < N; t += 8) {
    transpose8(x + t);
    for (int c = 0; c < 8; ++c) {
      double* const at = to + c * stride + t;
      if constexpr (N % 8 == 0) {
        store(at, x[t + c]);
      } else {
        double whole[8];
        store(whole, x[t + c]);
        std::memcpy(at, whole, N * sizeof(double));
      }
    }
  }
}

/// One level, with chunks of Size nodes. On the lowest one a scan from the right runs through the
/// arrays backwards.
template <Form F, bool Wide, int Size, bool Reverse>
class Chunks {
 public:
  static constexpr int P = planes_of(F);
  static constexpr bool kTurn = F == Form::oscillating;
  static constexpr int Q = kTurn ? 2 : 1;
  static constexpr std::int64_t W = Wide ? kRows : 1;

  explicit Chunks(const ChunkLevel& level) : level_(level) {}

  void sum(std::int64_t begin, std::int64_t end, double* totals) const {
    std::int64_t chunk = begin;
    if constexpr (!Wide) {
      for (; chunk < in_eights(begin, end); chunk += 8) {
        Eight nodes;
        load_eight(chunk, nodes);
        Pack<double> sum[P];
        for (int p = 0; p < P; ++p) {
          sum[p] = splat(0.0);
        }
        run_eight(nodes, sum);
        store_each<P>(totals + chunk * P, sum);
      }
    }
    for (; chunk < end; ++chunk) {
      Number sum[P];
      for (int p = 0; p < P; ++p) {
        sum[p] = same(0.0);
      }
      run_one<false>(chunk, sum, nullptr);
      for (int p = 0; p < P; ++p) {
        put(totals + (chunk * P + p) * W, sum[p]);
      }
    }
  }

  /// `comes` [chunks]: what comes to each, or null if there is one chunk.
  void spread(std::int64_t begin, std::int64_t end, const double* comes, double* out) const {
    std::int64_t chunk = begin;
    if constexpr (!Wide) {
      for (; chunk < in_eights(begin, end); chunk += 8) {
        Eight nodes;
        load_eight(chunk, nodes);
        Pack<double> sum[P];
        for (int p = 0; p < P; ++p) {
          sum[p] = make_pack<double>([&](int c) { return comes[(chunk + c) * P + p]; });
        }
        run_eight(nodes, sum);
        store_columns<Size * P>(out + first_place(chunk) * P, stride() * P, nodes.value);
      }
    }
    for (; chunk < end; ++chunk) {
      Number sum[P];
      for (int p = 0; p < P; ++p) {
        sum[p] = comes != nullptr ? get(comes + (chunk * P + p) * W) : same(0.0);
      }
      run_one<true>(chunk, sum, out);
    }
  }

 private:
  using Number = Carry<Wide>;

  /// The nodes of eight chunks: P numbers of each, and the decay into each.
  struct Eight {
    Pack<double> value[Size * P < 8 ? 8 : Size * P];
    Pack<double> decay[Size * Q < 8 ? 8 : Size * Q];
  };

  static Number get(const double* from) {
    if constexpr (Wide) {
      return load(from);
    } else {
      return *from;
    }
  }
  static void put(double* to, const Number& number) {
    if constexpr (Wide) {
      store(to, number);
    } else {
      *to = number;
    }
  }
  static Number same(double number) {
    if constexpr (Wide) {
      return splat(number);
    } else {
      return number;
    }
  }

  /// Where node j of a chunk stands in `Eight`, and node k of the level in the arrays.
  static std::int64_t column(std::int64_t j) { return Reverse ? Size - 1 - j : j; }
  [[nodiscard]] std::int64_t place(std::int64_t k) const {
    return Reverse ? level_.nodes - 1 - k : k;
  }
  /// The first place of a whole chunk, and how far that of the next one is from it.
  [[nodiscard]] std::int64_t first_place(std::int64_t chunk) const {
    return Reverse ? level_.nodes - Size * (chunk + 1) : Size * chunk;
  }
  static constexpr std::int64_t stride() { return Reverse ? -Size : Size; }
  /// The decay into node k stands at its place, but a scan from the right comes from the next one.
  static constexpr std::int64_t kAhead = Reverse ? 1 : 0;

  /// Up to which chunk there are eight whole ones with another behind, of which packs read a part.
  [[nodiscard]] std::int64_t in_eights(std::int64_t begin, std::int64_t end) const {
    const std::int64_t whole = level_.nodes / Size < end ? level_.nodes / Size : end;
    return whole - begin > 8 ? begin + (whole - begin - 1) / 8 * 8 : begin;
  }

  void load_eight(std::int64_t chunk, Eight& nodes) const {
    const std::int64_t first = first_place(chunk);
    load_columns<Size * P>(level_.values + first * P, stride() * P, nodes.value);
    load_columns<Size * Q>(level_.decays + (first + kAhead) * Q, stride() * Q, nodes.decay);
  }

  /// Replaces each value by what comes to it: of cells, after the step to it, and of nodes above,
  /// before.
  static void run_eight(Eight& nodes, Pack<double>* sum) {
    for (int j = 0; j < Size; ++j) {
      Pack<double> comes[P];
      std::copy(sum, sum + P, comes);
      decay_by<P, kTurn>(nodes.decay + column(j) * Q, sum);
      for (int p = 0; p < P; ++p) {
        Pack<double>& value = nodes.value[column(j) * P + p];
        const Pack<double> after = sum[p] + value;
        value = Size == kChunk ? sum[p] : comes[p];
        sum[p] = after;
      }
    }
  }

  /// The same with one chunk, which may be the last and shorter, to `out`.
  template <bool Store>
  void run_one(std::int64_t chunk, Number* sum, double* out) const {
    const std::int64_t last = (chunk + 1) * Size < level_.nodes ? (chunk + 1) * Size : level_.nodes;
    for (std::int64_t k = chunk * Size; k < last; ++k) {
      const std::int64_t at = place(k);
      Number decay[Q];
      for (int q = 0; q < Q; ++q) {
        decay[q] = same(level_.decays[(at + kAhead) * Q + q]);
      }
      Number comes[P];
      std::copy(sum, sum + P, comes);
      decay_by<P, kTurn>(decay, sum);
      for (int p = 0; p < P; ++p) {
        const std::int64_t to = (at * P + p) * W;
        const Number after = sum[p] + get(level_.values + to);
        if constexpr (Store) {
          put(out + to, Size == kChunk ? sum[p] : comes[p]);
        }
        sum[p] = after;
      }
    }
  }

  const ChunkLevel level_;
};

template <Form F, bool Wide, class Body>
LAPLEX_INLINE void with_chunks(const ChunkLevel& level, const Body& body) {
  if (!level.cells) {
    body(Chunks<F, Wide, kFanout, false>(level));
  } else if (level.reverse) {
    body(Chunks<F, Wide, kChunk, true>(level));
  } else {
    body(Chunks<F, Wide, kChunk, false>(level));
  }
}

}  // namespace laplex::detail::LAPLEX_LEVEL
