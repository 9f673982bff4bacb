// The options, the kernels by name (each compiled when it is first launched) and the findings.
#include "device.hpp"

#include <cxxabi.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>

namespace emulator {
namespace {

std::string setting(const char* name) {
  const char* const value = std::getenv((std::string("PTX_EMULATOR_") + name).c_str());
  return value != nullptr ? value : "";
}

// What `run` says about the kernels: keys of files by name.
const std::map<std::string, std::string>& keys() {
  static const auto* const all = [] {
    auto* keys = new std::map<std::string, std::string>;
    std::istringstream modules(options().modules);
    for (std::string module; modules >> module;) {
      std::ifstream list(options().kernels + "/" + module + ".kernels");
      if (!list)
        stop("no kernels of " + module + " in " + options().kernels);
      for (std::string key, name; list >> key >> name;)
        keys->emplace(name, key);
    }
    return keys;
  }();
  return *all;
}

std::vector<std::string> instructions_of(const std::string& file) {
  std::vector<std::string> lines;
  std::ifstream info(file);
  for (std::string block, opcode, place; info >> block >> opcode >> place;)
    lines.push_back(place + " (" + opcode + ")");
  return lines;
}

std::map<std::string, uint64_t> findings;

// Reports when the program ends.
struct Report {
  ~Report() {
    write_counts();
    for (const auto& [message, count] : findings) {
      std::fprintf(stderr, "PTX emulator: %s: %llu times\n", message.c_str(),
                   static_cast<unsigned long long>(count));
    }
    if (!findings.empty()) {
      std::fflush(stdout);
      std::_Exit(98);
    }
  }
} report;

}  // namespace

const Options& options() {
  static const auto* const all =
      new Options{static_cast<unsigned>(std::atoi(setting("SHUFFLE").c_str())), setting("COUNTS"),
                  setting("KERNELS"), setting("MODULES"), setting("COMPILE")};
  return *all;
}

void finding(const std::string& message) {
  ++findings[message];
}

std::string title_of(const std::string& mangled) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(
      abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, &status), &std::free);
  std::string title = status == 0 ? name.get() : mangled;
  // Without the result and the parameters, which come last.
  if (const size_t open = title.rfind('(');
      open != std::string::npos && open > 0 && title.back() == ')')
    title.resize(open);
  if (title.compare(0, 5, "void ") == 0)
    title.erase(0, 5);
  for (const char* each : {"laplex::cuda::detail::", "(anonymous namespace)::"}) {
    for (size_t at; (at = title.find(each)) != std::string::npos;)
      title.erase(at, std::string(each).size());
  }
  return title;
}

Loaded* find_kernel(const std::string& mangled) {
  static auto& loaded = *new std::map<std::string, Loaded>;
  if (const auto found = loaded.find(mangled); found != loaded.end())
    return &found->second;
  const auto key = keys().find(mangled);
  if (key == keys().end())
    return nullptr;
  const std::string base = options().kernels + "/" + key->second;
  const std::string library = base + ".so";
  if (std::ifstream unknown(base + ".unknown"); unknown) {
    stop(title_of(mangled) + " has " + std::string(std::istreambuf_iterator<char>(unknown), {}));
  }
  // make knows whether there is anything to do; other processes may want the same kernel.
  const std::string command =
      "flock " + library + ".lock " + options().compile + " " + library + " >&2";
  if (std::system(command.c_str()) != 0)
    stop(library + " cannot be made");
  void* const handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr)
    stop(dlerror());
  const auto* const kernel = static_cast<const Kernel*>(dlsym(handle, "ptx_kernel"));
  if (kernel == nullptr || mangled != kernel->name)
    stop(library + " is not the kernel " + mangled);
  return &loaded
              .emplace(mangled, Loaded{kernel, key->second, title_of(mangled),
                                       instructions_of(base + ".info")})
              .first->second;
}

}  // namespace emulator
