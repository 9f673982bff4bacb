#include "device_array.hpp"

#include "device.hpp"
#include "dlpack.hpp"

#include <laplex/cuda/device.hpp>
#include <laplex/laplex.hpp>

#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace laplex::python {
namespace {

constexpr const char* kFresh = "dltensor";

#if defined(LAPLEX_CUDA_EMULATION)
constexpr bool kEmulated = true;
#else
constexpr bool kEmulated = false;
#endif

/// The codes of both protocols: '<f4' is {kDLFloat, 32}.
constexpr std::pair<char, DLDataTypeCode> kCodes[] = {
    {'f', kDLFloat}, {'c', kDLComplex}, {'i', kDLInt}, {'u', kDLUInt}, {'b', kDLBool}};

DLDataType data_type(const std::string& typestr) {
  for (const auto& [letter, code] : kCodes) {
    if (typestr.size() > 2 && typestr[1] == letter) {
      return {code, static_cast<std::uint8_t>(8 * std::stoi(typestr.substr(2))), 1};
    }
  }
  throw Error(ErrorCode::invalid_argument, "no DLPack type for " + typestr);
}

std::string typestr_of(DLDataType type) {
  const std::string bytes = std::to_string((type.bits + 7) / 8);
  if (type.lanes == 1) {
    for (const auto& [letter, code] : kCodes) {
      if (type.code == code) {
        return std::string(bytes == "1" ? "|" : "<") + letter + bytes;
      }
    }
  }
  return "|V" + bytes;  // bfloat16 and others that NumPy has no name for
}

struct DeviceArray {
  std::shared_ptr<cuda::DeviceMemory> memory;
  std::size_t nbytes;
  std::string typestr;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;  // in elements
  cuda::Stream stream;
};

DeviceArray make_device_array(std::size_t nbytes, std::string typestr,
                              std::vector<std::int64_t> shape, std::vector<std::int64_t> strides,
                              Address stream_address) {
  if (shape.size() != strides.size()) {
    throw Error(ErrorCode::invalid_argument, "shape and strides must be of one length");
  }
  const auto stream = stream_of(stream_address);
  const py::gil_scoped_release release;
  return {std::make_shared<cuda::DeviceMemory>(nbytes, stream),
          nbytes,
          std::move(typestr),
          std::move(shape),
          std::move(strides),
          stream};
}

/// A tensor that is lent, with all that it points to. It may be given back without the GIL and
/// after the interpreter's end, so nothing here is Python's.
struct LentTensor {
  std::shared_ptr<cuda::DeviceMemory> memory;
  std::vector<std::int64_t> shape;
  std::vector<std::int64_t> strides;
  DLManagedTensor tensor{};
};

void give_back(DLManagedTensor* tensor) {
  const std::unique_ptr<LentTensor> ends(static_cast<LentTensor*>(tensor->manager_ctx));
}

/// A capsule that nobody took still owns its tensor; who takes it renames it.
void end_capsule(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, kFresh) != 0) {
    auto* const tensor = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, kFresh));
    tensor->deleter(tensor);
  }
}

py::object to_dlpack(const DeviceArray& array) {
  auto lent = std::make_unique<LentTensor>();
  lent->memory = array.memory;
  lent->shape = array.shape;
  lent->strides = array.strides;
  DLTensor& tensor = lent->tensor.dl_tensor;
  tensor.data = array.memory->data();
  tensor.device = {kEmulated ? kDLCPU : kDLCUDA, array.memory->device()};
  tensor.ndim = static_cast<std::int32_t>(array.shape.size());
  tensor.dtype = data_type(array.typestr);
  tensor.shape = lent->shape.data();
  tensor.strides = lent->strides.data();
  tensor.byte_offset = 0;
  lent->tensor.manager_ctx = lent.get();
  lent->tensor.deleter = &give_back;
  PyObject* const capsule = PyCapsule_New(&lent->tensor, kFresh, &end_capsule);
  if (capsule == nullptr) {
    throw py::error_already_set();
  }
  static_cast<void>(lent.release());
  return py::reinterpret_steal<py::object>(capsule);
}

using Described = std::tuple<Address, std::vector<std::int64_t>,
                             std::optional<std::vector<std::int64_t>>, std::string, int, int>;

/// Address, shape, strides in bytes (None: contiguous), type, and the device's type and number. The
/// capsule is not taken over: whoever holds it keeps the memory alive.
Described read_dlpack(const py::object& capsule) {
  auto* const managed = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), kFresh));
  if (managed == nullptr) {
    throw py::error_already_set();
  }
  const DLTensor& tensor = managed->dl_tensor;
  const std::int64_t itemsize = (tensor.dtype.bits * tensor.dtype.lanes + 7) / 8;
  std::optional<std::vector<std::int64_t>> strides;
  if (tensor.strides != nullptr) {
    strides.emplace(tensor.strides, tensor.strides + tensor.ndim);
    for (std::int64_t& stride : *strides) {
      stride *= itemsize;
    }
  }
  return {reinterpret_cast<Address>(tensor.data) + static_cast<Address>(tensor.byte_offset),
          std::vector<std::int64_t>(tensor.shape, tensor.shape + tensor.ndim),
          std::move(strides),
          typestr_of(tensor.dtype),
          tensor.device.device_type,
          tensor.device.device_id};
}

void add_to(bool is_double, Address to, Address from, std::int64_t count, Address stream) {
  with_precision(is_double, [&](auto zero) {
    using T = decltype(zero);
    cuda::add(pointer<T>(to), pointer<const T>(from), count, stream_of(stream));
  });
}

}  // namespace

void add_device_array(py::module_& m) {
  m.attr("cuda_emulated") = kEmulated;
  const py::pos_only positional;
  const py::arg stream("stream"), address("address");
  m.def("read_dlpack", &read_dlpack, py::arg("capsule"), positional);
  m.def("cuda_add", &add_to, py::arg("is_double"), py::arg("to"), py::arg("source"),
        py::arg("count"), stream, positional);
  m.def(
      "cuda_synchronize",
      [](Address on) {
        const py::gil_scoped_release release;
        cuda::synchronize(stream_of(on));
      },
      stream, positional);
  py::class_<DeviceArray>(m, "DeviceArray")
      .def(py::init(&make_device_array), py::arg("nbytes"), py::arg("typestr"), py::arg("shape"),
           py::arg("strides"), stream, positional)
      .def(
          "copy_from_host",
          [](const DeviceArray& array, Address host) {
            const py::gil_scoped_release release;
            cuda::copy_to_device(array.memory->data(), pointer<const void>(host), array.nbytes,
                                 array.stream);
          },
          address, positional)
      .def(
          "copy_to_host",
          [](const DeviceArray& array, Address host) {
            const py::gil_scoped_release release;
            cuda::copy_to_host(pointer<void>(host), array.memory->data(), array.nbytes,
                               array.stream);
          },
          address, positional)
      .def("to_dlpack", &to_dlpack)
      .def_property_readonly(
          "pointer",
          [](const DeviceArray& array) { return reinterpret_cast<Address>(array.memory->data()); })
      .def_property_readonly("device",
                             [](const DeviceArray& array) { return array.memory->device(); });
}

}  // namespace laplex::python
