/// \file
/// Stopping a long call from the host program, such as Python or a GUI.
#pragma once

#include <functional>
#include <utility>

namespace laplex {

/// A function that says whether a running call should stop.
///
/// The thread that called the library calls it every few tens of milliseconds while it works. If it
/// returns true, the call stops and throws Error with ErrorCode::interrupted. It may also throw an
/// exception of its own, which reaches the caller unchanged.
using InterruptCheck = std::function<bool()>;

/// Installs an InterruptCheck for the calls of the current thread, for as long as the scope lives.
/// Scopes may be nested: the destructor restores the previous check.
class InterruptScope {
 public:
  /// Installs a check.
  /// \param check the function to ask
  explicit InterruptScope(InterruptCheck check);
  /// Restores the check that was installed before.
  ~InterruptScope();
  /// A scope cannot be copied.
  InterruptScope(const InterruptScope&) = delete;
  /// A scope cannot be copied.
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  InterruptCheck previous_;
};

}  // namespace laplex
