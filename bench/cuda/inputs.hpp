/// Random anchors and values, made on the device: a billion would take minutes to make on the host.
#pragma once

#include "measure.hpp"

#include <laplex/cuda/plan.hpp>

#include <cub/device/device_radix_sort.cuh>

#include <cstdint>

namespace laplex::bench {

/// Bits of entry k, from its number alone (the finaliser of SplitMix64).
__device__ inline std::uint64_t hash(std::uint64_t seed, std::int64_t k) {
  std::uint64_t z =
      seed * 0xD1B54A32D192ED03ULL + (static_cast<std::uint64_t>(k) + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

/// In [low, high).
__device__ inline double uniform(std::uint64_t seed, std::int64_t k, double low, double high) {
  return low + (high - low) * static_cast<double>(hash(seed, k) >> 11) * 0x1p-53;
}

static __global__ void uniform_kernel(float* out, std::int64_t count, std::uint64_t seed,
                                      double low, double high) {
  const std::int64_t k = entry();
  if (k < count) {
    out[k] = static_cast<float>(uniform(seed, k, low, high));
  }
}

inline void fill_uniform(float* out, std::int64_t count, std::uint64_t seed, double low,
                         double high, cudaStream_t stream) {
  launch(uniform_kernel, count, stream, out, count, seed, low, high);
}

/// Moves every anchor by `shift` and by a random part of +-step.
static __global__ void move_kernel(float* anchors, std::int64_t count, std::uint64_t seed,
                                   double shift, double step) {
  const std::int64_t k = entry();
  if (k < count) {
    anchors[k] += static_cast<float>(shift + uniform(seed, k, -step, step));
  }
}

inline void move(const Array<float>& anchors, std::uint64_t seed, double shift, double step,
                 cudaStream_t stream) {
  launch(move_kernel, anchors.size(), stream, anchors.data(), anchors.size(), seed, shift, step);
}

template <class From, class To>
__global__ void convert_kernel(const From* in, std::int64_t count, To* out) {
  const std::int64_t k = entry();
  if (k < count) {
    out[k] = static_cast<To>(in[k]);
  }
}

template <class To, class From>
Array<To> converted(const Array<From>& in, cudaStream_t stream) {
  Array<To> out(in.size());
  launch(convert_kernel<From, To>, in.size(), stream, in.data(), in.size(), out.data());
  return out;
}

template <class V>
Array<V> copy_of(const Array<V>& in, cudaStream_t stream) {
  Array<V> out(in.size());
  check(cudaMemcpyAsync(out.data(), in.data(), in.bytes(), cudaMemcpyDeviceToDevice, stream));
  return out;
}

static __global__ void count_kernel(std::uint32_t* out, std::int64_t count) {
  const std::int64_t k = entry();
  if (k < count) {
    out[k] = static_cast<std::uint32_t>(k);
  }
}

/// cub::DeviceRadixSort::SortPairs of n float keys and 32-bit values, from 0, 1, 2, ...
class PairSort {
 public:
  PairSort(std::int64_t n, cudaStream_t stream) : values_(n), temporary_(count(n)) {
    launch(count_kernel, n, stream, values_.data(), n);
  }
  void run(const Array<float>& keys, const Array<float>& sorted, const Array<std::uint32_t>& order,
           cudaStream_t stream) const {
    std::size_t bytes = temporary_.bytes();
    check(cub::DeviceRadixSort::SortPairs(temporary_.data(), bytes, keys.data(), sorted.data(),
                                          values_.data(), order.data(), keys.size(), 0, kBits,
                                          stream));
  }

 private:
  static constexpr int kBits = 32;
  static std::int64_t count(std::int64_t n) {
    std::size_t bytes = 0;
    check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, static_cast<const float*>(nullptr),
                                          static_cast<float*>(nullptr),
                                          static_cast<const std::uint32_t*>(nullptr),
                                          static_cast<std::uint32_t*>(nullptr), n, 0, kBits));
    return static_cast<std::int64_t>(bytes);
  }
  Array<std::uint32_t> values_;
  Array<unsigned char> temporary_;
};

/// Anchors are uniform, a hundred of a side to a lengthscale of 1.
inline constexpr double kDensity = 100.0;
inline constexpr double kFrequency = 2.0;

inline Array<float> uniform_array(std::int64_t count, std::uint64_t seed, double low, double high,
                                  cudaStream_t stream) {
  Array<float> array(count);
  fill_uniform(array.data(), count, seed, low, high, stream);
  return array;
}

inline Array<double> scalar(double value, cudaStream_t stream) {
  Array<double> array(1);
  check(cudaMemcpyAsync(array.data(), &value, sizeof(value), cudaMemcpyHostToDevice, stream));
  check(cudaStreamSynchronize(stream));
  return array;
}

/// A kernel of n targets and n sources with lengthscale 1; all pointers are device pointers.
template <class T>
Kernel<T> kernel_of(const Array<T>& targets, const Array<T>& sources,
                    const Array<double>& lengthscale) {
  Kernel<T> kernel;
  kernel.num_targets = targets.size();
  kernel.num_sources = sources.size();
  kernel.targets = targets.data();
  kernel.sources = sources.data();
  kernel.lengthscale = lengthscale.data();
  return kernel;
}

/// Targets, sources and values of one size, in random order and sorted.
struct Inputs {
  std::int64_t n;
  Array<float> x, y, v;
  Array<float> sorted_x, sorted_y;
  Array<std::uint32_t> order_x, order_y;  ///< sorted_x[k] = x[order_x[k]]
  Array<double> lengthscale, frequency;

  Inputs(std::int64_t size, std::int64_t rows, cudaStream_t stream)
      : n(size),
        x(uniform_array(n, 1, 0.0, static_cast<double>(n) / kDensity, stream)),
        y(uniform_array(n, 2, 0.0, static_cast<double>(n) / kDensity, stream)),
        v(uniform_array(n * rows, 3, -1.0, 1.0, stream)),
        sorted_x(n),
        sorted_y(n),
        order_x(n),
        order_y(n),
        lengthscale(scalar(1.0, stream)),
        frequency(scalar(kFrequency, stream)) {
    const PairSort sort(n, stream);
    sort.run(x, sorted_x, order_x, stream);
    sort.run(y, sorted_y, order_y, stream);
    check(cudaStreamSynchronize(stream));
  }

  [[nodiscard]] Kernel<float> sorted() const { return kernel_of(sorted_x, sorted_y, lengthscale); }
  [[nodiscard]] Kernel<float> random() const { return kernel_of(x, y, lengthscale); }
};

}  // namespace laplex::bench
