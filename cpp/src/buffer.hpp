/// Memory for a scan, not initialised: every entry is written before it is read, and zeroing it
/// first would be one more pass over memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace laplex::detail {

template <class S>
using Buffer = std::unique_ptr<S[]>;  // NOLINT(modernize-avoid-c-arrays)

template <class S>
[[nodiscard]] Buffer<S> make_buffer(std::int64_t count) {
  return Buffer<S>(new S[static_cast<std::size_t>(count)]);
}

}  // namespace laplex::detail
