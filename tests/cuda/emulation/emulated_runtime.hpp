/// What tests ask of the emulated runtime, and tell it.
#pragma once

#include <cstdint>
#include <optional>

namespace laplex::emulation {

struct Runtime {
  int devices = 1;
  std::optional<std::uint64_t> capture;  ///< what is captured, if anything is
  std::int64_t allocations = 0;          ///< blocks of device memory that are out now
  std::int64_t fails_after = -1;         ///< this many allocations succeed; negative: all
  std::int64_t waits = 0;  ///< copies to the host, for which a GPU would be waited for
  std::int64_t sorts = 0;
};
Runtime& runtime();

}  // namespace laplex::emulation
