// Runs a target without libFuzzer, which only Clang has: on files, or on so many random inputs.
//
//     fuzz_plan FILE ...
//     fuzz_plan -runs=1000 -seed=1
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

void run_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> content{std::istreambuf_iterator<char>(file), {}};
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(content.data()), content.size());
}

/// Says which input ends the program, before it does.
void run_random(long runs, unsigned seed) {
  for (long run = 0; run < runs; ++run) {
    std::mt19937 random(seed + static_cast<unsigned>(run));
    std::vector<std::uint8_t> bytes(random() % 256);
    for (std::uint8_t& each : bytes) {
      each = static_cast<std::uint8_t>(random());
    }
    std::ofstream("fuzz-input", std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
  }
  std::printf("%ld random inputs from seed %u\n", runs, seed);
}

}  // namespace

int main(int argc, char** argv) {
  long runs = 0;
  unsigned seed = 1;
  for (int k = 1; k < argc; ++k) {
    const std::string argument = argv[k];
    if (argument.rfind("-runs=", 0) == 0) {
      runs = std::stol(argument.substr(6));
    } else if (argument.rfind("-seed=", 0) == 0) {
      seed = static_cast<unsigned>(std::stoul(argument.substr(6)));
    } else {
      run_file(argument);
    }
  }
  run_random(runs, seed);
  return 0;
}
