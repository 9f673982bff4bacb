/// \file
/// CUDA devices, and memory on the current one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

struct CUstream_st;

namespace laplex::cuda {

/// A CUDA stream, the same type as cudaStream_t.
using Stream = CUstream_st*;

/// The number of devices that can be used; 0 without a driver.
[[nodiscard]] int device_count() noexcept;

/// Checks that there is a device.
/// \throws Error `device` if there is none, with a sentence that says why
void require_device();

/// The name, compute capability and memory of a device, as text for people.
/// \param device the number of the device
[[nodiscard]] std::string device_name(int device);

/// The CUDA version that the driver supports, such as 13000 for 13.0; 0 without a driver.
[[nodiscard]] int driver_version() noexcept;
/// The version of the CUDA runtime, such as 13000 for 13.0.
[[nodiscard]] int runtime_version() noexcept;

/// The device that calls of this thread use; 0 without a driver.
[[nodiscard]] int current_device() noexcept;
/// Makes a device the current one of this thread. Does nothing if that is impossible.
/// \param device the number of the device
void set_current_device(int device) noexcept;

/// Allocates device memory in the order of a stream.
/// \param bytes the size
/// \param stream the stream
/// \return the memory; null if `bytes` is 0
/// \throws Error `out_of_memory` if the device has too little memory left
[[nodiscard]] void* allocate(std::size_t bytes, Stream stream);
/// Frees memory from allocate() in the order of a stream.
/// \param memory the memory; null is ignored
/// \param stream the stream
void release(void* memory, Stream stream) noexcept;

/// Owns device memory.
///
/// The destructor frees the memory in the stream in which it was allocated, and on the device on
/// which it was allocated, whichever device is current. The stream must live as long as this object
/// and must not be in a capture when it is destroyed.
class DeviceMemory {
 public:
  /// Owns nothing.
  DeviceMemory() = default;
  /// Allocates memory on the current device.
  /// \param bytes the size
  /// \param stream the stream
  /// \throws Error `out_of_memory` if the device has too little memory left
  DeviceMemory(std::size_t bytes, Stream stream);
  /// Frees the memory.
  ~DeviceMemory();
  /// Takes the memory over, and leaves `other` with none.
  DeviceMemory(DeviceMemory&& other) noexcept;
  /// Exchanges the memory of both.
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  /// The address of the memory; null if there is none.
  [[nodiscard]] void* data() const noexcept { return data_; }
  /// The device that the memory is on.
  [[nodiscard]] int device() const noexcept { return device_; }

 private:
  void* data_ = nullptr;
  Stream stream_ = nullptr;
  int device_ = 0;
};

/// Copies from the host to the device, and waits until the copy is done.
/// \param device the destination, a device pointer
/// \param host the source, a host pointer
/// \param bytes the size
/// \param stream the stream
void copy_to_device(void* device, const void* host, std::size_t bytes, Stream stream);
/// Copies from the device to the host, and waits until the copy is done.
/// \param host the destination, a host pointer
/// \param device the source, a device pointer
/// \param bytes the size
/// \param stream the stream
void copy_to_host(void* host, const void* device, std::size_t bytes, Stream stream);

/// Waits until all work in a stream is done.
/// \param stream the stream
void synchronize(Stream stream);

/// Identifies the graph that a stream is being captured into.
/// \param stream the stream
/// \return a number for the graph; nothing if the stream is not being captured
[[nodiscard]] std::optional<std::uint64_t> capture_id(Stream stream);

/// Adds an array to another, `to[k] += from[k]`, without waiting for the device.
/// \tparam T float or double
/// \param to the array to add to, a device pointer
/// \param from the array to add, a device pointer
/// \param count the number of entries
/// \param stream the stream
template <class T>
void add(T* to, const T* from, std::int64_t count, Stream stream);

}  // namespace laplex::cuda
