// Arrays in device memory that Laplex owns, and what others say about theirs.
#pragma once

#include <pybind11/pybind11.h>

namespace laplex::python {

/// Adds the class DeviceArray and the functions read_dlpack, cuda_synchronize and cuda_add.
void add_device_array(pybind11::module_& m);

}  // namespace laplex::python
