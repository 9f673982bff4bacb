/// The handlers of laplex.jax.
#pragma once

#include "plan_cache.hpp"

#include <pybind11/pybind11.h>

namespace laplex::python {

/// Products find their plans in `cache`, which must outlive the process's last call.
void add_jax(pybind11::module_& m, PlanCache& cache);

}  // namespace laplex::python
