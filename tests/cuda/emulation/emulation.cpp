#include "emulation.hpp"

#include <algorithm>
#include <cmath>
#include <exception>
#include <iterator>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#define LAPLEX_FIBERS_UNDER_ASAN 1
#include <sanitizer/common_interface_defs.h>
#endif

// A function that does not come back to its caller before others ran: what the compiler finds out
// about it, such as the registers that it leaves alone, is not so.
#if defined(__clang__)
#define LAPLEX_OPAQUE __attribute__((noinline))
#else
#define LAPLEX_OPAQUE __attribute__((noipa))
#endif

namespace laplex::emulation {
namespace {

constexpr std::size_t kStack = std::size_t(1) << 17;
constexpr unsigned kWarp = 32;

enum class Wait { none, barrier, warp, done };

struct Fiber {
  ucontext_t context{};
  void* jump[5] = {};
  std::unique_ptr<unsigned char[]> stack;
  void* fake_stack = nullptr;
  Wait wait = Wait::none;
  bool started = false;
  unsigned votes = 0;
  unsigned exchanges = 0;
  std::uint64_t slot[2] = {};  ///< of this exchange and the one before, which others may still read
};

struct Block {
  std::vector<Fiber> fibers;  ///< as many as the largest block so far had
  unsigned size = 0;
  unsigned current = 0;
  Index index;
  Index grid;
  std::vector<unsigned char> shared;
  bool vote[3] = {};  ///< of this vote, the next, and the one before, which others may still read
  const std::function<void()>* kernel = nullptr;
  std::exception_ptr failure;
  void* jump[5] = {};
  void* fake_stack = nullptr;
  const void* host_stack = nullptr;
  std::size_t host_stack_size = 0;
};

Block block;

// swapcontext asks the kernel for the signal mask, twenty times the price of the switch: it starts
// a fiber, and jumps do the rest. Not setjmp's, which AddressSanitizer takes for the end of the
// stack.
[[noreturn]] LAPLEX_OPAQUE void leap(void** jump) {
  __builtin_longjmp(jump, 1);
}

LAPLEX_OPAQUE void switch_to_fiber(Fiber& fiber) {
  if (__builtin_setjmp(block.jump) == 0) {
    if (fiber.started) {
      leap(fiber.jump);
    }
    fiber.started = true;
    setcontext(&fiber.context);
  }
}

LAPLEX_OPAQUE void switch_to_scheduler(Fiber& fiber) {
  if (__builtin_setjmp(fiber.jump) == 0) {
    leap(block.jump);
  }
}

#if defined(LAPLEX_FIBERS_UNDER_ASAN)
void announce_fiber(Fiber& fiber) {
  __sanitizer_start_switch_fiber(&block.fake_stack, fiber.stack.get(), kStack);
}
void announce_scheduler(Fiber& fiber, bool done) {
  __sanitizer_start_switch_fiber(done ? nullptr : &fiber.fake_stack, block.host_stack,
                                 block.host_stack_size);
}
void arrived_at_fiber(void* fake_stack) {
  __sanitizer_finish_switch_fiber(fake_stack, &block.host_stack, &block.host_stack_size);
}
void arrived_at_scheduler() {
  __sanitizer_finish_switch_fiber(block.fake_stack, nullptr, nullptr);
}
#else
void announce_fiber(Fiber&) {}
void announce_scheduler(Fiber&, bool) {}
void arrived_at_fiber(void*) {}
void arrived_at_scheduler() {}
#endif

/// The scheduler lets fiber `k` run until it gives way.
void enter(unsigned k) {
  block.current = k;
  announce_fiber(block.fibers[k]);
  switch_to_fiber(block.fibers[k]);
  arrived_at_scheduler();
}

void give_way(Wait wait) {
  Fiber& fiber = block.fibers[block.current];
  fiber.wait = wait;
  announce_scheduler(fiber, wait == Wait::done);
  switch_to_scheduler(fiber);
  arrived_at_fiber(fiber.fake_stack);
}

void body() {
  arrived_at_fiber(nullptr);
  try {
    (*block.kernel)();
  } catch (...) {
    block.failure = std::current_exception();
  }
  give_way(Wait::done);
}

void arrange(std::vector<unsigned>& order, Order how, std::mt19937_64& random) {
  if (how == Order::descending) {
    std::reverse(order.begin(), order.end());
  } else if (how == Order::shuffled) {
    std::shuffle(order.begin(), order.end(), random);
  }
}

std::vector<unsigned> counted(unsigned count) {
  std::vector<unsigned> order(count);
  for (unsigned k = 0; k < count; ++k) {
    order[k] = k;
  }
  return order;
}

void start_fibers() {
  if (block.fibers.size() < block.size) {
    block.fibers.resize(block.size);
  }
  for (unsigned k = 0; k < block.size; ++k) {
    Fiber& fiber = block.fibers[k];
    if (!fiber.stack) {
      fiber.stack = std::make_unique<unsigned char[]>(kStack);
    }
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, body, 0);
    fiber.wait = Wait::none;
    fiber.started = false;
    fiber.votes = 0;
    fiber.exchanges = 0;
    fiber.fake_stack = nullptr;
  }
}

bool all_wait(unsigned begin, unsigned end, Wait wait) {
  for (unsigned k = begin; k < end; ++k) {
    if (block.fibers[k].wait != wait) {
      return false;
    }
  }
  return true;
}

void release(unsigned begin, unsigned end) {
  for (unsigned k = begin; k < end; ++k) {
    block.fibers[k].wait = Wait::none;
  }
}

void run_block(std::mt19937_64& random) {
  start_fibers();
  std::fill(std::begin(block.vote), std::end(block.vote), false);
  std::vector<unsigned> order = counted(block.size);
  for (;;) {
    arrange(order, settings().threads, random);
    bool ran = false;
    for (const unsigned k : order) {
      if (block.fibers[k].wait == Wait::none) {
        enter(k);
        ran = true;
        if (block.failure) {
          std::rethrow_exception(std::exchange(block.failure, nullptr));
        }
      }
    }
    for (unsigned warp = 0; warp < block.size; warp += kWarp) {
      const unsigned end = std::min(block.size, warp + kWarp);
      if (all_wait(warp, end, Wait::warp)) {
        release(warp, end);
        ran = true;
      }
    }
    if (all_wait(0, block.size, Wait::barrier)) {
      release(0, block.size);
    } else if (all_wait(0, block.size, Wait::done)) {
      return;
    } else if (!ran) {
      throw std::logic_error("a barrier or shuffle that not all threads reach");
    }
  }
}

}  // namespace

Settings& settings() {
  static Settings instance;
  return instance;
}

std::int64_t& launches() {
  static std::int64_t count = 0;
  return count;
}

std::int64_t& atomics() {
  static std::int64_t count = 0;
  return count;
}

void run(const Launch& launch, const std::function<void()>& kernel) {
  if (launch.threads == 0 || launch.threads > 1024 || launch.blocks == 0 ||
      launch.shared_bytes > (std::size_t(1) << 16)) {
    throw std::logic_error("a launch that no device takes: " + std::to_string(launch.blocks) +
                           " blocks of " + std::to_string(launch.threads) + " threads, " +
                           std::to_string(launch.shared_bytes) + " bytes of shared memory");
  }
  if (settings().drops) {
    return;
  }
  ++launches();
  std::mt19937_64 random(settings().seed);
  std::vector<unsigned> order = counted(launch.blocks);
  arrange(order, settings().blocks, random);
  block.kernel = &kernel;
  block.size = launch.threads;
  block.grid = {launch.blocks, 1, 1};
  for (const unsigned index : order) {
    block.index = {index, 0, 0};
    // A new vector each time, of the exact size: what is left of the block before, or lies past the
    // end, must not be read.
    std::vector<unsigned char>(launch.shared_bytes, 0xFF).swap(block.shared);
    run_block(random);
  }
}

Index thread_index() {
  return {block.current, 0, 0};
}
Index block_index() {
  return block.index;
}
Index block_size() {
  return {block.size, 1, 1};
}
Index grid_size() {
  return block.grid;
}
unsigned char* shared_memory() {
  return block.shared.data();
}

void barrier() {
  give_way(Wait::barrier);
}

bool barrier_or(bool mine) {
  const unsigned turn = block.fibers[block.current].votes++;
  block.vote[turn % 3] = block.vote[turn % 3] || mine;
  block.vote[(turn + 1) % 3] = false;
  give_way(Wait::barrier);
  return block.vote[turn % 3];
}

std::uint64_t exchange(std::uint64_t value, unsigned source) {
  const unsigned me = block.current;
  const unsigned turn = block.fibers[me].exchanges++ % 2;
  block.fibers[me].slot[turn] = value;
  give_way(Wait::warp);
  return block.fibers[me / kWarp * kWarp + source].slot[turn];
}

float half_to_float(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  const float sign = (bits & 0x8000) != 0 ? -1.0F : 1.0F;
  if (exponent == 31) {
    return mantissa != 0 ? std::nanf("") : sign * HUGE_VALF;
  }
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                               : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25));
}

std::uint16_t half_from_float(float value) {
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const float size = std::fabs(value);
  if (std::isnan(value)) {
    return 0x7FFF;
  }
  if (size >= 65520.0F) {
    return sign | 0x7C00;
  }
  int exponent = 0;
  std::frexp(size, &exponent);
  const int unit = std::max(exponent - 11, -24);  // of the last place
  const auto places = static_cast<int>(std::nearbyint(std::ldexp(size, -unit)));
  const int biased = unit + 24;  // 0 for the subnormal numbers and the first normal binade
  // A carry out of the mantissa moves on to the next exponent by itself.
  return static_cast<std::uint16_t>(sign + biased * 1024 + places);
}

float bfloat16_to_float(std::uint16_t bits) {
  const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
  float value = 0.0F;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

std::uint16_t bfloat16_from_float(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  if (std::isnan(value)) {
    return 0x7FFF;
  }
  return static_cast<std::uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

}  // namespace laplex::emulation
