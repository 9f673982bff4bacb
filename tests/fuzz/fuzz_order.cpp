// Sorts, repairs and permutations of any anchors: one right order, by whatever way.
#include "input.hpp"

#include "order.hpp"
#include "permutation.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace laplex::fuzz {
namespace {

template <class T>
void run(Input& input) {
  const std::int64_t n = input.rarely(3) ? input.below(5000) : input.below(100);
  const std::int64_t m = input.flag() ? input.below(100) : 0;
  std::vector<T> x = input.numbers<T>(n);
  std::vector<T> y = input.numbers<T>(m);
  for (std::vector<T>* side : {&x, &y}) {
    for (T& value : *side) {
      value = std::isfinite(value) ? value : T(0);  // which whoever sorts has made sure of
    }
    if (input.flag()) {  // nearly sorted, as after a step of training
      std::sort(side->begin(), side->end());
      for (std::size_t k = 0; k < side->size() && input.flag(); ++k) {
        std::swap((*side)[k], (*side)[side->size() / 2]);
      }
    }
  }
  detail::Sorting<T> sorting;
  const detail::Anchors<T> anchors{x.data(), m > 0 ? y.data() : nullptr, n, m, m == 0};
  detail::find_order_given(anchors, sorting);
  require(sorting.targets_as_given == std::is_sorted(x.begin(), x.end()),
          "whether the targets ascend is seen");
  detail::sort_anchors(anchors, sorting, 1 + input.below(3));
  require(sorting.records.size() == n + m, "every anchor has a record");
  std::vector<std::uint32_t> index;
  std::vector<char> seen(static_cast<std::size_t>(n + m));
  std::vector<T> given = y;  // sources have the first numbers
  given.insert(given.end(), x.begin(), x.end());
  for (std::int64_t k = 0; k < n + m; ++k) {
    const std::uint32_t id = sorting.records[k].id;
    require(id < seen.size() && seen[id] == 0, "every anchor has one record");
    seen[id] = 1;
    if (k > 0) {
      const T before = given[index.back()];
      require(before < given[id] || (before == given[id] && index.back() < id),
              "records ascend, equal ones by their number");
    }
    index.push_back(id);
  }
  if (n + m > 0) {
    const detail::Permutation permutation(index.data(), n + m, 1 + input.below(3));
    std::vector<T> sorted(given.size());
    std::vector<T> back(given.size());
    detail::Array<std::byte> scratch;
    permutation.to_sorted(given.data(), sorted.data(), scratch, 1 + input.below(3));
    for (std::size_t k = 0; k < index.size(); ++k) {
      require(sorted[k] == given[index[k]], "a permutation brings values into sorted order");
    }
    permutation.to_given(sorted.data(), back.data(), scratch, 1 + input.below(3));
    require(same_bits(given, back), "and back");
  }
}

}  // namespace
}  // namespace laplex::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  laplex::fuzz::Input input(data, size);
  if (input.flag()) {
    laplex::fuzz::run<double>(input);
  } else {
    laplex::fuzz::run<float>(input);
  }
  return 0;
}
