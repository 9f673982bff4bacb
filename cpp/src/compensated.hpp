/// Sums that lose no digits to the number of their terms.
#pragma once

#include <cmath>

namespace laplex::detail {

/// Neumaier's compensated sum: the gradient of a scalar must not lose digits to the number of
/// anchors.
class Sum {
 public:
  void add(double x) {
    const double t = total_ + x;
    rest_ += std::fabs(total_) >= std::fabs(x) ? (total_ - t) + x : (x - t) + total_;
    total_ = t;
  }
  [[nodiscard]] double value() const { return std::isfinite(rest_) ? total_ + rest_ : total_; }

 private:
  double total_ = 0.0;
  double rest_ = 0.0;
};

}  // namespace laplex::detail
