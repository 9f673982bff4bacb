/// What the module's functions take, as tuples of numbers: laplex/_support/core.py has their names.
/// Addresses come from NumPy or torch; 0 stands for "not given".
#pragma once

#include <laplex/laplex.hpp>

#include <pybind11/pybind11.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>
#include <vector>

namespace laplex::python {

using Address = std::uintptr_t;

template <class T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

/// How many entries a head has in one of a kernel's arrays.
enum class Extent { targets, sources, one };
struct KernelArray {
  Extent extent;
  bool always_double;
};
inline constexpr KernelArray kTargets{Extent::targets, false};
inline constexpr KernelArray kSources{Extent::sources, false};
inline constexpr KernelArray kParameter{Extent::one, true};

/// A kernel of either precision. Its arrays: targets, sources, lengthscale, frequency,
/// target_phase, source_phase.
struct KernelArguments {
  static constexpr std::array kArrays{kTargets,   kSources, kParameter,
                                      kParameter, kTargets, kSources};
  static constexpr std::size_t kAnchorArrays = 2;  ///< the first of these
  using Arrays = std::array<Address, kArrays.size()>;

  bool is_double = true;
  std::int64_t heads = 1;
  std::int64_t n = 0;
  std::int64_t m = 0;
  Arrays arrays{};
  bool real_part = false;
  int profile = 0;
  int side = 0;
  bool shared_anchors = false;

  /// Whether all but the contents of the arrays is the same.
  [[nodiscard]] bool same_options(const KernelArguments& other) const {
    for (std::size_t k = 0; k < arrays.size(); ++k) {
      if ((arrays[k] == 0) != (other.arrays[k] == 0)) {
        return false;
      }
    }
    return is_double == other.is_double && heads == other.heads && n == other.n && m == other.m &&
           real_part == other.real_part && profile == other.profile && side == other.side &&
           shared_anchors == other.shared_anchors;
  }

  [[nodiscard]] std::size_t bytes(std::size_t array) const {
    const KernelArray& one = kArrays[array];
    const std::int64_t entries = one.extent == Extent::targets   ? n
                                 : one.extent == Extent::sources ? m
                                                                 : 1;
    const bool shared = shared_anchors && array < kAnchorArrays;
    return arrays[array] == 0 ? 0
                              : static_cast<std::size_t>((shared ? 1 : heads) * entries) *
                                    (one.always_double || is_double ? 8 : 4);
  }
};

template <class T>
Kernel<T> kernel_of(const KernelArguments& k, int num_threads) {
  const auto [targets, sources, lengthscale, frequency, target_phase, source_phase] = k.arrays;
  Kernel<T> kernel;
  kernel.heads = k.heads;
  kernel.num_targets = k.n;
  kernel.num_sources = k.m;
  kernel.targets = pointer<const T>(targets);
  kernel.sources = pointer<const T>(sources);
  kernel.lengthscale = pointer<const double>(lengthscale);
  kernel.frequency = pointer<const double>(frequency);
  kernel.target_phase = pointer<const T>(target_phase);
  kernel.source_phase = pointer<const T>(source_phase);
  kernel.real_part = k.real_part;
  kernel.profile = static_cast<Profile>(k.profile);
  kernel.side = static_cast<Side>(k.side);
  kernel.num_threads = num_threads;
  kernel.shared_anchors = k.shared_anchors;
  return kernel;
}

/// Runs f(T{}) for a precision.
template <class F>
auto with_precision(bool is_double, const F& f) {
  return is_double ? f(double{}) : f(float{});
}

/// A member of the family of sums: its parity, and its polynomial without trailing zeros.
struct TermArguments {
  Term term;
};

/// What a call has beside its tensors: the kernel's options and the member of the family of sums.
struct FormArguments {
  bool real_part = false;
  Term term;
  int side = 0;
};

/// Vectors `[heads, rows, count]`, contiguous in the last dimension; strides in elements.
struct Vectors {
  Address data = 0;
  bool complex = false;
  Strides strides{};
};

/// Addresses of the gradients by values, targets, sources, lengthscale, frequency, target_phase and
/// source_phase.
struct GradientArguments {
  std::array<Address, 1 + KernelArguments::kArrays.size()> arrays{};

  template <class T>
  [[nodiscard]] Gradients<T, T> of() const {
    const auto [values, targets, sources, lengthscale, frequency, theta, phi] = arrays;
    return {pointer<T>(values),
            pointer<T>(targets),
            pointer<T>(sources),
            pointer<double>(lengthscale),
            pointer<double>(frequency),
            pointer<T>(theta),
            pointer<T>(phi)};
  }
};

/// Addresses for derivatives of gradients: of the cotangent, values, targets, sources and
/// lengthscale.
struct SecondArguments {
  std::array<Address, 5> arrays{};
};

/// Device memory that is lent: its address and bytes.
struct MemoryArguments {
  Address data = 0;
  std::size_t bytes = 0;
};

/// Covariance matrices by the addresses of their arrays.
struct CovarianceArguments {
  Covariance covariance;
  std::vector<int> blocks;

  /// Valid as long as this is.
  [[nodiscard]] const Covariance& of() {
    covariance.blocks = blocks.data();
    covariance.num_blocks = static_cast<std::int64_t>(blocks.size());
    return covariance;
  }
};

/// Where to write the derivatives by all that a covariance is made of, or a direction among these.
struct CovarianceGradients {
  Address anchors = 0;
  Address lengthscale = 0;
  Address loadings = 0;
  Address noise = 0;
  Address weights = 0;

  template <class Result>
  [[nodiscard]] Result of() const {
    using P = decltype(Result::anchors);
    return {reinterpret_cast<P>(anchors), reinterpret_cast<P>(lengthscale),
            reinterpret_cast<P>(loadings), reinterpret_cast<P>(noise),
            reinterpret_cast<P>(weights)};
  }
};

/// Reads coefficients from a tuple or a list.
inline bool read_polynomial(PyObject* given, std::array<double, 5>& polynomial) {
  if (!PyTuple_Check(given) && !PyList_Check(given)) {
    return false;
  }
  const Py_ssize_t size = PySequence_Fast_GET_SIZE(given);
  if (size > static_cast<Py_ssize_t>(polynomial.size())) {
    return false;
  }
  polynomial = {};
  for (Py_ssize_t k = 0; k < size; ++k) {
    polynomial[static_cast<std::size_t>(k)] = PyFloat_AsDouble(PySequence_Fast_GET_ITEM(given, k));
  }
  return true;
}

/// Reads small integers from a tuple.
inline bool read_sizes(PyObject* given, std::vector<int>& sizes) {
  if (!PyTuple_Check(given)) {
    return false;
  }
  for (Py_ssize_t k = 0; k < PyTuple_GET_SIZE(given); ++k) {
    sizes.push_back(static_cast<int>(PyLong_AsLong(PyTuple_GET_ITEM(given, k))));
  }
  return true;
}

/// A parameter of processes: its address, or one number for all of them.
struct ProcessParameter {
  Address address = 0;
  std::optional<double> number;
  std::vector<double> repeated;

  [[nodiscard]] const double* of(std::int64_t batch) {
    if (!number) {
      return pointer<const double>(address);
    }
    repeated.assign(static_cast<std::size_t>(batch), *number);
    return repeated.data();
  }
};

/// Processes by the addresses of their arrays.
struct ProcessArguments {
  std::int64_t batch = 1;
  std::int64_t n = 0;
  bool one_noise = false;
  Address anchors = 0;
  Address values = 0;
  ProcessParameter lengthscale;
  ProcessParameter variance;
  ProcessParameter frequency;
  Address noise = 0;
};

/// Damped oscillators by the addresses of their arrays.
struct OscillatorArguments {
  std::int64_t batch = 1;
  std::int64_t n = 0;
  bool one_noise = false;
  Address anchors = 0;
  Address values = 0;
  ProcessParameter damping_time;
  ProcessParameter undamped_time;
  ProcessParameter first_weight;
  ProcessParameter second_weight;
  Address noise = 0;
};

/// Where to write the derivatives of their log density.
struct OscillatorAddresses {
  std::array<Address, 7> arrays{};

  [[nodiscard]] OscillatorGradients of() const {
    const auto [anchors, values, damping, undamped, first, second, noise] = arrays;
    return {pointer<double>(anchors),
            pointer<double>(values),
            {pointer<double>(damping), pointer<double>(undamped)},
            {pointer<double>(first), pointer<double>(second)},
            pointer<double>(noise)};
  }
};

/// Where to write the derivatives of a process's log density.
struct ProcessAddresses {
  std::array<Address, 6> arrays{};

  [[nodiscard]] ProcessGradients of() const {
    const auto [anchors, values, lengthscale, variance, frequency, noise] = arrays;
    return {pointer<double>(anchors),  pointer<double>(values),    pointer<double>(lengthscale),
            pointer<double>(variance), pointer<double>(frequency), pointer<double>(noise)};
  }
};

/// Reads a tuple's numbers into variables; false where it is no such tuple.
template <class... Numbers>
bool read(PyObject* given, Numbers&... numbers) {
  if (!PyTuple_Check(given) || PyTuple_GET_SIZE(given) != sizeof...(Numbers)) {
    return false;
  }
  Py_ssize_t next = 0;
  bool known = true;
  const auto one = [&](auto& number) {
    PyObject* const item = PyTuple_GET_ITEM(given, next++);
    using Number = std::remove_reference_t<decltype(number)>;
    if constexpr (std::is_same_v<Number, bool>) {
      number = PyObject_IsTrue(item) == 1;
    } else if constexpr (std::is_same_v<Number, std::array<double, 5>>) {
      known = read_polynomial(item, number) && known;
    } else if constexpr (std::is_same_v<Number, std::vector<int>>) {
      known = read_sizes(item, number) && known;
    } else if constexpr (std::is_same_v<Number, ProcessParameter>) {
      if (PyFloat_Check(item)) {
        number.number = PyFloat_AsDouble(item);
      } else {
        number.address = PyLong_AsUnsignedLongLong(item);
      }
    } else if constexpr (std::is_signed_v<Number>) {
      number = static_cast<Number>(PyLong_AsLongLong(item));
    } else {
      number = static_cast<Number>(PyLong_AsUnsignedLongLong(item));
    }
  };
  (one(numbers), ...);
  if (PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    return false;
  }
  return known;
}

/// 0, 1 and 2 are the parities of the Laplace kernel; 3 and 4 stand for odd and even terms of a
/// smooth one, and 5 for the cumulative sum.
inline bool read_parity(int code, Term& term) {
  constexpr Parity kParities[] = {Parity::even, Parity::odd,  Parity::strict,
                                  Parity::odd,  Parity::even, Parity::even};
  if (code < 0 || code > 5) {
    return false;
  }
  term.parity = kParities[code];
  term.cumulative = code == 5;
  term.smooth = code == 3 || code == 4;
  return true;
}

inline bool read(PyObject* given, KernelArguments& k) {
  auto& [x, y, ell, omega, theta, phi] = k.arrays;
  return read(given, k.is_double, k.real_part, k.profile, k.side, k.shared_anchors, k.heads, k.n,
              k.m, x, y, ell, omega, theta, phi);
}
inline bool read(PyObject* given, FormArguments& f) {
  int parity = 0;
  return read(given, f.real_part, parity, f.term.polynomial, f.side) && read_parity(parity, f.term);
}
inline bool read(PyObject* given, TermArguments& t) {
  int parity = 0;
  return read(given, parity, t.term.polynomial) && read_parity(parity, t.term);
}
inline bool read(PyObject* given, Vectors& v) {
  return read(given, v.data, v.complex, v.strides.head, v.strides.row);
}
inline bool read(PyObject* given, GradientArguments& g) {
  return std::apply([&](auto&... each) { return read(given, each...); }, g.arrays);
}
inline bool read(PyObject* given, SecondArguments& s) {
  return std::apply([&](auto&... each) { return read(given, each...); }, s.arrays);
}
inline bool read(PyObject* given, CovarianceGradients& g) {
  return read(given, g.anchors, g.lengthscale, g.loadings, g.noise, g.weights);
}
inline bool read(PyObject* given, CovarianceArguments& c) {
  CovarianceGradients arrays;
  const bool right = read(given, c.covariance.ties_backwards, c.covariance.batch, c.covariance.n,
                          c.covariance.width, arrays.anchors, arrays.lengthscale, arrays.loadings,
                          arrays.noise, arrays.weights, c.blocks);
  c.covariance.anchors = pointer<const double>(arrays.anchors);
  c.covariance.lengthscale = pointer<const double>(arrays.lengthscale);
  c.covariance.loadings = pointer<const double>(arrays.loadings);
  c.covariance.noise = pointer<const double>(arrays.noise);
  c.covariance.weights = pointer<const double>(arrays.weights);
  return right;
}
inline bool read(PyObject* given, ProcessArguments& p) {
  return read(given, p.batch, p.n, p.one_noise, p.anchors, p.values, p.lengthscale, p.variance,
              p.frequency, p.noise);
}
inline bool read(PyObject* given, ProcessAddresses& p) {
  return std::apply([&](auto&... each) { return read(given, each...); }, p.arrays);
}
inline bool read(PyObject* given, OscillatorArguments& p) {
  return read(given, p.batch, p.n, p.one_noise, p.anchors, p.values, p.damping_time,
              p.undamped_time, p.first_weight, p.second_weight, p.noise);
}
inline bool read(PyObject* given, OscillatorAddresses& p) {
  return std::apply([&](auto&... each) { return read(given, each...); }, p.arrays);
}
inline bool read(PyObject* given, MemoryArguments& m) {
  return read(given, m.data, m.bytes);
}

}  // namespace laplex::python

/// Tuples to the structs above; `name` is what signatures, and the stub made from them, say.
#define LAPLEX_TUPLE_CASTER(Type, name)                                                \
  template <>                                                                          \
  struct pybind11::detail::type_caster<Type> {                                         \
    PYBIND11_TYPE_CASTER(Type, const_name(name));                                      \
    bool load(handle given, bool) { return laplex::python::read(given.ptr(), value); } \
  }

LAPLEX_TUPLE_CASTER(laplex::python::KernelArguments, "laplex._support.core.Kernel");
LAPLEX_TUPLE_CASTER(laplex::python::FormArguments, "laplex._support.core.Form");
LAPLEX_TUPLE_CASTER(laplex::python::TermArguments, "laplex._support.core.Term");
LAPLEX_TUPLE_CASTER(laplex::python::Vectors, "laplex._support.core.Vectors");
LAPLEX_TUPLE_CASTER(laplex::python::GradientArguments, "laplex._support.core.Gradients");
LAPLEX_TUPLE_CASTER(laplex::python::SecondArguments, "laplex._support.core.Second");
LAPLEX_TUPLE_CASTER(laplex::python::MemoryArguments, "laplex._support.core.Memory");
LAPLEX_TUPLE_CASTER(laplex::python::CovarianceArguments, "laplex._support.core.Covariance");
LAPLEX_TUPLE_CASTER(laplex::python::CovarianceGradients,
                    "laplex._support.core.CovarianceGradients");
LAPLEX_TUPLE_CASTER(laplex::python::ProcessArguments, "laplex._support.core.Process");
LAPLEX_TUPLE_CASTER(laplex::python::ProcessAddresses, "laplex._support.core.ProcessGradients");
LAPLEX_TUPLE_CASTER(laplex::python::OscillatorArguments, "laplex._support.core.OscillatorProcess");
LAPLEX_TUPLE_CASTER(laplex::python::OscillatorAddresses,
                    "laplex._support.core.OscillatorGradients");
