#include "cuda.hpp"

#include "any_plan.hpp"

#include <laplex/laplex.hpp>

#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <variant>

#if defined(LAPLEX_HAS_CUDA)
#include "cuda_gram.hpp"
#include "device_array.hpp"

#include <laplex/cuda/device.hpp>
#include <laplex/cuda/plan.hpp>
#endif

namespace py = pybind11;

namespace laplex::python {

#if !defined(LAPLEX_HAS_CUDA)

void add_cuda(py::module_& m) {
  m.attr("has_cuda") = false;
  m.attr("cuda_emulated") = false;
  m.def("cuda_device_count", [] { return 0; });
  m.def("cuda_require_device", [] {
    throw Error(ErrorCode::device,
                "this build of Laplex is for the CPU alone: install it again where nvcc is on the "
                "PATH, or with -C cmake.define.LAPLEX_CUDA=ON to see what is missing");
  });
}

void add_cuda_info(py::dict& info) {
  info["cuda_compiled"] = false;
  info["cuda_architectures"] = "";
  info["cuda_devices"] = py::list();
}

#else

namespace {

using Address = std::uintptr_t;

struct AnyCudaPlan {
  std::variant<cuda::Plan<float>, cuda::Plan<double> > plan;
};

cuda::Stream stream_of(Address address) {
  return pointer<CUstream_st>(address);
}

cuda::Memory memory(Address address, std::size_t bytes) {
  return {pointer<void>(address), bytes};
}

template <class F>
auto visit(const AnyCudaPlan& any, const F& f) {
  return std::visit(f, any.plan);
}

template <class T>
T scalar_of(const cuda::Plan<T>&);

std::shared_ptr<AnyCudaPlan> make_cuda_plan(const std::string& dtype, std::int64_t heads,
                                            std::int64_t n, std::int64_t m, Address targets,
                                            Address sources, Address lengthscale, Address frequency,
                                            Address target_phase, Address source_phase,
                                            bool real_part, Address stream, Address storage,
                                            std::size_t storage_bytes, Address scratch,
                                            std::size_t scratch_bytes) {
  const Description d{is_double(dtype), heads,        n,           m,
                      targets,          sources,      lengthscale, frequency,
                      target_phase,     source_phase, real_part};
  const py::gil_scoped_release release;
  return with_precision(dtype, [&](auto zero) {
    using T = decltype(zero);
    return std::make_shared<AnyCudaPlan>(
        AnyCudaPlan{cuda::Plan<T>(kernel_of<T>(d), stream_of(stream),
                                  memory(storage, storage_bytes), memory(scratch, scratch_bytes))});
  });
}

std::shared_ptr<AnyCudaPlan> with_parameters(const AnyCudaPlan& any, Address lengthscale,
                                             Address frequency, Address target_phase,
                                             Address source_phase, bool real_part) {
  Description d;  // without anchors
  d.lengthscale = lengthscale;
  d.frequency = frequency;
  d.target_phase = target_phase;
  d.source_phase = source_phase;
  d.real_part = real_part;
  return visit(any, [&](const auto& plan) {
    using T = decltype(scalar_of(plan));
    return std::make_shared<AnyCudaPlan>(AnyCudaPlan{plan.with_parameters(kernel_of<T>(d))});
  });
}

void update(AnyCudaPlan& any, Address targets, Address sources, Address stream, Address scratch,
            std::size_t scratch_bytes) {
  const py::gil_scoped_release release;
  std::visit(
      [&](auto& plan) {
        using T = decltype(scalar_of(plan));
        plan.update(pointer<const T>(targets), pointer<const T>(sources), stream_of(stream),
                    memory(scratch, scratch_bytes));
      },
      any.plan);
}

bool holds(const AnyCudaPlan& any, Address targets, Address sources, Address stream,
           Address scratch, std::size_t scratch_bytes) {
  const py::gil_scoped_release release;
  return visit(any, [&](const auto& plan) {
    using T = decltype(scalar_of(plan));
    return plan.holds(pointer<const T>(targets), pointer<const T>(sources), stream_of(stream),
                      memory(scratch, scratch_bytes));
  });
}

void sum(const AnyCudaPlan& any, Address values, bool values_complex,
         std::int64_t values_head_stride, std::int64_t values_row_stride, std::int64_t rows,
         Address out, bool out_complex, std::int64_t out_head_stride, std::int64_t out_row_stride,
         int storage, int mode, int parity, int moment, Address stream, Address workspace,
         std::size_t workspace_bytes) {
  if (mode < 0 || mode > 2 || parity < 0 || parity > 2 || storage < 0 || storage > 2) {
    throw Error(ErrorCode::invalid_argument, "mode, parity and storage must be 0, 1 or 2");
  }
  const auto stored = static_cast<cuda::Storage>(storage);
  const py::gil_scoped_release release;
  visit(any, [&](const auto& plan) {
    plan.apply({pointer<const void>(values),
                values_complex,
                {values_head_stride, values_row_stride},
                stored},
               rows,
               {pointer<void>(out),
                out_complex,
                {out_head_stride, out_row_stride},
                out_complex ? cuda::Storage::single_or_double : stored},
               stream_of(stream), static_cast<Mode>(mode), {static_cast<Parity>(parity), moment},
               memory(workspace, workspace_bytes));
  });
}

void half_sums(const AnyCudaPlan& any, Address values, bool values_complex,
               std::int64_t values_head_stride, std::int64_t values_row_stride, std::int64_t rows,
               Address left, Address right, bool out_complex, std::int64_t out_head_stride,
               std::int64_t out_row_stride, Address stream, Address workspace,
               std::size_t workspace_bytes) {
  const py::gil_scoped_release release;
  visit(any, [&](const auto& plan) {
    const Strides strides{out_head_stride, out_row_stride};
    plan.half_sums(
        {pointer<const void>(values), values_complex, {values_head_stride, values_row_stride}},
        rows, {pointer<void>(left), out_complex, strides},
        {pointer<void>(right), out_complex, strides}, stream_of(stream),
        memory(workspace, workspace_bytes));
  });
}

void vjp(const AnyCudaPlan& any, Address values, bool values_complex,
         std::int64_t values_head_stride, std::int64_t values_row_stride, std::int64_t rows,
         Address grad, bool grad_complex, std::int64_t grad_head_stride,
         std::int64_t grad_row_stride, Address d_values, Address d_targets, Address d_sources,
         Address d_lengthscale, Address d_frequency, Address d_target_phase, Address d_source_phase,
         Address stream, Address workspace, std::size_t workspace_bytes) {
  const py::gil_scoped_release release;
  visit(any, [&](const auto& plan) {
    using T = decltype(scalar_of(plan));
    const Gradients<T, T> gradients{pointer<T>(d_values),         pointer<T>(d_targets),
                                    pointer<T>(d_sources),        pointer<double>(d_lengthscale),
                                    pointer<double>(d_frequency), pointer<T>(d_target_phase),
                                    pointer<T>(d_source_phase)};
    plan.vjp({pointer<const void>(values), values_complex, {values_head_stride, values_row_stride}},
             {pointer<const void>(grad), grad_complex, {grad_head_stride, grad_row_stride}}, rows,
             gradients, stream_of(stream), memory(workspace, workspace_bytes));
  });
}

}  // namespace

void add_cuda(py::module_& m) {
  m.attr("has_cuda") = true;
  m.def("cuda_device_count", &cuda::device_count);
  m.def("cuda_require_device", &cuda::require_device);
  m.def("cuda_current_device", &cuda::current_device);
  m.def("cuda_capture_id", [](Address stream) { return cuda::capture_id(stream_of(stream)); });
  m.def("cuda_storage_bytes", [](const std::string& dtype, std::int64_t heads, std::int64_t n,
                                 std::int64_t m_, bool self) {
    return with_precision(dtype, [&](auto zero) {
      return cuda::Plan<decltype(zero)>::storage_bytes(heads, n, m_, self);
    });
  });
  m.def("cuda_scratch_bytes", [](const std::string& dtype, std::int64_t heads, std::int64_t n,
                                 std::int64_t m_, bool self) {
    return with_precision(dtype, [&](auto zero) {
      return cuda::Plan<decltype(zero)>::scratch_bytes(heads, n, m_, self);
    });
  });
  add_device_array(m);
  add_cuda_gram(m);
  py::class_<AnyCudaPlan, std::shared_ptr<AnyCudaPlan> >(m, "CudaPlan")
      .def(py::init(&make_cuda_plan))
      .def("with_parameters", &with_parameters)
      .def("update", &update)
      .def("holds", &holds)
      .def("sum", &sum)
      .def("half_sums", &half_sums)
      .def("vjp", &vjp)
      .def("anchors",
           [](const AnyCudaPlan& any, Address targets, Address sources, Address stream) {
             visit(any, [&](const auto& plan) {
               using T = decltype(scalar_of(plan));
               plan.anchors(pointer<T>(targets), pointer<T>(sources), stream_of(stream));
             });
           })
      .def("workspace_bytes",
           [](const AnyCudaPlan& any, std::int64_t rows, bool values_complex, int moment) {
             return visit(any, [&](const auto& plan) {
               return plan.workspace_bytes(rows, values_complex, {Parity::even, moment});
             });
           })
      .def("gradient_workspace_bytes",
           [](const AnyCudaPlan& any, std::int64_t rows, bool values_complex) {
             return visit(any, [&](const auto& plan) {
               return plan.gradient_workspace_bytes(rows, values_complex);
             });
           })
      .def_property_readonly("nbytes",
                             [](const AnyCudaPlan& any) {
                               return visit(any, [](const auto& plan) { return plan.nbytes(); });
                             })
      .def_property_readonly("is_sorted", [](const AnyCudaPlan& any) {
        return visit(any, [](const auto& plan) { return plan.is_sorted(); });
      });
}

void add_cuda_info(py::dict& info) {
  info["cuda_compiled"] = true;
  info["cuda_architectures"] = LAPLEX_ARCHITECTURES;
  py::list devices;
  for (int k = 0; k < cuda::device_count(); ++k) {
    devices.append(cuda::device_name(k));
  }
  info["cuda_devices"] = devices;
}

#endif

}  // namespace laplex::python
