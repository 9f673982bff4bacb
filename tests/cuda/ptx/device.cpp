// Runs kernels block by block: each thread is a fiber that runs until it waits for others.
#include "device.hpp"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>

namespace emulator {
namespace {

enum class State { runs, at_barrier, at_collective, done };
enum class Collective { barrier, shuffle, ballot, match, reduce };

struct Copy {
  uint8_t* to;
  uint32_t bytes;
  const uint8_t* from;
  uint32_t bytes_read;
  uint32_t group;
};

struct Fiber : Thread {
  void* stack_pointer = nullptr;
  uint8_t* stack = nullptr;
  State state = State::done;
  uint32_t at = 0;  // where it waits
  uint64_t result = 0;
  // At a barrier of the block.
  uint32_t number = 0;
  int reduction = -1;
  bool vote = false;
  // At one of the warp.
  Collective collective{};
  uint32_t mask = 0;
  uint64_t value = 0;
  Shuffle shuffle{};
  uint32_t source = 0, clamp = 0;
  Combine combine = nullptr;
  uint32_t warp_barriers = 0;  // that it has passed
  std::vector<Copy> copies;    // by cp.async, that it has not waited for
  uint32_t copy_groups = 0;    // so far
  std::vector<uint32_t> basic_blocks;
};

constexpr size_t kStackBytes = size_t(1) << 18;
constexpr size_t kPageBytes = 4096;

// Who touched a byte of shared memory since the last barrier of the block.
struct Touch {
  uint32_t epoch = 0;
  uint32_t thread = 0;  // or kSeveral
  uint32_t warp = 0;    // or kSeveral
  uint32_t warp_barriers = 0;
  uint32_t at = 0;
};
struct Byte {
  Touch write, read;
  bool atomic = false;  // the write
};
constexpr uint32_t kSeveral = ~uint32_t(0);

// The block that runs.
struct Block {
  Loaded* loaded = nullptr;
  uint8_t* const* parameters = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers;  // at least `size`
  uint32_t size = 0;
  Fiber* current = nullptr;
  void* scheduler = nullptr;
  std::vector<uint8_t> memory;
  uint8_t* shared = nullptr;
  uint32_t shared_bytes = 0;
  uint32_t epoch = 1;  // barriers so far
  std::vector<Byte> bytes;
  std::mt19937_64 random{options().shuffle};
} block;

std::string place(uint32_t at) {
  return block.loaded->instructions[at];
}

}  // namespace

// --- fibers --------------------------------------------------------------------------------------

extern "C" void emulator_switch(void** save_stack_pointer, void* stack_pointer);
asm(R"(
.text
.globl emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

namespace {

void wait(Fiber& fiber) {
  emulator_switch(&fiber.stack_pointer, block.scheduler);
}

[[noreturn]] void end(Fiber& fiber) {
  fiber.state = State::done;
  wait(fiber);
  abort();
}

void fiber_main() {
  Fiber& fiber = *block.current;
  block.loaded->kernel->run(fiber, block.parameters);
  end(fiber);
}

std::unique_ptr<Fiber> new_fiber() {
  auto fiber = std::make_unique<Fiber>();
  void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED || mprotect(stack, kPageBytes, PROT_NONE) != 0)
    stop("no memory for a thread's stack");
  fiber->stack = static_cast<uint8_t*>(stack);
  return fiber;
}

void start(Fiber& fiber) {
  // As emulator_switch finds it: six registers, then where to go on, 8 bytes off a multiple of 16.
  auto* top = reinterpret_cast<uint64_t*>(fiber.stack + kStackBytes - 16);
  *--top = 0;
  *--top = reinterpret_cast<uint64_t>(&fiber_main);
  for (int k = 0; k < 6; ++k)
    *--top = 0;
  fiber.stack_pointer = top;
  fiber.state = State::runs;
  fiber.warp_barriers = 0;
  fiber.copies.clear();
  fiber.basic_blocks.assign(block.loaded->kernel->num_basic_blocks, 0);
  fiber.counts = fiber.basic_blocks.data();
}

}  // namespace

void exit_thread(Thread& t) {
  end(static_cast<Fiber&>(t));
}
void trap(Thread&) {
  stop("trap");
}

void stop(const std::string& message) {
  std::string text = "PTX emulator: error: " + message;
  if (const Fiber* const fiber = block.current) {
    text += "\n  in " + block.loaded->title + ", block " + std::to_string(fiber->ctaid[0]) +
            ", thread " + std::to_string(fiber->index);
  }
  std::fflush(stdout);
  std::fprintf(stderr, "%s\n", text.c_str());
  std::_Exit(99);
}

// --- memory --------------------------------------------------------------------------------------

namespace {

std::map<uint64_t, size_t> memory;  // bytes by address
struct Range {
  uint64_t first = 1, end = 0;
} recent;  // most accesses are to what was accessed before

struct Name {
  const char* what;
  uint64_t address;
  uint32_t bytes;
  Access access;
  uint32_t at;
};
[[noreturn]] void bad_access(const char* how, const Name& n) {
  char text[64];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(n.address));
  const char* const verbs[] = {"load", "store", "atomic"};
  stop(std::string(how) + ": " + verbs[n.access] + " of " + std::to_string(n.bytes) + " bytes of " +
       n.what + " memory at " + text + "\n  by " + place(n.at));
}
void check_alignment(const Name& n) {
  if (n.address % std::min(n.bytes, 16u) != 0)
    bad_access("misaligned", n);
}

}  // namespace

void add_memory(const void* p, size_t bytes) {
  memory[address_of(p)] = bytes;
  recent = {};
}
void remove_memory(const void* p) {
  memory.erase(address_of(p));
  recent = {};
}
bool is_memory(uint64_t address, size_t bytes) {
  if (address >= recent.first && address + bytes <= recent.end)
    return true;
  auto after = memory.upper_bound(address);
  if (after == memory.begin())
    return false;
  --after;
  if (address + bytes > after->first + after->second)
    return false;
  recent = {after->first, after->first + after->second};
  return true;
}

uint8_t* module_array(const char* module, const char* name, size_t bytes, const void* values,
                      size_t num_values) {
  static std::map<std::string, std::unique_ptr<uint8_t[]>> arrays;
  auto& array = arrays[std::string(module) + ' ' + name];
  if (!array) {
    array = std::make_unique<uint8_t[]>(bytes);
    std::memcpy(array.get(), values, num_values);
    add_memory(array.get(), bytes);
  }
  return array.get();
}

uint8_t* global(Thread& t, uint64_t address, uint32_t bytes, Access access, uint32_t at) {
  const Name name{"global", address, bytes, access, at};
  check_alignment(name);
  if (!is_memory(address, bytes))
    bad_access("out of bounds", name);
  if (!options().counts.empty())
    count_access(t, false, address, bytes, at);
  return reinterpret_cast<uint8_t*>(address);
}

namespace {

// Two threads touch a byte without a barrier between them, and one of them writes.
void race(const char* what, const Touch& earlier, const Fiber& fiber, uint32_t at) {
  const bool one_warp = earlier.warp == fiber.index / 32;
  if (one_warp && earlier.warp_barriers != fiber.warp_barriers)
    return;  // __syncwarp() came between
  finding(block.loaded->title + ": race in shared memory, " + what + " without a barrier" +
          (one_warp ? " (within a warp)" : "") + ": " + place(earlier.at) + ", then " + place(at));
}

void check_race(const Fiber& fiber, uint64_t address, uint32_t bytes, Access access, uint32_t at) {
  const auto counts = [&](const Touch& touch) {
    return touch.epoch == block.epoch && touch.thread != fiber.index;
  };
  for (uint64_t k = address; k < address + bytes; ++k) {
    Byte& byte = block.bytes[k];
    const bool both_atomic = access == atomic && byte.atomic;
    if (counts(byte.write) && !both_atomic) {
      race(access == load ? "a write, then a read" : "two writes", byte.write, fiber, at);
    }
    if (access != load && counts(byte.read))
      race("a read, then a write", byte.read, fiber, at);
    const Touch touch{block.epoch, fiber.index, fiber.index / 32, fiber.warp_barriers, at};
    if (access != load) {
      byte.write = touch;
      byte.atomic = access == atomic;
    } else if (counts(byte.read) && byte.read.warp != touch.warp) {
      byte.read.thread = byte.read.warp = kSeveral;
    } else if (counts(byte.read) && byte.read.warp_barriers == touch.warp_barriers) {
      byte.read.thread = kSeveral;
    } else {
      byte.read = touch;
    }
  }
}

}  // namespace

uint8_t* shared(Thread& t, uint64_t address, uint32_t bytes, Access access, uint32_t at) {
  address = static_cast<uint32_t>(address);  // addresses of shared memory have 32 bits, and wrap
  const Name name{"shared", address, bytes, access, at};
  check_alignment(name);
  if (address + bytes > block.shared_bytes)
    bad_access("out of bounds", name);
  check_race(static_cast<Fiber&>(t), address, bytes, access, at);
  if (!options().counts.empty())
    count_access(t, true, address, bytes, at);
  return block.shared + address;
}

uint8_t* generic(Thread& t, uint64_t address, uint32_t bytes, Access access, uint32_t at) {
  const uint64_t first = address_of(block.shared);
  if (address >= first && address < first + block.shared_bytes)
    return shared(t, address - first, bytes, access, at);
  const uint64_t stack = address_of(static_cast<Fiber&>(t).stack);
  if (address >= stack && address < stack + kStackBytes)
    return reinterpret_cast<uint8_t*>(address);
  return global(t, address, bytes, access, at);
}

void copy_later(Thread& t, uint8_t* to, uint32_t bytes, const uint8_t* from, uint32_t bytes_read) {
  auto& fiber = static_cast<Fiber&>(t);
  std::memset(to, 0xFF, bytes);
  fiber.copies.push_back({to, bytes, from, bytes_read, fiber.copy_groups});
}
void commit_group(Thread& t) {
  ++static_cast<Fiber&>(t).copy_groups;
}
void wait_group(Thread& t, uint32_t may_stay) {
  auto& fiber = static_cast<Fiber&>(t);
  const auto stays = std::stable_partition(
      fiber.copies.begin(), fiber.copies.end(),
      [&](const Copy& copy) { return copy.group + may_stay < fiber.copy_groups; });
  std::for_each(fiber.copies.begin(), stays, [](const Copy& copy) {
    std::memset(copy.to, 0, copy.bytes);
    std::memcpy(copy.to, copy.from, copy.bytes_read);
  });
  fiber.copies.erase(fiber.copies.begin(), stays);
}
void wait_all(Thread& t) {
  commit_group(t);
  wait_group(t, 0);
}

// --- barriers and collectives --------------------------------------------------------------------

namespace {

uint32_t wait_at_barrier(Thread& t, uint32_t number, int reduction, bool vote, uint32_t at) {
  auto& fiber = static_cast<Fiber&>(t);
  fiber.state = State::at_barrier;
  fiber.number = number;
  fiber.reduction = reduction;
  fiber.vote = vote;
  fiber.at = at;
  wait(fiber);
  return static_cast<uint32_t>(fiber.result);
}

uint64_t wait_for_warp(Fiber& fiber, Collective collective, uint64_t value, uint32_t mask,
                       uint32_t at) {
  fiber.at = at;
  if (!(mask >> fiber.lane & 1))
    stop("the caller is not in the mask: " + place(at));
  fiber.state = State::at_collective;
  fiber.collective = collective;
  fiber.value = value;
  fiber.mask = mask;
  wait(fiber);
  return fiber.result;
}

}  // namespace

void barrier(Thread& t, uint32_t number, uint32_t at) {
  wait_at_barrier(t, number, -1, false, at);
}
uint32_t barrier_reduce(Thread& t, uint32_t number, Reduction reduction, bool value, uint32_t at) {
  return wait_at_barrier(t, number, reduction, value, at);
}
void warp_barrier(Thread& t, uint32_t mask, uint32_t at) {
  auto& fiber = static_cast<Fiber&>(t);
  wait_for_warp(fiber, Collective::barrier, 0, mask, at);
  ++fiber.warp_barriers;
}
uint32_t shuffle(Thread& t, Shuffle how, uint32_t value, uint32_t lane, uint32_t clamp,
                 uint32_t mask, bool& in_range, uint32_t at) {
  auto& fiber = static_cast<Fiber&>(t);
  fiber.shuffle = how;
  fiber.source = lane;
  fiber.clamp = clamp;
  const uint64_t result = wait_for_warp(fiber, Collective::shuffle, value, mask, at);
  in_range = result >> 32 != 0;
  return static_cast<uint32_t>(result);
}
uint32_t ballot(Thread& t, bool value, uint32_t mask, uint32_t at) {
  return static_cast<uint32_t>(
      wait_for_warp(static_cast<Fiber&>(t), Collective::ballot, value, mask, at));
}
uint32_t match_any(Thread& t, uint64_t value, uint32_t mask, uint32_t at) {
  return static_cast<uint32_t>(
      wait_for_warp(static_cast<Fiber&>(t), Collective::match, value, mask, at));
}

uint32_t warp_reduce(Thread& t, uint32_t value, Combine combine, uint32_t mask, uint32_t at) {
  auto& fiber = static_cast<Fiber&>(t);
  fiber.combine = combine;
  return static_cast<uint32_t>(wait_for_warp(fiber, Collective::reduce, value, mask, at));
}

namespace {

uint64_t shuffled(const Fiber& fiber, uint32_t first_of_warp) {
  const uint32_t lane = fiber.lane, offset = fiber.source & 31, clamp = fiber.clamp & 31,
                 segment = fiber.clamp >> 8 & 31;
  const uint32_t first = lane & segment, limit = first | (clamp & ~segment);
  uint32_t from = lane;
  bool in_range = false;
  switch (fiber.shuffle) {
    case up:
      in_range = lane >= limit + offset;
      from = lane - offset;
      break;
    case down:
      in_range = lane + offset <= limit;
      from = lane + offset;
      break;
    case butterfly:
      in_range = (lane ^ offset) <= limit;
      from = lane ^ offset;
      break;
    case index:
      in_range = (first | (offset & ~segment)) <= limit;
      from = first | (offset & ~segment);
      break;
  }
  if (!in_range)
    from = lane;
  const Fiber* const other = block.fibers[first_of_warp + from].get();
  if (!(fiber.mask >> from & 1) || first_of_warp + from >= block.size ||
      other->state == State::done) {
    block.current = const_cast<Fiber*>(&fiber);
    stop("a value of lane " + std::to_string(from) +
         ", which does not take part: " + place(fiber.at));
  }
  return (other->value & 0xFFFFFFFF) | uint64_t(in_range) << 32;
}

// Lets the lanes go on that wait for one another and are all there.
bool resolve_warp(uint32_t first) {
  const uint32_t end_of_warp = std::min(block.size, first + 32);
  bool resolved = false;
  for (uint32_t k = first; k < end_of_warp; ++k) {
    const Fiber& fiber = *block.fibers[k];
    if (fiber.state != State::at_collective)
      continue;
    std::vector<Fiber*> group;
    bool complete = true;
    for (uint32_t lane = 0; lane < 32; ++lane) {
      if (!(fiber.mask >> lane & 1) || first + lane >= end_of_warp)
        continue;
      Fiber& other = *block.fibers[first + lane];
      if (other.state == State::done)
        continue;
      const bool same = other.state == State::at_collective &&
                        other.collective == fiber.collective && other.mask == fiber.mask &&
                        (other.at == fiber.at || fiber.collective == Collective::barrier);
      complete &= same;
      group.push_back(&other);
    }
    if (!complete)
      continue;
    for (Fiber* each : group) {
      each->result = each->collective == Collective::shuffle  ? shuffled(*each, first)
                     : each->collective == Collective::reduce ? group[0]->value
                                                              : 0;
      for (const Fiber* other : group) {
        if (each->collective == Collective::ballot)
          each->result |= uint64_t(other->value != 0) << other->lane;
        if (each->collective == Collective::match)
          each->result |= uint64_t(other->value == each->value) << other->lane;
        if (each->collective == Collective::reduce && other != group[0]) {
          each->result = each->combine(static_cast<uint32_t>(each->result),
                                       static_cast<uint32_t>(other->value));
        }
      }
    }
    for (Fiber* each : group)
      each->state = State::runs;
    resolved = true;
  }
  return resolved;
}

// Lets the block go on if all its threads are at the barrier.
bool resolve_barrier() {
  const Fiber* first = nullptr;
  uint32_t votes = 0, waiting = 0;
  bool same_place = true, all_there = true;
  for (uint32_t k = 0; k < block.size; ++k) {
    const Fiber& fiber = *block.fibers[k];
    if (fiber.state == State::done) {
      all_there = false;
      continue;
    }
    if (first == nullptr)
      first = &fiber;
    if (fiber.state != State::at_barrier || fiber.number != first->number ||
        fiber.reduction != first->reduction)
      return false;
    same_place &= fiber.at == first->at;
    votes += fiber.vote;
    ++waiting;
  }
  if (first == nullptr)
    return false;
  if (!same_place)
    finding(block.loaded->title + ": threads of one block are at different barriers, one of them " +
            place(first->at));
  if (!all_there)
    finding(block.loaded->title +
            ": a barrier that threads of the block have left behind: " + place(first->at));
  for (uint32_t k = 0; k < block.size; ++k) {
    Fiber& fiber = *block.fibers[k];
    if (fiber.state != State::at_barrier)
      continue;
    fiber.result = fiber.reduction == all   ? votes == waiting
                   : fiber.reduction == any ? votes > 0
                                            : votes;
    fiber.state = State::runs;
  }
  ++block.epoch;
  return true;
}

[[noreturn]] void deadlock() {
  std::map<std::string, int> places;
  for (uint32_t k = 0; k < block.size; ++k) {
    const Fiber& fiber = *block.fibers[k];
    ++places[fiber.state == State::done ? "have ended" : "wait at " + place(fiber.at)];
  }
  std::string text = "threads wait for one another in vain:";
  for (const auto& [name, count] : places)
    text += "\n  " + std::to_string(count) + " " + name;
  stop(text);
}

void run_block() {
  block.epoch = 1;
  std::vector<uint32_t> order(block.size);
  for (uint32_t k = 0; k < block.size; ++k) {
    start(*block.fibers[k]);
    order[k] = k;
  }
  for (;;) {
    if (options().shuffle)
      std::shuffle(order.begin(), order.end(), block.random);
    bool progress = false, all_done = true;
    for (const uint32_t k : order) {
      Fiber& fiber = *block.fibers[k];
      if (fiber.state == State::runs) {
        block.current = &fiber;
        emulator_switch(&block.scheduler, fiber.stack_pointer);
        progress = true;
      }
      all_done &= fiber.state == State::done;
    }
    if (all_done)
      break;
    for (uint32_t first = 0; first < block.size; first += 32)
      progress |= resolve_warp(first);
    progress |= resolve_barrier();
    if (!progress)
      deadlock();
  }
  block.current = nullptr;
}

}  // namespace

void run_kernel(Loaded& loaded, Size grid, Size size,
                const std::vector<std::vector<uint8_t>>& arguments, uint32_t dynamic_shared) {
  block.loaded = &loaded;
  block.size = static_cast<uint32_t>(size.count());
  std::vector<std::vector<uint8_t>> copies = arguments;
  std::vector<uint8_t*> parameters;
  for (auto& copy : copies) {
    parameters.push_back(copy.data());
    add_memory(copy.data(), copy.size());  // a __grid_constant__ may be read by its address
  }
  block.parameters = parameters.data();
  block.shared_bytes = loaded.kernel->static_shared + dynamic_shared;
  constexpr size_t kAlignment = 128;
  block.memory.resize(block.shared_bytes + kAlignment);
  block.shared = block.memory.data() +
                 (kAlignment - address_of(block.memory.data()) % kAlignment) % kAlignment;
  while (block.fibers.size() < block.size)
    block.fibers.push_back(new_fiber());

  const uint64_t blocks = grid.count();
  count_launch(loaded, blocks, blocks * block.size);
  std::vector<uint64_t> order;
  // Kernels of CUB wait for blocks of lower numbers, which a device starts first.
  if (options().shuffle && loaded.title.find("cub::") == std::string::npos) {
    for (uint64_t k = 0; k < blocks; ++k)
      order.push_back(k);
    std::shuffle(order.begin(), order.end(), block.random);
  }
  for (uint64_t k = 0; k < blocks; ++k) {
    const uint64_t number = order.empty() ? k : order[k];
    std::memset(block.shared, 0xFF, block.shared_bytes);
    block.bytes.assign(block.shared_bytes, Byte{});
    std::vector<const uint32_t*> counts;
    for (uint32_t j = 0; j < block.size; ++j) {
      Fiber& fiber = *block.fibers[j];
      fiber.index = j;
      fiber.lane = j % 32;
      fiber.shared = block.shared;
      fiber.dynamic_shared = loaded.kernel->static_shared;
      const auto coordinates = [](uint32_t* to, uint64_t at, Size of) {
        to[0] = static_cast<uint32_t>(at % of.x);
        to[1] = static_cast<uint32_t>(at / of.x % of.y);
        to[2] = static_cast<uint32_t>(at / of.x / of.y);
      };
      coordinates(fiber.tid, j, size);
      coordinates(fiber.ctaid, number, grid);
      const uint32_t sizes[] = {size.x, size.y, size.z}, grids[] = {grid.x, grid.y, grid.z};
      std::copy(sizes, sizes + 3, fiber.ntid);
      std::copy(grids, grids + 3, fiber.nctaid);
    }
    run_block();
    for (uint32_t j = 0; j < block.size; ++j)
      counts.push_back(block.fibers[j]->counts);
    count_block(counts);
  }
  for (const auto& copy : copies)
    remove_memory(copy.data());
}

}  // namespace emulator
