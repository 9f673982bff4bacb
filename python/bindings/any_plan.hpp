/// A plan of either precision behind one type.
#pragma once

#include "arguments.hpp"

#include <laplex/laplex.hpp>

#include <variant>

namespace laplex::python {

/// A struct of its own, since pybind11 converts a bare std::variant instead of wrapping it.
struct AnyPlan {
  std::variant<Plan<float>, Plan<double>> plan;
};

inline AnyPlan make_plan(const KernelArguments& k, int num_threads) {
  return with_precision(k.is_double, [&](auto zero) {
    using T = decltype(zero);
    return AnyPlan{Plan<T>(kernel_of<T>(k, num_threads))};
  });
}

}  // namespace laplex::python
