// Calls of tensors that the core can read as they are.
#pragma once

#include "plan_cache.hpp"

#include <pybind11/pybind11.h>

namespace laplex::python {

/// Adds the class DirectCalls.
void add_direct(pybind11::module_& m, PlanCache& cache);

}  // namespace laplex::python
