/// Which devices there are.
#pragma once

#include <string>

namespace laplex::cuda {

/// How many devices can be used; 0 without a driver.
[[nodiscard]] int device_count() noexcept;

/// Throws Error unless there is a device, with the sentence that says why there is none.
void require_device();

/// Name, compute capability and memory of a device, in words.
[[nodiscard]] std::string device_name(int device);

/// The driver's and the runtime's version, as 13000 for 13.0; 0 without a driver.
[[nodiscard]] int driver_version() noexcept;
[[nodiscard]] int runtime_version() noexcept;

}  // namespace laplex::cuda
