/// First-order gradients of Re<g, S v> for a member S of the family of sums: of Matern kernels, and
/// of derivatives of the operator.
#pragma once

#include "lanes.hpp"
#include "profile.hpp"
#include "state.hpp"

#include <laplex/plan.hpp>

#include <cstdint>

namespace laplex::detail {

/// `term` has the polynomial of its kernel too.
template <class T>
void term_gradients(const State<T>& state, const Term& term, const Vectors<const T>& values,
                    const Vectors<const T>& grad, std::int64_t rows, const Vectors<T>& d_values,
                    const Gradients<T, T>& gradients, int threads);

}  // namespace laplex::detail
