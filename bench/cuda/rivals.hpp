/// What the operator is measured against: copies, gathers, sorts, scans and transforms of as many
/// numbers.
#pragma once

#include "inputs.hpp"
#include "measure.hpp"

#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>

#include <dlfcn.h>

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
    fill_uniform(from_.data(), from_.size(), 11, -1.0, 1.0,
                 stream);  // zeros would draw less power, and clock higher
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

/// The functions of cuFFT that Fft calls, of the library that is found when the program runs: not
/// every toolkit brings it, and a program that is linked to it would not start without it.
struct Cufft {
  int (*plan)(int* plan, int n, int type, int batch) = nullptr;
  int (*set_stream)(int plan, cudaStream_t stream) = nullptr;
  int (*run)(int plan, float2* in, float2* out, int direction) = nullptr;
  int (*destroy)(int plan) = nullptr;

  Cufft() {
    void* library = nullptr;
    for (const char* name : {"libcufft.so.12", "libcufft.so.11"}) {  // of CUDA 13 and 12
      library = library != nullptr ? library : dlopen(name, RTLD_NOW);
    }
    if (library != nullptr) {
      load(plan, library, "cufftPlan1d");
      load(set_stream, library, "cufftSetStream");
      load(run, library, "cufftExecC2C");
      load(destroy, library, "cufftDestroy");
    }
  }
  [[nodiscard]] bool found() const { return plan && set_stream && run && destroy; }

 private:
  template <class F>
  static void load(F& function, void* library, const char* name) {
    function = reinterpret_cast<F>(dlsym(library, name));
  }
};

inline const Cufft& cufft() {
  static const Cufft functions;
  return functions;
}

/// A complex transform of length n in single precision; lengths that are products of small primes,
/// as powers of ten are, are its best case.
class Fft {
 public:
  Fft(std::int64_t n, cudaStream_t stream) : in_(n), out_(n) {
    fill_uniform(reinterpret_cast<float*>(in_.data()), 2 * n, 12, -1.0, 1.0, stream);
    check(cufft().plan(&plan_, static_cast<int>(n), kC2C, 1));
    check(cufft().set_stream(plan_, stream));
  }
  ~Fft() { static_cast<void>(cufft().destroy(plan_)); }
  Fft(const Fft&) = delete;
  Fft& operator=(const Fft&) = delete;
  void run() const { check(cufft().run(plan_, in_.data(), out_.data(), kForward)); }

 private:
  // CUFFT_C2C, CUFFT_FORWARD and CUFFT_ALLOC_FAILED of cufft.h
  static constexpr int kC2C = 0x29;
  static constexpr int kForward = -1;
  static constexpr int kAllocFailed = 2;
  static void check(int status) {
    if (status != 0) {
      throw Error(status == kAllocFailed ? ErrorCode::out_of_memory : ErrorCode::device,
                  "cuFFT: error " + std::to_string(status));
    }
  }

  int plan_ = 0;
  Array<float2> in_;
  Array<float2> out_;
};

}  // namespace laplex::bench
