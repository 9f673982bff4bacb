/// Streams and lent memory, as the CUDA backend takes them.
#pragma once

#include "arguments.hpp"

#include <laplex/cuda/plan.hpp>

namespace laplex::python {

inline cuda::Stream stream_of(Address address) {
  return pointer<CUstream_st>(address);
}

inline cuda::Memory memory(const MemoryArguments& lent) {
  return {pointer<void>(lent.data), lent.bytes};
}

}  // namespace laplex::python
