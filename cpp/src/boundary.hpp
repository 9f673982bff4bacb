/// The boundary of the library: whatever goes wrong inside leaves it as a laplex::Error.
#pragma once

#include <laplex/error.hpp>

#include <new>
#include <stdexcept>

namespace laplex::detail {

/// Runs a public call. Lack of memory becomes an Error; a host's own exception from its interrupt
/// check passes through unchanged.
template <class F>
auto guarded(const F& body) -> decltype(body()) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    throw Error(ErrorCode::out_of_memory,
                "not enough memory: free some, or use fewer rows or heads at a time");
  } catch (const std::length_error&) {
    throw Error(ErrorCode::out_of_memory, "the sizes of this call are beyond the address space");
  }
}

}  // namespace laplex::detail
