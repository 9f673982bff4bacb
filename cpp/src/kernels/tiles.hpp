/// Rows of the caller to tiles of a wide block, and back.
#pragma once

#include "kernels.hpp"
#include "pack.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

/// Number k .. k + 7 of eight rows that are `stride` apart, as eight packs of a number each.
template <class T>
LAPLEX_INLINE void load_group(const T* rows, std::int64_t stride, Pack<T>* x) {
  repeat<8>([&](auto r) { x[r.value] = load(rows + r.value * stride); });
  transpose8(x);
}

/// The same of rows that end after `count` numbers, fewer than eight; zeros follow.
template <class T>
LAPLEX_INLINE void load_part(const T* rows, std::int64_t stride, std::int64_t count, Pack<T>* x) {
  for (std::int64_t j = 0; j < 8; ++j) {
    x[j] = splat(T(0));
    if (j < count) {
      x[j] = make_pack<T>([&](int r) { return rows[r * stride + j]; });
    }
  }
}

/// The reverse of load_group.
template <class T>
LAPLEX_INLINE void store_group(Pack<T>* x, T* rows, std::int64_t stride) {
  transpose8(x);
  repeat<8>([&](auto r) { store(rows + r.value * stride, x[r.value]); });
}

/// The same of the first `count` packs, fewer than eight.
template <class T>
LAPLEX_INLINE void store_part(Pack<T>* x, std::int64_t count, T* rows, std::int64_t stride) {
  transpose8(x);
  T value[64];
  repeat<8>([&](auto r) { store(value + 8 * r.value, x[r.value]); });
  for (std::int64_t r = 0; r < 8; ++r) {
    T* to = rows + r * stride;
    const T* from = value + 8 * r;
    // Not one copy of any length, which would be a call.
    if ((count & 4) != 0) {
      std::memcpy(to, from, 4 * sizeof(T));
      to += 4;
      from += 4;
    }
    if ((count & 2) != 0) {
      std::memcpy(to, from, 2 * sizeof(T));
      to += 2;
      from += 2;
    }
    if ((count & 1) != 0) {
      *to = *from;
    }
  }
}

template <class T>
void to_tile(const RowsOf<const T>& rows, std::int64_t begin, std::int64_t end, T* tile,
             std::int64_t tile_step) {
  std::int64_t k = begin;
  if (rows.step == 1 && rows.parts == 1) {  // real numbers: one plane
    const T* const first = rows.first;
    const std::int64_t stride = rows.stride;
    const std::int64_t count = rows.count;
    for (; k + 8 <= end; k += 8) {
      Pack<T> x[8];
      if (count == kRows) {
        load_group(first + k, stride, x);
      } else {
        repeat<8>([&](auto r) {
          x[r.value] = r.value < count ? load(first + k + r.value * stride) : splat(T(0));
        });
        transpose8(x);
      }
      repeat<8>([&](auto j) { store(tile + (k + j.value) * kRows, x[j.value]); });
    }
  }
  for (; k < end; ++k) {
    for (std::int64_t r = 0; r < kRows; ++r) {
      tile[k * tile_step + r] = r < rows.count ? rows.lane(r)[k * rows.step] : T(0);
    }
  }
}

template <class T>
void from_tile(const T* tile, std::int64_t tile_step, std::int64_t begin, std::int64_t end,
               const RowsOf<T>& rows) {
  std::int64_t k = begin;
  if (rows.step == 1 && rows.parts == 1) {
    T* const first = rows.first;
    const std::int64_t stride = rows.stride;
    const std::int64_t count = rows.count;
    for (; k + 8 <= end; k += 8) {
      Pack<T> x[8];
      repeat<8>([&](auto j) { x[j.value] = load(tile + (k + j.value) * kRows); });
      transpose8(x);
      repeat<8>([&](auto r) {
        if (r.value < count) {
          store(first + k + r.value * stride, x[r.value]);
        }
      });
    }
  }
  for (; k < end; ++k) {
    for (std::int64_t r = 0; r < rows.count; ++r) {
      rows.lane(r)[k * rows.step] = tile[k * tile_step + r];
    }
  }
}

}  // namespace laplex::detail::LAPLEX_LEVEL
