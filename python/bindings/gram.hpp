// Factorised covariance matrices as Python sees them.
#pragma once

#include <pybind11/pybind11.h>

namespace laplex::python {

/// Adds the class Gram.
void add_gram(pybind11::module_& m);

}  // namespace laplex::python
