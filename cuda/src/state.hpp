/// What a plan holds on the device: both sides of every line sorted, and how they interleave. A
/// line is that of a head, or of all heads if they share their anchors.
#pragma once

#include "inspection.hpp"
#include "kernels/line.hpp"
#include "runtime.hpp"
#include "shared_line.hpp"

#include <laplex/cuda/plan.hpp>

#include <atomic>
#include <cstdint>
#include <memory>

namespace laplex::cuda::detail {

template <class T>
class State {
 public:
  /// Sorts the anchors; see Plan's constructor. Throws before the order is touched.
  State(const Kernel<T>& kernel, Stream stream, Memory storage, const Scratch& scratch,
        Report* report);

  void update(const T* targets, const T* sources, Stream stream, const Scratch& scratch,
              Report* report);
  [[nodiscard]] bool holds(const T* targets, const T* sources, Stream stream, Memory scratch) const;
  void anchors(T* targets, T* sources, Stream stream) const;

  /// To be told of every stream in which something read the order, once it was launched.
  void used_in(Stream stream) const;
  /// From sources to targets, or (swapped) the reverse.
  [[nodiscard]] Line<T> line(bool swapped) const;

  [[nodiscard]] std::int64_t heads() const { return heads_; }
  [[nodiscard]] std::int64_t lines() const { return lines_; }
  [[nodiscard]] std::int64_t n() const { return n_; }
  [[nodiscard]] std::int64_t m() const { return m_; }
  [[nodiscard]] bool self() const { return self_; }
  /// The line that this one is a part of, if other processes have more of it.
  [[nodiscard]] const SharedLine* shared_line() const { return shared_line_.get(); }
  [[nodiscard]] bool sorted() const { return targets_.in_place && sources_.in_place; }
  [[nodiscard]] std::int64_t nbytes() const { return nbytes_; }

  [[nodiscard]] static std::size_t storage_bytes(std::int64_t lines, std::int64_t n, std::int64_t m,
                                                 bool self);
  [[nodiscard]] static std::size_t scratch_bytes(std::int64_t lines, std::int64_t n, std::int64_t m,
                                                 bool self);

 private:
  struct Array {
    T* position = nullptr;
    std::uint32_t* index = nullptr;
    std::uint16_t* rank = nullptr;  ///< of float anchors, unless there is one side alone
    bool in_place = true;           ///< came sorted: the index is not used

    /// The index, or null where the anchors are in place.
    [[nodiscard]] const std::uint32_t* order() const { return in_place ? nullptr : index; }
  };
  void check_given(const T* targets, const T* sources) const;
  /// Cuts the storage; with null memory it only counts.
  void lay_out(Cutter& cut);
  /// Puts both sides in order, each as the inspection found it. `is_new`: there is no old order.
  void order(const T* targets, const T* sources, const Inspection<T>& inspection, bool is_new,
             const Scratch& scratch, Stream stream);
  void interleave(Stream stream);
  /// Tells the other processes of the line where the anchors here begin and end.
  void join(const std::shared_ptr<const LinePart>& part, Stream stream);

  std::int64_t heads_;
  std::int64_t lines_;
  std::int64_t n_;
  std::int64_t m_;
  bool self_;
  Array targets_;
  Array sources_;  ///< empty in the self case
  std::uint32_t* split_ = nullptr;
  std::uint8_t* is_source_ = nullptr;
  std::uint16_t* before_ = nullptr;
  std::uint8_t* tied_ = nullptr;
  unsigned long long* found_ = nullptr;  ///< of inspections
  DeviceMemory owned_;
  std::unique_ptr<const SharedLine> shared_line_;
  /// Whether a graph was captured that knows of no index.
  mutable std::atomic<bool> captured_in_place_{false};
  std::int64_t nbytes_ = 0;

  State(std::int64_t heads, std::int64_t lines, std::int64_t n, std::int64_t m, bool self)
      : heads_(heads), lines_(lines), n_(n), m_(m), self_(self) {}
};

}  // namespace laplex::cuda::detail
