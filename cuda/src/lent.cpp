#include "runtime.hpp"

#include <string>

namespace laplex::cuda::detail {

void check_grid(std::int64_t blocks) {
  constexpr std::int64_t kMost = (std::int64_t(1) << 31) - 1;
  if (blocks < 0 || blocks > kMost) {
    throw Error(ErrorCode::invalid_argument,
                "this call would take " + std::to_string(blocks) +
                    " blocks of threads, more than a grid has: use fewer rows or heads at a time");
  }
}

Lent::Lent(Memory memory, std::size_t bytes, Stream stream, const char* name)
    : data_(memory.data), stream_(stream), owned_(false) {
  if (memory.data == nullptr) {
    data_ = allocate(bytes, stream);
    owned_ = true;
  } else if (memory.bytes < bytes) {
    throw Error(ErrorCode::invalid_argument,
                std::string(name) + " has " + std::to_string(memory.bytes) +
                    " bytes, but this call takes " + std::to_string(bytes) + ": see " + name +
                    "_bytes()");
  }
}

Lent::~Lent() {
  if (owned_) {
    release(data_, stream_);
  }
}

}  // namespace laplex::cuda::detail
