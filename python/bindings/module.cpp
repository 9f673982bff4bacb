// laplex._core: plans over raw addresses. Shapes, types and lifetimes are checked by the Python
// package.
#include "any_plan.hpp"
#include "cuda.hpp"
#include "direct.hpp"
#include "gram.hpp"
#include "jax.hpp"
#include "order.hpp"
#include "plan_cache.hpp"
#include "without_gil.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <exception>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#endif

namespace py = pybind11;

namespace laplex::python {
namespace {

template <class F>
auto visit(const AnyPlan& plan, const F& f) {
  return std::visit(f, plan.plan);
}

void sum(const AnyPlan& any, const Vectors& values, std::int64_t rows, const Vectors& out, int mode,
         const TermArguments& member, int num_threads) {
  if (mode < 0 || mode > 2) {
    throw Error(ErrorCode::invalid_argument, "mode must be 0, 1 or 2");
  }
  without_gil([&] {
    visit(any, [&](const auto& plan) {
      using T = decltype(scalar_of(plan));
      plan.apply_any(pointer<const T>(values.data), values.complex, rows, values.strides,
                     pointer<T>(out.data), out.complex, out.strides, static_cast<Mode>(mode),
                     member.term, num_threads);
    });
  });
}

void half_sums(const AnyPlan& any, const Vectors& values, std::int64_t rows, const Vectors& left,
               const Vectors& right, int num_threads) {
  without_gil([&] {
    visit(any, [&](const auto& plan) {
      using T = decltype(scalar_of(plan));
      plan.half_sums_any(pointer<const T>(values.data), values.complex, rows, values.strides,
                         pointer<T>(left.data), pointer<T>(right.data), left.complex, left.strides,
                         num_threads);
    });
  });
}

void quantiles(const AnyPlan& any, Address levels, std::int64_t count, Address result,
               int num_threads) {
  without_gil([&] {
    visit(any, [&](const auto& plan) {
      plan.quantiles(pointer<const double>(levels), count, pointer<double>(result), num_threads);
    });
  });
}

void vjp(const AnyPlan& any, const Vectors& values, const Vectors& grad, std::int64_t rows,
         const GradientArguments& gradients, const TermArguments& member, int num_threads) {
  any.differentiated = true;
  without_gil([&] {
    visit(any, [&](const auto& plan) {
      using T = decltype(scalar_of(plan));
      plan.vjp_any(pointer<const T>(values.data), values.complex, values.strides,
                   pointer<const T>(grad.data), grad.complex, grad.strides, rows, gradients.of<T>(),
                   {rows * plan.num_sources(), plan.num_sources()}, member.term, num_threads);
    });
  });
}

void second_vjp(const AnyPlan& any, const Vectors& values, const Vectors& grad, std::int64_t rows,
                const SecondArguments& cotangents, const SecondArguments& gradients,
                int num_threads) {
  without_gil([&] {
    visit(any, [&](const auto& plan) {
      using T = decltype(scalar_of(plan));
      const auto [none, a, b, c, e] = cotangents.arrays;
      const auto [by_cotangent, by_values, by_targets, by_sources, by_lengthscale] =
          gradients.arrays;
      static_cast<void>(none);
      plan.second_vjp(
          pointer<const T>(values.data), values.strides, pointer<const T>(grad.data), grad.strides,
          rows,
          {pointer<const T>(a), pointer<const T>(b), pointer<const T>(c), pointer<const double>(e)},
          {pointer<T>(by_cotangent), pointer<T>(by_values), pointer<T>(by_targets),
           pointer<T>(by_sources), pointer<double>(by_lengthscale)},
          num_threads);
    });
  });
}

void update(AnyPlan& any, Address targets, Address sources, Address lengthscale, int num_threads) {
  without_gil([&] { update_plan(any, targets, sources, lengthscale, num_threads); });
}

void anchors(const AnyPlan& any, Address targets, Address sources, Address lengthscale) {
  without_gil([&] {
    visit(any, [&](const auto& plan) {
      using T = decltype(scalar_of(plan));
      plan.anchors(pointer<T>(targets), pointer<T>(sources), pointer<double>(lengthscale));
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

/// A part of a line from a tuple of the members of LinePart, with None for no next anchor; null
/// from None. `gather` takes this process's numbers and the counts of all, and gives those of all.
std::shared_ptr<const LinePart> line_part(const py::object& share) {
  if (share.is_none()) {
    return nullptr;
  }
  const auto [rank, size, offset, total, next, gather] = share.cast<
      std::tuple<int, int, std::int64_t, std::int64_t, std::optional<double>, py::function>>();
  auto part = std::make_shared<LinePart>();
  part->rank = rank;
  part->size = size;
  part->offset = offset;
  part->total = total;
  part->has_next = next.has_value();
  part->next = next.value_or(0.0);
  // Whoever holds the plan last may not hold the interpreter's lock.
  const std::shared_ptr<py::function> call(new py::function(gather), [](py::function* function) {
    const py::gil_scoped_acquire lock;
    delete function;
  });
  part->gather = [call, size = size, rank = rank](const double* mine, const std::int64_t* counts,
                                                  double* all) {
    const py::gil_scoped_acquire lock;
    const std::vector<std::int64_t> sizes(counts, counts + size);
    const auto count = std::accumulate(sizes.begin(), sizes.end(), std::int64_t(0));
    const py::array_t<double> numbers(sizes[static_cast<std::size_t>(rank)], mine);
    const auto arrived =
        (*call)(numbers, sizes)
            .cast<py::array_t<double, py::array::c_style | py::array::forcecast>>();
    if (arrived.size() != count) {
      throw py::value_error("gather must give the numbers of all processes");
    }
    std::copy(arrived.data(), arrived.data() + count, all);
  };
  return part;
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

void survive_forks();

PlanCache& cache() {
  static PlanCache instance(default_cache_bytes(), &survive_forks);
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

  const auto cached_plan = [](const KernelArguments& kernel, int num_threads) {
    return without_gil([&] { return cache().get(kernel, num_threads); });
  };
  const auto new_plan = [](const KernelArguments& kernel, int num_threads,
                           const py::object& share) {
    const std::shared_ptr<const LinePart> part = line_part(share);
    return without_gil([&] { return make_plan(kernel, num_threads, part); });
  };
  const py::pos_only positional;
  const py::arg values("values"), rows("rows"), out("out"), grad("grad"), targets("targets"),
      sources("sources"), term("term"), num_threads("num_threads");
  py::class_<AnyPlan, std::shared_ptr<AnyPlan>>(m, "Plan")
      .def(py::init(new_plan), py::arg("kernel"), num_threads, py::arg("share") = py::none(),
           positional)
      .def("sum", &sum, values, rows, out, py::arg("mode"), term, num_threads, positional)
      .def("half_sums", &half_sums, values, rows, py::arg("left"), py::arg("right"), num_threads,
           positional)
      .def("quantiles", &quantiles, py::arg("levels"), py::arg("count"), py::arg("result"),
           num_threads, positional)
      .def("vjp", &vjp, values, grad, rows, py::arg("gradients"), term, num_threads, positional)
      .def("second_vjp", &second_vjp, values, grad, rows, py::arg("cotangents"),
           py::arg("gradients"), num_threads, positional)
      .def("update", &update, targets, sources, py::arg("lengthscale"), num_threads, positional)
      .def("anchors", &anchors, targets, sources, py::arg("lengthscale"), positional)
      .def("to_dense", &to_dense, out, py::arg("out_complex"), positional)
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
  add_direct(m, cache());
  add_gram(m);
  add_jax(m, cache());
  add_order(m);
  m.attr("line_segment") = LinePart::segment;
  m.def("cached_plan", cached_plan, py::arg("kernel"), num_threads, positional);
  m.def("address", &address, py::arg("array"), positional);
  m.def("plan_cache_clear", [] { cache().clear(); });
  m.def(
      "plan_cache_set_max_bytes", [](std::int64_t bytes) { cache().set_max_bytes(bytes); },
      py::arg("max_bytes"), positional);
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
