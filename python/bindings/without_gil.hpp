/// Runs library code without the interpreter's lock.
#pragma once

#include <laplex/laplex.hpp>

#include <pybind11/pybind11.h>

#include <exception>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

namespace laplex::python {

/// The interpreter's main thread, the only one that runs signal handlers.
inline unsigned long main_thread = 0;

/// Runs library code without the GIL, letting Ctrl-C through.
///
/// Not by gil_scoped_release: a daemon thread that asks for the GIL back while the interpreter goes
/// down is ended there and then, by unwinding its stack, which a destructor would turn into an
/// abort. For the same reason only the main thread asks during the call.
template <class F>
auto without_gil(const F& body) -> decltype(body()) {
  using Result = decltype(body());
  constexpr bool kVoid = std::is_void_v<Result>;
  std::conditional_t<kVoid, std::monostate, std::optional<Result>> result;
  std::exception_ptr failure;
  InterruptCheck check;
  if (PyThread_get_thread_ident() == main_thread) {
    check = [] {
      const pybind11::gil_scoped_acquire acquire;
      return PyErr_CheckSignals() != 0;
    };
  }
  PyThreadState* const state = PyEval_SaveThread();
  try {
    const InterruptScope scope(std::move(check));
    if constexpr (kVoid) {
      body();
    } else {
      result.emplace(body());
    }
  } catch (...) {
    failure = std::current_exception();
  }
  PyEval_RestoreThread(state);
  if (failure) {
    try {
      std::rethrow_exception(failure);
    } catch (const Error& error) {
      if (error.code() == ErrorCode::interrupted && PyErr_Occurred() != nullptr) {
        throw pybind11::error_already_set();  // KeyboardInterrupt, or what the program's handler
                                              // raised
      }
      throw;
    }
  }
  if constexpr (!kVoid) {
    return std::move(*result);
  }
}

}  // namespace laplex::python
