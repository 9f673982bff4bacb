#include "device.hpp"
#include "runtime.hpp"

#include <thrust/iterator/counting_iterator.h>
#include <thrust/iterator/transform_iterator.h>
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_segmented_radix_sort.cuh>

#include <string>

namespace laplex::cuda {

int device_count() noexcept {
  int count = 0;
  // Without a driver this returns cudaErrorInsufficientDriver and leaves its argument alone.
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return 0;
  }
  return count;
}

void require_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    static_cast<void>(cudaGetLastError());
    const bool no_driver = driver_version() == 0;
    throw Error(ErrorCode::device,
                std::string("no CUDA device: ") +
                    (no_driver               ? "no NVIDIA driver is installed"
                     : status != cudaSuccess ? cudaGetErrorString(status)
                                             : "none is visible") +
                    "; use CPU arrays, or a machine with an NVIDIA GPU and its driver");
  }
}

std::string device_name(int device) {
  cudaDeviceProp properties{};
  detail::check(cudaGetDeviceProperties(&properties, device));
  return std::string(properties.name) + ", compute capability " + std::to_string(properties.major) +
         "." + std::to_string(properties.minor) + ", " +
         std::to_string(properties.totalGlobalMem >> 30) + " GiB";
}

int driver_version() noexcept {
  int version = 0;
  static_cast<void>(cudaDriverGetVersion(&version));
  return version;
}

int runtime_version() noexcept {
  int version = 0;
  static_cast<void>(cudaRuntimeGetVersion(&version));
  return version;
}

int current_device() noexcept {
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return 0;
  }
  return device;
}

void set_current_device(int device) noexcept {
  if (device != current_device() && cudaSetDevice(device) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
  }
}

namespace {

/// Whether the current device has memory pools, which a virtual GPU may lack.
bool has_pools() noexcept {
  int supported = 1;
  if (cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, current_device()) !=
      cudaSuccess) {
    static_cast<void>(cudaGetLastError());
  }
  return supported != 0;
}

}  // namespace

void* allocate(std::size_t bytes, Stream stream) {
  void* memory = nullptr;
  if (bytes > 0) {
    detail::check(has_pools() ? cudaMallocAsync(&memory, bytes, stream)
                              : cudaMalloc(&memory, bytes));
  }
  return memory;
}

void release(void* memory, Stream stream) noexcept {
  // cudaFree waits for the device.
  if (memory != nullptr &&
      (has_pools() ? cudaFreeAsync(memory, stream) : cudaFree(memory)) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // nobody else's
  }
}

void copy_to_device(void* device, const void* host, std::size_t bytes, Stream stream) {
  if (bytes > 0) {
    detail::check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream));
    detail::check(cudaStreamSynchronize(stream));
  }
}

void copy_to_host(void* host, const void* device, std::size_t bytes, Stream stream) {
  if (bytes > 0) {
    detail::check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream));
    detail::check(cudaStreamSynchronize(stream));
  }
}

void synchronize(Stream stream) {
  detail::check(cudaStreamSynchronize(stream));
}

std::optional<std::uint64_t> capture_id(Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long id = 0;
  detail::check(cudaStreamGetCaptureInfo(stream, &status, &id));
  if (status == cudaStreamCaptureStatusNone) {
    return std::nullopt;
  }
  return id;
}

namespace {

template <class T>
struct AddJob {
  T* to;
  const T* from;
  std::int64_t count;
};

template <class T>
__global__ void __launch_bounds__(detail::kFlatThreads) add_kernel(AddJob<T> job) {
  const std::int64_t k = detail::thread_number();
  if (k < job.count) {
    job.to[k] += job.from[k];
  }
}

}  // namespace

template <class T>
void add(T* to, const T* from, std::int64_t count, Stream stream) {
  detail::launch(add_kernel<T>, detail::one_thread_each(count), stream, AddJob<T>{to, from, count});
}
template void add<float>(float*, const float*, std::int64_t, Stream);
template void add<double>(double*, const double*, std::int64_t, Stream);

namespace detail {

void check(cudaError_t status) {
  if (status == cudaSuccess) {
    return;
  }
  static_cast<void>(cudaGetLastError());  // errors of a call are not left for the next one
  const std::string message =
      std::string("CUDA: ") + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")";
  throw Error(
      status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::device,
      status == cudaErrorMemoryAllocation
          ? "not enough memory on the GPU: free some, or use fewer rows or heads at a time; " +
                message
          : message);
}

namespace {

/// Where segment k begins.
struct Begin {
  std::int64_t count;
  __host__ __device__ std::int64_t operator()(std::int64_t segment) const {
    return segment * count;
  }
};

template <class T>
cudaError_t sort(void* temporary, std::size_t& bytes, const SortJob<T>& job, Stream stream) {
  constexpr int kBits = static_cast<int>(8 * sizeof(T));
  if (job.segments == 1) {
    return cub::DeviceRadixSort::SortPairs(temporary, bytes, job.keys, job.sorted_keys, job.indices,
                                           job.sorted_indices, job.count, 0, kBits, stream);
  }
  const auto begins = thrust::make_transform_iterator(
      thrust::make_counting_iterator(std::int64_t(0)), Begin{job.count});
  return cub::DeviceSegmentedRadixSort::SortPairs(
      temporary, bytes, job.keys, job.sorted_keys, job.indices, job.sorted_indices,
      job.segments * job.count, job.segments, begins, begins + 1, 0, kBits, stream);
}

}  // namespace

template <class T>
void sort_pairs(const SortJob<T>& job, Memory scratch, Stream stream) {
  std::size_t bytes = scratch.bytes;
  check(sort(scratch.data, bytes, job, stream));
}

template <class T>
std::size_t sort_bytes(std::int64_t segments, std::int64_t count) {
  if (segments * count == 0) {
    return 1;
  }
  std::size_t bytes = 0;
  check(sort(nullptr, bytes, SortJob<T>{nullptr, nullptr, nullptr, nullptr, segments, count},
             nullptr));
  return bytes > 0 ? bytes : 1;  // a null pointer would only ask for the size again
}

#define LAPLEX_INSTANTIATE(T)                                     \
  template void sort_pairs<T>(const SortJob<T>&, Memory, Stream); \
  template std::size_t sort_bytes<T>(std::int64_t, std::int64_t);
LAPLEX_INSTANTIATE(float)
LAPLEX_INSTANTIATE(double)
#undef LAPLEX_INSTANTIATE

}  // namespace detail
}  // namespace laplex::cuda
