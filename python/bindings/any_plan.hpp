/// A plan of either precision behind one type.
#pragma once

#include "arguments.hpp"

#include <laplex/laplex.hpp>

#include <atomic>
#include <memory>
#include <utility>
#include <variant>

namespace laplex::python {

/// A struct of its own, since pybind11 converts a bare std::variant instead of wrapping it.
struct AnyPlan {
  explicit AnyPlan(std::variant<Plan<float>, Plan<double>> any) : plan(std::move(any)) {}

  std::variant<Plan<float>, Plan<double>> plan;
  mutable std::atomic<bool> differentiated{false};  ///< whether gradients were computed with it
};

template <class T>
T scalar_of(const Plan<T>&);

/// Takes the addresses of what is replaced; 0 for what stays.
inline void update_plan(AnyPlan& any, Address targets, Address sources, Address lengthscale,
                        int num_threads) {
  std::visit(
      [&](auto& plan) {
        using T = decltype(scalar_of(plan));
        plan.update(Changes<T>{pointer<const T>(targets), pointer<const T>(sources),
                               pointer<const double>(lengthscale)},
                    num_threads);
      },
      any.plan);
}

inline std::shared_ptr<AnyPlan> make_plan(const KernelArguments& k, int num_threads,
                                          std::shared_ptr<const LinePart> part = nullptr) {
  return with_precision(k.is_double, [&](auto zero) {
    using T = decltype(zero);
    Kernel<T> kernel = kernel_of<T>(k, num_threads);
    kernel.part = std::move(part);
    return std::make_shared<AnyPlan>(Plan<T>(kernel));
  });
}

}  // namespace laplex::python
