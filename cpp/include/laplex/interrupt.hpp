/// How a host program (Python, a GUI) stops a long call.
#pragma once

#include <functional>
#include <utility>

namespace laplex {

/// Called now and then (every few tens of milliseconds) by the thread that called the library,
/// while it works. Return true to stop: the call then throws Error with ErrorCode::interrupted. May
/// itself throw; that exception reaches the caller unchanged.
using InterruptCheck = std::function<bool()>;

/// Installs a check for the calls that this thread makes while the scope lives.
class InterruptScope {
 public:
  explicit InterruptScope(InterruptCheck check);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  InterruptCheck previous_;
};

}  // namespace laplex
