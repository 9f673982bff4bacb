// Factorised covariance matrices on a GPU as Python sees them.
#pragma once

#include <pybind11/pybind11.h>

namespace laplex::python {

/// Adds the class CudaGram.
void add_cuda_gram(pybind11::module_& m);

}  // namespace laplex::python
