/// Products weighted by powers of the distance: derivatives by lengthscale and frequency beyond the
/// first. Rarer than plain products, and written for exactness alone: a tree over all anchors whose
/// terms are positive, in double.
#pragma once

#include "lanes.hpp"
#include "state.hpp"

#include <laplex/plan.hpp>

namespace laplex::detail {

/// As Plan::apply for one term with moment > 0.
template <class T>
void apply_moment(const State<T>& state, const Vectors<const T>& values, std::int64_t rows,
                  bool transposed, bool conjugate, Term term, const Vectors<T>& result,
                  double scale, int num_threads);

}  // namespace laplex::detail
