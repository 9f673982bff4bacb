// A small call asks little of Python here: DLPack's C exchange API reads the tensors, and no torch
// is linked. What is not plain, right and contiguous is left to the Python package, which knows
// what to do with it or what to say.
#include "direct.hpp"

#include "arguments.hpp"
#include "dlpack.hpp"
#include "without_gil.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

namespace py = pybind11;

namespace laplex::python {
namespace {

/// The tensors of one call: values [*rows, *heads, m] and the kernel's arrays, all with the heads;
/// or anchors without heads, which share them.
struct DirectCall {
  KernelArguments kernel;
  DLTensor values{};
  std::int32_t head_dims = 0;
  std::int64_t rows = 1;
  std::array<std::vector<double>, KernelArguments::kArrays.size()> widened;  ///< of float

  /// How `count` entries a vector lie in an array like the values.
  [[nodiscard]] Strides strides(std::int64_t count) const { return {count, kernel.heads * count}; }
  [[nodiscard]] bool values_complex() const { return values.dtype.code == kDLComplex; }
};

template <class P>
using Scalar = std::conditional_t<std::is_same_v<std::decay_t<P>, Plan<double>>, double, float>;

constexpr std::size_t kGradients = std::tuple_size_v<decltype(GradientArguments::arrays)>;

class DirectCalls {
 public:
  /// `api`: of the tensors whose class is among `types`; None leaves every call to Python.
  DirectCalls(const py::object& api, const py::tuple& types, PlanCache& cache)
      : types_(types), cache_(cache) {
    if (api.is_none()) {
      return;
    }
    api_ = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(api.ptr(), kExchangeCapsule));
    if (api_ == nullptr) {
      throw py::error_already_set();
    }
  }

  /// The batch of the values and that of the anchors, n, m, and whether precision is double and
  /// values are complex; None for tensors that Python has to look at.
  [[nodiscard]] std::optional<py::tuple> signature(const py::tuple& tensors) const {
    const std::optional<DirectCall> call = read(tensors, true);
    if (!call) {
      return std::nullopt;
    }
    const DLTensor& v = call->values;
    const py::tuple batch = sizes(v.shape, v.shape + v.ndim - 1);
    const py::tuple heads = sizes(v.shape + v.ndim - 1 - call->head_dims, v.shape + v.ndim - 1);
    return py::make_tuple(batch, heads, call->kernel.n, call->kernel.m, call->kernel.is_double,
                          call->values_complex());
  }

  /// Writes the product of tensors that `signature` has just taken to contiguous `out` [*batch, n]
  /// of the right type. The plan that made it.
  [[nodiscard]] std::shared_ptr<AnyPlan> product(const py::tuple& tensors,
                                                 const FormArguments& form, const py::object& out,
                                                 int num_threads) const {
    std::optional<DirectCall> call = read(tensors, false);
    DLTensor result{};
    if (!call || !borrow(out.ptr(), result, false)) {
      throw Error(ErrorCode::invalid_argument,
                  "another thread changed the tensors of a call during the call");
    }
    KernelArguments& kernel = call->kernel;
    kernel.real_part = form.real_part;
    kernel.side = form.side;
    return without_gil([&] {
      std::shared_ptr<AnyPlan> any = cache_.get(kernel, num_threads);
      std::visit(
          [&](const auto& plan) {
            using T = Scalar<decltype(plan)>;
            plan.apply_any(static_cast<const T*>(call->values.data), call->values_complex(),
                           call->rows, call->strides(kernel.m), static_cast<T*>(result.data),
                           result.dtype.code == kDLComplex, call->strides(kernel.n), Mode::plain,
                           form.term, num_threads);
          },
          any->plan);
      return any;
    });
  }

  /// Writes the first-order gradients of `tensors` to those of `out` that are not None, which
  /// have their shapes and types. False, with nothing done, for a cotangent that Python has to
  /// arrange first.
  [[nodiscard]] bool vjp(const AnyPlan& any, const py::tuple& tensors, const FormArguments& form,
                         const py::object& grad, const py::tuple& out, int num_threads) const {
    std::optional<DirectCall> call = read(tensors, false);
    DLTensor g{};
    if (!call || call->kernel.shared_anchors || !borrow(grad.ptr(), g, true)) {
      return false;  // Python sums the gradients by shared anchors over the heads
    }
    const KernelArguments& kernel = call->kernel;
    // One cotangent may serve all heads: that of a sum over them.
    const bool shared = kernel.heads > 1 && count(g) == call->rows * kernel.n;
    const bool fits = std::visit(
        [&](const auto& plan) {
          return std::is_same_v<Scalar<decltype(plan)>, double> == kernel.is_double &&
                 plan.heads() == kernel.heads && plan.num_targets() == kernel.n &&
                 plan.num_sources() == kernel.m &&
                 (shared || count(g) == call->rows * kernel.heads * kernel.n) &&
                 g.dtype.bits ==
                     (kernel.is_double ? 64 : 32) * (g.dtype.code == kDLComplex ? 2 : 1);
        },
        any.plan);
    if (!fits) {
      return false;
    }
    any.differentiated = true;
    GradientArguments gradients;
    std::array<DLTensor, kGradients> to{};
    std::array<std::vector<double>, kGradients> wide;  // in place of the float ones of parameters
    for (std::size_t k = 0; k < to.size(); ++k) {
      if (item(out, k) == Py_None) {
        continue;
      }
      if (!borrow(item(out, k), to[k], false)) {
        return false;
      }
      gradients.arrays[k] = reinterpret_cast<Address>(to[k].data);
      if (k > 0 && KernelArguments::kArrays[k - 1].always_double && to[k].dtype.bits == 32) {
        wide[k].resize(static_cast<std::size_t>(kernel.heads));
        gradients.arrays[k] = reinterpret_cast<Address>(wide[k].data());
      }
    }
    without_gil([&] {
      std::visit(
          [&](const auto& plan) {
            using T = Scalar<decltype(plan)>;
            Gradients<T, T> into = gradients.of<T>();
            if (plan.is_self()) {
              into.sources = into.targets;
            }
            plan.vjp_any(static_cast<const T*>(call->values.data), call->values_complex(),
                         call->strides(kernel.m), static_cast<const T*>(g.data),
                         g.dtype.code == kDLComplex,
                         shared ? Strides{0, kernel.n} : call->strides(kernel.n), call->rows, into,
                         call->strides(kernel.m), form.term, num_threads);
          },
          any.plan);
      for (std::size_t k = 0; k < to.size(); ++k) {
        std::transform(wide[k].begin(), wide[k].end(), static_cast<float*>(to[k].data),
                       [](double one) { return static_cast<float>(one); });
      }
    });
    return true;
  }

 private:
  static std::int64_t count(const DLTensor& t) {
    return std::accumulate(t.shape, t.shape + t.ndim, std::int64_t(1), std::multiplies<>());
  }

  static py::tuple sizes(const std::int64_t* begin, const std::int64_t* end) {
    py::tuple all(end - begin);
    for (std::size_t k = 0; k < all.size(); ++k) {
      all[k] = begin[k];
    }
    return all;
  }

  /// A contiguous tensor in the host's memory; `asks`: unless it is a lazily negated or conjugated
  /// view.
  bool borrow(PyObject* tensor, DLTensor& out, bool asks) const {
    bool known = false;
    for (const py::handle type : types_) {
      known = known || reinterpret_cast<PyObject*>(Py_TYPE(tensor)) == type.ptr();
    }
    if (!known || api_ == nullptr || api_->tensor_from_object(tensor, &out) != 0) {
      PyErr_Clear();
      return false;
    }
    std::int64_t step = 1;
    for (std::int32_t k = out.ndim - 1; k >= 0; --k) {
      if (out.strides != nullptr && out.shape[k] != 1 && out.strides[k] != step) {
        return false;
      }
      step *= out.shape[k];
    }
    out.data = static_cast<std::byte*>(out.data) + out.byte_offset;
    return out.device.device_type == kDLCPU && step > 0 && out.data != nullptr &&
           !(asks &&
             (is(tensor, is_neg_) || (out.dtype.code == kDLComplex && is(tensor, is_conj_))));
  }

  /// Torch's lazily negated and conjugated views, of which DLPack knows nothing.
  static bool is(PyObject* tensor, const py::str& question) {
    const auto answer =
        py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(tensor, question.ptr()));
    if (!answer) {
      PyErr_Clear();
    }
    return answer.ptr() != Py_False;
  }

  [[nodiscard]] std::optional<DirectCall> read(const py::tuple& tensors, bool asks) const {
    std::optional<DirectCall> call(std::in_place);
    KernelArguments& kernel = call->kernel;
    DLTensor& v = call->values;
    const auto is_real = [](const DLTensor& t, int bits) {
      return t.dtype.code == kDLFloat && t.dtype.bits == bits && t.dtype.lanes == 1;
    };
    std::array<DLTensor, KernelArguments::kArrays.size()> given{};
    if (tensors.size() != 1 + given.size() || !borrow(item(tensors, 0), v, asks)) {
      return std::nullopt;
    }
    for (std::size_t k = 0; k < given.size(); ++k) {
      PyObject* const tensor = item(tensors, 1 + k);
      if (tensor != Py_None && !borrow(tensor, given[k], asks)) {
        return std::nullopt;
      }
    }
    const DLTensor& x = given[0];
    const DLTensor& lengthscale = given[2];
    if (x.ndim < 1 || v.ndim < 1 + lengthscale.ndim) {
      return std::nullopt;
    }
    const int bits = x.dtype.bits == 32 ? 32 : 64;
    const std::int64_t* const heads = lengthscale.shape;
    const bool no_heads = x.ndim == 1;  // of the anchors
    call->head_dims = lengthscale.ndim;
    kernel.is_double = bits == 64;
    kernel.n = kernel.m = x.shape[x.ndim - 1];
    for (std::int32_t k = 0; k < call->head_dims; ++k) {
      kernel.heads *= heads[k];
    }
    kernel.shared_anchors = no_heads && kernel.heads > 1;
    for (std::size_t k = 0; k < kernel.arrays.size(); ++k) {
      const DLTensor& t = given[k];
      if (t.data == nullptr) {
        continue;
      }
      const auto [extent, always_double] = KernelArguments::kArrays[k];
      const bool is_vector = extent != Extent::one;
      const std::int32_t dims =
          no_heads && k < KernelArguments::kAnchorArrays ? 0 : call->head_dims;
      if (t.ndim != dims + (is_vector ? 1 : 0) || !std::equal(heads, heads + dims, t.shape)) {
        return std::nullopt;
      }
      if (k == 1) {
        kernel.m = t.shape[t.ndim - 1];
      }
      const std::int64_t count = extent == Extent::targets ? kernel.n : kernel.m;
      if (is_vector && t.shape[t.ndim - 1] != count) {
        return std::nullopt;
      }
      kernel.arrays[k] = reinterpret_cast<Address>(t.data);
      if (always_double && is_real(t, 32)) {
        const auto* const narrow = static_cast<const float*>(t.data);
        call->widened[k].assign(narrow, narrow + kernel.heads);
        kernel.arrays[k] = reinterpret_cast<Address>(call->widened[k].data());
      } else if (!is_real(t, always_double ? 64 : bits)) {
        return std::nullopt;
      }
    }
    const bool is_complex = v.dtype.code == kDLComplex && v.dtype.bits == 2 * bits;
    const std::int32_t row_dims = v.ndim - 1 - call->head_dims;
    const std::int64_t* const tail = v.shape + row_dims;
    if (!(is_real(v, bits) || is_complex) || v.shape[v.ndim - 1] != kernel.m ||
        !std::equal(heads, heads + call->head_dims, tail)) {
      return std::nullopt;
    }
    for (std::int32_t k = 0; k < row_dims; ++k) {
      call->rows *= v.shape[k];
    }
    return call;
  }

  static PyObject* item(const py::tuple& tensors, std::size_t k) {
    return PyTuple_GET_ITEM(tensors.ptr(), static_cast<py::ssize_t>(k));
  }

  const DLPackExchangeAPI* api_ = nullptr;
  py::tuple types_;
  PlanCache& cache_;
  py::str is_neg_{"is_neg"};
  py::str is_conj_{"is_conj"};
};

}  // namespace

void add_direct(py::module_& m, PlanCache& cache) {
  const py::pos_only positional;
  const py::arg tensors("tensors");
  py::class_<DirectCalls>(m, "DirectCalls")
      .def(py::init([&cache](const py::object& api, const py::tuple& types) {
             return std::make_unique<DirectCalls>(api, types, cache);
           }),
           py::arg("api"), py::arg("types"), positional)
      .def("signature", &DirectCalls::signature, tensors, positional)
      .def("product", &DirectCalls::product, tensors, py::arg("form"), py::arg("out"),
           py::arg("num_threads"), positional)
      .def("vjp", &DirectCalls::vjp, py::arg("plan"), tensors, py::arg("form"), py::arg("grad"),
           py::arg("out"), py::arg("num_threads"), positional);
}

}  // namespace laplex::python
