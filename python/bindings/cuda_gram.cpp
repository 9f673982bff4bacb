// laplex._core.CudaGram: as Gram, over device addresses, on a stream and in memory that is lent.
#include "cuda_gram.hpp"

#include "device.hpp"
#include "gram_methods.hpp"

#include <laplex/cuda/gram.hpp>

#include <memory>

namespace py = pybind11;

namespace laplex::python {
namespace {

/// On a stream, in a workspace.
struct Place {
  Address stream = 0;
  MemoryArguments workspace;

  template <class F>
  void run(const F& call) const {
    const py::gil_scoped_release release;
    call(stream_of(stream), memory(workspace));
  }
  template <class F>
  void run_unthreaded(const F& call) const {
    run(call);
  }
  template <class F>
  void run_in_place(const F& call) const {
    call(stream_of(stream));
  }
};

}  // namespace

static bool read(PyObject* given, Place& place) {
  return read(given, place.stream, place.workspace.data, place.workspace.bytes);
}

}  // namespace laplex::python

template <>
struct pybind11::detail::type_caster<laplex::python::Place> {
  PYBIND11_TYPE_CASTER(laplex::python::Place, const_name("laplex._support.core.Place"));
  bool load(handle given, bool) { return laplex::python::read(given.ptr(), value); }
};

namespace laplex::python {

void add_cuda_gram(py::module_& m) {
  const py::pos_only positional;
  const py::arg covariance("covariance"), rows("rows");
  py::class_<cuda::Gram, std::shared_ptr<cuda::Gram>> gram(m, "CudaGram");
  gram.def(py::init([](CovarianceArguments given, Address stream, const MemoryArguments& storage,
                       const MemoryArguments& scratch) {
             const py::gil_scoped_release release;
             return std::make_shared<cuda::Gram>(given.of(), stream_of(stream), memory(storage),
                                                 memory(scratch));
           }),
           py::arg("covariance"), py::arg("stream"), py::arg("storage"), py::arg("scratch"),
           positional);
  add_gram_methods<cuda::Gram, Place>(gram);
  gram.def_static(
          "storage_bytes",
          [](CovarianceArguments given) { return cuda::Gram::storage_bytes(given.of()); },
          covariance, positional)
      .def_static(
          "scratch_bytes",
          [](CovarianceArguments given) { return cuda::Gram::scratch_bytes(given.of()); },
          covariance, positional)
      .def("workspace_bytes", &cuda::Gram::workspace_bytes, rows, positional)
      .def("gradient_workspace_bytes", &cuda::Gram::gradient_workspace_bytes, rows,
           py::arg("tangent"), positional);
}

}  // namespace laplex::python
