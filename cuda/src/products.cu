#include "call.hpp"
#include "passes.hpp"

#include <laplex/detail/scan_element.hpp>

#include <algorithm>
#include <vector>

namespace laplex::cuda::detail {
namespace {

template <class T>
ProductJob<T> product_job(const ProductCall<T>& call, const Line<T>& line, std::int64_t tiles) {
  ProductJob<T> job{};
  job.line = line;
  job.input = call.input;
  job.output = call.output;
  job.lengthscale = call.parameters.lengthscale;
  job.frequency = call.parameters.frequency;
  job.rows = call.rows;
  job.tiles = tiles;
  job.part = call.part;
  job.parity = call.parity;
  return job;
}

template <class T, class D, class S, int P, bool Ties, int NT>
void pass(const ProductCall<T>& call, const Line<T>& line, const Input<T>& input,
          const void* carries, std::int64_t tiles, std::size_t shared, Stream stream) {
  constexpr int K = kThreadItems<S, P, Ties>;
  ProductJob<T> job = product_job(call, line, tiles);
  job.input = input;
  job.carries = carries;
  std::copy(call.polynomial.begin(), call.polynomial.end(), job.coefficient);
  launch(product_kernel<T, D, S, P, Ties, NT, K>,
         {call.state.heads() * call.rows * tiles, NT, shared}, stream, job);
}

/// The first pass over a long line, and the carries from it.
template <class T, class Scan>
void scan_line(const ProductCall<T>& call, Scan& scan, Input<T>& input, Stream stream) {
  const Parameters& parameters = call.parameters;
  scan.rise(input, parameters.lengthscale, parameters.frequency, stream);
  if (call.state.shared_line() != nullptr) {
    exchange_ends(*call.state.shared_line(), std::vector<Scan*>{&scan}, call.rows,
                  parameters.lengthscale, parameters.frequency, stream);
  }
  scan.descend(parameters.lengthscale, parameters.frequency, stream);
}

/// One block a vector if the line fits in one, else all blocks of the device on every line: then
/// what crosses from tile to tile is found by a first pass over the scanned side.
///
/// In bytes per n for n = m in float, sorted: one block reads and writes 16; two passes 25, the
/// first 8 of them. A scan in one pass with look-back reads and writes 36, as it must go once in
/// each direction, and its sums depend on which blocks are fast.
template <class T, class D, class S, int P, bool Ties>
std::size_t run(const ProductCall<T>& call, Memory workspace, bool counts, Stream stream) {
  constexpr int K = kThreadItems<S, P, Ties>;
  const Line<T> line = call.line();
  const auto shared = [&](auto threads) {
    return product_shared<T, D, S, P, Ties, decltype(threads)::value>(line.from.count,
                                                                      line.to.count, line.self);
  };
  const bool is_part = call.state.shared_line() != nullptr;
  const auto fits = [&](auto threads) {
    return !is_part && line.items <= decltype(threads)::value * K && shared(threads) <= kMaxShared;
  };
  const auto single = [&](auto threads) {
    if (!counts) {
      pass<T, D, S, P, Ties, decltype(threads)::value>(call, line, call.input, nullptr, 1,
                                                       shared(threads), stream);
    }
    return std::size_t(0);
  };
  if constexpr (P == 0 && !Ties) {
    if (const std::integral_constant<int, kWarp> warp; fits(warp)) {
      return single(warp);
    }
  }
  if (const std::integral_constant<int, kTileThreads> block; fits(block)) {
    return single(block);
  }
  if constexpr (P == 0 && !Ties) {
    if (const std::integral_constant<int, 1024> large; fits(large)) {
      return single(large);
    }
  }
  Cutter counting;
  using Scan = LongScan<T, D, S, P, Ties>;
  const Scan counted(counting, line, call.state.heads(), call.rows, is_part);
  if (counts) {
    return counting.used();
  }
  const Lent lent(workspace, counting.used(), stream, "workspace");
  Cutter cut(lent.data());
  Scan scan(cut, line, call.state.heads(), call.rows, is_part);
  Input<T> input = call.input;
  scan_line(call, scan, input, stream);
  // All items of a tile may be of the side that takes more.
  pass<T, D, S, P, Ties, kTileThreads>(
      call, line, input, scan.carries(), scan.tiles(),
      product_shared<T, D, S, P, Ties, kTileThreads>(Scan::kTile, 0, line.self), stream);
  return counting.used();
}

/// The even product of a float plan without phases and frequency, by cells: in one block if the
/// line is one tile.
std::size_t run_cells(const ProductCall<float>& call, Memory workspace, bool counts,
                      Stream stream) {
  using Scan = LongScan<float, double, double, 0, false, true>;
  const Line<float> line = call.line();
  const std::int64_t heads = call.state.heads();
  Cutter counting;
  const bool is_part = call.state.shared_line() != nullptr;
  const Scan counted(counting, line, heads, call.rows, is_part);
  const std::int64_t tiles = counted.tiles();
  const bool is_long = tiles > 1 || is_part;
  const std::size_t bytes = is_long ? counting.used() : 0;
  if (counts) {
    return bytes;
  }
  const Groups groups(call.rows, heads * tiles);
  ProductJob<float> job = product_job(call, line, tiles);
  job.groups = groups.count;
  job.group_rows = groups.rows;
  const Lent lent(workspace, bytes, stream, "workspace");
  if (is_long) {
    Cutter cut(lent.data());
    Scan scan(cut, line, heads, call.rows, is_part);
    scan_line(call, scan, job.input, stream);
    job.carries = scan.carries();
    job.sent = scan.sent();
  }
  launch(groups.rows > 1 ? cell_product_kernel<true> : cell_product_kernel<false>,
         {heads * groups.count * tiles, kCellThreads,
          cell_product_shared(std::min(line.from.count, kCellTile))},
         stream, job);
  return bytes;
}

template <class T, class D, class S>
std::size_t run_even(const ProductCall<T>& call, Memory workspace, bool counts, Stream stream) {
  if constexpr (kHasCells<T, D, S>) {
    if (is_for_cells(call.line())) {
      return run_cells(call, workspace, counts, stream);
    }
  }
  return run<T, D, S, 0, false>(call, workspace, counts, stream);
}

}  // namespace

template <class T>
std::size_t product(const ProductCall<T>& given, Memory workspace, bool counts, Stream stream) {
  ProductCall<T> call = given;
  const Line<T> line = call.line();
  // A part of a line may have sums for others, without anything to read off.
  const bool is_idle = line.to.count == 0 && call.state.shared_line() == nullptr;
  if (call.state.heads() * call.rows == 0 || is_idle) {
    return 0;
  }
  if (call.cumulative) {
    return run<T, double, Cumulated, 0, true>(call, workspace, counts, stream);
  }
  if (laplex::detail::degree_of(call.polynomial) == 0) {  // a multiple of the kernel itself
    call.output.scale *= call.polynomial[0];
  } else {
    // Few types, as each takes long to compile: real sums, with the moments of Matern kernels or
    // all, and for everything else the general one.
    constexpr int kMost = laplex::detail::kMaxMoment;
    if (call.parameters.is_complex) {
      return run<T, Complex, Complex, kMost, true>(call, workspace, counts, stream);
    }
    return laplex::detail::degree_of(call.polynomial) <= 2
               ? run<T, double, double, 2, true>(call, workspace, counts, stream)
               : run<T, double, double, kMost, true>(call, workspace, counts, stream);
  }
  std::size_t bytes = 0;
  with_types(call.parameters.frequency != nullptr, call.parameters.is_complex, [&](auto types) {
    using D = typename decltype(types)::D;
    using S = typename decltype(types)::S;
    if (call.parity != Parity::even || call.part != Part::both) {
      bytes = run<T, D, S, 0, true>(call, workspace, counts, stream);
      return;
    }
    bytes = run_even<T, D, S>(call, workspace, counts, stream);
  });
  return bytes;
}

template std::size_t product<float>(const ProductCall<float>&, Memory, bool, Stream);
template std::size_t product<double>(const ProductCall<double>&, Memory, bool, Stream);

}  // namespace laplex::cuda::detail
