// What translated kernels consist of: one thread of the emulated GPU, its memory, and the
// instructions of PTX.
#pragma once

#include <algorithm>
#include <cfenv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace emulator {

struct Thread {
  uint32_t tid[3], ntid[3], ctaid[3], nctaid[3];
  uint32_t index;           // in the block
  uint32_t lane;            // in the warp
  uint32_t dynamic_shared;  // where the shared memory begins that the launch asked for
  uint8_t* shared;
  uint32_t* counts;  // how often each basic block ran
};

// What the emulator asks a kernel's library for, by the name "ptx_kernel".
struct Kernel {
  const char* name;
  uint32_t static_shared;
  uint32_t num_parameters;
  const uint32_t* parameter_bytes;
  uint32_t num_basic_blocks;
  uint32_t num_instructions;
  void (*run)(Thread&, uint8_t* const* parameters);
};

// --- memory --------------------------------------------------------------------------------------

enum Access { load, store, atomic };

// Check an access, and return the host's address. `at` is the number of the instruction.
uint8_t* global(Thread&, uint64_t address, uint32_t bytes, Access, uint32_t at);
uint8_t* shared(Thread&, uint64_t address, uint32_t bytes, Access, uint32_t at);
uint8_t* generic(Thread&, uint64_t address, uint32_t bytes, Access, uint32_t at);
// Parameters and local memory are the compiler's own: not checked.
inline uint8_t* local(Thread&, uint64_t address, uint32_t, Access, uint32_t) {
  return reinterpret_cast<uint8_t*>(address);
}
// cp.async: the copy takes place when it is waited for, and until then its target is all ones.
// Bytes that are not read become zero.
void copy_later(Thread&, uint8_t* to, uint32_t bytes, const uint8_t* from, uint32_t bytes_read);
void commit_group(Thread&);
void wait_group(Thread&, uint32_t may_stay);
void wait_all(Thread&);
// A module's array, one for all its kernels.
uint8_t* module_array(const char* module, const char* name, size_t bytes, const void* values,
                      size_t num_values);

inline uint64_t address_of(const void* p) {
  return reinterpret_cast<uint64_t>(p);
}

template <class V>
V get(const uint8_t* p) {
  V v;
  std::memcpy(&v, p, sizeof(V));
  return v;
}
template <class V>
void set(uint8_t* p, V v) {
  std::memcpy(p, &v, sizeof(V));
}
template <class To, class From>
To bits(From v) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &v, sizeof(To));
  return to;
}

// --- threads that wait for one another -----------------------------------------------------------

[[noreturn]] void exit_thread(Thread&);
[[noreturn]] void trap(Thread&);

enum Reduction { all, any, count };
void barrier(Thread&, uint32_t number, uint32_t at);
uint32_t barrier_reduce(Thread&, uint32_t number, Reduction, bool value, uint32_t at);

enum Shuffle { up, down, butterfly, index };
void warp_barrier(Thread&, uint32_t mask, uint32_t at);
uint32_t shuffle(Thread&, Shuffle, uint32_t value, uint32_t lane, uint32_t clamp, uint32_t mask,
                 bool& in_range, uint32_t at);
uint32_t ballot(Thread&, bool value, uint32_t mask, uint32_t at);
uint32_t match_any(Thread&, uint64_t value, uint32_t mask, uint32_t at);
using Combine = uint32_t (*)(uint32_t, uint32_t);
uint32_t warp_reduce(Thread&, uint32_t value, Combine, uint32_t mask, uint32_t at);

template <class V, class F>
V read_modify_write(uint8_t* p, F f) {
  const V old = get<V>(p);
  set<V>(p, f(old));
  return old;
}

// --- integers ------------------------------------------------------------------------------------

template <class V>
inline constexpr uint32_t width = 8 * sizeof(V);
template <class V>
using Unsigned = std::make_unsigned_t<V>;
template <class V>
using Twice = std::conditional_t<
    sizeof(V) == 2, std::conditional_t<std::is_signed_v<V>, int32_t, uint32_t>,
    std::conditional_t<sizeof(V) == 4, std::conditional_t<std::is_signed_v<V>, int64_t, uint64_t>,
                       std::conditional_t<std::is_signed_v<V>, __int128, unsigned __int128>>>;

template <class V>
V multiply_low(V a, V b) {
  return static_cast<V>(Twice<Unsigned<V>>(a) * Twice<Unsigned<V>>(b));
}
template <class V>
V multiply_high(V a, V b) {
  return static_cast<V>((Twice<V>(a) * Twice<V>(b)) >> width<V>);
}
template <class V>
Twice<V> multiply_wide(V a, V b) {
  return Twice<V>(a) * Twice<V>(b);
}
// With the carry of the instruction before, and the carry for the next; of unsigned types.
template <class V>
V add_carry(V a, V b, bool& carry) {
  const Twice<V> sum = Twice<V>(a) + b + carry;
  carry = (sum >> width<V>) != 0;
  return static_cast<V>(sum);
}
template <class V>
V subtract_borrow(V a, V b, bool& borrow) {
  const Twice<V> right = Twice<V>(b) + borrow;
  borrow = a < right;
  return static_cast<V>(a - right);
}
// PTX leaves the result of a division by zero open. NVIDIA's devices return all ones.
template <class V>
V divide(V a, V b) {
  if (b == 0)
    return static_cast<V>(~V(0));
  if (std::is_signed_v<V> && b == static_cast<V>(-1))
    return static_cast<V>(0 - static_cast<Unsigned<V>>(a));
  return static_cast<V>(a / b);
}
template <class V>
V remainder(V a, V b) {
  if (b == 0)
    return a;
  if (std::is_signed_v<V> && b == static_cast<V>(-1))
    return 0;
  return static_cast<V>(a % b);
}
template <class V>
V shift_left(V a, uint32_t by) {
  return by >= width<V> ? V(0) : static_cast<V>(a << by);
}
template <class V>
V shift_right(V a, uint32_t by) {
  return static_cast<V>(a >> std::min(by, width<V> - 1) >> (by >= width<V> ? 1 : 0));
}
inline uint32_t funnel_left(uint32_t low, uint32_t high, uint32_t by) {
  return static_cast<uint32_t>(((uint64_t(high) << 32 | low) << by) >> 32);
}
inline uint32_t funnel_right(uint32_t low, uint32_t high, uint32_t by) {
  return static_cast<uint32_t>((uint64_t(high) << 32 | low) >> by);
}
inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (uint32_t row = 0; row < 8; ++row) {
    if (table >> row & 1)
      result |= (row & 4 ? a : ~a) & (row & 2 ? b : ~b) & (row & 1 ? c : ~c);
  }
  return result;
}
inline uint32_t permute(uint32_t a, uint32_t b, uint32_t selectors) {
  const uint64_t bytes = uint64_t(b) << 32 | a;
  uint32_t result = 0;
  for (uint32_t k = 0; k < 4; ++k) {
    const uint32_t selector = selectors >> 4 * k & 15;
    const auto byte = static_cast<uint8_t>(bytes >> 8 * (selector & 7));
    const uint32_t value = !(selector & 8) ? byte : byte & 0x80 ? 0xFF : 0;
    result |= value << 8 * k;
  }
  return result;
}
template <class V>
V low_bits(uint32_t count) {
  return count >= width<V> ? static_cast<V>(~V(0)) : static_cast<V>((V(1) << count) - 1);
}
template <class V>
V extract_bits(V a, uint32_t first, uint32_t count) {
  first &= 255;
  count &= 255;
  if (count == 0)
    return 0;
  using U = Unsigned<V>;
  U field = shift_right(static_cast<U>(a), first) & low_bits<U>(count);
  if (std::is_signed_v<V>) {
    const bool negative = static_cast<U>(a) >> std::min(first + count - 1, width<V> - 1) & 1;
    const uint32_t known = first >= width<V> ? 0 : std::min(count, width<V> - first);
    if (negative)
      field |= static_cast<U>(~low_bits<U>(known));
  }
  return static_cast<V>(field);
}
template <class V>
V insert_bits(V from, V into, uint32_t first, uint32_t count) {
  first &= 255;
  count &= 255;
  const V field = shift_left(low_bits<V>(count), first);
  return static_cast<V>((shift_left(from, first) & field) | (into & ~field));
}
inline uint32_t bit_mask(uint32_t first, uint32_t count, bool clamps) {
  if (!clamps) {
    first &= 31;
    count &= 31;
  }
  return shift_left(low_bits<uint32_t>(count), first);
}
template <class V>
uint32_t leading_zeros(V a) {
  uint32_t zeros = 0;
  while (zeros < width<V> && !(a >> (width<V> - 1 - zeros) & 1))
    ++zeros;
  return zeros;
}
template <class V>
V reversed_bits(V a) {
  V result = 0;
  for (uint32_t k = 0; k < width<V>; ++k)
    result |= static_cast<V>((a >> k & 1) << (width<V> - 1 - k));
  return result;
}
// The place of the first digit that is not the sign, or all ones; or how far to shift it to the
// top.
template <class V>
uint32_t find_top_bit(V a, bool as_shift) {
  const auto u = static_cast<Unsigned<V>>(std::is_signed_v<V> && a < 0 ? ~a : a);
  const uint32_t zeros = leading_zeros(u);
  if (zeros == width<V>)
    return ~uint32_t(0);
  return as_shift ? zeros : width<V> - 1 - zeros;
}

// --- floating point ------------------------------------------------------------------------------

template <class V>
bool ordered(V a, V b) {
  return a == a && b == b;
}
// A number beats a NaN, and -0 is below 0.
template <class V>
V smaller(V a, V b) {
  if (a != a || b != b)
    return a != a ? b : a;
  return a < b || (a == b && std::signbit(a)) ? a : b;
}
template <class V>
V larger(V a, V b) {
  if (a != a || b != b)
    return a != a ? b : a;
  return a > b || (a == b && !std::signbit(a)) ? a : b;
}
template <class V, class F>
V to_integer(F rounded) {
  if (rounded != rounded)
    return 0;
  if (rounded <= static_cast<F>(std::numeric_limits<V>::min()))
    return std::numeric_limits<V>::min();
  // The type's largest number may round up to a power of two, which is out of range too.
  if (rounded >= static_cast<F>(std::numeric_limits<V>::max()))
    return std::numeric_limits<V>::max();
  return static_cast<V>(rounded);
}
template <class F>
F flushed(F a) {
  return std::fpclassify(a) == FP_SUBNORMAL ? std::copysign(F(0), a) : a;
}
// rcp and rsqrt in double are approximations of their upper half: the lower 32 bits are zero.
inline double upper_half(double a) {
  return bits<double>(bits<uint64_t>(a) >> 32 << 32);
}

// In another rounding mode. Not inlined, with a barrier for the compiler: the operands have to be
// read, and the result has to be there, between the changes of mode.
template <class F>
[[gnu::noinline]] auto rounded(int mode, F formula) {
  std::fesetround(mode);
  auto result = formula();
  asm volatile("" : "+x"(result) : : "memory");
  std::fesetround(FE_TONEAREST);
  return result;
}
// To [0, 1], with 0 for NaN.
inline float saturated(float a) {
  return a > 0 ? std::min(a, 1.0f) : 0.0f;
}

inline float from_half(uint16_t a) {
  return bits<_Float16>(a);
}
inline uint16_t to_half(double a) {
  return a != a ? 0x7FFF : bits<uint16_t>(static_cast<_Float16>(a));
}
inline float from_bfloat16(uint16_t a) {
  return bits<float>(uint32_t(a) << 16);
}
inline uint16_t to_bfloat16(double a) {
  // To float first: of the two nearest numbers the odd one, which rounds as `a` itself does.
  auto word = bits<uint32_t>(static_cast<float>(a));
  if (const auto back = double(bits<float>(word)); back != a)
    word = (word - (std::fabs(back) > std::fabs(a))) | 1;
  return a != a ? 0x7FFF : static_cast<uint16_t>((word + 0x7FFF + (word >> 16 & 1)) >> 16);
}

}  // namespace emulator
