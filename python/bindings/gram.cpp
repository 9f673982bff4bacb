// laplex._core.Gram over raw addresses. Shapes, types and lifetimes are checked by the Python
// package; 0 stands for "not given".
#include "gram.hpp"

#include "arguments.hpp"
#include "without_gil.hpp"

#include <cstdint>
#include <memory>

namespace py = pybind11;

namespace laplex::python {
namespace {

std::shared_ptr<Gram> make(std::int64_t batch, std::int64_t n, std::int64_t width, Address anchors,
                           Address lengthscale, Address loadings, Address noise,
                           bool ties_backwards, int num_threads) {
  Covariance c;
  c.batch = batch;
  c.n = n;
  c.width = width;
  c.anchors = pointer<const double>(anchors);
  c.lengthscale = pointer<const double>(lengthscale);
  c.loadings = pointer<const double>(loadings);
  c.noise = pointer<const double>(noise);
  c.ties_backwards = ties_backwards;
  c.num_threads = num_threads;
  return without_gil([&] { return std::make_shared<Gram>(c); });
}

void apply(const Gram& gram, int factor, bool scaled, Address in, Address out, std::int64_t rows,
           int num_threads) {
  if (factor < 0 || factor > 3) {
    throw Error(ErrorCode::invalid_argument, "factor must be 0, 1, 2 or 3");
  }
  without_gil([&] {
    gram.apply(static_cast<Factor>(factor), scaled, pointer<const double>(in), pointer<double>(out),
               rows, num_threads);
  });
}

void solve(const Gram& gram, Address b, Address x, std::int64_t rows, int num_threads) {
  without_gil([&] { gram.solve(pointer<const double>(b), pointer<double>(x), rows, num_threads); });
}

void log_prob(const Gram& gram, Address v, Address out, std::int64_t rows, int num_threads) {
  without_gil(
      [&] { gram.log_prob(pointer<const double>(v), pointer<double>(out), rows, num_threads); });
}

GramGradients gradients_at(Address anchors, Address lengthscale, Address loadings, Address noise) {
  return {pointer<double>(anchors), pointer<double>(lengthscale), pointer<double>(loadings),
          pointer<double>(noise)};
}

void vjp(const Gram& gram, Address a, Address b, std::int64_t rows, Address w, Address d_anchors,
         Address d_lengthscale, Address d_loadings, Address d_noise, Address d_b, int num_threads) {
  without_gil([&] {
    gram.vjp(pointer<const double>(a), pointer<const double>(b), rows, pointer<const double>(w),
             gradients_at(d_anchors, d_lengthscale, d_loadings, d_noise), pointer<double>(d_b),
             num_threads);
  });
}

void vjp_tangent(const Gram& gram, Address a, Address b, std::int64_t rows, Address w,
                 Address t_anchors, Address t_lengthscale, Address t_loadings, Address t_noise,
                 Address d_anchors, Address d_lengthscale, Address d_loadings, Address d_noise,
                 Address d_a, Address d_b, Address d_w, int num_threads) {
  without_gil([&] {
    gram.vjp_tangent(pointer<const double>(a), pointer<const double>(b), rows,
                     pointer<const double>(w),
                     {pointer<const double>(t_anchors), pointer<const double>(t_lengthscale),
                      pointer<const double>(t_loadings), pointer<const double>(t_noise)},
                     gradients_at(d_anchors, d_lengthscale, d_loadings, d_noise),
                     pointer<double>(d_a), pointer<double>(d_b), pointer<double>(d_w), num_threads);
  });
}

}  // namespace

void add_gram(py::module_& m) {
  py::class_<Gram, std::shared_ptr<Gram>>(m, "Gram")
      .def(py::init(&make), py::arg("batch"), py::arg("n"), py::arg("width"),
           py::arg("anchors_ptr"), py::arg("lengthscale_ptr"), py::arg("loadings_ptr"),
           py::arg("noise_ptr"), py::arg("ties_backwards"), py::arg("num_threads"))
      .def("apply", &apply)
      .def("solve", &solve)
      .def("log_prob", &log_prob)
      .def("vjp", &vjp)
      .def("vjp_tangent", &vjp_tangent)
      .def("log_variances",
           [](const Gram& gram, Address out) { gram.log_variances(pointer<double>(out)); })
      .def("logdet", [](const Gram& gram, Address out) { gram.logdet(pointer<double>(out)); })
      .def("precision",
           [](const Gram& gram, Address diagonal, Address off_diagonal) {
             gram.precision(pointer<double>(diagonal), pointer<double>(off_diagonal));
           })
      .def("order", [](const Gram& gram, Address out) { gram.order(pointer<std::int64_t>(out)); })
      .def_property_readonly("has_ties", &Gram::has_ties)
      .def_property_readonly("nbytes", &Gram::nbytes);
}

}  // namespace laplex::python
