#include "cuda.hpp"

#include "arguments.hpp"

#include <laplex/laplex.hpp>

#include <pybind11/functional.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <variant>

#if defined(LAPLEX_HAS_CUDA)
#include "cuda_gram.hpp"
#include "device.hpp"
#include "device_array.hpp"

#include <laplex/cuda/device.hpp>
#include <laplex/cuda/plan.hpp>
#endif
#if defined(LAPLEX_CUDA_EMULATION)
#include "emulated_runtime.hpp"
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

struct AnyCudaPlan {
  std::variant<cuda::Plan<float>, cuda::Plan<double> > plan;
};

cuda::Vectors vectors(const Vectors& v, cuda::Storage storage = cuda::Storage::single_or_double) {
  return {pointer<void>(v.data), v.complex, v.strides, storage};
}

template <class F>
auto visit(const AnyCudaPlan& any, const F& f) {
  return std::visit(f, any.plan);
}

template <class T>
T scalar_of(const cuda::Plan<T>&);

/// Lends memory of that many bytes until the call returns.
using Lender = std::function<MemoryArguments(std::size_t bytes)>;

cuda::Scratch scratch_of(const Lender& lend) {
  cuda::Scratch scratch;
  scratch.lend = [&](std::size_t bytes) { return memory(lend(bytes)); };
  return scratch;
}

std::shared_ptr<AnyCudaPlan> make_cuda_plan(const KernelArguments& kernel, Address stream,
                                            const MemoryArguments& storage, const Lender& lend,
                                            Address report) {
  const py::gil_scoped_release release;
  return with_precision(kernel.is_double, [&](auto zero) {
    using T = decltype(zero);
    return std::make_shared<AnyCudaPlan>(
        AnyCudaPlan{cuda::Plan<T>(kernel_of<T>(kernel, 0), stream_of(stream), memory(storage),
                                  scratch_of(lend), pointer<cuda::Report>(report))});
  });
}

/// Of `kernel` its parameters alone.
std::shared_ptr<AnyCudaPlan> with_parameters(const AnyCudaPlan& any,
                                             const KernelArguments& kernel) {
  return visit(any, [&](const auto& plan) {
    using T = decltype(scalar_of(plan));
    return std::make_shared<AnyCudaPlan>(
        AnyCudaPlan{plan.with_parameters(kernel_of<T>(kernel, 0))});
  });
}

void update(AnyCudaPlan& any, Address targets, Address sources, Address stream, const Lender& lend,
            Address report) {
  const py::gil_scoped_release release;
  std::visit(
      [&](auto& plan) {
        using T = decltype(scalar_of(plan));
        plan.update(pointer<const T>(targets), pointer<const T>(sources), stream_of(stream),
                    scratch_of(lend), pointer<cuda::Report>(report));
      },
      any.plan);
}

bool holds(const AnyCudaPlan& any, Address targets, Address sources, Address stream,
           const MemoryArguments& scratch) {
  const py::gil_scoped_release release;
  return visit(any, [&](const auto& plan) {
    using T = decltype(scalar_of(plan));
    return plan.holds(pointer<const T>(targets), pointer<const T>(sources), stream_of(stream),
                      memory(scratch));
  });
}

cuda::Storage storage_of(int number) {
  if (number < 0 || number > 2) {
    throw Error(ErrorCode::invalid_argument, "storage must be 0, 1 or 2");
  }
  return static_cast<cuda::Storage>(number);
}

/// A result or its cotangent, stored as the values unless it is complex.
cuda::Vectors result_vectors(const Vectors& v, cuda::Storage storage) {
  return vectors(v, v.complex ? cuda::Storage::single_or_double : storage);
}

void sum(const AnyCudaPlan& any, const Vectors& values, std::int64_t rows, const Vectors& out,
         int storage, int mode, const TermArguments& member, Address stream,
         const MemoryArguments& workspace) {
  if (mode < 0 || mode > 2) {
    throw Error(ErrorCode::invalid_argument, "mode must be 0, 1 or 2");
  }
  const auto stored = storage_of(storage);
  const py::gil_scoped_release release;
  visit(any, [&](const auto& plan) {
    plan.apply(vectors(values, stored), rows, result_vectors(out, stored), stream_of(stream),
               static_cast<Mode>(mode), member.term, memory(workspace));
  });
}

void half_sums(const AnyCudaPlan& any, const Vectors& values, std::int64_t rows,
               const Vectors& left, const Vectors& right, Address stream,
               const MemoryArguments& workspace) {
  const py::gil_scoped_release release;
  visit(any, [&](const auto& plan) {
    plan.half_sums(vectors(values), rows, vectors(left), vectors(right), stream_of(stream),
                   memory(workspace));
  });
}

void quantiles(const AnyCudaPlan& any, Address levels, std::int64_t count, Address result,
               Address stream, const MemoryArguments& workspace) {
  const py::gil_scoped_release release;
  visit(any, [&](const auto& plan) {
    plan.quantiles(pointer<const double>(levels), count, pointer<double>(result), stream_of(stream),
                   memory(workspace));
  });
}

void vjp(const AnyCudaPlan& any, const Vectors& values, const Vectors& grad, std::int64_t rows,
         int storage, const GradientArguments& gradients, const TermArguments& member,
         Address stream, const MemoryArguments& workspace) {
  const auto stored = storage_of(storage);
  const py::gil_scoped_release release;
  visit(any, [&](const auto& plan) {
    using T = decltype(scalar_of(plan));
    plan.vjp(vectors(values, stored), result_vectors(grad, stored), rows, gradients.of<T>(),
             stream_of(stream), member.term, memory(workspace));
  });
}

}  // namespace

void add_cuda(py::module_& m) {
  m.attr("has_cuda") = true;
  m.def("cuda_device_count", &cuda::device_count);
  m.def("cuda_require_device", &cuda::require_device);
  m.def("cuda_current_device", &cuda::current_device);
  const py::pos_only positional;
  const py::arg kernel("kernel"), values("values"), rows("rows"), targets("targets"),
      sources("sources"), stream("stream"), lend("lend"), report("report"), workspace("workspace"),
      values_complex("values_complex");
  m.def(
      "cuda_capture_id", [](Address on) { return cuda::capture_id(stream_of(on)); }, stream,
      positional);
  m.def(
      "cuda_storage_bytes",
      [](const KernelArguments& k) {
        return with_precision(k.is_double, [&](auto zero) {
          using T = decltype(zero);
          const Kernel<T> described = kernel_of<T>(k, 0);
          return cuda::Plan<T>::storage_bytes(described.shared_anchors ? 1 : k.heads, k.n, k.m,
                                              described.sources == nullptr);
        });
      },
      kernel, positional);
  m.def(
      "cuda_reports",
      [](Address at) { return *pointer<volatile decltype(cuda::Report::found)>(at) != 0; }, report,
      positional);
  m.def(
      "cuda_check_report", [](Address at) { pointer<cuda::Report>(at)->check(); }, report,
      positional);
#if defined(LAPLEX_CUDA_EMULATION)
  m.def("cuda_emulated_waits", [] { return emulation::runtime().waits; });
#endif
  add_device_array(m);
  add_cuda_gram(m);
  py::class_<AnyCudaPlan, std::shared_ptr<AnyCudaPlan> >(m, "CudaPlan")
      .def(py::init(&make_cuda_plan), kernel, stream, py::arg("storage"), lend, report = 0,
           positional)
      .def("with_parameters", &with_parameters, kernel, positional)
      .def("update", &update, targets, sources, stream, lend, report = 0, positional)
      .def("holds", &holds, targets, sources, stream, py::arg("scratch"), positional)
      .def("sum", &sum, values, rows, py::arg("out"), py::arg("storage"), py::arg("mode"),
           py::arg("term"), stream, workspace, positional)
      .def("half_sums", &half_sums, values, rows, py::arg("left"), py::arg("right"), stream,
           workspace, positional)
      .def("quantiles", &quantiles, py::arg("levels"), py::arg("count"), py::arg("result"), stream,
           workspace, positional)
      .def("vjp", &vjp, values, py::arg("grad"), rows, py::arg("storage"), py::arg("gradients"),
           py::arg("term"), stream, workspace, positional)
      .def(
          "anchors",
          [](const AnyCudaPlan& any, Address x, Address y, Address on) {
            visit(any, [&](const auto& plan) {
              using T = decltype(scalar_of(plan));
              plan.anchors(pointer<T>(x), pointer<T>(y), stream_of(on));
            });
          },
          targets, sources, stream, positional)
      .def(
          "workspace_bytes",
          [](const AnyCudaPlan& any, std::int64_t count, bool complex,
             const TermArguments& member) {
            return visit(any, [&](const auto& plan) {
              return plan.workspace_bytes(count, complex, member.term);
            });
          },
          rows, values_complex, py::arg("term"), positional)
      .def(
          "gradient_workspace_bytes",
          [](const AnyCudaPlan& any, std::int64_t count, bool complex,
             const TermArguments& member) {
            return visit(any, [&](const auto& plan) {
              return plan.gradient_workspace_bytes(count, complex, member.term);
            });
          },
          rows, values_complex, py::arg("term"), positional)
      .def("quantile_workspace_bytes",
           [](const AnyCudaPlan& any) {
             return visit(any, [](const auto& plan) { return plan.quantile_workspace_bytes(); });
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
