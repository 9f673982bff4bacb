// The emulated GPU: kernels by name, memory, launches, and what is found and counted on the way.
#pragma once

#include "thread.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace emulator {

// From the environment variables PTX_EMULATOR_..., which `run` sets.
struct Options {
  // SHUFFLE=SEED, if not 0: threads, and blocks where they may, take turns at random, and streams
  // do nothing before somebody waits for them.
  unsigned shuffle;
  std::string counts;   // COUNTS=FILE: count instructions and memory requests
  std::string kernels;  // KERNELS=FOLDER: of translated kernels
  std::string modules;  // MODULES="A B": whose kernels there are; the first that has a kernel wins
  std::string compile;  // COMPILE=COMMAND: makes the library of a kernel, FOLDER/KEY.so
};
const Options& options();

// A kernel that has been compiled and loaded.
struct Loaded {
  const Kernel* kernel;
  std::string key;                        // of its files
  std::string title;                      // its name in C++
  std::vector<std::string> instructions;  // "opcode file:line"
};
// Compiles and loads the kernel at its first launch; null if it was not translated.
Loaded* find_kernel(const std::string& mangled);
std::string title_of(const std::string& mangled);

struct Size {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t count() const { return uint64_t(x) * y * z; }
};
void run_kernel(Loaded&, Size grid, Size block, const std::vector<std::vector<uint8_t>>& arguments,
                uint32_t dynamic_shared);

// Memory that kernels may touch.
void add_memory(const void*, size_t bytes);
void remove_memory(const void*);
bool is_memory(uint64_t address, size_t bytes);

// Reports an error and ends the program.
[[noreturn]] void stop(const std::string& message);
// A mistake that is reported at the end, once, with how often it was found; the program then fails.
void finding(const std::string& message);

// What counts.cpp counts. `at` is the number of the instruction.
void count_launch(Loaded&, uint64_t blocks, uint64_t threads);
void count_access(const Thread&, bool is_shared, uint64_t address, uint32_t bytes, uint32_t at);
void count_block(const std::vector<const uint32_t*>& counts_of_threads);
void write_counts();

}  // namespace emulator
