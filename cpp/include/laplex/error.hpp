/// The one exception type of the library.
#pragma once

#include <stdexcept>
#include <string>

namespace laplex {

/// What went wrong, for callers that translate errors (the Python bindings do).
enum class ErrorCode {
  invalid_argument,  ///< An argument is outside its domain; the message names it and the remedy.
  out_of_memory,     ///< An allocation failed; the plan and every output are as they were or
                     ///< unspecified.
  singular,          ///< A matrix has no inverse, or none that double precision could tell.
  device,            ///< A GPU is missing or reported an error; the message has CUDA's.
  interrupted,       ///< The caller's interrupt check asked to stop (see interrupt.hpp).
};

/// Thrown by every public function. `what()` is a sentence for people.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

  [[nodiscard]] ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace laplex
