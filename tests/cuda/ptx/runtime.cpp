// As much of the CUDA runtime as the project and CUB call, for one emulated device. What is missing
// shows when the program is linked.
#include "device.hpp"

#include <cuda_profiler_api.h>
#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <set>

using Work = std::function<void()>;

struct GraphData {
  std::vector<Work> work;
  std::set<const void*> memory;  // the graph's own
};
struct CUstream_st {
  bool waits_for_legacy = true;  // and that for it
  std::vector<Work> queue;       // with SHUFFLE
  bool captures = false;
  bool invalid = false;  // what it captures
  cudaStreamCaptureMode mode{};
  unsigned long long capture = 0;
  std::shared_ptr<GraphData> graph;
};
struct CUgraph_st {
  std::shared_ptr<GraphData> data;
};
struct CUgraphExec_st {
  std::shared_ptr<GraphData> data;
};
struct CUevent_st {
  std::chrono::steady_clock::time_point time;
};

namespace {

using emulator::options;

constexpr int kMultiprocessors = 132;
constexpr size_t kDeviceBytes = size_t(8) << 30;
constexpr size_t kStaticShared = 48 << 10;  // without cudaFuncSetAttribute
constexpr size_t kOptInShared = 227 << 10;

cudaError_t last_error = cudaSuccess;
cudaError_t failed(cudaError_t error, const std::string& why = "") {
  if (!why.empty())
    std::fprintf(stderr, "PTX emulator: %s\n", why.c_str());
  return last_error = error;
}

CUstream_st legacy_stream;
std::set<CUstream_st*> streams;  // the others
unsigned long long captures = 0;

CUstream_st& stream_of(cudaStream_t stream) {
  return stream == nullptr || stream == cudaStreamLegacy ? legacy_stream : *stream;
}

void run_queue(CUstream_st& stream) {
  const std::vector<Work> queue = std::move(stream.queue);
  stream.queue.clear();
  for (const Work& work : queue)
    work();
}
void run_all_queues() {
  run_queue(legacy_stream);
  for (CUstream_st* each : streams)
    run_queue(*each);
}
// What the stream has to wait for besides itself.
void run_what_precedes(CUstream_st& stream) {
  if (&stream != &legacy_stream) {
    if (stream.waits_for_legacy)
      run_queue(legacy_stream);
    return;
  }
  for (CUstream_st* each : streams) {
    if (each->waits_for_legacy && !each->captures)
      run_queue(*each);
  }
}

// Nothing may touch the legacy stream while a stream captures that waits for it.
bool legacy_is_captured(const CUstream_st& stream, bool invalidates) {
  bool captured = false;
  for (CUstream_st* each : streams) {
    if (&stream == &legacy_stream && each->captures && each->waits_for_legacy) {
      captured = true;
      each->invalid |= invalidates;
    }
  }
  return captured;
}
bool forbids_unsafe_calls() {
  for (const CUstream_st* each : streams) {
    if (each->captures && each->mode != cudaStreamCaptureModeRelaxed)
      return true;
  }
  return false;
}

cudaError_t enqueue(cudaStream_t handle, Work work) {
  CUstream_st& stream = stream_of(handle);
  if (stream.captures) {
    if (stream.invalid)
      return failed(cudaErrorStreamCaptureInvalidated);
    stream.graph->work.push_back(std::move(work));
    return cudaSuccess;
  }
  if (legacy_is_captured(stream, true))
    return failed(cudaErrorStreamCaptureImplicit);
  if (options().shuffle == 0) {
    work();
    return cudaSuccess;
  }
  run_what_precedes(stream);
  stream.queue.push_back(std::move(work));
  return cudaSuccess;
}

void check_memory(const void* p, size_t bytes, const char* what) {
  if (bytes > 0 && !emulator::is_memory(emulator::address_of(p), bytes)) {
    emulator::stop(std::string(what) + " of " + std::to_string(bytes) +
                   " bytes that are not the device's");
  }
}
Work copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return [=] {
    if (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)
      check_memory(to, bytes, "a copy to memory");
    if (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice)
      check_memory(from, bytes, "a copy from memory");
    std::memcpy(to, from, bytes);
  };
}

// New memory is all ones: NaNs, and indices out of bounds.
void* new_memory(size_t bytes) {
  constexpr size_t kAlignment = 256;
  void* const p = std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
  if (p != nullptr) {
    std::memset(p, 0xFF, bytes);
    emulator::add_memory(p, bytes);
  }
  return p;
}
void delete_memory(void* p) {
  emulator::remove_memory(p);
  std::free(p);
}

std::map<const void*, std::string>& function_names() {
  static auto& names = *new std::map<const void*, std::string>;
  return names;
}
std::map<const void*, size_t> allowed_shared;  // by cudaFuncSetAttribute

emulator::Loaded* kernel_of(const void* function) {
  const auto name = function_names().find(function);
  if (name == function_names().end())
    return nullptr;
  emulator::Loaded* const loaded = emulator::find_kernel(name->second);
  if (loaded == nullptr)
    failed(cudaErrorInvalidDeviceFunction, "not translated: " + emulator::title_of(name->second));
  return loaded;
}

// Of a launch <<<...>>>.
struct {
  dim3 grid, block;
  size_t shared = 0;
  void* stream = nullptr;
} pushed;

}  // namespace

extern "C" {

// --- what nvcc's host code calls -----------------------------------------------------------------

void** __cudaRegisterFatBinary(void* binary) {
  return new void*(binary);
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, uint3*,
                            uint3*, dim3*, dim3*, int*) {
  function_names()[function] = name;
}
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
char __cudaInitModule(void**) {
  return 1;
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  pushed = {grid, block, shared, stream};
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = pushed.grid;
  *block = pushed.block;
  *shared = pushed.shared;
  *static_cast<void**>(stream) = pushed.stream;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments,
                               size_t shared, cudaStream_t stream) {
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, arguments, shared,
                          stream);
}

// --- launches ------------------------------------------------------------------------------------

cudaError_t cudaLaunchKernel(const void* function, dim3 grid, dim3 block, void** arguments,
                             size_t shared, cudaStream_t stream) {
  emulator::Loaded* const loaded = kernel_of(function);
  if (loaded == nullptr)
    return failed(cudaErrorInvalidDeviceFunction);
  const emulator::Size blocks{grid.x, grid.y, grid.z}, threads{block.x, block.y, block.z};
  if (blocks.count() == 0 || grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535) {
    return failed(cudaErrorInvalidConfiguration,
                  "a grid of no blocks, or of too many: " + loaded->title);
  }
  if (threads.count() == 0 || threads.count() > 1024 || block.z > 64) {
    return failed(cudaErrorInvalidConfiguration,
                  "a block of no threads, or of too many: " + loaded->title);
  }
  const auto allowed = allowed_shared.find(function);
  const size_t most = allowed != allowed_shared.end()
                          ? allowed->second
                          : kStaticShared - loaded->kernel->static_shared;
  if (shared > most) {
    return failed(cudaErrorInvalidValue,
                  std::to_string(shared) + " bytes of shared memory, where " +
                      std::to_string(most) + " are allowed: " + loaded->title);
  }
  std::vector<std::vector<uint8_t>> copies;
  for (uint32_t k = 0; k < loaded->kernel->num_parameters; ++k) {
    const auto* const first = static_cast<const uint8_t*>(arguments[k]);
    copies.emplace_back(first, first + loaded->kernel->parameter_bytes[k]);
  }
  return enqueue(stream, [=] {
    emulator::run_kernel(*loaded, blocks, threads, copies, static_cast<uint32_t>(shared));
  });
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function,
                                void** arguments) {
  return cudaLaunchKernel(function, config->gridDim, config->blockDim, arguments,
                          config->dynamicSmemBytes, config->stream);
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
    return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > kOptInShared)
    return failed(cudaErrorInvalidValue);
  allowed_shared[function] = static_cast<size_t>(value);
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  const emulator::Loaded* const loaded = kernel_of(function);
  if (loaded == nullptr)
    return failed(cudaErrorInvalidDeviceFunction);
  *attributes = {};
  attributes->ptxVersion = attributes->binaryVersion = 90;
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->sharedSizeBytes = loaded->kernel->static_shared;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int,
                                                                   size_t, unsigned) {
  *blocks = 2;
  return cudaSuccess;
}

// --- the device ----------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : failed(cudaErrorInvalidDevice);
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "PTX emulator");
  properties->major = 9;
  properties->totalGlobalMem = kDeviceBytes;
  properties->multiProcessorCount = kMultiprocessors;
  properties->l2CacheSize = 50 << 20;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  static const std::map<cudaDeviceAttr, int> values{
      {cudaDevAttrMultiProcessorCount, kMultiprocessors},
      {cudaDevAttrMaxSharedMemoryPerBlock, static_cast<int>(kStaticShared)},
      {cudaDevAttrMaxSharedMemoryPerBlockOptin, static_cast<int>(kOptInShared)},
      {cudaDevAttrMaxSharedMemoryPerMultiprocessor, 228 << 10},
      {cudaDevAttrWarpSize, 32},
      {cudaDevAttrMaxGridDimX, 0x7fffffff},
      {cudaDevAttrComputeCapabilityMajor, 9},
      {cudaDevAttrComputeCapabilityMinor, 0},
      {cudaDevAttrMaxThreadsPerMultiProcessor, 2048},
      {cudaDevAttrMaxThreadsPerBlock, 1024},
      {cudaDevAttrMemoryPoolsSupported, 1},
  };
  const auto found = values.find(attribute);
  if (found == values.end())
    return failed(cudaErrorInvalidValue, "the device's attribute " + std::to_string(attribute) +
                                             " is missing in runtime.cpp");
  *value = found->second;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = *total = kDeviceBytes;
  return cudaSuccess;
}
cudaError_t cudaProfilerStart() {
  return cudaSuccess;
}
cudaError_t cudaProfilerStop() {
  return cudaSuccess;
}

// --- errors --------------------------------------------------------------------------------------

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
cudaError_t cudaPeekAtLastError() {
  return last_error;
}
// The texts that the project's tests look at.
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidValue       ? "invalid argument"
         : error == cudaErrorMemoryAllocation ? "out of memory"
                                              : "an error of the emulated runtime";
}
const char* cudaGetErrorName(cudaError_t error) {
  static std::map<cudaError_t, std::string> names{
      {cudaErrorInvalidValue, "cudaErrorInvalidValue"},
      {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"}};
  return names.emplace(error, "cudaError " + std::to_string(error)).first->second.c_str();
}

// --- memory --------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** p, size_t bytes) {
  if (forbids_unsafe_calls())
    return failed(cudaErrorStreamCaptureUnsupported);
  *p = new_memory(bytes);
  return *p != nullptr ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* p) {
  if (forbids_unsafe_calls())
    return failed(cudaErrorStreamCaptureUnsupported);
  if (p == nullptr)
    return cudaSuccess;
  run_all_queues();
  delete_memory(p);
  return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream) {
  *p = new_memory(bytes);
  if (*p == nullptr)
    return failed(cudaErrorMemoryAllocation);
  if (stream_of(stream).captures)
    stream_of(stream).graph->memory.insert(*p);
  return cudaSuccess;
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t handle) {
  CUstream_st& stream = stream_of(handle);
  if (!stream.captures)
    return enqueue(handle, [=] { delete_memory(p); });
  if (stream.graph->memory.count(p) > 0)
    return cudaSuccess;  // it lives as long as the graph
  stream.invalid = true;
  return failed(cudaErrorInvalidValue, "a captured stream frees memory that is not the graph's");
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (kind != cudaMemcpyHostToDevice || stream_of(stream).captures)
    return enqueue(stream, copy(to, from, bytes, kind));
  // The caller may reuse pageable memory as soon as the call returns.
  const auto* const first = static_cast<const uint8_t*>(from);
  auto staged = std::make_shared<std::vector<uint8_t>>(first, first + bytes);
  return enqueue(stream, [=] { copy(to, staged->data(), bytes, kind)(); });
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  run_all_queues();
  copy(to, from, bytes, kind)();
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
  return enqueue(stream, [=] {
    check_memory(p, bytes, "a memset");
    std::memset(p, value, bytes);
  });
}

// --- streams and events --------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  *stream = new CUstream_st;
  (*stream)->waits_for_legacy = (flags & cudaStreamNonBlocking) == 0;
  streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  run_queue(*stream);
  streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  CUstream_st& stream = stream_of(handle);
  if (stream.captures) {
    stream.invalid = true;
    return failed(cudaErrorStreamCaptureUnsupported, "a stream is waited for while it is captured");
  }
  if (legacy_is_captured(stream, false))
    return failed(cudaErrorStreamCaptureImplicit);
  run_what_precedes(stream);
  run_queue(stream);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  run_all_queues();
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return cudaEventCreate(event);
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (stream_of(stream).captures)
    return failed(cudaErrorStreamCaptureUnsupported, "the emulated runtime captures no events");
  run_queue(stream_of(stream));
  event->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  return cudaSuccess;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t first, cudaEvent_t second) {
  *milliseconds = std::chrono::duration<float, std::milli>(second->time - first->time).count();
  return cudaSuccess;
}

// --- graphs --------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  if (&stream_of(stream) == &legacy_stream)
    return failed(cudaErrorStreamCaptureUnsupported);
  stream->captures = true;
  stream->invalid = false;
  stream->mode = mode;
  stream->capture = ++captures;
  stream->graph = std::make_shared<GraphData>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  stream->captures = false;
  *graph = stream->invalid ? nullptr : new CUgraph_st{stream->graph};
  return stream->invalid ? failed(cudaErrorStreamCaptureInvalidated) : cudaSuccess;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t handle, cudaStreamCaptureStatus* status,
                                     unsigned long long* capture, cudaGraph_t*,
                                     const cudaGraphNode_t**, const cudaGraphEdgeData**, size_t*) {
  const CUstream_st& stream = stream_of(handle);
  if (legacy_is_captured(stream, false))
    return failed(cudaErrorStreamCaptureImplicit);
  *status = !stream.captures ? cudaStreamCaptureStatusNone
            : stream.invalid ? cudaStreamCaptureStatusInvalidated
                             : cudaStreamCaptureStatusActive;
  if (capture != nullptr)
    *capture = stream.capture;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  return cudaStreamGetCaptureInfo(stream, status, nullptr, nullptr, nullptr, nullptr, nullptr);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph,
                                 unsigned long long) {
  *executable = new CUgraphExec_st{graph->data};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  return enqueue(stream, [data = executable->data] {
    for (const Work& work : data->work)
      work();
  });
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

}  // extern "C"
