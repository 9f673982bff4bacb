// Products with K, K^T and K^H, the derivative family, and the half sums.
#include "boundary.hpp"
#include "buffer.hpp"
#include "lanes.hpp"
#include "lookup.hpp"
#include "state.hpp"

#include <laplex/detail/scan_element.hpp>
#include <laplex/plan.hpp>

#include <string>
#include <vector>

namespace laplex {

using namespace detail;

namespace {

void check_result_type(bool given_complex, bool result_complex) {
  if (given_complex != result_complex) {
    throw Error(ErrorCode::invalid_argument, result_complex
                                                 ? "the result is complex: pass a complex output"
                                                 : "the result is real: pass a real output");
  }
}

void check_rows(std::int64_t rows) {
  if (rows < 0) {
    throw Error(ErrorCode::invalid_argument,
                "rows must not be negative, got " + std::to_string(rows));
  }
}

/// Runs `read` for each block of lanes: out[i] is the tile of taps[i], stored to `results[i]`.
template <class T>
void run(const State<T>& state, const Vectors<const T>& values, std::int64_t rows, bool transposed,
         bool conjugate, const std::vector<std::pair<Reading, Vectors<T>>>& results, int moment,
         double scale, int num_threads) {
  const Fixed<T>& fixed = state.fixed();
  const std::int64_t lanes = rows * values.parts;
  const std::int64_t n_in = transposed ? fixed.n : fixed.m;
  const std::int64_t n_out = transposed ? fixed.m : fixed.n;
  const int threads = threads_for(fixed.heads * lanes * (fixed.n + fixed.m), num_threads);
  const auto& in_factors = transposed ? fixed.target_factor : fixed.source_factor;
  const auto& out_factors = transposed ? fixed.source_factor : fixed.target_factor;

  with_shape(fixed, values.complex, lanes, [&](auto shape) {
    using D = typename decltype(shape)::D;
    using S = typename decltype(shape)::S;
    constexpr int W = decltype(shape)::W;
    const std::int64_t blocks = (lanes + W - 1) / W;
    const ThreadSplit split = split_threads(threads, fixed.heads * blocks, fixed.n + fixed.m);
    parallel_tasks(split.outer, fixed.heads * blocks, [&](std::int64_t task) {
      const std::int64_t head = task / blocks;
      const std::int64_t first = task % blocks * W;
      const Block block{head, first, std::min<std::int64_t>(W, lanes - first)};
      const Line<D> line = state.template line<D>(head, transposed, split.inner);
      const SortedAnchors& in = transposed ? state.targets(head) : state.sources(head);
      const SortedAnchors& out = transposed ? state.sources(head) : state.targets(head);
      const Buffer<S> tile = make_buffer<S>(n_in * W);
      load<W>(values, block, in, factor_of(in_factors, head, n_in), conjugate, tile.get(),
              split.inner);
      std::vector<Buffer<S>> read;
      std::vector<Tap<S>> taps;
      for (const auto& result : results) {
        read.push_back(make_buffer<S>(n_out * W));
        taps.push_back({result.first, moment, read.back().get()});
      }
      scan_and_read<W>(moment, line, out.position.data(), n_out, tile.get(), taps, split.inner);
      for (std::size_t k = 0; k < results.size(); ++k) {
        store<W>(read[k].get(), block, out, factor_of(out_factors, head, n_out), conjugate, scale,
                 results[k].second, split.inner);
      }
    });
  });
}

}  // namespace

template <class T>
void Plan<T>::apply_any(const T* v, bool v_complex, std::int64_t rows, Strides v_strides, T* u,
                        bool u_complex, Strides u_strides, Mode mode, Term term,
                        int num_threads) const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  check_rows(rows);
  check_result_type(u_complex, v_complex || kernel_is_complex());
  if (term.moment < 0 || term.moment > kMaxMoment) {
    throw Error(ErrorCode::invalid_argument, "moment must be in 0.." + std::to_string(kMaxMoment) +
                                                 ", got " + std::to_string(term.moment));
  }
  const bool transposed = mode != Mode::plain;
  const int parts = parts_of(fixed, v_complex);
  // sign(x_i - y_j) seen from the source is its negative.
  const double scale = transposed && term.parity == Parity::odd ? -1.0 : 1.0;
  guarded([&] {
    run<T>(*snapshot, {v, v_complex, v_strides, parts}, rows, transposed,
           mode == Mode::adjoint && parts == 1,
           {{reading_of(term.parity), Vectors<T>{u, u_complex, u_strides, parts}}}, term.moment,
           scale, num_threads > 0 ? num_threads : fixed.num_threads);
  });
}

template <class T>
void Plan<T>::half_sums_any(const T* v, bool v_complex, std::int64_t rows, Strides v_strides,
                            T* left, T* right, bool u_complex, Strides u_strides,
                            int num_threads) const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  check_rows(rows);
  check_result_type(u_complex, v_complex || kernel_is_complex());
  const int parts = parts_of(fixed, v_complex);
  guarded([&] {
    run<T>(*snapshot, {v, v_complex, v_strides, parts}, rows, false, false,
           {{Reading::left, Vectors<T>{left, u_complex, u_strides, parts}},
            {Reading::right, Vectors<T>{right, u_complex, u_strides, parts}}},
           0, 1.0, num_threads > 0 ? num_threads : fixed.num_threads);
  });
}

template void Plan<float>::apply_any(const float*, bool, std::int64_t, Strides, float*, bool,
                                     Strides, Mode, Term, int) const;
template void Plan<double>::apply_any(const double*, bool, std::int64_t, Strides, double*, bool,
                                      Strides, Mode, Term, int) const;
template void Plan<float>::half_sums_any(const float*, bool, std::int64_t, Strides, float*, float*,
                                         bool, Strides, int) const;
template void Plan<double>::half_sums_any(const double*, bool, std::int64_t, Strides, double*,
                                          double*, bool, Strides, int) const;

}  // namespace laplex
