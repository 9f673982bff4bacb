/// Which devices there are, and memory on the current one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

struct CUstream_st;

namespace laplex::cuda {

/// cudaStream_t.
using Stream = CUstream_st*;

/// How many devices can be used; 0 without a driver.
[[nodiscard]] int device_count() noexcept;

/// Throws Error unless there is a device, with the sentence that says why there is none.
void require_device();

/// Name, compute capability and memory of a device, in words.
[[nodiscard]] std::string device_name(int device);

/// The driver's and the runtime's version, as 13000 for 13.0; 0 without a driver.
[[nodiscard]] int driver_version() noexcept;
[[nodiscard]] int runtime_version() noexcept;

/// The device that this thread's calls are for; 0 without a driver.
[[nodiscard]] int current_device() noexcept;
/// Makes another device the current one; does nothing if it cannot.
void set_current_device(int device) noexcept;

/// Device memory, ordered in the stream: of no bytes it is null. Throws Error if there is none
/// left.
[[nodiscard]] void* allocate(std::size_t bytes, Stream stream);
/// Gives it back once the stream has come so far; null is let pass.
void release(void* memory, Stream stream) noexcept;

/// Device memory for as long as this lives. It is given back in the stream that it came in, which
/// must live as long and not be captured then, and on the device that it came on, whichever is
/// current.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(std::size_t bytes, Stream stream);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  [[nodiscard]] void* data() const noexcept { return data_; }
  [[nodiscard]] int device() const noexcept { return device_; }

 private:
  void* data_ = nullptr;
  Stream stream_ = nullptr;
  int device_ = 0;
};

/// Both wait: the host's memory can be used again, or read, when they return.
void copy_to_device(void* device, const void* host, std::size_t bytes, Stream stream);
void copy_to_host(void* host, const void* device, std::size_t bytes, Stream stream);

/// Waits until everything that the stream was given is done.
void synchronize(Stream stream);

/// A number for the graph that the stream is being captured into; none if it is not.
[[nodiscard]] std::optional<std::uint64_t> capture_id(Stream stream);

/// to[k] += from[k], without waiting; T is float or double.
template <class T>
void add(T* to, const T* from, std::int64_t count, Stream stream);

}  // namespace laplex::cuda
