/// Device memory, and the times of several tasks that take turns on one stream.
#pragma once

#include <laplex/error.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace laplex::bench {

inline void check(cudaError_t status) {
  if (status != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    throw Error(
        status == cudaErrorMemoryAllocation ? ErrorCode::out_of_memory : ErrorCode::device,
        std::string("CUDA: ") + cudaGetErrorString(status) + " (" + cudaGetErrorName(status) + ")");
  }
}

/// `count` entries on the device.
template <class V>
class Array {
 public:
  explicit Array(std::int64_t count) : size_(count) {
    void* memory = nullptr;
    check(cudaMalloc(&memory,
                     static_cast<std::size_t>(std::max<std::int64_t>(count, 1)) * sizeof(V)));
    data_.reset(static_cast<V*>(memory));
  }
  [[nodiscard]] V* data() const { return data_.get(); }
  [[nodiscard]] std::int64_t size() const { return size_; }
  [[nodiscard]] std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(V); }

  [[nodiscard]] std::vector<V> host(cudaStream_t stream) const {
    std::vector<V> copy(static_cast<std::size_t>(size_));
    check(cudaMemcpyAsync(copy.data(), data(), bytes(), cudaMemcpyDeviceToHost, stream));
    check(cudaStreamSynchronize(stream));
    return copy;
  }

 private:
  struct Free {
    void operator()(V* memory) const { static_cast<void>(cudaFree(memory)); }
  };
  std::unique_ptr<V, Free> data_;
  std::int64_t size_;
};

inline constexpr int kThreads = 256;

/// The entry of a thread of launch().
__device__ inline std::int64_t entry() {
  return static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}

/// Runs a kernel with at least one thread for each of `count` entries.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t count, cudaStream_t stream,
            Arguments... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

class Event {
 public:
  Event() { check(cudaEventCreate(&event_)); }
  ~Event() { static_cast<void>(cudaEventDestroy(event_)); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream)); }
  /// Waits for this event.
  [[nodiscard]] double milliseconds_since(const Event& start) const {
    check(cudaEventSynchronize(event_));
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, start.event_, event_));
    return static_cast<double>(milliseconds);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

struct Task {
  std::string name;
  double bytes;  ///< read and written by a call; 0: not counted
  std::function<void()> run;
  std::function<void()> prepare;  ///< before every call, not timed; may be empty
};

/// Of one call, in milliseconds.
struct Time {
  double minimum;
  double median;
  int calls;  ///< that a sample consists of
};

/// Every task `repetitions` times, in turns, so that clocks and neighbours are the same for all.
///
/// A sample takes a millisecond at least, of as many calls as that needs: events resolve half a
/// microsecond, and a lone short call would be timed with its launch. What fits in the L2 cache is
/// found there from the second call on, for ours and for the rivals.
inline std::vector<Time> take_turns(const std::vector<Task>& tasks, int repetitions,
                                    cudaStream_t stream) {
  constexpr double kSample = 1.0;
  constexpr double kMostCalls = 200.0;
  Event start;
  Event stop;
  const auto sample = [&](const Task& task, int calls) {
    if (task.prepare) {
      task.prepare();
    }
    start.record(stream);
    for (int k = 0; k < calls; ++k) {
      task.run();
    }
    stop.record(stream);
    return stop.milliseconds_since(start) / calls;
  };
  std::vector<int> calls;
  for (const Task& task : tasks) {
    double warm = 0.0;
    for (int k = 0; k < 3; ++k) {
      warm = sample(task, 1);
    }
    calls.push_back(task.prepare ? 1
                                 : static_cast<int>(std::min(
                                       kMostCalls, std::ceil(kSample / std::max(warm, 1e-6)))));
  }
  std::vector<std::vector<double>> samples(tasks.size());
  for (int r = 0; r < repetitions; ++r) {
    for (std::size_t k = 0; k < tasks.size(); ++k) {
      samples[k].push_back(sample(tasks[k], calls[k]));
    }
  }
  std::vector<Time> times;
  for (std::size_t k = 0; k < tasks.size(); ++k) {
    std::sort(samples[k].begin(), samples[k].end());
    times.push_back({samples[k].front(), samples[k][samples[k].size() / 2], calls[k]});
  }
  return times;
}

}  // namespace laplex::bench
