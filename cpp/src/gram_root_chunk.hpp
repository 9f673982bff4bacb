/// A chunk of a line whose filter runs in factors of the covariance, forwards and back.
#pragma once

#include "gram_root.hpp"

#include <array>
#include <cstdint>
#include <vector>

namespace laplex::detail {

template <class N, int J, int B>
class RootChunk {
  using Packed = std::array<N, kPacked<J>>;

 public:
  RootChunk() : bar_(J) {}

  /// The root predicted for a chunk's first point, packed: from the chunk that was run last.
  void start(bool first, const Step<N, J, B>& point, N* root) const {
    RootFilter<N> next = first ? RootFilter<N>(J, B) : observed_.back();
    next.predict(point.decay, point.gain);
    next.keep(root);
  }

  /// Fills what the filter makes of `size` points from their root, and of the gap after them if
  /// there is one.
  void run(const N* root, Step<N, J, B>* steps, std::int64_t size, bool more, Packed* filtered) {
    RootFilter<N> now(J, B);
    now.start(root);
    predicted_.clear();
    observed_.clear();
    maps_.resize(index((size + 1) * 2 * J * J));
    for (std::int64_t i = 0; i < size; ++i) {
      Step<N, J, B>& s = steps[i];
      if (i > 0) {
        now.predict(s.decay, s.gain, map_of(i, 0));
      }
      predicted_.push_back(now);
      now.covariance(s.cov);
      s.d = now.observe(s.h, s.noise, map_of(i, 1));
      s.inverse = N(1.0) / s.d;
      for (int j = 0; j < J; ++j) {
        s.w[j] = now.gain()[j];
        s.v[j] = s.w[j] * s.d;
      }
      if (!s.observed()) {
        look<J>(s);
      }
      observed_.push_back(now);
      now.covariance(filtered[i].data());
    }
    if (more) {
      now.predict(steps[size].decay, steps[size].gain, map_of(size, 0));
      predicted_.push_back(now);
    }
  }

  /// Back over the gap before place i > 0: adds the derivative by its transition.
  void reverse_gap(std::int64_t i, N* decay_bar) {
    bar_.by_transition(observed_[index(i - 1)], predicted_[index(i)], map_of(i, 0), B, decay_bar);
  }
  void leave_gap(std::int64_t i) { bar_.back(map_of(i, 0)); }

  /// Back over the point at place i, from the derivatives by log d and by the gain.
  void reverse_point(std::int64_t i, const Step<N, J, B>& s, N weight, const N* w_bar) {
    std::array<N, J> seen;
    std::array<N, J> by_gain;
    std::array<N, J> moved;
    // With w = cov h / d: that by cov is weight / d h h^T, and of w (1 - w h^T)^T w_bar h^T / d.
    const N* const map = map_of(i, 1);
    const N scale = s.observed() ? s.inverse : change_of(s.noise);
    observed_[index(i)].along_columns(w_bar, by_gain.data());
    predicted_[index(i)].along_columns(s.h, seen.data());
    for (std::size_t k = 0; k < J; ++k) {
      moved[k] = weight * seen[k];
      for (std::size_t m = 0; m < J; ++m) {
        moved[k] += map[m * J + k] * by_gain[m];
      }
      moved[k] = moved[k] * scale;
    }
    bar_.back(map);
    bar_.add(moved.data(), seen.data());
  }

  /// The derivative by the covariance predicted for place i, and by that given the point there too.
  [[nodiscard]] Packed predicted_bar(std::int64_t i) const { return bar_in(predicted_[index(i)]); }
  [[nodiscard]] Packed filtered_bar(std::int64_t i) const { return bar_in(observed_[index(i)]); }

 private:
  static std::size_t index(std::int64_t k) { return static_cast<std::size_t>(k); }
  [[nodiscard]] Packed bar_in(const RootFilter<N>& root) const {
    Packed bar;
    root.from_columns(bar_.bar(), bar.data());
    return bar;
  }
  /// How the columns of the factor pass the gap before place i, or the point there.
  N* map_of(std::int64_t i, int which) { return &maps_[index((2 * i + which) * J * J)]; }

  std::vector<RootFilter<N>> predicted_;
  std::vector<RootFilter<N>> observed_;
  std::vector<N> maps_;
  RootReverse<N> bar_;
};

}  // namespace laplex::detail
