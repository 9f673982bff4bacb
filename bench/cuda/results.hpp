/// What was measured: a table while it runs, JSON at the end.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

namespace laplex::bench {

/// The time of one call.
struct Measurement {
  std::string name;
  std::int64_t n;
  double minimum_ms;
  double median_ms;
  int calls;
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

struct HugeRun {
  std::int64_t n = 0;  ///< 0: there was none
  double peak_bytes = 0.0;
  double plan_bytes = 0.0;
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
  Results() { row("", "n", "ms", "median", "GB/s", "ratio", "target", ""); }

  void add(const Measurement& m) {
    measurements_.push_back(m);
    row(m.name, size_text(m.n), digits(m.minimum_ms), digits(m.median_ms),
        m.bytes > 0.0 ? digits(m.bytes / m.minimum_ms * 1e-6) : "", "", "", "");
  }
  void add(const Comparison& c) {
    comparisons_.push_back(c);
    const bool judged = c.limit > 0.0;
    row("  " + c.ours + " / " + c.theirs, size_text(c.n), "", "", "", digits(c.ratio),
        judged ? "<= " + digits(c.limit) : "",
        !judged              ? ""
        : c.ratio <= c.limit ? "met"
                             : "missed");
  }
  void add(const Check& c) {
    checks_.push_back(c);
    row("  error of " + c.name, size_text(c.n), "", "", "", digits(c.error),
        "<= " + digits(c.limit), c.right() ? "right" : "WRONG");
  }
  void set(const HugeRun& huge) { huge_ = huge; }
  /// A sentence about what was not measured.
  void note(const std::string& sentence) {
    notes_.push_back(sentence);
    std::printf("  %s\n", sentence.c_str());
  }

  [[nodiscard]] bool all_right() const {
    for (const Check& c : checks_) {
      if (!c.right()) {
        return false;
      }
    }
    return true;
  }

  /// False if the file cannot be written.
  [[nodiscard]] bool write(const std::string& path, const Machine& machine, int repetitions) const {
    std::ofstream out(path);
    out << "{\n";
    out << "  \"device\": {" << field("name", machine.device) << ", "
        << field("compute_capability", machine.compute_capability) << ", "
        << field("memory_bytes", machine.memory_bytes) << ", "
        << field("l2_bytes", machine.l2_bytes) << ", "
        << field("multiprocessors", machine.multiprocessors) << "},\n";
    out << "  " << field("driver", machine.driver) << ",\n";
    out << "  " << field("runtime", machine.runtime) << ",\n";
    out << "  " << field("nvcc", machine.nvcc) << ",\n";
    out << "  " << field("commit", machine.commit) << ",\n";
    out << "  " << field("date", machine.date) << ",\n";
    out << "  " << field("repetitions", repetitions) << ",\n";
    list(out, "measurements", measurements_, [](const Measurement& m) {
      return "{" + field("name", m.name) + ", " + field("n", m.n) + ", " +
             field("minimum_ms", m.minimum_ms) + ", " + field("median_ms", m.median_ms) + ", " +
             field("calls", m.calls) + ", " +
             field("bytes", m.bytes > 0.0 ? m.bytes : std::nan("")) + "}";
    });
    list(out, "comparisons", comparisons_, [](const Comparison& c) {
      return "{" + field("ours", c.ours) + ", " + field("theirs", c.theirs) + ", " +
             field("n", c.n) + ", " + field("ratio", c.ratio) + ", " +
             field("limit", c.limit > 0.0 ? c.limit : std::nan("")) + "}";
    });
    list(out, "checks", checks_, [](const Check& c) {
      return "{" + field("name", c.name) + ", " + field("n", c.n) + ", " + field("error", c.error) +
             ", " + field("limit", c.limit) + "}";
    });
    if (huge_.n > 0) {
      out << "  \"huge\": {" << field("n", huge_.n) << ", " << field("peak_bytes", huge_.peak_bytes)
          << ", " << field("plan_bytes", huge_.plan_bytes) << "},\n";
    }
    list(out, "notes", notes_, quoted, "");
    out << "}\n";
    return static_cast<bool>(out.flush());
  }

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
  template <class Entry, class F>
  static void list(std::ofstream& out, const char* name, const std::vector<Entry>& entries,
                   const F& text, const char* end = ",") {
    out << "  " << quoted(name) << ": [";
    for (std::size_t k = 0; k < entries.size(); ++k) {
      out << (k > 0 ? ",\n    " : "\n    ") << text(entries[k]);
    }
    out << "]" << end << "\n";
  }

  std::vector<Measurement> measurements_;
  std::vector<Comparison> comparisons_;
  std::vector<Check> checks_;
  std::vector<std::string> notes_;
  HugeRun huge_;
};

}  // namespace laplex::bench
