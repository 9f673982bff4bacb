// Counts of instructions and of memory requests, written as JSON when the program ends.
#include "device.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <unordered_map>

namespace emulator {
namespace {

// Of one instruction that accesses memory, or of all.
struct Requests {
  uint64_t requests = 0;  // of a warp
  uint64_t bytes = 0;     // that threads asked for
  uint64_t units =
      0;  // sectors of 32 bytes in global memory, turns of the 32 banks in shared memory
  uint64_t least = 0;  // turns without conflicts
};
struct Counts {
  Loaded* loaded = nullptr;
  size_t order = 0;  // of the first launches
  uint64_t launches = 0, blocks = 0, threads = 0;
  // Of each basic block: how often threads ran it, and how often warps had to, if lanes that part
  // come together again as soon as they can.
  std::vector<uint64_t> by_threads, by_warps;
  std::map<uint32_t, Requests> requests;  // by instruction
};

// One access of a warp: the n-th time that its lanes came to an instruction.
struct WarpAccess {
  uint32_t at = 0, bytes = 0, num_lanes = 0;
  bool is_shared = false;
  std::array<uint64_t, 32> address;
  std::array<uint32_t, 32> lane;
};
struct Current {
  Counts* counts = nullptr;
  std::vector<std::vector<uint32_t>> visits;  // by thread and instruction
  std::unordered_map<uint64_t, WarpAccess> accesses;
} current;

uint64_t sectors(const WarpAccess& access) {
  std::vector<uint64_t> touched;
  for (uint32_t k = 0; k < access.num_lanes; ++k) {
    for (uint64_t sector = access.address[k] / 32;
         sector <= (access.address[k] + access.bytes - 1) / 32; ++sector)
      touched.push_back(sector);
  }
  std::sort(touched.begin(), touched.end());
  return static_cast<uint64_t>(std::unique(touched.begin(), touched.end()) - touched.begin());
}

// 128 bytes at a time: lanes of 8 bytes take two turns at least, of 16 bytes four. In a turn each
// of the 32 banks gives one word of 4 bytes, to all lanes that want it.
void count_bank_turns(const WarpAccess& access, Requests& requests) {
  const uint32_t lanes_of_turn = access.bytes <= 4 ? 32 : 128 / access.bytes;
  for (uint32_t first = 0; first < 32; first += lanes_of_turn) {
    std::array<std::vector<uint64_t>, 32> words;
    for (uint32_t k = 0; k < access.num_lanes; ++k) {
      if (access.lane[k] / lanes_of_turn * lanes_of_turn != first)
        continue;
      for (uint64_t word = access.address[k] / 4;
           word <= (access.address[k] + access.bytes - 1) / 4; ++word) {
        auto& bank = words[word % 32];
        if (std::find(bank.begin(), bank.end(), word) == bank.end())
          bank.push_back(word);
      }
    }
    size_t most = 0;
    for (const auto& bank : words)
      most = std::max(most, bank.size());
    requests.units += most;
    requests.least += most > 0;
  }
}

std::map<std::string, Counts>& all_counts() {
  static auto& counts = *new std::map<std::string, Counts>;  // by key
  return counts;
}

}  // namespace

void count_launch(Loaded& loaded, uint64_t blocks, uint64_t threads) {
  if (options().counts.empty())
    return;
  Counts& counts = all_counts()[loaded.key];
  if (counts.loaded == nullptr)
    counts.order = all_counts().size();
  counts.loaded = &loaded;
  ++counts.launches;
  counts.blocks += blocks;
  counts.threads += threads;
  counts.by_threads.resize(loaded.kernel->num_basic_blocks);
  counts.by_warps.resize(loaded.kernel->num_basic_blocks);
  current.counts = &counts;
}

void count_access(const Thread& t, bool is_shared, uint64_t address, uint32_t bytes, uint32_t at) {
  if (current.visits.size() <= t.index)
    current.visits.resize(t.index + 1);
  auto& visits = current.visits[t.index];
  if (visits.size() <= at)
    visits.resize(at + 1);
  const uint64_t visit = visits[at]++;
  WarpAccess& access = current.accesses[visit << 32 | uint64_t(t.index / 32) << 24 | at];
  access.at = at;
  access.bytes = bytes;
  access.is_shared = is_shared;
  access.address[access.num_lanes] = address;
  access.lane[access.num_lanes] = t.lane;
  ++access.num_lanes;
}

void count_block(const std::vector<const uint32_t*>& counts_of_threads) {
  if (options().counts.empty())
    return;
  Counts& counts = *current.counts;
  for (size_t k = 0; k < counts.by_threads.size(); ++k) {
    for (size_t first = 0; first < counts_of_threads.size(); first += 32) {
      uint32_t most = 0;
      for (size_t j = first; j < std::min(first + 32, counts_of_threads.size()); ++j) {
        counts.by_threads[k] += counts_of_threads[j][k];
        most = std::max(most, counts_of_threads[j][k]);
      }
      counts.by_warps[k] += most;
    }
  }
  for (const auto& [key, access] : current.accesses) {
    Requests& requests = counts.requests[access.at];
    ++requests.requests;
    requests.bytes += uint64_t(access.num_lanes) * access.bytes;
    if (access.is_shared) {
      count_bank_turns(access, requests);
    } else {
      requests.units += sectors(access);
    }
  }
  current.accesses.clear();
  current.visits.clear();
}

void write_counts() {
  if (options().counts.empty())
    return;
  std::ofstream file(options().counts);
  const auto list = [&](const std::vector<uint64_t>& numbers) {
    file << '[';
    for (size_t k = 0; k < numbers.size(); ++k)
      file << (k > 0 ? ", " : "") << numbers[k];
    file << ']';
  };
  const char* separator = "{\n";
  for (const auto& [key, c] : all_counts()) {
    file << separator << '"' << key << "\": {\"name\": \"" << c.loaded->kernel->name
         << "\", \"title\": \"" << c.loaded->title << "\", \"order\": " << c.order
         << ", \"launches\": " << c.launches << ", \"blocks\": " << c.blocks
         << ", \"threads\": " << c.threads << ",\n  \"by_threads\": ";
    list(c.by_threads);
    file << ",\n  \"by_warps\": ";
    list(c.by_warps);
    file << ",\n  \"requests\": {";
    const char* comma = "";
    for (const auto& [at, r] : c.requests) {
      file << comma << '"' << at << "\": [" << r.requests << ", " << r.bytes << ", " << r.units
           << ", " << r.least << ']';
      comma = ", ";
    }
    file << "}}";
    separator = ",\n";
  }
  file << (all_counts().empty() ? "{}\n" : "\n}\n");
}

}  // namespace emulator
