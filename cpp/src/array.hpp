/// Memory for the tables of a plan: aligned to cache lines, not initialised, reused when it fits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace laplex::detail {

/// The kernels read whole groups of eight, four at a time, and so past the end. Those entries are
/// zero.
inline constexpr std::int64_t kPadding = 32;

template <class T>
class Array {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  Array() = default;
  ~Array() { release(); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  Array(Array&& other) noexcept { swap(other); }
  Array& operator=(Array&& other) noexcept {
    swap(other);
    return *this;
  }

  /// Makes room for `size` entries; what was in there is lost. Keeps memory that fits.
  void reset(std::int64_t size) {
    if (size > capacity_ || size < capacity_ / 4) {
      release();
      data_ = nullptr;
      size_ = capacity_ = 0;
      if (size == 0) {
        return;
      }
      data_ = allocate(size);
      capacity_ = size;
    }
    size_ = size;
    if (data_ != nullptr) {
      std::memset(static_cast<void*>(data_ + size), 0, kPadding * sizeof(T));
    }
  }

  /// Makes room for `size` entries where there is less.
  void reset_to_hold(std::int64_t size) {
    if (size > size_) {
      reset(size);
    }
  }

  [[nodiscard]] T* data() { return data_; }
  [[nodiscard]] const T* data() const { return data_; }
  [[nodiscard]] std::int64_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  [[nodiscard]] T& operator[](std::int64_t k) { return data_[k]; }
  [[nodiscard]] const T& operator[](std::int64_t k) const { return data_[k]; }
  [[nodiscard]] T* begin() { return data_; }
  [[nodiscard]] T* end() { return data_ + size_; }
  [[nodiscard]] const T* begin() const { return data_; }
  [[nodiscard]] const T* end() const { return data_ + size_; }
  [[nodiscard]] std::int64_t nbytes() const {
    return data_ == nullptr ? 0 : (capacity_ + kPadding) * static_cast<std::int64_t>(sizeof(T));
  }

  void swap(Array& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(capacity_, other.capacity_);
  }

 private:
  static constexpr std::size_t kHugePage = std::size_t(1) << 21;

  static std::size_t bytes_for(std::int64_t size) {
    return static_cast<std::size_t>(size + kPadding) * sizeof(T);
  }
  static std::align_val_t alignment_for(std::int64_t size) {
    constexpr std::size_t kLine = 64;
    return std::align_val_t(bytes_for(size) >= kHugePage ? kHugePage : kLine);
  }

  static T* allocate(std::int64_t size) {
    const auto alignment = static_cast<std::size_t>(alignment_for(size));
    const std::size_t bytes = (bytes_for(size) + alignment - 1) / alignment * alignment;
    void* memory = ::operator new(bytes, std::align_val_t(alignment));
#if defined(__linux__)
    if (alignment == kHugePage) {
      // The faults of 4 KiB pages cost more than the sort that fills them. Only a hint.
      madvise(memory, bytes, MADV_HUGEPAGE);
    }
#endif
    return static_cast<T*>(memory);
  }

  void release() noexcept {
    if (data_ != nullptr) {
      ::operator delete(static_cast<void*>(data_), alignment_for(capacity_));
    }
  }

  T* data_ = nullptr;
  std::int64_t size_ = 0;
  std::int64_t capacity_ = 0;
};

}  // namespace laplex::detail
