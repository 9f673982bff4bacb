/// The lines of processes (laplex/process.hpp) in sorted order.
#pragma once

#include "array.hpp"
#include "checks.hpp"
#include "order.hpp"

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <limits>

namespace laplex::detail {

inline bool is_scale(double x) {
  return x >= std::numeric_limits<double>::min() && x <= std::numeric_limits<double>::max();
}

/// Throws for impossible sizes, and unless whatever has entries has an address. The other arrays
/// that must be given have an entry for each process.
template <class P>
void check_process(const P& p, const double* out, std::initializer_list<const double*> others) {
  check_sizes(p.batch, p.n, 0, kMostAnchors);
  check_array("anchors", p.anchors, p.batch * p.n);
  check_array("values", p.values, p.batch * p.n);
  check_array("out", out, p.batch);
  for (const double* const other : others) {
    check_array("a parameter of the processes", other, p.batch);
  }
}

/// Whether no noise variance is negative or NaN.
template <class P>
bool has_valid_noise(const P& p) {
  bool positive = true;
  const std::int64_t count = p.noise == nullptr ? 0 : p.one_noise ? p.batch : p.batch * p.n;
  for (std::int64_t k = 0; k < count; ++k) {
    positive = positive && p.noise[k] >= 0.0;
  }
  return positive;
}

/// A line in sorted order: views of the caller's arrays, or copies.
struct ProcessLine {
  std::int64_t number = 0;
  const double* anchors = nullptr;
  const double* values = nullptr;
  const double* noise = nullptr;
  double* by_anchors = nullptr;
  double* by_values = nullptr;
  double* by_noise = nullptr;
  Sorting<double> sorting;  ///< empty where the line is sorted as given
  Array<double> sorted[6];
};

inline double* offset(double* array, std::int64_t by) {
  return array == nullptr ? nullptr : array + by;
}
inline const double* offset(const double* array, std::int64_t by) {
  return array == nullptr ? nullptr : array + by;
}

/// Returns false for anchors that coincide where derivatives by them are wanted.
template <class P, class G>
bool read_line(const P& p, const G& to, std::int64_t number, int threads, ProcessLine& line) {
  const std::int64_t n = p.n;
  const std::int64_t first = number * n;
  const double* const x = p.anchors + first;
  const double* const noise = p.one_noise ? nullptr : offset(p.noise, first);
  double* const by_noise = p.one_noise ? nullptr : offset(to.noise, first);
  line.number = number;
  bool falls = false;
  bool ties = false;
  for (std::int64_t k = 1; k < n; ++k) {
    falls = falls || x[k] < x[k - 1];
    ties = ties || x[k] == x[k - 1];
  }
  if (!falls) {
    line.anchors = x;
    line.values = p.values + first;
    line.noise = noise;
    line.by_anchors = offset(to.anchors, first);
    line.by_values = offset(to.values, first);
    line.by_noise = by_noise;
    return to.anchors == nullptr || !ties;
  }
  sort_anchors<double>({x, nullptr, n, 0, true}, line.sorting, threads);
  const auto copy = [&](int which, const double* from) -> double* {
    if (from == nullptr) {
      return nullptr;
    }
    Array<double>& array = line.sorted[which];
    array.reset(n);
    for (std::int64_t k = 0; k < n; ++k) {
      array[k] = from[line.sorting.records[k].id];
    }
    return array.data();
  };
  const auto room = [&](int which, const double* wanted) -> double* {
    line.sorted[which].reset(wanted == nullptr ? 0 : n);
    return line.sorted[which].data();
  };
  line.anchors = copy(0, x);
  line.values = copy(1, p.values + first);
  line.noise = copy(2, noise);
  line.by_anchors = room(3, to.anchors);
  line.by_values = room(4, to.values);
  line.by_noise = room(5, by_noise);
  return to.anchors == nullptr ||
         std::adjacent_find(line.anchors, line.anchors + n) == line.anchors + n;
}

/// Derivatives of a line that was sorted go back to the order as given.
template <class P, class G>
void write_line(const P& p, const G& to, const ProcessLine& line) {
  const std::int64_t first = line.number * p.n;
  const auto put = [&](const double* from, double* array) {
    for (std::int64_t k = 0; from != nullptr && k < line.sorting.records.size(); ++k) {
      array[first + line.sorting.records[k].id] = from[k];
    }
  };
  put(line.by_anchors, to.anchors);
  put(line.by_values, to.values);
  put(line.by_noise, to.noise);
}

}  // namespace laplex::detail
