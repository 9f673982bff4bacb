// laplex._core: plans over raw addresses. Shapes, types and lifetimes are checked by the Python
// package.
#include "any_plan.hpp"
#include "cuda.hpp"
#include "gram.hpp"
#include "plan_cache.hpp"
#include "without_gil.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#endif

namespace py = pybind11;

namespace laplex::python {
namespace {

using Address = std::uintptr_t;

Description describe(const std::string& dtype, std::int64_t heads, std::int64_t n, std::int64_t m,
                     Address targets, Address sources, Address lengthscale, Address frequency,
                     Address target_phase, Address source_phase, bool real_part, int num_threads) {
  return {is_double(dtype), heads,        n,           m,
          targets,          sources,      lengthscale, frequency,
          target_phase,     source_phase, real_part,   num_threads};
}

template <class F>
auto visit(const AnyPlan& plan, const F& f) {
  return std::visit(f, plan.plan);
}

template <class T>
T scalar_of(const Plan<T>&);

PlanCache& cache();

void sum(const AnyPlan& any, Address values, bool values_complex, std::int64_t values_head_stride,
         std::int64_t values_row_stride, std::int64_t rows, Address out, bool out_complex,
         std::int64_t out_head_stride, std::int64_t out_row_stride, int mode, int parity,
         int moment, int num_threads) {
  if (mode < 0 || mode > 2 || parity < 0 || parity > 2) {
    throw Error(ErrorCode::invalid_argument, "mode and parity must be 0, 1 or 2");
  }
  without_gil([&] {
    visit(any, [&](const auto& plan) {
      using T = decltype(scalar_of(plan));
      plan.apply_any(pointer<const T>(values), values_complex, rows,
                     {values_head_stride, values_row_stride}, pointer<T>(out), out_complex,
                     {out_head_stride, out_row_stride}, static_cast<Mode>(mode),
                     {static_cast<Parity>(parity), moment}, num_threads);
    });
  });
}

/// The common small call in one step: a real kernel of one head, rows one after the other.
void plain_product(bool is_double, std::int64_t n, std::int64_t m, Address targets, Address sources,
                   double lengthscale, Address values, std::int64_t rows, Address out,
                   int num_threads) {
  Description d;
  d.is_double = is_double;
  d.n = n;
  d.m = m;
  d.targets = targets;
  d.sources = sources;
  d.lengthscale = reinterpret_cast<Address>(&lengthscale);
  d.num_threads = num_threads;
  without_gil([&] {
    visit(*cache().get(d), [&](const auto& plan) {
      using T = decltype(scalar_of(plan));
      plan.apply_any(pointer<const T>(values), false, rows, {rows * m, m}, pointer<T>(out), false,
                     {rows * n, n}, Mode::plain, {}, num_threads);
    });
  });
}

/// Where an array's memory begins; faster than any way through its attributes.
Address address(const py::object& array) {
  Py_buffer view;
  if (PyObject_GetBuffer(array.ptr(), &view, PyBUF_STRIDES) != 0) {
    throw py::error_already_set();
  }
  const auto start = reinterpret_cast<Address>(view.buf);
  PyBuffer_Release(&view);
  return start;
}

void half_sums(const AnyPlan& any, Address values, bool values_complex,
               std::int64_t values_head_stride, std::int64_t values_row_stride, std::int64_t rows,
               Address left, Address right, bool out_complex, std::int64_t out_head_stride,
               std::int64_t out_row_stride, int num_threads) {
  without_gil([&] {
    visit(any, [&](const auto& plan) {
      using T = decltype(scalar_of(plan));
      plan.half_sums_any(pointer<const T>(values), values_complex, rows,
                         {values_head_stride, values_row_stride}, pointer<T>(left),
                         pointer<T>(right), out_complex, {out_head_stride, out_row_stride},
                         num_threads);
    });
  });
}

void vjp(const AnyPlan& any, Address values, bool values_complex, std::int64_t values_head_stride,
         std::int64_t values_row_stride, std::int64_t rows, Address grad, bool grad_complex,
         std::int64_t grad_head_stride, std::int64_t grad_row_stride, Address d_values,
         Address d_targets, Address d_sources, Address d_lengthscale, Address d_frequency,
         Address d_target_phase, Address d_source_phase, int num_threads) {
  without_gil([&] {
    visit(any, [&](const auto& plan) {
      using T = decltype(scalar_of(plan));
      const Gradients<T, T> gradients{pointer<T>(d_values),         pointer<T>(d_targets),
                                      pointer<T>(d_sources),        pointer<double>(d_lengthscale),
                                      pointer<double>(d_frequency), pointer<T>(d_target_phase),
                                      pointer<T>(d_source_phase)};
      plan.vjp_any(pointer<const T>(values), values_complex,
                   {values_head_stride, values_row_stride}, pointer<const T>(grad), grad_complex,
                   {grad_head_stride, grad_row_stride}, rows, gradients, num_threads);
    });
  });
}

void update(AnyPlan& any, Address targets, Address sources, int num_threads) {
  without_gil([&] {
    std::visit(
        [&](auto& plan) {
          using T = decltype(scalar_of(plan));
          plan.update(pointer<const T>(targets), pointer<const T>(sources), num_threads);
        },
        any.plan);
  });
}

void anchors(const AnyPlan& any, Address targets, Address sources) {
  without_gil([&] {
    visit(any, [&](const auto& plan) {
      using T = decltype(scalar_of(plan));
      plan.anchors(pointer<T>(targets), pointer<T>(sources));
    });
  });
}

void to_dense(const AnyPlan& any, Address out, bool out_complex) {
  without_gil([&] {
    visit(any, [&](const auto& plan) {
      using T = decltype(scalar_of(plan));
      plan.to_dense_any(pointer<T>(out), out_complex);
    });
  });
}

/// An eighth of the machine's memory.
std::int64_t default_cache_bytes() {
#if defined(_SC_PHYS_PAGES) && defined(_SC_PAGE_SIZE)
  const auto pages = static_cast<std::int64_t>(sysconf(_SC_PHYS_PAGES));
  const auto page = static_cast<std::int64_t>(sysconf(_SC_PAGE_SIZE));
  if (pages > 0 && page > 0) {
    return pages / 8 * page;
  }
#endif
  return std::int64_t(1) << 30;
}

PlanCache& cache() {
  static PlanCache instance(default_cache_bytes());
  return instance;
}

void survive_forks() {
#if defined(__unix__) || defined(__APPLE__)
  pthread_atfork([] { cache().lock(); }, [] { cache().unlock(); }, [] { cache().unlock(); });
#endif
}

py::dict info() {
  py::dict d;
  d["version"] = LAPLEX_VERSION;
  d["isa"] = name_of(instruction_set());
  py::list levels;
  for (const InstructionSet level : available_instruction_sets()) {
    levels.append(name_of(level));
  }
  d["isa_available"] = levels;
  d["threads"] = default_num_threads();
#if defined(__clang__)
  d["compiler"] = "clang " __clang_version__;
#elif defined(__GNUC__)
  d["compiler"] = "gcc " __VERSION__;
#else
  d["compiler"] = "unknown";
#endif
  add_cuda_info(d);
  py::list features;
  for (const char* feature : {"real", "carrier phases", "oscillating", "cosine", "float32",
                              "float64", "half sums", "derivatives to order 4"}) {
    features.append(feature);
  }
  d["features"] = features;
  return d;
}

}  // namespace
}  // namespace laplex::python

PYBIND11_MODULE(_core, m) {
  using namespace laplex;
  using namespace laplex::python;

  m.doc() =
      "The compiled core: plans over raw addresses. Use laplex.Plan or laplex.matvec instead.";

  m.attr("__version__") = LAPLEX_VERSION;
  survive_forks();
  main_thread =
      py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  py::register_exception_translator([](std::exception_ptr p) {
    try {
      if (p) {
        std::rethrow_exception(p);
      }
    } catch (const Error& error) {
      if (error.code() == ErrorCode::singular) {
        const py::object type = py::module_::import("numpy.linalg").attr("LinAlgError");
        PyErr_SetString(type.ptr(), error.what());
        return;
      }
      PyObject* type = error.code() == ErrorCode::invalid_argument ? PyExc_ValueError
                       : error.code() == ErrorCode::out_of_memory  ? PyExc_MemoryError
                       : error.code() == ErrorCode::device         ? PyExc_RuntimeError
                                                                   : PyExc_KeyboardInterrupt;
      PyErr_SetString(type, error.what());
    }
  });

  const auto add_plan_args = [](auto&& define) {
    define(py::arg("dtype"), py::arg("heads"), py::arg("n"), py::arg("m"), py::arg("targets_ptr"),
           py::arg("sources_ptr"), py::arg("lengthscale_ptr"), py::arg("frequency_ptr"),
           py::arg("target_phase_ptr"), py::arg("source_phase_ptr"), py::arg("real_part"),
           py::arg("num_threads"));
  };

  py::class_<AnyPlan, std::shared_ptr<AnyPlan>> plan(m, "Plan");
  add_plan_args([&](auto... args) {
    plan.def(
        py::init([](const std::string& dtype, std::int64_t heads, std::int64_t n, std::int64_t m_,
                    Address targets, Address sources, Address lengthscale, Address frequency,
                    Address target_phase, Address source_phase, bool real_part, int num_threads) {
          const Description d =
              describe(dtype, heads, n, m_, targets, sources, lengthscale, frequency, target_phase,
                       source_phase, real_part, num_threads);
          return without_gil([&] { return std::make_shared<AnyPlan>(make_plan(d)); });
        }),
        args...);
    m.def(
        "cached_plan",
        [](const std::string& dtype, std::int64_t heads, std::int64_t n, std::int64_t m_,
           Address targets, Address sources, Address lengthscale, Address frequency,
           Address target_phase, Address source_phase, bool real_part, int num_threads) {
          const Description d =
              describe(dtype, heads, n, m_, targets, sources, lengthscale, frequency, target_phase,
                       source_phase, real_part, num_threads);
          return without_gil([&] { return cache().get(d); });
        },
        args...);
  });
  plan.def("sum", &sum)
      .def("half_sums", &half_sums)
      .def("vjp", &vjp)
      .def("update", &update)
      .def("anchors", &anchors)
      .def("to_dense", &to_dense)
      .def("rank",
           [](const AnyPlan& any) {
             return without_gil([&] { return visit(any, [](const auto& p) { return p.rank(); }); });
           })
      .def_property_readonly(
          "nbytes",
          [](const AnyPlan& any) { return visit(any, [](const auto& p) { return p.nbytes(); }); })
      .def_property_readonly(
          "heads",
          [](const AnyPlan& any) { return visit(any, [](const auto& p) { return p.heads(); }); })
      .def_property_readonly("targets",
                             [](const AnyPlan& any) {
                               return visit(any, [](const auto& p) { return p.num_targets(); });
                             })
      .def_property_readonly("sources",
                             [](const AnyPlan& any) {
                               return visit(any, [](const auto& p) { return p.num_sources(); });
                             })
      .def_property_readonly("is_self", [](const AnyPlan& any) {
        return visit(any, [](const auto& p) { return p.is_self(); });
      });

  add_cuda(m);
  add_gram(m);
  m.def("plain_product", &plain_product);
  m.def("address", &address);
  m.def("plan_cache_clear", [] { cache().clear(); });
  m.def("plan_cache_set_max_bytes", [](std::int64_t bytes) { cache().set_max_bytes(bytes); });
  m.def("plan_cache_info", [] {
    const PlanCache::Info i = cache().info();
    py::dict d;
    d["plans"] = i.plans;
    d["bytes"] = i.bytes;
    d["max_bytes"] = i.max_bytes;
    d["hits"] = i.hits;
    d["misses"] = i.misses;
    return d;
  });
  m.def("info", &info);
  m.def("default_num_threads", &default_num_threads);
}
