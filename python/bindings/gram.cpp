// laplex._core.Gram and log_density over raw addresses. Shapes, types and lifetimes are checked by
// the Python package.
#include "gram.hpp"

#include "gram_methods.hpp"
#include "without_gil.hpp"

#include <memory>
#include <numeric>

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
             return without_gil([&] { return std::make_shared<Gram>(given.of()); });
           }),
           py::arg("covariance"), py::arg("num_threads"), positional);
  add_gram_methods<Gram, Threads>(gram);
  gram.def(
      "precision",
      [](const Gram& self, Address diagonal, Address off_diagonal) {
        self.precision(pointer<double>(diagonal), pointer<double>(off_diagonal));
      },
      py::arg("diagonal"), py::arg("off_diagonal"), positional);
  // A sum of zeros for finite numbers alone: for a few numbers, torch takes ten times as long.
  m.def(
      "all_finite",
      [](Address numbers, std::int64_t count, bool is_double, double factor) {
        const auto finite = [&](auto kind) {
          const auto* const all = pointer<const decltype(kind)>(numbers);
          return std::accumulate(all, all + count, 0.0, [&](double sum, auto x) {
                   return sum + 0.0 * (factor * static_cast<double>(x));
                 }) == 0.0;
        };
        return is_double ? finite(0.0) : finite(0.0F);
      },
      py::arg("numbers"), py::arg("count"), py::arg("is_double"), py::arg("factor"), positional);
  m.def(
      "log_density",
      [](ProcessArguments p, Address out, const ProcessAddresses& gradients, int num_threads) {
        const Process process{p.batch,
                              p.n,
                              pointer<const double>(p.anchors),
                              pointer<const double>(p.values),
                              p.lengthscale.of(p.batch),
                              p.variance.of(p.batch),
                              p.frequency.of(p.batch),
                              pointer<const double>(p.noise),
                              p.one_noise,
                              num_threads};
        const ProcessGradients to = gradients.of();
        const bool any = gradients.arrays != decltype(gradients.arrays){};
        return without_gil(
            [&] { return log_density(process, pointer<double>(out), any ? &to : nullptr); });
      },
      py::arg("process"), py::arg("out"), py::arg("gradients"), py::arg("num_threads"), positional);
  m.def(
      "oscillator_log_density",
      [](OscillatorArguments p, Address out, const OscillatorAddresses& gradients,
         int num_threads) {
        const OscillatorProcess process{p.batch,
                                        p.n,
                                        pointer<const double>(p.anchors),
                                        pointer<const double>(p.values),
                                        {p.damping_time.of(p.batch), p.undamped_time.of(p.batch)},
                                        {p.first_weight.of(p.batch), p.second_weight.of(p.batch)},
                                        pointer<const double>(p.noise),
                                        p.one_noise,
                                        num_threads};
        const OscillatorGradients to = gradients.of();
        const bool any = gradients.arrays != decltype(gradients.arrays){};
        return without_gil([&] {
          return oscillator_log_density(process, pointer<double>(out), any ? &to : nullptr);
        });
      },
      py::arg("process"), py::arg("out"), py::arg("gradients"), py::arg("num_threads"), positional);
}

}  // namespace laplex::python
