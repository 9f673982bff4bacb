/// What a handler of a custom call on the CPU needs of XLA's foreign function interface, version
/// 0.x: order and types of the members are part of that interface, which appends new members at the
/// end of a struct. With these declarations the module needs no files of jaxlib when it is built,
/// and works with any jaxlib that has this version.
#pragma once

#include <cstddef>
#include <cstdint>

namespace laplex::python::xla {

struct Extension {
  std::size_t struct_size;
  int type;
  Extension* next;
};
inline constexpr int kMetadataExtension = 1;

struct Version {
  std::size_t struct_size;
  Extension* extensions;
  int major;
  int minor;
};
inline constexpr int kMajorVersion = 0;

struct Error;

struct NewError {
  std::size_t struct_size;
  Extension* extensions;
  const char* message;  ///< copied
  int code;
};
inline constexpr int kInvalidArgument = 3;
inline constexpr int kResourceExhausted = 8;
inline constexpr int kFailedPrecondition = 9;
inline constexpr int kInternal = 13;

struct Api {
  std::size_t struct_size;
  Extension* extensions;
  Version version;
  const void* internal;
  Error* (*create_error)(NewError*);
};

/// Of an array, and of a scalar or an array among the attributes.
enum DataType : int { kFloat32 = 11, kFloat64 = 12, kComplex64 = 15, kComplex128 = 18 };

struct Buffer {
  std::size_t struct_size;
  Extension* extensions;
  DataType dtype;
  void* data;
  std::int64_t rank;
  std::int64_t* dims;
};

/// Arguments or results.
struct Buffers {
  std::size_t struct_size;
  Extension* extensions;
  std::int64_t size;
  int* types;
  Buffer** items;
};

struct Span {
  const char* data;
  std::size_t size;
};

/// An attribute that is an array.
struct Numbers {
  int dtype;
  std::size_t size;
  void* data;
};

struct Attributes {
  std::size_t struct_size;
  Extension* extensions;
  std::int64_t size;
  int* types;
  Span** names;
  void** items;
};
inline constexpr int kArrayAttribute = 1;

struct CallFrame {
  std::size_t struct_size;
  Extension* extensions;
  const Api* api;
  void* context;
  int stage;
  Buffers arguments;
  Buffers results;
  Attributes attributes;
};

struct Metadata {
  std::size_t struct_size;
  Version version;
  std::uint32_t traits;
};

struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};

using Handler = Error*(CallFrame*);

/// The name of a capsule that holds a handler.
inline constexpr const char* kTargetCapsule = "xla._CUSTOM_CALL_TARGET";

}  // namespace laplex::python::xla
