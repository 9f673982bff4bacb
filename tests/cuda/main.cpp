// Without a device there is nothing to run: said in one line, and a failure if a device is
// required.
#include <laplex/cuda/device.hpp>
#include <laplex/error.hpp>

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string>

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  try {
    laplex::cuda::require_device();
  } catch (const laplex::Error& error) {
    const char* const required = std::getenv("LAPLEX_REQUIRE_GPU");
    const bool fails = required != nullptr && std::string(required) == "1";
    std::printf("%s: %s\n", fails ? "failed" : "skipped", error.what());
    return fails ? 1 : 0;
  }
  std::printf("%s\n", laplex::cuda::device_name(0).c_str());
  return RUN_ALL_TESTS();
}
