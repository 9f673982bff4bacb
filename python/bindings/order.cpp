// laplex._core.Order over raw addresses. Shapes, types and lifetimes are checked by the Python
// package.
#include "order.hpp"

#include "arguments.hpp"
#include "src/checks.hpp"
#include "src/order.hpp"
#include "src/parallel.hpp"
#include "src/permutation.hpp"
#include "without_gil.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <mutex>
#include <optional>

namespace py = pybind11;

namespace laplex::python {
namespace {

/// Below this many numbers a thread costs more than it saves.
constexpr std::int64_t kGrain = 1 << 16;

/// Calls f with an item of so many bytes; NumPy has no other numbers.
template <class F>
void with_item(int bytes, const F& f) {
  using detail::Pair;
  switch (bytes) {
    case 1:
      return f(std::uint8_t{});
    case 2:
      return f(std::uint16_t{});
    case 4:
      return f(float{});
    case 8:
      return f(double{});
    case 16:
      return f(Pair<double>{});
    case 32:
      return f(Pair<Pair<double>>{});
    default:
      throw Error(ErrorCode::invalid_argument, "item_bytes must be 1, 2, 4, 8, 16 or 32");
  }
}

/// The order that sorts some anchors, equal ones by position, and the way there and back for what
/// belongs to them: `rows` vectors of items that are copied bit by bit.
class Order {
 public:
  /// `run`: where the anchors are a few ascending runs, the size of the first.
  Order(Address anchors, bool is_double, std::int64_t count, std::optional<std::int64_t> run,
        int num_threads)
      : count_(count) {
    detail::check_sizes(1, count, 0, detail::kMostAnchors);
    without_gil([&] {
      with_precision(is_double, [&](auto zero) {
        sort(pointer<const decltype(zero)>(anchors), run, detail::threads_for(count, num_threads));
      });
    });
  }

  void to_sorted(Address given, Address sorted, std::int64_t rows, int item_bytes,
                 int num_threads) {
    check_addresses(rows, given, sorted);
    each_row(rows, item_bytes, num_threads, [&](auto item, std::int64_t first, int threads) {
      using T = decltype(item);
      const T* const from = pointer<const T>(given) + first;
      T* const to = pointer<T>(sorted) + first;
      if (as_given_) {  // without an index
        std::copy_n(from, count_, to);
        return;
      }
      if constexpr (sizeof(T) >= 4 && sizeof(T) <= 16) {
        if (permutation_) {
          return permutation_->to_sorted(from, to, scratch_, threads);
        }
      }
      const std::uint32_t* const index = index_.data();
      detail::parallel_ranges(threads, count_, kGrain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = begin; k < end; ++k) {
          to[k] = from[index[k]];
        }
      });
    });
  }

  void to_given(Address sorted, Address given, std::int64_t rows, int item_bytes, int num_threads) {
    check_addresses(rows, sorted, given);
    each_row(rows, item_bytes, num_threads, [&](auto item, std::int64_t first, int threads) {
      using T = decltype(item);
      const T* const from = pointer<const T>(sorted) + first;
      T* const to = pointer<T>(given) + first;
      if (as_given_) {  // without an index
        std::copy_n(from, count_, to);
        return;
      }
      if constexpr (sizeof(T) >= 4 && sizeof(T) <= 16) {
        if (permutation_) {
          return permutation_->to_given(from, to, scratch_, threads);
        }
      }
      const std::uint32_t* const index = index_.data();
      detail::parallel_ranges(threads, count_, kGrain, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = begin; k < end; ++k) {
          to[index[k]] = from[k];
        }
      });
    });
  }

  [[nodiscard]] bool as_given() const { return as_given_; }

  [[nodiscard]] std::int64_t nbytes() const {
    return index_.nbytes() + (permutation_ ? permutation_->nbytes() : 0) + scratch_.nbytes();
  }

 private:
  template <class T>
  void sort(const T* anchors, std::optional<std::int64_t> run, int threads) {
    const std::int64_t first = run.value_or(0);
    // As two sides, which are merged if both ascend.
    const detail::Anchors<T> all{anchors + first, anchors, count_ - first, first};
    detail::Sorting<T> sorting;
    detail::find_order_given(all, sorting);
    as_given_ = sorting.targets_as_given && sorting.sources_as_given &&
                (first == 0 || first == count_ || anchors[first - 1] <= anchors[first]);
    if (as_given_) {
      return;
    }
    detail::sort_anchors(all, sorting, threads);
    index_.reset(count_);
    detail::parallel_ranges(threads, count_, kGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t k = begin; k < end; ++k) {
        index_[k] = sorting.records[k].id;
      }
    });
    if (!run && detail::Permutation::pays(count_)) {  // runs are near each other in the caches
      permutation_.emplace(index_.data(), count_, threads);
    }
  }

  void check_addresses(std::int64_t rows, Address from, Address to) const {
    if (rows * count_ > 0 && (from == 0 || to == 0)) {
      throw Error(ErrorCode::invalid_argument, "the entries to move have no address");
    }
  }

  /// Calls body(item, first entry of a row, threads).
  template <class Body>
  void each_row(std::int64_t rows, int item_bytes, int num_threads, const Body& body) {
    without_gil([&] {
      const std::lock_guard<std::mutex> lock(mutex_);
      with_item(item_bytes, [&](auto item) {
        for (std::int64_t row = 0; row < rows; ++row) {
          body(item, row * count_, detail::threads_for(count_, num_threads));
        }
      });
    });
  }

  std::int64_t count_;
  bool as_given_ = false;               ///< the anchors ascend
  detail::Array<std::uint32_t> index_;  ///< [count] the position as given of each sorted place
  std::optional<detail::Permutation> permutation_;  ///< where it pays
  detail::Array<std::byte> scratch_;
  std::mutex mutex_;  ///< of scratch_
};

}  // namespace

void add_order(py::module_& m) {
  const py::pos_only positional;
  const py::arg given("given"), sorted("in_order"), rows("rows"), item_bytes("item_bytes"),
      num_threads("num_threads");
  py::class_<Order>(m, "Order")
      .def(py::init<Address, bool, std::int64_t, std::optional<std::int64_t>, int>(),
           py::arg("anchors"), py::arg("is_double"), py::arg("count"), py::arg("run"), num_threads,
           positional)
      .def("to_sorted", &Order::to_sorted, given, sorted, rows, item_bytes, num_threads, positional)
      .def("to_given", &Order::to_given, sorted, given, rows, item_bytes, num_threads, positional)
      .def_property_readonly("as_given", &Order::as_given)
      .def_property_readonly("nbytes", &Order::nbytes);
}

}  // namespace laplex::python
