#include "checks.hpp"

#include <laplex/detail/scan_element.hpp>
#include <laplex/error.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

namespace laplex::detail {
namespace {

/// As printf's %g: std::to_string would show -1e-9 as -0.000000.
std::string text_of(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%g", value);
  return text.data();
}

}  // namespace

void invalid(const std::string& message) {
  throw Error(ErrorCode::invalid_argument, message);
}

void not_finite(const char* name, std::int64_t heads, std::int64_t count, std::int64_t entry,
                double value) {
  invalid(std::string(name) + " must be finite, but entry " + std::to_string(entry % count) +
          (heads > 1 ? " of head " + std::to_string(entry / count) : "") + " is " +
          (std::isnan(value) ? "NaN"
           : value > 0       ? "inf"
                             : "-inf"));
}

namespace {

// 2^48 anchors are 2 PiB: whoever asks for more has a wrong number, and products of sizes stay in
// range.
constexpr std::int64_t kMost = std::int64_t(1) << 48;

}  // namespace

void check_sizes(std::int64_t heads, std::int64_t n, std::int64_t m, std::int64_t most) {
  if (heads < 0 || n < 0 || m < 0) {
    invalid("heads, num_targets and num_sources must not be negative");
  }
  if (n <= kMost && m <= kMost && n + m > most) {
    invalid("a matrix of " + std::to_string(n) + " targets and " + std::to_string(m) +
            " sources has more anchors than a plan can number, " + std::to_string(most) +
            ": split it into blocks of targets or of sources");
  }
  if (n > kMost || m > kMost || heads > kMost || (heads > 0 && n + m > kMost / heads)) {
    throw Error(ErrorCode::out_of_memory, "a plan for " + std::to_string(heads) + " x (" +
                                              std::to_string(n) + " + " + std::to_string(m) +
                                              ") anchors is beyond any memory");
  }
}

void check_sides(bool self, std::int64_t n, std::int64_t m) {
  if (self && n != m) {
    invalid("num_sources must equal num_targets when sources are the targets");
  }
}

void check_sides(bool self, bool given, std::int64_t sources) {
  if (self && given && sources > 0) {
    invalid("this plan's sources are its targets: give targets alone");
  }
  if (!self && !given && sources > 0) {
    invalid("sources are missing: this plan has sources of its own");
  }
}

void check_rows(std::int64_t heads, std::int64_t rows, std::int64_t count) {
  if (rows < 0) {
    invalid("rows must not be negative, got " + std::to_string(rows));
  }
  // Not more than kMost each, so that the first product is in range.
  if (rows > 0 && (count > kMost || std::max<std::int64_t>(heads, 1) >
                                        kMost / rows / std::max<std::int64_t>(count, 1))) {
    throw Error(ErrorCode::out_of_memory, std::to_string(heads) + " x " + std::to_string(rows) +
                                              " vectors of " + std::to_string(count) +
                                              " numbers are beyond any memory");
  }
}

void check_options(Profile profile, Side side) {
  if (profile < Profile::matern12 || profile > Profile::matern52) {
    invalid("profile must be matern12, matern32 or matern52, got the number " +
            std::to_string(static_cast<int>(profile)));
  }
  if (side < Side::both || side > Side::right) {
    invalid("side must be both, left or right, got the number " +
            std::to_string(static_cast<int>(side)));
  }
}

void check_mode(Mode mode) {
  if (mode < Mode::plain || mode > Mode::adjoint) {
    invalid("mode must be plain, transpose or adjoint, got the number " +
            std::to_string(static_cast<int>(mode)));
  }
}

void check_factor(Factor factor) {
  if (factor < Factor::lower || factor > Factor::upper_inverse) {
    invalid("factor must be lower, lower_inverse, upper or upper_inverse, got the number " +
            std::to_string(static_cast<int>(factor)));
  }
}

void check_type(const char* name, bool complex, bool should_be_complex) {
  if (complex != should_be_complex) {
    invalid(std::string("the ") + name + " must be " +
            (should_be_complex ? "complex: the values or the kernel are"
                               : "real: values and kernel are"));
  }
}

std::string of_matrix(std::int64_t matrix, std::int64_t batch) {
  return batch > 1 ? " of matrix " + std::to_string(matrix) : "";
}

void not_a_variance(std::int64_t batch, std::int64_t n, std::int64_t entry, double value) {
  invalid("noise must not be negative, but entry " + std::to_string(entry % n) +
          of_matrix(entry / n, batch) + " is " + text_of(value) + ": it is a variance");
}

void singular(const SingularPoint& point) {
  const std::string what =
      "the covariance matrix" + of_matrix(point.matrix, point.batch) + " is singular";
  const std::string anchor = std::to_string(point.anchor);
  const std::string place = text_of(point.place);
  throw Error(ErrorCode::singular,
              point.tied_with >= 0
                  ? what + ": anchors " + std::to_string(point.tied_with) + " and " + anchor +
                        " coincide, at " + place + ". Give them noise > 0, or keep one of them"
                  : what + " to working precision: given the anchors before it, anchor " + anchor +
                        ", at " + place + ", has variance " + text_of(point.variance) +
                        ". Add noise > 0, or a scale that is not 0");
}

void check_cumulative(const Term& term, bool real_laplace, bool values_complex) {
  if (!term.cumulative) {
    return;
  }
  if (!real_laplace) {
    invalid(
        "cumulative sums need the kernel matern12 without phases and frequency, with side both, on "
        "a line that no other process shares");
  }
  if (term.parity != Parity::even || term.polynomial != Term{}.polynomial || term.smooth) {
    invalid(
        "a cumulative term has no parity and no polynomial: leave its other members as they are");
  }
  if (values_complex) {
    invalid("cumulative sums take real values: sum the real and imaginary parts one by one");
  }
}

void check_levels(const double* levels, std::int64_t heads, std::int64_t count,
                  std::int64_t anchors, bool real_laplace_of_itself) {
  if (!real_laplace_of_itself) {
    invalid(
        "quantiles need a plan whose targets are its sources, for the kernel matern12 without "
        "phases and frequency, with side both, on a line that no other process shares");
  }
  if (count < 0) {
    invalid("count must be at least 0, got " + std::to_string(count));
  }
  check_rows(heads, 1, count);
  check_array("levels", levels, heads * count);
  for (std::int64_t k = 0; k < heads * count; ++k) {
    if (!(levels[k] > 0.0 && levels[k] < static_cast<double>(anchors))) {
      invalid("levels must lie between 0 and the number of anchors, " + std::to_string(anchors) +
              ", both excluded, but level " + std::to_string(k % count) +
              of_matrix(k / count, heads) + " is " + text_of(levels[k]));
    }
  }
}

void check_rate(Rate rate, std::int64_t head, std::int64_t heads) {
  const std::string where = heads > 1 ? " for head " + std::to_string(head) : "";
  if (!(rate.lengthscale > 0.0) || std::isinf(rate.lengthscale)) {
    invalid("lengthscale must be positive and finite, got " + text_of(rate.lengthscale) + where);
  }
  // Far below it 1/lengthscale overflows. That of a Matern kernel may have been divided by up to
  // sqrt(5), to that of its exponential.
  if (rate.lengthscale < std::numeric_limits<double>::min() / 2.25) {
    invalid("lengthscale must be at least 2.23e-308, the smallest normal number, got " +
            text_of(rate.lengthscale) + where);
  }
  if (!std::isfinite(rate.frequency)) {
    invalid("frequency must be finite, got " + text_of(rate.frequency) + where);
  }
}

void check_part(const LinePart& part, std::int64_t heads, std::int64_t anchors) {
  if (heads != 1) {
    invalid("a plan of a part of a line must have one head: make one plan a head");
  }
  if (part.size < 1 || part.rank < 0 || part.rank >= part.size) {
    invalid("part.rank must be one of the part.size processes");
  }
  if (part.offset < 0 || part.offset + anchors > part.total || !part.gather) {
    invalid(
        "part.offset and the anchors here must lie within part.total, and part.gather be given");
  }
}

void refuse_part(bool is_part, const char* member) {
  if (is_part) {
    invalid(std::string(member) + " is not there for a part of a line: make a new plan");
  }
}

}  // namespace laplex::detail
