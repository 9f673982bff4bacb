/// Bytes of a fuzzer as sizes, options and numbers, and what a target says when a promise is
/// broken.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

namespace laplex::fuzz {

/// Ends the program, which is how a fuzzer hears of a failure.
inline void require(bool holds, const char* promise) {
  if (!holds) {
    std::fprintf(stderr, "broken promise: %s\n", promise);
    std::abort();
  }
}

/// Gives the bytes one by one. Once they are used up, more follow from a generator that the first
/// eight of them seed: a short input is a rich case too.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {
    if (size > 0)  // the pointer to nothing may be null
      std::memcpy(&state_, data, size < sizeof(state_) ? size : sizeof(state_));
  }

  std::uint8_t byte() {
    if (left_ > 0) {
      --left_;
      return *data_++;
    }
    state_ += 0x9e3779b97f4a7c15U;  // splitmix64
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return static_cast<std::uint8_t>(z >> 56);
  }
  int below(int limit) { return (byte() * 256 + byte()) % limit; }
  bool flag() { return byte() % 2 == 1; }
  /// True once in so many times.
  bool rarely(int times) { return below(times) == 0; }

  /// Mostly small, so that ties and empty sides are common.
  std::int64_t size() { return rarely(4) ? below(150) : below(12); }

  template <class T>
  T bits() {
    std::uint8_t raw[sizeof(T)];
    for (std::uint8_t& each : raw) {
      each = byte();
    }
    T value;
    std::memcpy(&value, raw, sizeof(T));
    return value;
  }

  /// Numbers of one kind: a coarse grid, a fine one, of all magnitudes, extreme ones, any bits.
  template <class T>
  std::vector<T> numbers(std::int64_t count) {
    using Limits = std::numeric_limits<T>;
    constexpr T kExtreme[] = {T(0),
                              T(-0.0),
                              Limits::min(),
                              Limits::denorm_min(),
                              Limits::max(),
                              Limits::lowest(),
                              Limits::epsilon(),
                              T(1),
                              T(-1),
                              T(1) + Limits::epsilon()};
    const int kind = below(10);
    const int exponent = below(kind == 8 ? 600 : 1) - (kind == 8 ? 300 : 0);
    std::vector<T> all(static_cast<std::size_t>(count));
    for (T& value : all) {
      switch (kind) {
        case 0:
        case 1:
          value = static_cast<T>(below(24) - 12) / T(4);
          break;
        case 6:
          value = kExtreme[below(10)];
          break;
        case 7:
          value = static_cast<T>(std::ldexp(below(65536) / 65536.0 - 0.5, below(120) - 60));
          break;
        case 8:  // one magnitude
          value = static_cast<T>(
              std::ldexp(below(65536) / 65536.0 - 0.5, exponent / (sizeof(T) == 8 ? 1 : 8)));
          break;
        case 9:
          value = rarely(3) ? bits<T>() : static_cast<T>(below(24));
          break;
        default:
          value = static_cast<T>(bits<std::int32_t>()) * static_cast<T>(0x1p-30);
      }
    }
    return all;
  }

  /// Mostly a lengthscale as it should be.
  double positive() {
    if (rarely(8)) {
      return rarely(2) ? bits<double>() : std::ldexp(1.0, below(2000) - 1000);
    }
    return std::ldexp(1.0 + below(256) / 256.0, below(24) - 16);
  }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
  std::uint64_t state_ = 0;
};

template <class T>
bool all_finite(const std::vector<T>& values) {
  for (const T value : values) {
    if (!std::isfinite(value)) {
      return false;
    }
  }
  return true;
}

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

}  // namespace laplex::fuzz
