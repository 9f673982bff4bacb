/// What the language has no words for.
///
/// LAPLEX_INLINE: inlined whatever the compiler thinks of it. What the kernels of several
/// instruction sets share must be: a function of its own would be linked once, for any of them.
/// LAPLEX_APART: never inlined, so that a rare case takes no registers from the usual one.
/// LAPLEX_VECTORS: whether there are types of several numbers and shuffles of them. GCC has the
/// shuffles from version 12 on. Other compilers take one number at a time, with the same results.
#pragma once

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)  // clang-cl is no __GNUC__
#define LAPLEX_VECTORS
#endif

#if defined(__GNUC__) || defined(__clang__)
#define LAPLEX_INLINE inline __attribute__((always_inline))
#define LAPLEX_APART __attribute__((noinline))
#else
#define LAPLEX_INLINE inline
#define LAPLEX_APART
#endif

namespace laplex::detail {

/// Tells the processor that `address`, which may be anywhere, will be written to soon.
LAPLEX_INLINE void prefetch_for_write(const void* address) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(address, 1);
#else
  (void)address;
#endif
}

/// The same of an address that will be read.
LAPLEX_INLINE void prefetch_for_read(const void* address) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(address, 0);
#else
  (void)address;
#endif
}

}  // namespace laplex::detail
