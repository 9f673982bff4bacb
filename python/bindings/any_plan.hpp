/// A plan of either precision behind one type, and the raw description it is built from.
#pragma once

#include <laplex/laplex.hpp>

#include <cstdint>
#include <string>
#include <variant>

namespace laplex::python {

/// Addresses and sizes as they come from NumPy or torch; 0 stands for "not given".
struct Description {
  bool is_double = true;
  std::int64_t heads = 1;
  std::int64_t n = 0;
  std::int64_t m = 0;
  std::uintptr_t targets = 0;
  std::uintptr_t sources = 0;
  std::uintptr_t lengthscale = 0;
  std::uintptr_t frequency = 0;
  std::uintptr_t target_phase = 0;
  std::uintptr_t source_phase = 0;
  bool real_part = false;
  int num_threads = 0;
};

/// Of the two names of a precision.
inline bool is_double(const std::string& dtype) {
  if (dtype != "float32" && dtype != "float64") {
    throw Error(ErrorCode::invalid_argument, "dtype must be float32 or float64, got " + dtype);
  }
  return dtype == "float64";
}

/// Runs f(T{}) for the precision that `dtype` names.
template <class F>
auto with_precision(const std::string& dtype, const F& f) {
  return is_double(dtype) ? f(double{}) : f(float{});
}

template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

template <class T>
Kernel<T> kernel_of(const Description& d) {
  Kernel<T> kernel;
  kernel.heads = d.heads;
  kernel.num_targets = d.n;
  kernel.num_sources = d.m;
  kernel.targets = pointer<const T>(d.targets);
  kernel.sources = pointer<const T>(d.sources);
  kernel.lengthscale = pointer<const double>(d.lengthscale);
  kernel.frequency = pointer<const double>(d.frequency);
  kernel.target_phase = pointer<const T>(d.target_phase);
  kernel.source_phase = pointer<const T>(d.source_phase);
  kernel.real_part = d.real_part;
  kernel.num_threads = d.num_threads;
  return kernel;
}

/// A struct of its own, since pybind11 converts a bare std::variant instead of wrapping it.
struct AnyPlan {
  std::variant<Plan<float>, Plan<double>> plan;
};

inline AnyPlan make_plan(const Description& d) {
  if (d.is_double) {
    return {Plan<double>(kernel_of<double>(d))};
  }
  return {Plan<float>(kernel_of<float>(d))};
}

}  // namespace laplex::python
