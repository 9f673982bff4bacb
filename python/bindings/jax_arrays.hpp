/// The arrays and the options of a call by XLA, for the handlers of laplex.jax.
#pragma once

#include "arguments.hpp"
#include "xla_ffi.hpp"

#include <laplex/laplex.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace laplex::python {

using xla::Buffer;

inline bool is_double(const Buffer& array) {
  return array.dtype == xla::kFloat64 || array.dtype == xla::kComplex128;
}

inline bool is_complex(const Buffer& array) {
  return array.dtype == xla::kComplex64 || array.dtype == xla::kComplex128;
}

inline std::int64_t count(const Buffer& array) {
  return std::accumulate(array.dims, array.dims + array.rank, std::int64_t(1), std::multiplies<>());
}

inline std::int64_t length(const Buffer& array) {
  return array.dims[array.rank - 1];
}

inline Address address(const Buffer& array) {
  return reinterpret_cast<Address>(array.data);
}

template <class F>
auto with_numbers(const Buffer& array, const F& f) {
  return is_double(array) ? f(static_cast<double*>(array.data))
                          : f(static_cast<float*>(array.data));
}

/// Refuses numbers that are not finite or that `holds` does not allow, in the units of the caller:
/// the core divides lengthscales, calls variances weights, and allows negative ones.
template <class F>
void require(const Buffer& array, const F& holds, std::string_view what) {
  with_numbers(array, [&](const auto* numbers) {
    const auto* const end = numbers + count(array);
    const auto* const wrong =
        std::find_if_not(numbers, end, [&](auto one) { return std::isfinite(one) && holds(one); });
    if (wrong != end) {
      std::ostringstream message;
      message << what << ", got " << *wrong;
      if (count(array) > 1) {
        message << " in entry " << wrong - numbers;
      }
      throw Error(ErrorCode::invalid_argument, message.str());
    }
  });
}

constexpr auto kPositive = [](auto one) { return one > 0; };
constexpr auto kNotNegative = [](auto one) { return one >= 0; };
constexpr auto kAny = [](auto) { return true; };

/// An array of either precision as doubles, divided by `divisor`.
class Doubles {
 public:
  explicit Doubles(const Buffer& array, double divisor = 1.0) {
    if (is_double(array) && divisor == 1.0) {
      data_ = static_cast<const double*>(array.data);
      return;
    }
    own_.resize(static_cast<std::size_t>(count(array)));
    with_numbers(array, [&](const auto* from) {
      std::transform(from, from + own_.size(), own_.begin(),
                     [&](auto one) { return static_cast<double>(one) / divisor; });
    });
    data_ = own_.data();
  }

  [[nodiscard]] const double* data() const { return data_; }

 private:
  const double* data_ = nullptr;
  std::vector<double> own_;
};

/// Room for the doubles of a result of either precision; none for no result.
class Room {
 public:
  explicit Room(const Buffer* result) : result_(result) {
    if (result != nullptr && !is_double(*result)) {
      own_.resize(static_cast<std::size_t>(count(*result)));
    }
  }

  [[nodiscard]] double* data() {
    return result_ == nullptr    ? nullptr
           : is_double(*result_) ? static_cast<double*>(result_->data)
                                 : own_.data();
  }

  /// Writes the result, divided by `divisor`.
  void finish(double divisor = 1.0) {
    if (result_ == nullptr || (own_.empty() && divisor == 1.0)) {
      return;
    }
    with_numbers(*result_, [&](auto* to) {
      using T = std::remove_reference_t<decltype(*to)>;
      std::transform(data(), data() + count(*result_), to,
                     [&](double one) { return static_cast<T>(one / divisor); });
    });
  }

 private:
  const Buffer* result_;
  std::vector<double> own_;
};

inline const xla::Numbers& attribute(const xla::CallFrame& frame, std::string_view name) {
  const xla::Attributes& all = frame.attributes;
  for (std::int64_t k = 0; k < all.size; ++k) {
    if (all.types[k] == xla::kArrayAttribute &&
        std::string_view(all.names[k]->data, all.names[k]->size) == name) {
      return *static_cast<const xla::Numbers*>(all.items[k]);
    }
  }
  throw Error(ErrorCode::invalid_argument, "the call lacks the attribute " + std::string(name));
}

/// One number of an attribute of int64 or float64.
template <class T>
T number(const xla::CallFrame& frame, std::string_view name, std::size_t k) {
  const xla::Numbers& all = attribute(frame, name);
  return k < all.size ? static_cast<const T*>(all.data)[k] : T(0);
}

}  // namespace laplex::python
