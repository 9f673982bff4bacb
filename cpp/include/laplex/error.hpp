/// \file
/// The exception type of the library.
#pragma once

#include <stdexcept>
#include <string>

namespace laplex {

/// The kind of failure that an Error reports, for callers that translate errors into their own, as
/// the Python bindings do.
enum class ErrorCode {
  invalid_argument,  ///< An argument is outside its domain. The message names it and the remedy.
  out_of_memory,     ///< An allocation failed. A plan keeps its state; the contents of outputs are
                     ///< unspecified.
  singular,          ///< A matrix has no inverse, or none that double precision can determine.
  device,       ///< There is no usable GPU, or CUDA reported an error, which the message quotes.
  interrupted,  ///< The caller's interrupt check asked to stop (see InterruptCheck).
};

/// The only exception type that the library throws by itself. `what()` is a sentence for people.
class Error : public std::runtime_error {
 public:
  /// Makes an error.
  /// \param code the kind of failure
  /// \param message a sentence that names the argument and, where there is one, the remedy
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

  /// The kind of failure.
  [[nodiscard]] ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace laplex
