// Quantiles: the half sums of ones at the sorted anchors, and a search in them for each level.
#include "kernels/quantiles.hpp"

#include "call.hpp"

#include <algorithm>

namespace laplex::cuda::detail {

template <class T>
std::size_t quantiles(const QuantileCall<T>& call, Memory workspace, bool counts, Stream stream) {
  const State<T>& state = call.state;
  const std::int64_t heads = state.heads();
  const std::int64_t n = state.n();
  std::size_t product_bytes = 0;
  const auto half_sums = [&](const T* ones, T* sums, Part part, Memory memory, bool only_counts) {
    const ProductCall<T> half{state,
                              call.parameters,
                              1,
                              false,
                              {{ones, false, {}}, {}, false, nullptr},
                              {{sums, false, {n, n}}, {}, false, 1.0},
                              Parity::even,
                              laplex::detail::polynomial_of(Profile::matern12),
                              part,
                              false,
                              true};
    return product(half, memory, only_counts, stream);
  };
  for (const Part part : {Part::left, Part::above}) {
    product_bytes = std::max(product_bytes, half_sums(nullptr, nullptr, part, {}, true));
  }

  T* ones = nullptr;
  T* left = nullptr;
  T* right = nullptr;
  void* products = nullptr;
  const auto lay_out = [&](Cutter cut) {
    ones = cut.take<T>(n);
    left = cut.take<T>(heads * n);
    right = cut.take<T>(heads * n);
    products = cut.take<unsigned char>(static_cast<std::int64_t>(product_bytes));
    return cut.used();
  };
  const std::size_t bytes = lay_out(Cutter());
  if (counts) {
    return bytes;
  }
  const Lent lent(workspace, bytes, stream, "workspace");
  lay_out(Cutter(lent.data()));
  launch(ones_kernel<T>, one_thread_each(n), stream, OnesJob<T>{ones, n});
  const Memory memory{products, product_bytes};
  half_sums(ones, left, Part::left, memory, false);
  half_sums(ones, right, Part::above, memory, false);
  launch(quantiles_kernel<T>, one_thread_each(heads * call.count), stream,
         QuantilesJob<T>{state.line(false).to, call.parameters.lengthscale, heads, call.count, left,
                         right, call.levels, call.result});
  return bytes;
}

template std::size_t quantiles<float>(const QuantileCall<float>&, Memory, bool, Stream);
template std::size_t quantiles<double>(const QuantileCall<double>&, Memory, bool, Stream);

}  // namespace laplex::cuda::detail
