/// DLPack 0.8, and the head of the C exchange API of 1.3, as the specification lays them out: names
/// and order are part of it.
#pragma once

#include <cstdint>

namespace laplex::python {

enum DLDeviceType : std::int32_t { kDLCPU = 1, kDLCUDA = 2 };

enum DLDataTypeCode : std::uint8_t {
  kDLInt = 0,
  kDLUInt = 1,
  kDLFloat = 2,
  kDLComplex = 5,
  kDLBool = 6
};

struct DLDevice {
  std::int32_t device_type;
  std::int32_t device_id;
};

struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: contiguous
  std::uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};

/// What a library's tensor class has as `__dlpack_c_exchange_api__`.
struct DLPackExchangeAPI {
  std::uint32_t major;
  std::uint32_t minor;
  DLPackExchangeAPI* older;
  void (*allocate)();
  void (*managed_from_object)();
  void (*managed_to_object)();
  int (*tensor_from_object)(void* object, DLTensor* out);  ///< borrowed; -1: a Python error is set
};
inline constexpr const char* kExchangeCapsule = "dlpack_exchange_api";

}  // namespace laplex::python
