/// Rows of the caller to tiles of a wide block, and back.
#pragma once

#include "pack.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

template <class T>
LAPLEX_INLINE bool all_there(const T* const* rows) {
  bool there = true;
  for (int r = 0; r < 8; ++r) {
    there = there && rows[r] != nullptr;
  }
  return there;
}

template <class T>
void to_tile(const T* const* rows, std::int64_t step, std::int64_t begin, std::int64_t end, T* tile,
             std::int64_t tile_step) {
  std::int64_t k = begin;
  if (step == 1 && all_there(rows)) {
    const T* const row[8] = {rows[0], rows[1], rows[2], rows[3],
                             rows[4], rows[5], rows[6], rows[7]};
    for (; k + 8 <= end; k += 8) {
      Pack<T> x[8];
      for (int r = 0; r < 8; ++r) {
        x[r] = load(row[r] + k);
      }
      transpose8(x);
      for (int j = 0; j < 8; ++j) {
        store(tile + (k + j) * tile_step, x[j]);
      }
    }
  }
  for (; k < end; ++k) {
    for (int r = 0; r < 8; ++r) {
      tile[k * tile_step + r] = rows[r] != nullptr ? rows[r][k * step] : T(0);
    }
  }
}

template <class T>
void from_tile(const T* tile, std::int64_t tile_step, std::int64_t begin, std::int64_t end,
               T* const* rows, std::int64_t step) {
  std::int64_t k = begin;
  if (step == 1 && all_there(rows)) {
    T* const row[8] = {rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7]};
    for (; k + 8 <= end; k += 8) {
      Pack<T> x[8];
      for (int j = 0; j < 8; ++j) {
        x[j] = load(tile + (k + j) * tile_step);
      }
      transpose8(x);
      for (int r = 0; r < 8; ++r) {
        store(row[r] + k, x[r]);
      }
    }
  }
  for (; k < end; ++k) {
    for (int r = 0; r < 8; ++r) {
      if (rows[r] != nullptr) {
        rows[r][k * step] = tile[k * tile_step + r];
      }
    }
  }
}

}  // namespace laplex::detail::LAPLEX_LEVEL
