/// Gradients of gradients of real products, as backpropagation through Plan::vjp needs them.
#pragma once

#include "lanes.hpp"
#include "state.hpp"

#include <laplex/plan.hpp>

#include <cstdint>

namespace laplex::detail {

template <class T>
void second_gradients(const State<T>& state, const Vectors<const T>& values,
                      const Vectors<const T>& grad, std::int64_t rows,
                      const GradientCotangents<T>& cotangents, const SecondGradients<T>& result,
                      int threads);

}  // namespace laplex::detail
