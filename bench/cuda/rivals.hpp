/// What the operator is measured against: copies, gathers, sorts, scans and transforms of as many
/// numbers.
#pragma once

#include "inputs.hpp"
#include "measure.hpp"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#if defined(LAPLEX_BENCH_CUFFT)
#include <cufft.h>
#endif

#include <cstdint>
#include <string>

namespace laplex::bench {

/// A copy on the device that reads and writes `moved` bytes in all.
class DeviceCopy {
 public:
  DeviceCopy(double moved, cudaStream_t stream)
      : from_(static_cast<std::int64_t>(moved / 2 / sizeof(float))),
        to_(from_.size()),
        stream_(stream) {
    fill_uniform(from_, 11, -1.0, 1.0, stream);  // zeros would draw less power, and clock higher
  }
  void run() const {
    check(cudaMemcpyAsync(to_.data(), from_.data(), from_.bytes(), cudaMemcpyDeviceToDevice,
                          stream_));
  }

 private:
  Array<float> from_;
  Array<float> to_;
  cudaStream_t stream_;
};

static __global__ void gather_kernel(const float* in, const std::uint32_t* from, std::int64_t n,
                                     float* out) {
  const std::int64_t k = entry();
  if (k < n) {
    out[k] = in[from[k]];
  }
}

static __global__ void scatter_kernel(const float* in, const std::uint32_t* to, std::int64_t n,
                                      float* out) {
  const std::int64_t k = entry();
  if (k < n) {
    out[to[k]] = in[k];
  }
}

/// cub::DeviceScan::ExclusiveSum of n floats.
class ExclusiveSum {
 public:
  explicit ExclusiveSum(std::int64_t n) : temporary_(count(n)) {}
  void run(const float* in, float* out, std::int64_t n, cudaStream_t stream) const {
    std::size_t bytes = temporary_.bytes();
    check(cub::DeviceScan::ExclusiveSum(temporary_.data(), bytes, in, out, n, stream));
  }

 private:
  static std::int64_t count(std::int64_t n) {
    std::size_t bytes = 0;
    check(cub::DeviceScan::ExclusiveSum(nullptr, bytes, static_cast<const float*>(nullptr),
                                        static_cast<float*>(nullptr), n));
    return static_cast<std::int64_t>(bytes);
  }
  Array<unsigned char> temporary_;
};

#if defined(LAPLEX_BENCH_CUFFT)
inline void check(cufftResult status) {
  if (status != CUFFT_SUCCESS) {
    throw Error(status == CUFFT_ALLOC_FAILED ? ErrorCode::out_of_memory : ErrorCode::device,
                "cuFFT: error " + std::to_string(static_cast<int>(status)));
  }
}

/// A complex transform of length n in single precision; lengths that are products of small primes,
/// as powers of ten are, are its best case.
class Fft {
 public:
  Fft(std::int64_t n, cudaStream_t stream) : in_(2 * n), out_(2 * n) {
    fill_uniform(in_, 12, -1.0, 1.0, stream);
    check(cufftPlan1d(&plan_, static_cast<int>(n), CUFFT_C2C, 1));
    check(cufftSetStream(plan_, stream));
  }
  ~Fft() { static_cast<void>(cufftDestroy(plan_)); }
  Fft(const Fft&) = delete;
  Fft& operator=(const Fft&) = delete;
  void run() const {
    check(cufftExecC2C(plan_, reinterpret_cast<cufftComplex*>(in_.data()),
                       reinterpret_cast<cufftComplex*>(out_.data()), CUFFT_FORWARD));
  }

 private:
  cufftHandle plan_ = 0;
  Array<float> in_;  // pairs
  Array<float> out_;
};
#endif

}  // namespace laplex::bench
