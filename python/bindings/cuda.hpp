// The CUDA backend as Python sees it; without one, what to say to those who ask for it.
#pragma once

#include <pybind11/pybind11.h>

namespace laplex::python {

/// Adds the classes CudaPlan and CudaGram and the functions cuda_*.
void add_cuda(pybind11::module_& m);

/// For laplex info: whether this build has the backend, and what devices there are.
void add_cuda_info(pybind11::dict& info);

}  // namespace laplex::python
