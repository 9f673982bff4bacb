// The products, gradients and log densities of laplex.jax, which XLA calls on threads of its own
// and without the interpreter. Shapes and types are checked when the Python package traces a call.
#include "jax.hpp"

#include "jax_arrays.hpp"

#include <laplex/laplex.hpp>

#include <algorithm>
#include <array>
#include <cfenv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <variant>
#include <vector>

namespace py = pybind11;

namespace laplex::python {
namespace {

/// Of the one module that this process has loaded.
PlanCache* plans = nullptr;

/// The kernel and the form of a call. Of the arguments, the first `before` are those of the call
/// itself; the six arrays of the kernel follow, as far as bits of `present` say so. Anchors are
/// `[heads, n]` or, shared, `[1, n]`, parameters `[heads]`, phases `[heads, n]`.
struct JaxCall {
  JaxCall(const xla::CallFrame& frame, std::size_t before) {
    const auto option = [&](std::size_t k) { return number<std::int64_t>(frame, "options", k); };
    const std::int64_t present = option(0);
    std::array<const Buffer*, KernelArguments::kArrays.size()> given{};
    std::size_t next = before;
    for (std::size_t k = 0; k < given.size(); ++k) {
      if ((present >> k & 1) != 0) {
        given[k] = frame.arguments.items[next++];
      }
    }
    root = number<double>(frame, "numbers", 0);
    require(*given[2], kPositive, "lengthscale must be positive and finite");
    kernel.is_double = is_double(*given[0]);
    kernel.heads = count(*given[2]);
    kernel.n = kernel.m = length(*given[0]);
    if (given[1] != nullptr) {
      kernel.m = length(*given[1]);
    }
    kernel.shared_anchors = kernel.heads > 1 && given[0]->dims[0] == 1;
    kernel.real_part = option(1) != 0;
    kernel.side = static_cast<int>(option(3));
    widened.reserve(2);
    for (std::size_t k = 0; k < given.size(); ++k) {
      if (given[k] == nullptr) {
        continue;
      }
      kernel.arrays[k] = address(*given[k]);
      if (KernelArguments::kArrays[k].always_double) {
        widened.emplace_back(*given[k], k == 2 ? root : 1.0);
        kernel.arrays[k] = reinterpret_cast<Address>(widened.back().data());
      }
    }
    read_parity(static_cast<int>(option(2)), term);
    for (std::size_t k = 0; k < term.polynomial.size(); ++k) {
      term.polynomial[k] = number<double>(frame, "numbers", 1 + k);
    }
  }

  KernelArguments kernel;
  Term term;
  double root = 1.0;  ///< of the profile, by which the lengthscale is divided
  std::vector<Doubles> widened;
};

/// Of vectors `[rows, heads, count]`; those that are repeated are there once.
Strides strides(const Buffer& array) {
  const std::int64_t one = length(array);
  return {array.dims[1] == 1 ? 0 : one, array.dims[0] == 1 ? 0 : array.dims[1] * one};
}

/// Writes the product of values `[rows, heads, m]`, the only argument before the kernel's, to
/// `[rows, heads, n]`.
void sum(const xla::CallFrame& frame) {
  const JaxCall call(frame, 1);
  const Buffer& values = *frame.arguments.items[0];
  const Buffer& out = *frame.results.items[0];
  const auto any = plans->get(call.kernel, 0);
  std::visit(
      [&](const auto& plan) {
        using T = decltype(scalar_of(plan));
        plan.apply_any(static_cast<const T*>(values.data), is_complex(values), out.dims[0],
                       strides(values), static_cast<T*>(out.data), is_complex(out), strides(out),
                       Mode::plain, call.term, 0);
      },
      any->plan);
}

/// The results that bits of option 4 ask for, from the result `next` on; null for the others.
template <std::size_t size>
std::array<const Buffer*, size> wanted(const xla::CallFrame& frame, std::int64_t next) {
  const auto needs = number<std::int64_t>(frame, "options", 4);
  std::array<const Buffer*, size> found{};
  for (std::size_t k = 0; k < size; ++k) {
    if ((needs >> k & 1) != 0) {
      found[k] = frame.results.items[next++];
    }
  }
  return found;
}

/// Writes the gradients by the values `[rows, heads, m]` and by the kernel's arrays, all with the
/// heads, given the cotangent `[rows, heads, n]` and the values.
void vjp(const xla::CallFrame& frame) {
  const JaxCall call(frame, 2);
  const Buffer& grad = *frame.arguments.items[0];
  const Buffer& values = *frame.arguments.items[1];
  const std::int64_t rows = std::max(grad.dims[0], values.dims[0]);
  constexpr std::size_t kAll = 1 + KernelArguments::kArrays.size();
  const auto results = wanted<kAll>(frame, 0);
  Room by_lengthscale(results[3]);
  Room by_frequency(results[4]);
  const auto any = plans->get(call.kernel, 0);
  any->differentiated = true;
  std::visit(
      [&](const auto& plan) {
        using T = decltype(scalar_of(plan));
        const auto to = [&](std::size_t k) {
          return results[k] == nullptr ? nullptr : static_cast<T*>(results[k]->data);
        };
        plan.vjp_any(static_cast<const T*>(values.data), is_complex(values), strides(values),
                     static_cast<const T*>(grad.data), is_complex(grad), strides(grad), rows,
                     {to(0), to(1), to(plan.is_self() ? 1 : 2), by_lengthscale.data(),
                      by_frequency.data(), to(5), to(6)},
                     {call.kernel.m, call.kernel.heads * call.kernel.m}, call.term, 0);
      },
      any->plan);
  by_lengthscale.finish(call.root);
  by_frequency.finish();
}

/// What the log density of one process by its factor needs, and receives; see Process.
struct OneProcess {
  std::int64_t n;
  const double* anchors;
  const double* values;
  double lengthscale;
  double variance;
  const double* frequency;
  const double* noise;
  bool one_noise;
};

/// The way for matrices that laplex::log_density declines: it names what is wrong with parameters,
/// and where anchors coincide, its derivatives by them are the means over both orders.
double log_density_by_factor(const OneProcess& p, const ProcessGradients& gradients) {
  const auto size = static_cast<std::size_t>(p.n);
  const std::int64_t width = p.frequency == nullptr ? 1 : 2;
  const std::vector<double> lengthscale(2, p.lengthscale);
  const std::vector<double> weights(2, p.variance);
  const std::vector<double> noise(size, p.noise == nullptr ? 0.0 : *p.noise);
  std::vector<double> loadings(width == 1 ? 0 : 2 * size);
  for (std::size_t i = 0; 2 * i < loadings.size(); ++i) {
    const double angle = *p.frequency * (p.anchors[i] - p.anchors[0]);
    if (!std::isfinite(angle)) {
      throw Error(
          ErrorCode::invalid_argument,
          "anchors must be finite, and so must their range times the frequency, but entry " +
              std::to_string(i) + " is not: rescale the anchors");
    }
    loadings[2 * i] = std::cos(angle);
    loadings[2 * i + 1] = std::sin(angle);
  }
  Covariance covariance;
  covariance.n = p.n;
  covariance.width = width;
  covariance.anchors = p.anchors;
  covariance.lengthscale = lengthscale.data();
  covariance.loadings = width == 1 ? nullptr : loadings.data();
  covariance.noise = p.one_noise || p.noise == nullptr ? noise.data() : p.noise;
  covariance.weights = weights.data();
  const Gram gram(covariance);
  double result = 0.0;
  gram.log_prob(p.values, &result, 1);

  const bool both_orders = gradients.anchors != nullptr && gram.has_ties();
  const double share = both_orders ? 0.5 : 1.0;
  const auto add = [&](double* to, double what) {
    if (to != nullptr) {
      *to += share * what;
    }
  };
  const auto clear = [](double* to, std::int64_t entries) {
    if (to != nullptr) {
      std::fill(to, to + entries, 0.0);
    }
  };
  clear(gradients.anchors, p.n);
  clear(gradients.values, p.n);
  clear(gradients.lengthscale, 1);
  clear(gradients.variance, 1);
  clear(gradients.frequency, 1);
  clear(gradients.noise, p.one_noise ? 1 : p.n);
  for (const bool backwards : {false, true}) {
    if (backwards && !both_orders) {
      break;
    }
    covariance.ties_backwards = backwards;
    const Gram one(covariance);
    // With z = L^-1 v, the density is -(sum of z^2 / D + log D + log 2 pi) / 2.
    std::vector<double> solved(size), whitened(size), by_logs(size), by_anchors(size),
        by_noise(size), by_loadings(loadings.size());
    std::array<double, 2> by_lengthscale{}, by_weights{};
    one.solve(p.values, solved.data(), 1);
    one.apply(Factor::lower_inverse, false, p.values, whitened.data(), 1);
    one.log_variances(by_logs.data());
    for (std::size_t i = 0; i < size; ++i) {
      by_logs[i] = (whitened[i] * whitened[i] * std::exp(-by_logs[i]) - 1.0) / 2;
    }
    one.vjp(solved.data(), whitened.data(), 1, by_logs.data(),
            {by_anchors.data(), by_lengthscale.data(), width == 1 ? nullptr : by_loadings.data(),
             by_noise.data(), by_weights.data()});
    for (std::size_t i = 0; i < size; ++i) {
      if (width == 2) {
        const double by_angle =
            by_loadings[2 * i + 1] * loadings[2 * i] - by_loadings[2 * i] * loadings[2 * i + 1];
        add(gradients.frequency, by_angle * (p.anchors[i] - p.anchors[0]));
        by_anchors[i] += *p.frequency * by_angle;
      }
      add(gradients.anchors == nullptr ? nullptr : gradients.anchors + i, by_anchors[i]);
      add(gradients.values == nullptr ? nullptr : gradients.values + i, -solved[i]);
      add(gradients.noise == nullptr ? nullptr : gradients.noise + (p.one_noise ? 0 : i),
          by_noise[i]);
    }
    for (std::int64_t j = 0; j < width; ++j) {
      add(gradients.lengthscale, by_lengthscale[static_cast<std::size_t>(j)]);
      add(gradients.variance, by_weights[static_cast<std::size_t>(j)]);
    }
  }
  return result;
}

/// Writes log densities `[batch]` and their gradients. The arguments are values and anchors
/// `[batch, n]`, lengthscales and variances `[batch]`, and, where bits of option 0 say so,
/// frequencies `[batch]` and noise `[batch, n]` or `[batch, 1]`.
void log_density(const xla::CallFrame& frame) {
  const auto present = number<std::int64_t>(frame, "options", 0);
  const Buffer* const* next = frame.arguments.items;
  const Buffer& shape = **next;
  require(*next[2], kPositive, "lengthscale must be positive and finite");
  require(*next[3], kPositive, "variance must be positive and finite");
  const Doubles values(**next++), anchors(**next++), lengthscale(**next++), variance(**next++);
  const Buffer* const given_frequency = (present & 1) != 0 ? *next++ : nullptr;
  const Buffer* const given_noise = (present & 2) != 0 ? *next++ : nullptr;
  if (given_frequency != nullptr) {
    require(*given_frequency, kAny, "frequency must be finite");
  }
  if (given_noise != nullptr) {
    require(*given_noise, kNotNegative, "noise must be finite and not negative, as a variance");
  }
  const Doubles frequency(given_frequency == nullptr ? shape : *given_frequency);
  const Doubles noise(given_noise == nullptr ? shape : *given_noise);

  Process process;
  process.batch = shape.dims[0];
  process.n = shape.dims[1];
  process.anchors = anchors.data();
  process.values = values.data();
  process.lengthscale = lengthscale.data();
  process.variance = variance.data();
  process.frequency = given_frequency == nullptr ? nullptr : frequency.data();
  process.noise = given_noise == nullptr ? nullptr : noise.data();
  process.one_noise = given_noise != nullptr && length(*given_noise) == 1;

  const auto results = wanted<6>(frame, 1);
  Room out(frame.results.items[0]);
  std::vector<Room> rooms(results.begin(), results.end());
  const auto to = [&](std::size_t k, std::int64_t first) {
    double* const data = rooms[k].data();
    return data == nullptr ? nullptr : data + first;
  };
  const auto from = [&](std::int64_t first, std::int64_t one) {
    return ProcessGradients{to(1, first), to(0, first), to(2, one),
                            to(3, one),   to(4, one),   to(5, process.one_noise ? one : first)};
  };
  const ProcessGradients gradients = from(0, 0);
  const bool any = frame.results.size > 1;
  if (!laplex::log_density(process, out.data(), any ? &gradients : nullptr)) {
    for (std::int64_t one = 0; one < process.batch; ++one) {
      const std::int64_t first = one * process.n;
      out.data()[one] = log_density_by_factor(
          {process.n, process.anchors + first, process.values + first, process.lengthscale[one],
           process.variance[one], process.frequency == nullptr ? nullptr : process.frequency + one,
           process.noise == nullptr ? nullptr : process.noise + (process.one_noise ? one : first),
           process.one_noise},
          from(first, one));
    }
  }
  out.finish();
  for (Room& room : rooms) {
    room.finish();
  }
}

xla::Error* error(const xla::CallFrame& frame, int code, const char* message) {
  xla::NewError what{sizeof(xla::NewError), nullptr, message, code};
  return frame.api->create_error(&what);
}

/// Whether the call only asks for what the handler is; answers then.
bool describes_itself(const xla::CallFrame& frame) {
  xla::Extension* const asked = frame.extensions;
  if (asked == nullptr || asked->type != xla::kMetadataExtension) {
    return false;
  }
  // What is declared in xla_ffi.hpp is the same in every minor version. Runtimes of version 0.1
  // give no interface here.
  xla::Metadata& metadata = *reinterpret_cast<xla::MetadataExtension*>(asked)->metadata;
  metadata.version.major = xla::kMajorVersion;
  metadata.version.minor = frame.api == nullptr ? 1 : frame.api->version.minor;
  metadata.traits = 0;
  return true;
}

/// XLA's threads take denormal numbers for 0, which would make anchors equal that are not.
class DefaultArithmetic {
 public:
  DefaultArithmetic() {
    std::fegetenv(&before_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultArithmetic() { std::fesetenv(&before_); }
  DefaultArithmetic(const DefaultArithmetic&) = delete;
  DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;

 private:
  std::fenv_t before_{};
};

template <void call(const xla::CallFrame&)>
xla::Error* handler(xla::CallFrame* frame) {
  if (describes_itself(*frame)) {
    return nullptr;
  }
  const DefaultArithmetic arithmetic;
  try {
    call(*frame);
    return nullptr;
  } catch (const Error& failure) {
    return error(*frame,
                 failure.code() == ErrorCode::invalid_argument ? xla::kInvalidArgument
                 : failure.code() == ErrorCode::out_of_memory  ? xla::kResourceExhausted
                 : failure.code() == ErrorCode::singular       ? xla::kFailedPrecondition
                                                               : xla::kInternal,
                 failure.what());
  } catch (const std::bad_alloc&) {
    return error(*frame, xla::kResourceExhausted, "there is not enough memory for this call");
  } catch (const std::exception& failure) {
    return error(*frame, xla::kInternal, failure.what());
  }
}

py::capsule target(xla::Handler* function) {
  return py::capsule(reinterpret_cast<void*>(function), xla::kTargetCapsule);
}

}  // namespace

void add_jax(py::module_& m, PlanCache& cache) {
  plans = &cache;
  m.def("jax_targets", [] {
    py::dict all;
    all["laplex_sum"] = target(&handler<&sum>);
    all["laplex_vjp"] = target(&handler<&vjp>);
    all["laplex_log_density"] = target(&handler<&log_density>);
    return all;
  });
}

}  // namespace laplex::python
