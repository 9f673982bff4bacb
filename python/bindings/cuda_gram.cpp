// laplex._core.CudaGram: as Gram, over device addresses, a stream and memory that is lent.
#include "cuda_gram.hpp"

#include "arguments.hpp"

#include <laplex/cuda/gram.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace py = pybind11;

namespace laplex::python {
namespace {

cuda::Stream stream_of(Address address) {
  return pointer<CUstream_st>(address);
}

cuda::Memory memory(Address address, std::size_t bytes) {
  return {pointer<void>(address), bytes};
}

std::shared_ptr<cuda::Gram> make(std::int64_t batch, std::int64_t n, std::int64_t width,
                                 Address anchors, Address lengthscale, Address loadings,
                                 Address noise, bool ties_backwards, Address stream,
                                 Address storage, std::size_t storage_bytes, Address scratch,
                                 std::size_t scratch_bytes) {
  Covariance c;
  c.batch = batch;
  c.n = n;
  c.width = width;
  c.anchors = pointer<const double>(anchors);
  c.lengthscale = pointer<const double>(lengthscale);
  c.loadings = pointer<const double>(loadings);
  c.noise = pointer<const double>(noise);
  c.ties_backwards = ties_backwards;
  const py::gil_scoped_release release;
  return std::make_shared<cuda::Gram>(c, stream_of(stream), memory(storage, storage_bytes),
                                      memory(scratch, scratch_bytes));
}

void apply(const cuda::Gram& gram, int factor, bool scaled, Address in, Address out,
           std::int64_t rows, Address stream, Address workspace, std::size_t workspace_bytes) {
  if (factor < 0 || factor > 3) {
    throw Error(ErrorCode::invalid_argument, "factor must be 0, 1, 2 or 3");
  }
  const py::gil_scoped_release release;
  gram.apply(static_cast<Factor>(factor), scaled, pointer<const double>(in), pointer<double>(out),
             rows, stream_of(stream), memory(workspace, workspace_bytes));
}

void solve(const cuda::Gram& gram, Address b, Address x, std::int64_t rows, Address stream,
           Address workspace, std::size_t workspace_bytes) {
  const py::gil_scoped_release release;
  gram.solve(pointer<const double>(b), pointer<double>(x), rows, stream_of(stream),
             memory(workspace, workspace_bytes));
}

void log_prob(const cuda::Gram& gram, Address v, Address out, std::int64_t rows, Address stream,
              Address workspace, std::size_t workspace_bytes) {
  const py::gil_scoped_release release;
  gram.log_prob(pointer<const double>(v), pointer<double>(out), rows, stream_of(stream),
                memory(workspace, workspace_bytes));
}

void logdet(const cuda::Gram& gram, Address out, Address stream, Address workspace,
            std::size_t workspace_bytes) {
  const py::gil_scoped_release release;
  gram.logdet(pointer<double>(out), stream_of(stream), memory(workspace, workspace_bytes));
}

GramGradients gradients_at(Address anchors, Address lengthscale, Address loadings, Address noise) {
  return {pointer<double>(anchors), pointer<double>(lengthscale), pointer<double>(loadings),
          pointer<double>(noise)};
}

void vjp(const cuda::Gram& gram, Address a, Address b, std::int64_t rows, Address w,
         Address d_anchors, Address d_lengthscale, Address d_loadings, Address d_noise, Address d_b,
         Address stream, Address workspace, std::size_t workspace_bytes) {
  const py::gil_scoped_release release;
  gram.vjp(pointer<const double>(a), pointer<const double>(b), rows, pointer<const double>(w),
           gradients_at(d_anchors, d_lengthscale, d_loadings, d_noise), pointer<double>(d_b),
           stream_of(stream), memory(workspace, workspace_bytes));
}

void vjp_tangent(const cuda::Gram& gram, Address a, Address b, std::int64_t rows, Address w,
                 Address t_anchors, Address t_lengthscale, Address t_loadings, Address t_noise,
                 Address d_anchors, Address d_lengthscale, Address d_loadings, Address d_noise,
                 Address d_a, Address d_b, Address d_w, Address stream, Address workspace,
                 std::size_t workspace_bytes) {
  const py::gil_scoped_release release;
  gram.vjp_tangent(pointer<const double>(a), pointer<const double>(b), rows,
                   pointer<const double>(w),
                   {pointer<const double>(t_anchors), pointer<const double>(t_lengthscale),
                    pointer<const double>(t_loadings), pointer<const double>(t_noise)},
                   gradients_at(d_anchors, d_lengthscale, d_loadings, d_noise),
                   pointer<double>(d_a), pointer<double>(d_b), pointer<double>(d_w),
                   stream_of(stream), memory(workspace, workspace_bytes));
}

}  // namespace

void add_cuda_gram(py::module_& m) {
  py::class_<cuda::Gram, std::shared_ptr<cuda::Gram>>(m, "CudaGram")
      .def(py::init(&make))
      .def("apply", &apply)
      .def("solve", &solve)
      .def("log_prob", &log_prob)
      .def("logdet", &logdet)
      .def("vjp", &vjp)
      .def("vjp_tangent", &vjp_tangent)
      .def("log_variances",
           [](const cuda::Gram& gram, Address out, Address stream) {
             gram.log_variances(pointer<double>(out), stream_of(stream));
           })
      .def("order",
           [](const cuda::Gram& gram, Address out, Address stream) {
             gram.order(pointer<std::int64_t>(out), stream_of(stream));
           })
      .def_static("storage_bytes", &cuda::Gram::storage_bytes)
      .def_static("scratch_bytes", &cuda::Gram::scratch_bytes)
      .def("workspace_bytes", &cuda::Gram::workspace_bytes)
      .def("gradient_workspace_bytes", &cuda::Gram::gradient_workspace_bytes)
      .def_property_readonly("has_ties", &cuda::Gram::has_ties)
      .def_property_readonly("nbytes", &cuda::Gram::nbytes);
}

}  // namespace laplex::python
