// laplex._core.Gram over raw addresses. Shapes, types and lifetimes are checked by the Python
// package.
#include "gram.hpp"

#include "gram_methods.hpp"
#include "without_gil.hpp"

#include <memory>

namespace py = pybind11;

namespace laplex::python {
namespace {

/// On the CPU.
struct Threads {
  int count = 0;

  template <class F>
  void run(const F& call) const {
    without_gil([&] { call(count); });
  }
  template <class F>
  void run_unthreaded(const F& call) const {
    call();
  }
  template <class F>
  void run_in_place(const F& call) const {
    call();
  }
};

}  // namespace
}  // namespace laplex::python

template <>
struct pybind11::detail::type_caster<laplex::python::Threads> {
  PYBIND11_TYPE_CASTER(laplex::python::Threads, const_name("int"));
  bool load(handle given, bool convert) {
    make_caster<int> number;
    const bool right = number.load(given, convert);
    value.count = right ? cast_op<int>(number) : 0;
    return right;
  }
};

namespace laplex::python {

void add_gram(py::module_& m) {
  const py::pos_only positional;
  py::class_<Gram, std::shared_ptr<Gram>> gram(m, "Gram");
  gram.def(py::init([](CovarianceArguments given, int num_threads) {
             given.covariance.num_threads = num_threads;
             return without_gil([&] { return std::make_shared<Gram>(given.covariance); });
           }),
           py::arg("covariance"), py::arg("num_threads"), positional);
  add_gram_methods<Gram, Threads>(gram);
  gram.def(
      "precision",
      [](const Gram& self, Address diagonal, Address off_diagonal) {
        self.precision(pointer<double>(diagonal), pointer<double>(off_diagonal));
      },
      py::arg("diagonal"), py::arg("off_diagonal"), positional);
}

}  // namespace laplex::python
