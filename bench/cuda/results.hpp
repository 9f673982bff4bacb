/// What was measured: a table for people, and a line of JSON each in a file. Both are written as it
/// is measured, so that a run that is cut short keeps what it has.
#pragma once

#include <laplex/error.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <initializer_list>
#include <string>

namespace laplex::bench {

/// The time of one call.
struct Measurement {
  std::string name;
  std::int64_t n;
  double minimum_ms;
  double median_ms;
  int samples;   ///< of which these are the minimum and the median
  int calls;     ///< of one sample
  double bytes;  ///< 0: not counted
};

/// Two minima of one group, and what their ratio should be at most.
struct Comparison {
  std::string ours;
  std::string theirs;
  std::int64_t n;
  double ratio;
  double limit;  ///< 0: none
};

/// The largest error of a result, in units of what it may be measured in: sum_j |K_ij| |v_j|.
struct Check {
  std::string name;
  std::int64_t n;
  double error;
  double limit;
  [[nodiscard]] bool right() const { return error <= limit; }  // a NaN is not
};

/// Device memory of a plan, products, gradients and updates.
struct MemoryUse {
  std::int64_t n;
  double peak_bytes;  ///< including inputs and results
  double plan_bytes;
};

/// What it was measured on and from.
struct Machine {
  std::string device;
  std::string compute_capability;
  double memory_bytes;
  double l2_bytes;
  int multiprocessors;
  std::string driver;
  std::string runtime;
  std::string nvcc;
  std::string commit;
  std::string date;
};

inline std::string digits(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.3g", value);
  return text;
}

/// A size: 4096, 1e+08.
inline std::string size_text(std::int64_t n) {
  return n < 100000 ? std::to_string(n) : digits(static_cast<double>(n));
}

class Results {
 public:
  /// Writes to standard output, and adds to the end of the file `path` unless it is empty.
  Results(const std::string& path, const Machine& m) {
    if (!path.empty()) {
      file_.open(path, std::ios::app);
      if (!file_) {
        throw Error(ErrorCode::invalid_argument, path + " cannot be written");
      }
    }
    std::printf("%s, compute capability %s, driver %s, CUDA %s, nvcc %s, commit %s, %s\n",
                m.device.c_str(), m.compute_capability.c_str(), m.driver.c_str(), m.runtime.c_str(),
                m.nvcc.c_str(), m.commit.c_str(), m.date.c_str());
    row("", "n", "ms", "median", "GB/s", "ratio", "target", "");
    line("machine", {field("device", m.device), field("compute_capability", m.compute_capability),
                     field("memory_bytes", m.memory_bytes), field("l2_bytes", m.l2_bytes),
                     field("multiprocessors", m.multiprocessors), field("driver", m.driver),
                     field("runtime", m.runtime), field("nvcc", m.nvcc), field("commit", m.commit),
                     field("date", m.date)});
  }

  void add(const Measurement& m) {
    row(m.name, size_text(m.n), digits(m.minimum_ms), digits(m.median_ms),
        m.bytes > 0.0 ? digits(m.bytes / m.minimum_ms * 1e-6) : "", "", "", "");
    line("measurement",
         {field("name", m.name), field("n", m.n), field("minimum_ms", m.minimum_ms),
          field("median_ms", m.median_ms), field("samples", m.samples), field("calls", m.calls),
          field("bytes", m.bytes > 0.0 ? m.bytes : std::nan(""))});
  }
  void add(const Comparison& c) {
    const bool judged = c.limit > 0.0;
    row("  " + c.ours + " / " + c.theirs, size_text(c.n), "", "", "", digits(c.ratio),
        judged ? "<= " + digits(c.limit) : "",
        !judged              ? ""
        : c.ratio <= c.limit ? "met"
                             : "missed");
    line("comparison", {field("ours", c.ours), field("theirs", c.theirs), field("n", c.n),
                        field("ratio", c.ratio), field("limit", judged ? c.limit : std::nan(""))});
  }
  void add(const Check& c) {
    all_right_ = all_right_ && c.right();
    row("  error of " + c.name, size_text(c.n), "", "", "", digits(c.error),
        "<= " + digits(c.limit), c.right() ? "right" : "WRONG");
    line("check", {field("name", c.name), field("n", c.n), field("error", c.error),
                   field("limit", c.limit)});
  }
  void add(const MemoryUse& m) {
    std::printf("  peak device memory %s GB, of which the plan holds %s GB\n",
                digits(m.peak_bytes * 1e-9).c_str(), digits(m.plan_bytes * 1e-9).c_str());
    line("memory",
         {field("n", m.n), field("peak_bytes", m.peak_bytes), field("plan_bytes", m.plan_bytes)});
  }
  /// A sentence about what was not measured.
  void note(const std::string& sentence) {
    std::printf("  %s\n", sentence.c_str());
    line("note", {field("text", sentence)});
  }

  [[nodiscard]] bool all_right() const { return all_right_; }

 private:
  static void row(const std::string& name, const std::string& n, const std::string& ms,
                  const std::string& median, const std::string& rate, const std::string& ratio,
                  const std::string& target, const std::string& verdict) {
    std::printf("%-68s %7s %9s %9s %8s %9s %10s %s\n", name.c_str(), n.c_str(), ms.c_str(),
                median.c_str(), rate.c_str(), ratio.c_str(), target.c_str(), verdict.c_str());
    std::fflush(stdout);
  }

  static std::string quoted(const std::string& text) {
    std::string all = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') {
        all += '\\';
      }
      all += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return all + "\"";
  }
  static std::string field(const char* name, const std::string& text) {
    return quoted(name) + ": " + quoted(text);
  }
  /// JSON knows neither NaN nor infinity: null.
  static std::string field(const char* name, double value) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.9g", value);
    return quoted(name) + ": " + (std::isfinite(value) ? text : "null");
  }
  static std::string field(const char* name, std::int64_t value) {
    return quoted(name) + ": " + std::to_string(value);
  }
  static std::string field(const char* name, int value) {
    return field(name, static_cast<std::int64_t>(value));
  }
  void line(const char* kind, std::initializer_list<std::string> fields) {
    if (!file_.is_open()) {
      return;
    }
    std::string text = "{" + field("kind", std::string(kind));
    for (const std::string& each : fields) {
      text += ", " + each;
    }
    file_ << text << "}" << std::endl;
  }

  std::ofstream file_;
  bool all_right_ = true;
};

}  // namespace laplex::bench
