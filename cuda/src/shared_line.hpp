/// A line of anchors that several processes share, as the host of one of them sees it.
///
/// A scan needs of the others only the sums that leave their parts, to the right and to the left.
/// They go to all processes in one message. Each adds up what comes to its own part, with one exact
/// decay from where a sum was measured: products of decays along the way would drift.
#pragma once

#include "kernels/block_scan.hpp"
#include "runtime.hpp"

#include <laplex/line_part.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace laplex::cuda::detail {

/// The step between two places, `above` not below `below`, on the host.
template <class T, class D, int P>
[[nodiscard]] Gap<T, D, P> gap_on_host(double above, double below, const LineRate& rate) {
  return {laplex::detail::decay<D>(above, below, rate.rate),
          laplex::detail::scaled_distance(above, below, rate.rate), above == below};
}

/// The sum of the terms `begin` to `end`, with few roundings however many there are.
template <class Value, class Term>
[[nodiscard]] Value pairwise_sum(std::size_t begin, std::size_t end, const Term& term) {
  if (end - begin <= 1) {
    return begin < end ? term(begin) : Value{};
  }
  const std::size_t middle = begin + (end - begin) / 2;
  Value sum = pairwise_sum<Value>(begin, middle, term);
  sum.join(pairwise_sum<Value>(middle, end, term));
  return sum;
}

class SharedLine {
 public:
  /// Collective. Of the `anchors` here, the places of the first and the last.
  SharedLine(std::shared_ptr<const LinePart> part, std::int64_t anchors, double first, double last)
      : part_(std::move(part)) {
    const double mine[] = {static_cast<double>(anchors), first, last};
    const std::vector<std::int64_t> counts(static_cast<std::size_t>(part_->size), 3);
    std::vector<double> all(3 * counts.size());
    part_->gather(mine, counts.data(), all.data());
    for (std::size_t r = 0; r < counts.size(); ++r) {
      processes_.push_back({all[3 * r] > 0.0, all[3 * r + 1], all[3 * r + 2]});
    }
  }

  [[nodiscard]] bool has_anchors() const { return here().has_anchors; }
  [[nodiscard]] bool has_next() const { return part_->has_next; }
  /// From the first anchor here to the last.
  template <class T, class D, int P>
  [[nodiscard]] Gap<T, D, P> gap_across(const LineRate& rate) const {
    return gap_on_host<T, D, P>(here().last, here().first, rate);
  }
  /// From the last anchor here to the next one, which another process has.
  template <class T, class D, int P>
  [[nodiscard]] Gap<T, D, P> gap_behind(const LineRate& rate) const {
    return gap_on_host<T, D, P>(part_->next, here().last, rate);
  }

  /// From the sums that leave this part to those that come to it, [vectors, 2]: what leaves to the
  /// right at its last anchor and to the left at its first; what comes from the left at the first,
  /// from the right at the last. Collective.
  template <class T, class D, class S, int P, bool Ties>
  [[nodiscard]] std::vector<Sums<S, P, Ties>> exchange(const std::vector<Sums<S, P, Ties>>& mine,
                                                       const LineRate& rate) const {
    using Value = Sums<S, P, Ties>;
    constexpr std::int64_t kNumbers = sizeof(Value) / sizeof(double);
    const std::size_t size = processes_.size();
    const auto me = static_cast<std::size_t>(part_->rank);
    std::vector<std::int64_t> counts(size);
    std::vector<std::size_t> begins(size);  // of each process's sums among those of all
    std::vector<Gap<T, D, P>> gaps(size);   // to this process
    std::size_t total = 0;
    for (std::size_t r = 0; r < size; ++r) {
      begins[r] = total;
      if (processes_[r].has_anchors) {
        counts[r] = static_cast<std::int64_t>(mine.size()) * kNumbers;
        total += mine.size();
      }
      if (processes_[r].has_anchors && has_anchors() && r != me) {
        gaps[r] = r < me ? gap_on_host<T, D, P>(here().first, processes_[r].last, rate)
                         : gap_on_host<T, D, P>(processes_[r].first, here().last, rate);
      }
    }
    std::vector<Value> all(total);
    if (total > 0) {
      part_->gather(reinterpret_cast<const double*>(mine.data()), counts.data(),
                    reinterpret_cast<double*>(all.data()));
    }
    std::vector<Value> comes(mine.size());
    for (std::size_t k = 0; k < comes.size() && has_anchors(); ++k) {
      const bool leftwards = k % 2 == 1;
      comes[k] =
          pairwise_sum<Value>(leftwards ? me + 1 : 0, leftwards ? size : me, [&](std::size_t r) {
            Value sums{};
            if (processes_[r].has_anchors) {
              sums = all[begins[r] + k];
              sums.cross(gaps[r]);
            }
            return sums;
          });
    }
    return comes;
  }

  /// Adds up over the processes, in place on the device, two numbers; null: not wanted. Collective.
  void add_up(double* one, double* other, Stream stream) const {
    std::vector<double> mine;
    for (double* const each : {one, other}) {
      if (each != nullptr) {
        mine.push_back(0.0);
        copy_to_host(&mine.back(), each, sizeof(double), stream);
      }
    }
    if (mine.empty()) {
      return;
    }
    const std::vector<std::int64_t> counts(processes_.size(),
                                           static_cast<std::int64_t>(mine.size()));
    std::vector<double> all(counts.size() * mine.size());
    part_->gather(mine.data(), counts.data(), all.data());
    std::size_t k = 0;
    for (double* const each : {one, other}) {
      if (each != nullptr) {
        double sum = 0.0;
        for (std::size_t r = 0; r < counts.size(); ++r) {
          sum = sum + all[r * mine.size() + k];
        }
        copy_to_device(each, &sum, sizeof(double), stream);
        ++k;
      }
    }
  }

 private:
  struct Process {
    bool has_anchors;
    double first;  ///< places of its anchors, if it has any
    double last;
  };
  [[nodiscard]] const Process& here() const {
    return processes_[static_cast<std::size_t>(part_->rank)];
  }

  std::shared_ptr<const LinePart> part_;
  std::vector<Process> processes_;
};

}  // namespace laplex::cuda::detail
