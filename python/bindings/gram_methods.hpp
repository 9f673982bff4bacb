/// What laplex::Gram and laplex::cuda::Gram both do, as methods of their Python classes.
#pragma once

#include "arguments.hpp"

#include <laplex/laplex.hpp>

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>

namespace laplex::python {

/// `Where` is the last argument of every call: the number of threads, or a stream and a workspace.
/// Its three functions run a call with as many of these as the call takes.
template <class G, class Where>
void add_gram_methods(pybind11::class_<G, std::shared_ptr<G>>& c) {
  namespace py = pybind11;
  const py::pos_only positional;
  const py::arg a("a"), b("b"), rows("rows"), w("w"), out("out"), where("where"),
      gradients("gradients"), d_b("d_b");
  c.def(
       "apply",
       [](const G& gram, int factor, bool scaled, Address in, Address to, std::int64_t count,
          const Where& on) {
         if (factor < 0 || factor > 3) {
           throw Error(ErrorCode::invalid_argument, "factor must be 0, 1, 2 or 3");
         }
         on.run([&](auto... place) {
           gram.apply(static_cast<Factor>(factor), scaled, pointer<const double>(in),
                      pointer<double>(to), count, place...);
         });
       },
       py::arg("factor"), py::arg("scaled"), py::arg("values"), out, rows, where, positional)
      .def(
          "solve",
          [](const G& gram, Address in, Address to, std::int64_t count, const Where& on) {
            on.run([&](auto... place) {
              gram.solve(pointer<const double>(in), pointer<double>(to), count, place...);
            });
          },
          b, out, rows, where, positional)
      .def(
          "log_prob",
          [](const G& gram, Address in, Address to, std::int64_t count, const Where& on) {
            on.run([&](auto... place) {
              gram.log_prob(pointer<const double>(in), pointer<double>(to), count, place...);
            });
          },
          py::arg("values"), out, rows, where, positional)
      .def(
          "logdet",
          [](const G& gram, Address to, const Where& on) {
            on.run_unthreaded([&](auto... place) { gram.logdet(pointer<double>(to), place...); });
          },
          out, where, positional)
      .def(
          "log_variances",
          [](const G& gram, Address to, const Where& on) {
            on.run_in_place(
                [&](auto... place) { gram.log_variances(pointer<double>(to), place...); });
          },
          out, where, positional)
      .def(
          "order",
          [](const G& gram, Address to, const Where& on) {
            on.run_in_place(
                [&](auto... place) { gram.order(pointer<std::int64_t>(to), place...); });
          },
          out, where, positional)
      .def(
          "vjp",
          [](const G& gram, Address left, Address right, std::int64_t count, Address weights,
             const CovarianceGradients& to, Address by_b, const Where& on) {
            on.run([&](auto... place) {
              gram.vjp(pointer<const double>(left), pointer<const double>(right), count,
                       pointer<const double>(weights), to.of<GramGradients>(),
                       pointer<double>(by_b), place...);
            });
          },
          a, b, rows, w, gradients, d_b, where, positional)
      .def(
          "vjp_tangent",
          [](const G& gram, Address left, Address right, std::int64_t count, Address weights,
             const CovarianceGradients& along, const CovarianceGradients& to, Address by_a,
             Address by_b, Address by_w, const Where& on) {
            on.run([&](auto... place) {
              gram.vjp_tangent(pointer<const double>(left), pointer<const double>(right), count,
                               pointer<const double>(weights), along.of<GramTangent>(),
                               to.of<GramGradients>(), pointer<double>(by_a), pointer<double>(by_b),
                               pointer<double>(by_w), place...);
            });
          },
          a, b, rows, w, py::arg("tangent"), gradients, py::arg("d_a"), d_b, py::arg("d_w"), where,
          positional)
      .def_property_readonly("has_ties", &G::has_ties)
      .def_property_readonly("nbytes", &G::nbytes);
}

}  // namespace laplex::python
