// How a vector is sorted, as Python sees it.
#pragma once

#include <pybind11/pybind11.h>

namespace laplex::python {

/// Adds the class Order.
void add_order(pybind11::module_& m);

}  // namespace laplex::python
