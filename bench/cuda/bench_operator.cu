// The operator on a GPU beside what bounds it from below: copies, gathers and sorts of as many
// numbers, and the transform one would take instead. Float32 and n = m unless said; anchors uniform
// on [0, n / 100], lengthscale 1. Nothing is allocated while it is timed. Read the minima and their
// ratios: those of one run on one card.
#include "inputs.hpp"
#include "measure.hpp"
#include "results.hpp"
#include "rivals.hpp"
#include "verify.hpp"

#include <laplex/cuda/device.hpp>
#include <laplex/cuda/plan.hpp>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_profiler_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace laplex::bench;
using laplex::Error;
using laplex::ErrorCode;
using laplex::Kernel;
using laplex::Mode;
using laplex::Strides;
using laplex::cuda::ConstVectors;
using laplex::cuda::Memory;
using laplex::cuda::Plan;
using laplex::cuda::Storage;
using laplex::cuda::Vectors;

// --- bytes per n ---------------------------------------------------------------------------------

/// A byte and a count of two bytes for each eight anchors, of both sides: how they interleave.
constexpr double kInterleaving = 0.75;

/// What a product over a long sorted line reads and writes for each n = m, when a position, a value
/// and a result take so many bytes: the first pass reads sources and values; the second reads them
/// again, and the targets, and writes results. Carries between the passes are a thousandth of that.
constexpr double product_bytes(double position, double value, double result) {
  return (position + value) + (2 * position + value + result) + kInterleaving;
}
constexpr double kForward = product_bytes(4, 4, 4);
static_assert(kForward == 24.75);

/// Sources, targets, values and results, each touched once: no algorithm moves less.
constexpr double kIrreducible = 16;

// --- targets: at n = 1e8, but batches ------------------------------------------------------------

constexpr double kCopyTarget = 1.5;
constexpr double kFftTarget = 1.0;
constexpr double kGradientsTarget = 2.5;
constexpr double kPlanTarget = 1.2;
constexpr double kBatchTarget = 2.0;

// -------------------------------------------------------------------------------------------------

struct Options {
  std::vector<std::string> parts;
  std::vector<std::int64_t> sizes;
  int repetitions = 20;
  int device = 0;
  std::string json;
  std::string driver;
  std::string commit = "unknown";
};

struct Bench {
  const Options& options;
  cudaStream_t stream;
  Results& results;
};

/// Tasks that take turns, and the ratios of their minima.
class Group {
 public:
  Group(const Bench& bench, std::int64_t n) : bench_(bench), n_(n) {}

  void add(std::string name, double bytes, std::function<void()> run,
           std::function<void()> prepare = {}) {
    tasks_.push_back({std::move(name), bytes, std::move(run), std::move(prepare)});
  }
  void run(int repetitions) {
    times_ = take_turns(tasks_, repetitions, bench_.stream);
    for (std::size_t k = 0; k < tasks_.size(); ++k) {
      bench_.results.add(Measurement{tasks_[k].name, n_, times_[k].minimum, times_[k].median,
                                     repetitions, times_[k].calls, tasks_[k].bytes});
    }
  }
  void run() { run(bench_.options.repetitions); }
  void compare(const std::string& ours, const std::string& theirs, double limit = 0.0) const {
    bench_.results.add(Comparison{ours, theirs, n_, minimum(ours) / minimum(theirs), limit});
  }
  void check(const std::string& name, double error, double limit = kFloatPromise) const {
    bench_.results.add(Check{name, n_, error, limit});
  }

 private:
  [[nodiscard]] double minimum(const std::string& name) const {
    for (std::size_t k = 0; k < tasks_.size(); ++k) {
      if (tasks_[k].name == name) {
        return times_[k].minimum;
      }
    }
    std::fprintf(stderr, "there is no task named %s\n", name.c_str());
    std::abort();
  }

  const Bench& bench_;
  std::int64_t n_;
  std::vector<Task> tasks_;
  std::vector<Time> times_;
};

Memory lend(const Array<unsigned char>& array) {
  return {array.data(), array.bytes()};
}

Array<unsigned char> bytes(std::size_t count) {
  return Array<unsigned char>(static_cast<std::int64_t>(count));
}

/// A plan, and the memory it is built in.
template <class T>
class LentPlan {
 public:
  LentPlan(const Kernel<T>& kernel, cudaStream_t stream)
      : storage_(bytes(Plan<T>::storage_bytes(1, kernel.num_targets, kernel.num_sources, false))),
        scratch_(bytes(Plan<T>::scratch_bytes(1, kernel.num_targets, kernel.num_sources, false))),
        plan_(kernel, stream, lend(storage_), lend(scratch_)),
        stream_(stream) {}
  const Plan<T>* operator->() const { return &plan_; }
  const Plan<T>& operator*() const { return plan_; }
  /// A new plan in the same memory.
  void build(const Kernel<T>& kernel) {
    plan_ = Plan<T>(kernel, stream_, lend(storage_), lend(scratch_));
  }
  void update(const T* targets, const T* sources) {
    plan_.update(targets, sources, stream_, lend(scratch_));
  }

 private:
  Array<unsigned char> storage_;
  Array<unsigned char> scratch_;
  Plan<T> plan_;
  cudaStream_t stream_;
};

ConstVectors contiguous(const Array<float>& array, std::int64_t n) {
  return {array.data(), false, Strides{array.size(), n}};
}
Vectors contiguous_result(const Array<float>& array, std::int64_t n) {
  return {array.data(), false, Strides{array.size(), n}};
}

/// Products and gradients of `rows` rows, with the workspace that they take.
class Calls {
 public:
  Calls(const Plan<float>& plan, const Array<float>& v, std::int64_t rows, cudaStream_t stream)
      : plan_(plan),
        v_(v),
        u_(v.size()),
        gradients_(plan.num_sources(), rows),
        rows_(rows),
        workspace_(bytes(std::max(plan.workspace_bytes(rows, false),
                                  plan.gradient_workspace_bytes(rows, false)))),
        stream_(stream) {}

  void forward() const {
    plan_.apply(contiguous(v_, plan_.num_sources()), rows_,
                contiguous_result(u_, plan_.num_targets()), stream_, Mode::plain, {},
                lend(workspace_));
  }
  /// With the result of forward() for a cotangent.
  void gradients() const {
    plan_.vjp(contiguous(v_, plan_.num_sources()), contiguous(u_, plan_.num_targets()), rows_,
              gradients_.get(), stream_, {}, lend(workspace_));
  }

  /// Checks both against the CPU's, or longer lines at a few entries.
  void check(const Group& group, const std::string& order, const Array<float>& x,
             const Array<float>& y) const {
    forward();
    gradients();
    if (x.size() <= kMostOnHost) {
      const Reference reference(x, y, stream_);
      const std::vector<double> v = wide(v_, stream_);
      const std::vector<double> u = wide(u_, stream_);
      group.check("forward, " + order, reference.product_error(v, u, rows_));
      group.check("gradients, " + order,
                  reference.gradients_error(v, u, rows_, gradients_, stream_));
    } else {
      group.check("forward, " + order, direct_product_error(x, y, v_, u_, stream_));
      group.check("gradients, " + order, direct_gradients_error(x, y, v_, u_, gradients_, stream_));
    }
  }

 private:
  const Plan<float>& plan_;
  const Array<float>& v_;
  Array<float> u_;
  GradientArrays gradients_;
  std::int64_t rows_;
  Array<unsigned char> workspace_;
  cudaStream_t stream_;
};

void sorted_order(const Bench& bench, const Inputs& in) {
  const auto n = static_cast<double>(in.n);
  const LentPlan<float> plan(in.sorted(), bench.stream);
  const Calls calls(*plan, in.v, 1, bench.stream);
  const DeviceCopy same_bytes(kForward * n, bench.stream);
  const DeviceCopy irreducible(kIrreducible * n, bench.stream);
  const ExclusiveSum sum(in.n);
  const Array<float> sums(in.n);

  Group group(bench, in.n);
  group.add("forward, sorted", kForward * n, [&] { calls.forward(); });
  group.add("copy of the same bytes", kForward * n, [&] { same_bytes.run(); });
  group.add("copy of the irreducible bytes", kIrreducible * n, [&] { irreducible.run(); });
  group.add("cub ExclusiveSum", 8 * n,
            [&] { sum.run(in.v.data(), sums.data(), in.n, bench.stream); });
  group.add("forward + gradients, sorted", 0.0, [&] {
    calls.forward();
    calls.gradients();
  });
  std::unique_ptr<Fft> fft;
  if (cufft().found()) {
    fft = std::make_unique<Fft>(in.n, bench.stream);
    group.add("cuFFT C2C", 0.0, [&] { fft->run(); });
  }
  group.run();
  group.compare("forward, sorted", "copy of the same bytes", kCopyTarget);
  group.compare("forward, sorted", "copy of the irreducible bytes");
  group.compare("forward, sorted", "cub ExclusiveSum");
  if (fft) {
    group.compare("forward, sorted", "cuFFT C2C", kFftTarget);
  }
  group.compare("forward + gradients, sorted", "forward, sorted", kGradientsTarget);
  calls.check(group, "sorted", in.sorted_x, in.sorted_y);
}

void random_order(const Bench& bench, const Inputs& in) {
  const LentPlan<float> plan(in.random(), bench.stream);
  const Calls calls(*plan, in.v, 1, bench.stream);
  const Array<float> between(in.n);
  const Array<float> out(in.n);

  Group group(bench, in.n);
  group.add("forward, random", 0.0, [&] { calls.forward(); });
  group.add("gather + scatter", 0.0, [&] {
    launch(gather_kernel, in.n, bench.stream, in.v.data(), in.order_y.data(), in.n, between.data());
    launch(scatter_kernel, in.n, bench.stream, between.data(), in.order_x.data(), in.n, out.data());
  });
  group.add("forward + gradients, random", 0.0, [&] {
    calls.forward();
    calls.gradients();
  });
  group.run();
  group.compare("forward, random", "gather + scatter");
  group.compare("forward + gradients, random", "forward, random", kGradientsTarget);
  calls.check(group, "random", in.x, in.y);
}

/// Construction and updates; both look at the anchors and wait for what they find, once.
void plans(const Bench& bench, const Inputs& in) {
  const cudaStream_t stream = bench.stream;
  LentPlan<float> fresh(in.random(), stream);
  LentPlan<float> shifted(in.random(), stream);
  LentPlan<float> stepped(in.random(), stream);
  const Array<float> shifted_x = copy_of(in.x, stream);
  const Array<float> shifted_y = copy_of(in.y, stream);
  const Array<float> stepped_x = copy_of(in.x, stream);
  const Array<float> stepped_y = copy_of(in.y, stream);
  const PairSort sort(in.n, stream);
  const Array<float> keys(in.n);
  const Array<std::uint32_t> values(in.n);

  Group group(bench, in.n);
  group.add("new plan", 0.0, [&] { fresh.build(in.random()); });
  group.add("two cub SortPairs", 0.0, [&] {
    sort.run(in.x, keys, values, stream);
    sort.run(in.y, keys, values, stream);
  });
  // Rounding keeps an order: anchors that all move by one constant stay sorted.
  group.add(
      "update, all shifted alike", 0.0, [&] { shifted.update(shifted_x.data(), shifted_y.data()); },
      [&] {
        move(shifted_x, 0, 1.0, 0.0, stream);
        move(shifted_y, 0, 1.0, 0.0, stream);
      });
  // Half of the mean distance to the next anchor: what a small step of an optimiser does.
  constexpr double kStep = 0.5 / kDensity;
  std::uint64_t seed = 100;
  group.add(
      "update, small random steps", 0.0,
      [&] { stepped.update(stepped_x.data(), stepped_y.data()); },
      [&] {
        move(stepped_x, ++seed, 0.0, kStep, stream);
        move(stepped_y, ++seed, 0.0, kStep, stream);
      });
  group.run();
  group.compare("new plan", "two cub SortPairs", kPlanTarget);
  group.compare("update, all shifted alike", "new plan");
  group.compare("update, small random steps", "new plan");
  Calls(*fresh, in.v, 1, stream).check(group, "new plan", in.x, in.y);
  Calls(*shifted, in.v, 1, stream).check(group, "all shifted alike", shifted_x, shifted_y);
  Calls(*stepped, in.v, 1, stream).check(group, "small random steps", stepped_x, stepped_y);
}

/// Values of 16 bits in double.
template <class Half>
std::vector<double> rounded(const Array<Half>& array, cudaStream_t stream) {
  return wide(converted<float>(array, stream), stream);
}

/// The other kinds of kernels and values beside the real kernel in float32, all sorted.
void kinds(const Bench& bench, const Inputs& in) {
  const cudaStream_t stream = bench.stream;
  const auto n = static_cast<double>(in.n);
  const LentPlan<float> real(in.sorted(), stream);
  Kernel<float> kernel = in.sorted();
  kernel.frequency = in.frequency.data();
  const Plan<float> oscillating = real->with_parameters(kernel);
  kernel.real_part = true;
  const Plan<float> cosine = real->with_parameters(kernel);
  const Array<double> double_x = converted<double>(in.sorted_x, stream);
  const Array<double> double_y = converted<double>(in.sorted_y, stream);
  const LentPlan<double> wider(kernel_of(double_x, double_y, in.lengthscale), stream);
  std::size_t most =
      std::max(real->gradient_workspace_bytes(1, false), wider->workspace_bytes(1, false));
  most = std::max({most, oscillating.workspace_bytes(1, false), cosine.workspace_bytes(1, false)});
  const Array<unsigned char> workspace = bytes(most);

  const Array<float> real_u(in.n);
  const Array<float> cosine_u(in.n);
  const Array<float> oscillating_u(2 * in.n);
  const Array<double> double_v = converted<double>(in.v, stream);
  const Array<double> double_u(in.n);
  const Array<__half> half_v = converted<__half>(in.v, stream);
  const Array<__half> half_u(in.n);
  const Array<__nv_bfloat16> bfloat16_v = converted<__nv_bfloat16>(in.v, stream);
  const Array<__nv_bfloat16> bfloat16_u(in.n);
  const GradientArrays gradients(in.n, 1);
  const auto apply = [&](const auto& plan, const auto& v, const auto& u, bool is_complex,
                         Storage storage) {
    plan.apply({v.data(), false, {}, storage}, 1, {u.data(), is_complex, {}, storage}, stream,
               Mode::plain, {}, lend(workspace));
  };
  constexpr Storage kFull = Storage::single_or_double;

  Group group(bench, in.n);
  group.add("forward, real", kForward * n, [&] { apply(*real, in.v, real_u, false, kFull); });
  group.add("forward, cosine", kForward * n, [&] { apply(cosine, in.v, cosine_u, false, kFull); });
  group.add("forward, oscillating", product_bytes(4, 4, 8) * n,
            [&] { apply(oscillating, in.v, oscillating_u, true, kFull); });
  group.add("forward, float64", product_bytes(8, 8, 8) * n,
            [&] { apply(*wider, double_v, double_u, false, kFull); });
  group.add("forward, half values", product_bytes(4, 2, 2) * n,
            [&] { apply(*real, half_v, half_u, false, Storage::half); });
  group.add("forward, bfloat16 values", product_bytes(4, 2, 2) * n,
            [&] { apply(*real, bfloat16_v, bfloat16_u, false, Storage::bfloat16); });
  group.add("gradients, bfloat16 values", 0.0, [&] {
    real->vjp({bfloat16_v.data(), false, {}, Storage::bfloat16},
              {bfloat16_u.data(), false, {}, Storage::bfloat16}, 1, gradients.get(), stream, {},
              lend(workspace));
  });
  group.run();
  for (const char* name :
       {"forward, cosine", "forward, oscillating", "forward, float64", "forward, half values",
        "forward, bfloat16 values", "gradients, bfloat16 values"}) {
    group.compare(name, "forward, real");
  }
  if (in.n > kMostOnHost) {
    return;
  }
  const std::vector<double> v = wide(in.v, stream);
  const Reference reference(in.sorted_x, in.sorted_y, stream);
  group.check(
      "cosine",
      Reference(in.sorted_x, in.sorted_y, true, stream).product_error(v, wide(cosine_u, stream)));
  group.check("oscillating", Reference(in.sorted_x, in.sorted_y, false, stream)
                                 .product_error(v, wide(oscillating_u, stream)));
  group.check("float64", reference.product_error(v, wide(double_u, stream)), kDoublePromise);
  group.check("half values",
              reference.product_error(rounded(half_v, stream), rounded(half_u, stream)),
              kFloatPromise + kHalfRounding);
  group.check("bfloat16 values",
              reference.product_error(rounded(bfloat16_v, stream), rounded(bfloat16_u, stream)),
              kFloatPromise + kBfloat16Rounding);
  group.check("gradients, bfloat16 values",
              reference.gradients_error(rounded(bfloat16_v, stream), rounded(bfloat16_u, stream), 1,
                                        gradients, stream));
}

constexpr std::int64_t kLayer = 4096;
constexpr std::int64_t kRows = 256;

/// Many rows on few anchors, as in a layer of a network.
void batch(const Bench& bench) {
  const Inputs in(kLayer, kRows, bench.stream);
  const LentPlan<float> sorted(in.sorted(), bench.stream);
  const LentPlan<float> random(in.random(), bench.stream);
  const Calls sorted_calls(*sorted, in.v, kRows, bench.stream);
  const Calls random_calls(*random, in.v, kRows, bench.stream);
  // Values are read and results written; the anchors are the same for all rows.
  constexpr double kBytes = 8.0 * kRows * kLayer;
  const DeviceCopy copy(kBytes, bench.stream);
  const DeviceCopy half_copy(kBytes / 2, bench.stream);
  const Array<__nv_bfloat16> half_v = converted<__nv_bfloat16>(in.v, bench.stream);
  const Array<__nv_bfloat16> half_u(in.v.size());
  const Array<unsigned char> workspace = bytes(random->workspace_bytes(kRows, false));
  const Strides strides{in.v.size(), in.n};

  Group group(bench, in.n);
  group.add("forward, 256 rows, sorted", kBytes, [&] { sorted_calls.forward(); });
  group.add("forward, 256 rows, random", kBytes, [&] { random_calls.forward(); });
  group.add("copy of 256 rows", kBytes, [&] { copy.run(); });
  group.add("forward, 256 rows, random, bfloat16 values", kBytes / 2, [&] {
    random->apply({half_v.data(), false, strides, Storage::bfloat16}, kRows,
                  {half_u.data(), false, strides, Storage::bfloat16}, bench.stream, Mode::plain, {},
                  lend(workspace));
  });
  group.add("copy of 256 rows of bfloat16", kBytes / 2, [&] { half_copy.run(); });
  group.add("forward + gradients, 256 rows, random", 0.0, [&] {
    random_calls.forward();
    random_calls.gradients();
  });
  group.run();
  group.compare("forward, 256 rows, sorted", "copy of 256 rows", kBatchTarget);
  group.compare("forward, 256 rows, random", "copy of 256 rows", kBatchTarget);
  group.compare("forward, 256 rows, random, bfloat16 values", "copy of 256 rows of bfloat16");
  group.compare("forward + gradients, 256 rows, random", "forward, 256 rows, random");
  sorted_calls.check(group, "256 rows, sorted", in.sorted_x, in.sorted_y);
  random_calls.check(group, "256 rows, random", in.x, in.y);
  group.check(
      "forward, 256 rows, bfloat16 values",
      Reference(in.x, in.y, bench.stream)
          .product_error(rounded(half_v, bench.stream), rounded(half_u, bench.stream), kRows),
      kFloatPromise + kBfloat16Rounding);
}

/// What a call records, to be replayed.
class Graph {
 public:
  template <class F>
  Graph(const F& call, cudaStream_t stream) : stream_(stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    call();
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream, &graph));
    const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
    static_cast<void>(cudaGraphDestroy(graph));
    check(status);
  }
  ~Graph() { static_cast<void>(cudaGraphExecDestroy(graph_)); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void replay() const { check(cudaGraphLaunch(graph_, stream_)); }

 private:
  cudaGraphExec_t graph_ = nullptr;
  cudaStream_t stream_;
};

/// One short product by itself, where launching is most of the time.
void graph(const Bench& bench) {
  const Inputs in(kLayer, 1, bench.stream);
  const LentPlan<float> plan(in.random(), bench.stream);
  const Array<float> u(in.n);
  const Array<unsigned char> workspace = bytes(plan->workspace_bytes(1, false));
  const auto forward = [&] {
    plan->apply({in.v.data(), false, {}}, 1, {u.data(), false, {}}, bench.stream, Mode::plain, {},
                lend(workspace));
  };
  forward();  // loads the kernel
  const Graph captured(forward, bench.stream);

  Group group(bench, in.n);
  group.add("forward, launched", 0.0, forward);
  group.add("forward, replayed from a graph", 0.0, [&] { captured.replay(); });
  group.run();
  group.compare("forward, replayed from a graph", "forward, launched");
  check(cudaMemsetAsync(u.data(), 0xFF, u.bytes(), bench.stream));  // NaNs
  captured.replay();
  group.check("forward, replayed from a graph",
              Reference(in.x, in.y, bench.stream)
                  .product_error(wide(in.v, bench.stream), wide(u, bench.stream)));
}

double free_bytes() {
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total));
  return static_cast<double>(free);
}

/// A billion anchors a side in random order, in one card's memory. The product is its own
/// cotangent.
void huge(const Bench& bench, std::int64_t n) {
  const cudaStream_t stream = bench.stream;
  const double free_before = free_bytes();
  const std::size_t storage_size = Plan<float>::storage_bytes(1, n, n, false);
  const std::size_t scratch_size = Plan<float>::scratch_bytes(1, n, n, false);
  // Anchors, values, result and three arrays of gradients, of 4 bytes each. The gradients'
  // workspace, known once there is a plan, is a sorted copy of values and of cotangents, and a
  // little.
  constexpr double kArrays = 7 * 4;
  constexpr double kWorkspace = 2 * 4 * 1.1;
  const double needed =
      kArrays * static_cast<double>(n) + static_cast<double>(storage_size) +
      std::max(static_cast<double>(scratch_size), kWorkspace * static_cast<double>(n));
  if (needed > free_before) {
    bench.results.note("n = " + size_text(n) + " takes " + digits(needed * 1e-9) +
                       " GB of device memory, of which " + digits(free_before * 1e-9) +
                       " GB are free: not measured.");
    return;
  }
  const double range = static_cast<double>(n) / kDensity;
  const Array<float> x = uniform_array(n, 1, 0.0, range, stream);
  const Array<float> y = uniform_array(n, 2, 0.0, range, stream);
  const Array<float> v = uniform_array(n, 3, -1.0, 1.0, stream);
  const Array<double> lengthscale = scalar(1.0, stream);
  const Array<float> u(n);
  const GradientArrays gradients(n, 1);
  const Array<unsigned char> storage = bytes(storage_size);
  const Kernel<float> kernel = kernel_of(x, y, lengthscale);
  // One piece of memory is the scratch of plans and the workspace of calls: they take turns.
  auto shared = std::make_unique<Array<unsigned char>>(bytes(scratch_size));
  Plan<float> plan(kernel, stream, lend(storage), lend(*shared));
  const std::size_t workspace =
      std::max(plan.workspace_bytes(1, false), plan.gradient_workspace_bytes(1, false));
  if (workspace > scratch_size) {
    shared.reset();
    shared = std::make_unique<Array<unsigned char>>(bytes(workspace));
  }
  const Memory lent = lend(*shared);
  const auto forward = [&] {
    plan.apply(contiguous(v, n), 1, contiguous_result(u, n), stream, Mode::plain, {}, lent);
  };
  const auto vjp = [&] {
    plan.vjp(contiguous(v, n), contiguous(u, n), 1, gradients.get(), stream, {}, lent);
  };
  const auto update = [&] { plan.update(x.data(), y.data(), stream, lent); };

  constexpr int kMostRepetitions = 5;
  Group group(bench, n);
  group.add("new plan", 0.0, [&] { plan = Plan<float>(kernel, stream, lend(storage), lent); });
  group.add("forward, random", 0.0, forward);
  group.add("gradients, random", 0.0, vjp);
  group.add("update, all shifted alike", 0.0, update, [&] {
    move(x, 0, 1.0, 0.0, stream);
    move(y, 0, 1.0, 0.0, stream);
  });
  group.run(std::min(bench.options.repetitions, kMostRepetitions));
  bench.results.add(MemoryUse{n, free_before - free_bytes(), static_cast<double>(plan.nbytes())});
  forward();
  vjp();
  group.check("forward, all shifted alike", direct_product_error(x, y, v, u, stream));
  group.check("gradients, all shifted alike",
              direct_gradients_error(x, y, v, u, gradients, stream));
}

/// One call of everything, between cudaProfilerStart and cudaProfilerStop for
/// ncu --profile-from-start off: products and gradients of both orders, of a line and of a batch,
/// and a plan.
void profile(const Bench& bench, std::int64_t n) {
  const auto calls_of = [&](const Kernel<float>& kernel, const Array<float>& v, std::int64_t rows) {
    LentPlan<float> plan(kernel, bench.stream);
    const Calls calls(*plan, v, rows, bench.stream);
    calls.forward();
    check(cudaStreamSynchronize(bench.stream));
    check(cudaProfilerStart());
    calls.forward();
    calls.gradients();
    if (rows == 1) {
      plan.build(kernel);
    }
    check(cudaStreamSynchronize(bench.stream));
    check(cudaProfilerStop());
  };
  const Inputs line(n, 1, bench.stream);
  calls_of(line.sorted(), line.v, 1);
  calls_of(line.random(), line.v, 1);
  const Inputs layer(kLayer, kRows, bench.stream);
  calls_of(layer.random(), layer.v, kRows);
}

/// Runs one part; a card with too little memory for it is no error.
template <class F>
void part(const Bench& bench, const std::string& what, const F& run) {
  try {
    run();
  } catch (const Error& error) {
    if (error.code() != ErrorCode::out_of_memory) {
      throw;
    }
    bench.results.note(what + " takes more memory than is free on this device: not measured.");
  }
}

/// Lines of n targets and n sources.
void lines(const Bench& bench, std::int64_t n) {
  part(bench, "n = " + size_text(n), [&] {
    const Inputs in(n, 1, bench.stream);
    sorted_order(bench, in);
    random_order(bench, in);
    plans(bench, in);
    kinds(bench, in);
  });
}

void measure_all(const Bench& bench) {
  for (const std::string& each : bench.options.parts) {
    if (each == "batch") {
      part(bench, "A batch", [&] { batch(bench); });
    } else if (each == "graph") {
      part(bench, "A graph", [&] { graph(bench); });
    } else if (each == "huge") {
      constexpr std::int64_t kHuge = 1000000000;
      part(bench, "n = 1e+09", [&] { huge(bench, kHuge); });
    } else if (each == "profile") {
      for (const std::int64_t n : bench.options.sizes) {
        profile(bench, n);
      }
    } else {
      if (!cufft().found()) {
        bench.results.note("There is no cuFFT library here: not compared with it.");
      }
      for (const std::int64_t n : bench.options.sizes) {
        lines(bench, n);
      }
    }
  }
}

// --- command line --------------------------------------------------------------------------------

constexpr const char* kUsage =
    "usage: laplex_cuda_bench [options]\n"
    "  --parts LIST         what to measure, in this order, separated by commas (default:\n"
    "                       batch,graph,lines):\n"
    "                         batch    256 rows of 4096 anchors\n"
    "                         graph    a short product, launched and replayed from a CUDA graph\n"
    "                         lines    products, gradients, plans and updates of --sizes\n"
    "                         huge     forward, gradients and update of 1e9 anchors a side\n"
    "                         profile  one call of each, to be profiled by ncu\n"
    "  --sizes LIST         comma-separated numbers of targets and of sources to measure\n"
    "                       (default: 1e6,1e7,1e8)\n"
    "  --repetitions N      samples of each task (default: 20)\n"
    "  --device N           the number of the GPU to use (default: 0)\n"
    "  --json FILE          add the results to FILE, each as it is measured, as a line of JSON\n"
    "  --driver RELEASE     record this release of the driver, as nvidia-smi prints it\n"
    "  --commit HASH        record this commit with the results (default: unknown)\n"
    "  --help               show this help\n"
    "The exit status is 1 if a result is wrong, and 2 if there are no results.\n";

[[noreturn]] void stop(const std::string& message) {
  std::fprintf(stderr, "laplex_cuda_bench: %s\n%s", message.c_str(), kUsage);
  std::exit(2);
}

std::int64_t whole(const std::string& text, double least, double most) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value >= least) || value > most ||
      value != std::floor(value)) {
    stop("\"" + text + "\" is not a whole number from " + digits(least) + " to " + digits(most));
  }
  return static_cast<std::int64_t>(value);
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> pieces;
  for (std::size_t from = 0; from <= text.size();) {
    const std::size_t comma = std::min(text.find(',', from), text.size());
    pieces.push_back(text.substr(from, comma - from));
    from = comma + 1;
  }
  return pieces;
}

std::vector<std::int64_t> sizes_of(const std::string& text) {
  constexpr double kMost = 2e9;  // cuFFT counts in int
  std::vector<std::int64_t> sizes;
  for (const std::string& each : split(text)) {
    sizes.push_back(whole(each, 1, kMost));
  }
  return sizes;
}

std::vector<std::string> parts_of(const std::string& text) {
  std::vector<std::string> parts = split(text);
  for (const std::string& each : parts) {
    if (each != "batch" && each != "graph" && each != "lines" && each != "huge" &&
        each != "profile") {
      stop("\"" + each + "\" is not a part: batch, graph, lines, huge or profile");
    }
  }
  return parts;
}

Options options_of(int argc, char** argv) {
  Options options;
  options.parts = {"batch", "graph", "lines"};
  options.sizes = {1000000, 10000000, 100000000};
  for (int k = 1; k < argc; ++k) {
    const std::string name = argv[k];
    const auto value = [&]() -> std::string {
      if (++k == argc) {
        stop(name + " needs a value");
      }
      return argv[k];
    };
    if (name == "--help") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    } else if (name == "--parts") {
      options.parts = parts_of(value());
    } else if (name == "--sizes") {
      options.sizes = sizes_of(value());
    } else if (name == "--repetitions") {
      options.repetitions = static_cast<int>(whole(value(), 1, 1e4));
    } else if (name == "--device") {
      options.device = static_cast<int>(whole(value(), 0, 1e3));
    } else if (name == "--json") {
      options.json = value();
    } else if (name == "--driver") {
      options.driver = value();
    } else if (name == "--commit") {
      options.commit = value();
    } else {
      stop(name + " is not an option");
    }
  }
  return options;
}

/// 13000 is 13.0.
std::string version(int number) {
  return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

/// Of the compiler that this was built with.
std::string nvcc_version() {
  return std::to_string(__CUDACC_VER_MAJOR__) + "." + std::to_string(__CUDACC_VER_MINOR__) + "." +
         std::to_string(__CUDACC_VER_BUILD__);
}

Machine machine_of(const Options& options) {
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, options.device));
  char date[32] = "";
  const std::time_t now = std::time(nullptr);
  std::strftime(date, sizeof(date), "%Y-%m-%d", std::localtime(&now));
  return {properties.name,
          std::to_string(properties.major) + "." + std::to_string(properties.minor),
          static_cast<double>(properties.totalGlobalMem),
          static_cast<double>(properties.l2CacheSize),
          properties.multiProcessorCount,
          options.driver + (options.driver.empty() ? "" : ", ") + "for CUDA up to " +
              version(laplex::cuda::driver_version()),
          version(laplex::cuda::runtime_version()),
          nvcc_version(),
          options.commit,
          date};
}

int run(const Options& options) {
  laplex::cuda::require_device();
  check(cudaSetDevice(options.device));
  Results results(options.json, machine_of(options));
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  measure_all(Bench{options, stream, results});
  check(cudaStreamDestroy(stream));
  if (!results.all_right()) {
    std::fprintf(stderr, "laplex_cuda_bench: results are wrong, see above\n");
    return 1;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = options_of(argc, argv);
  try {
    return run(options);
  } catch (const Error& error) {
    std::fprintf(stderr, "laplex_cuda_bench: %s\n", error.what());
    return 2;
  }
}
