// The operator beside what bounds it from below: copies, gathers and sorts of the same bytes, and
// the loop one would write without it. One thread unless said; float32 unless said; anchors uniform
// on [0, 1], lengthscale 0.1. Interleave and repeat: --benchmark_enable_random_interleaving=true
// --benchmark_repetitions=15; read the minima and their ratios, not the seconds.
#include <laplex/laplex.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

namespace {

using laplex::Gradients;
using laplex::Kernel;
using laplex::Mode;
using laplex::Parity;
using laplex::Plan;
using laplex::Profile;
using laplex::Strides;
using laplex::Term;

constexpr double kLengthscale = 0.1;

/// The lengthscale of a sparse line, in units of the mean gap between neighbours among all anchors.
/// A cell is at most 8 lengthscales wide, so 92% of the gaps separate two cells.
constexpr double kSparse = 0.01;

enum class Order { random, sorted };

/// The term whose kernel is multiplied by that power of the distance in lengthscales.
Term moment(int power, Parity parity = Parity::even) {
  Term term{parity, {}};
  term.polynomial.at(static_cast<std::size_t>(power)) = 1.0;
  return term;
}

/// What a product is made with.
struct Case {
  Order order = Order::random;
  bool cosine = false;
  bool sparse = false;
  int threads = 1;
  Term term = {};
  Profile profile = Profile::matern12;
};

/// The inputs of one size and precision, shared by all benchmarks so that they run on the same.
template <class T>
struct Inputs {
  std::int64_t n;
  std::vector<T> x, y, sorted_x, sorted_y, moved_x, moved_y, phase_x, phase_y, v, u;
  std::vector<std::uint32_t> from, to;
  double sparse_lengthscale;

  explicit Inputs(std::int64_t size)
      : n(size), sparse_lengthscale(kSparse / (2.0 * static_cast<double>(size))) {
    const auto count = static_cast<std::size_t>(n);
    std::mt19937_64 random(1);
    std::uniform_real_distribution<T> uniform;
    std::normal_distribution<double> normal;
    for (auto* array : {&x, &y, &phase_x, &phase_y}) {
      array->resize(count);
      std::generate(array->begin(), array->end(), [&] { return uniform(random); });
    }
    sorted_x = x;
    sorted_y = y;
    std::sort(sorted_x.begin(), sorted_x.end());
    std::sort(sorted_y.begin(), sorted_y.end());
    // Half of the distance to the next anchor: what a small step of an optimiser does.
    const double step = 0.5 / static_cast<double>(n);
    moved_x = x;
    moved_y = y;
    for (auto* array : {&moved_x, &moved_y}) {
      for (T& z : *array) {
        z += static_cast<T>(step * normal(random));
      }
    }
    v.resize(count);
    std::generate(v.begin(), v.end(), [&] { return static_cast<T>(normal(random)); });
    u.assign(count, T(0));
    for (auto* index : {&from, &to}) {
      index->resize(count);
      std::iota(index->begin(), index->end(), 0U);
      std::shuffle(index->begin(), index->end(), random);
    }
  }

  [[nodiscard]] Kernel<T> kernel(const Case& c) const {
    Kernel<T> k;
    k.num_targets = k.num_sources = n;
    k.targets = c.order == Order::sorted ? sorted_x.data() : x.data();
    k.sources = c.order == Order::sorted ? sorted_y.data() : y.data();
    k.lengthscale = c.sparse ? &sparse_lengthscale : &kLengthscale;
    if (c.cosine) {
      k.target_phase = phase_x.data();
      k.source_phase = phase_y.data();
      k.real_part = true;
    }
    k.profile = c.profile;
    k.num_threads = c.threads;
    return k;
  }
};

/// One size at a time: the inputs of 10^7 anchors take a gigabyte.
template <class T>
Inputs<T>& inputs(std::int64_t n) {
  static std::map<std::int64_t, std::unique_ptr<Inputs<T>>> all;
  auto& entry = all[n];
  if (!entry) {
    entry = std::make_unique<Inputs<T>>(n);
  }
  return *entry;
}

void memcpy_28(benchmark::State& state) {
  const auto bytes = static_cast<std::size_t>(28 * state.range(0));
  std::vector<char> from(bytes, 1);
  std::vector<char> to(bytes, 2);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), bytes);
    benchmark::ClobberMemory();
  }
}

void gather_scatter(benchmark::State& state) {
  Inputs<float>& in = inputs<float>(state.range(0));
  std::vector<float> out(in.v.size());
  for (auto _ : state) {
    for (std::size_t k = 0; k < in.v.size(); ++k) {
      out[in.to[k]] = in.v[in.from[k]];
    }
    benchmark::ClobberMemory();
  }
}

/// The least-significant-digit radix sort of 2n (key, index) pairs that a plan contains at least.
void radix_sort(benchmark::State& state) {
  struct Pair {
    std::uint32_t key, index;
  };
  constexpr int kBits = 11;
  constexpr std::size_t kValues = 1U << kBits;
  Inputs<float>& in = inputs<float>(state.range(0));
  const std::size_t count = 2 * in.x.size();
  std::vector<Pair> a(count);
  std::vector<Pair> b(count);
  for (auto _ : state) {
    std::array<std::array<std::uint32_t, kValues>, 3> counts{};
    for (std::size_t k = 0; k < count; ++k) {
      const float z = k < in.x.size() ? in.x[k] : in.y[k - in.x.size()];
      std::memcpy(&a[k].key, &z, sizeof(z));  // positive floats sort as integers
      a[k].index = static_cast<std::uint32_t>(k);
      for (std::size_t d = 0; d < 3; ++d) {
        ++counts[d][(a[k].key >> (kBits * d)) & (kValues - 1)];
      }
    }
    for (std::size_t d = 0; d < 3; ++d) {
      std::uint32_t start = 0;
      for (std::uint32_t& c : counts[d]) {
        start += std::exchange(c, start);
      }
      for (const Pair& pair : a) {
        b[counts[d][(pair.key >> (kBits * d)) & (kValues - 1)]++] = pair;
      }
      a.swap(b);
    }
    benchmark::DoNotOptimize(a.data());
  }
}

/// What one would write: a loop over sorted anchors with one exponential a step, both ways.
void scalar_loop(benchmark::State& state) {
  Inputs<float>& in = inputs<float>(state.range(0));
  const std::size_t n = in.sorted_x.size();
  for (auto _ : state) {
    const auto half = [&](auto place, bool ties) {
      float sum = 0.0F;
      std::size_t k = 0;
      float last = 0.0F;
      for (std::size_t i = 0; i < n; ++i) {
        const float x = in.sorted_x[place(i)];
        while (k < n) {
          const float y = in.sorted_y[place(k)];
          const bool before = place(0) == 0 ? y < x : y > x;
          if (!before && !(ties && y == x)) {
            break;
          }
          sum = sum * std::exp(-std::fabs(y - last) / static_cast<float>(kLengthscale)) +
                in.v[place(k)];
          last = y;
          ++k;
        }
        const float here =
            k > 0 ? sum * std::exp(-std::fabs(x - last) / static_cast<float>(kLengthscale)) : 0.0F;
        in.u[place(i)] = ties ? here : in.u[place(i)] + here;
      }
    };
    half([](std::size_t k) { return k; }, true);
    half([n](std::size_t k) { return n - 1 - k; }, false);
    benchmark::ClobberMemory();
  }
}

/// A plan in use: from the third product on, large ones have a permutation of their own.
constexpr int kWarmUp = 3;

template <class T>
void forward(benchmark::State& state, const Case& c) {
  Inputs<T>& in = inputs<T>(state.range(0));
  const Plan<T> plan(in.kernel(c));
  const auto product = [&] {
    plan.apply(in.v.data(), in.u.data(), 1, Strides{}, Strides{}, Mode::plain, c.term);
  };
  for (int k = 0; k < kWarmUp; ++k) {
    product();
  }
  for (auto _ : state) {
    product();
    benchmark::ClobberMemory();
  }
}

/// Room for the gradients by values, both anchors and the lengthscale.
template <class T>
class AllGradients {
 public:
  AllGradients(std::size_t values, std::size_t anchors)
      : values_(values), targets_(anchors), sources_(anchors) {}

  [[nodiscard]] Gradients<T, T> get() {
    Gradients<T, T> gradients;
    gradients.values = values_.data();
    gradients.targets = targets_.data();
    gradients.sources = sources_.data();
    gradients.lengthscale = &lengthscale_;
    return gradients;
  }

 private:
  std::vector<T> values_;
  std::vector<T> targets_;
  std::vector<T> sources_;
  double lengthscale_ = 0.0;
};

/// A forward product and its gradients.
template <class T>
void forward_and_gradients(benchmark::State& state, Order order) {
  Inputs<T>& in = inputs<T>(state.range(0));
  const Plan<T> plan(in.kernel({order}));
  AllGradients<T> gradients(in.v.size(), in.x.size());
  for (int k = 0; k < kWarmUp; ++k) {
    plan.apply(in.v.data(), in.u.data());
  }
  for (auto _ : state) {
    plan.apply(in.v.data(), in.u.data());
    plan.vjp(in.v.data(), Strides{}, in.u.data(), Strides{}, 1, gradients.get());
    benchmark::ClobberMemory();
  }
}

template <class T>
void new_plan(benchmark::State& state, Order order) {
  Inputs<T>& in = inputs<T>(state.range(0));
  for (auto _ : state) {
    const Plan<T> plan(in.kernel({order}));
    benchmark::ClobberMemory();
  }
}

template <class T>
void update(benchmark::State& state) {
  Inputs<T>& in = inputs<T>(state.range(0));
  Plan<T> plan(in.kernel({Order::random}));
  bool there = false;
  for (auto _ : state) {
    there = !there;
    plan.update(there ? in.moved_x.data() : in.x.data(), there ? in.moved_y.data() : in.y.data());
    benchmark::ClobberMemory();
  }
}

constexpr std::int64_t kRows = 64;

void memcpy_rows(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(kRows * state.range(0));
  std::vector<float> from(count, 1.0F);
  std::vector<float> to(count, 2.0F);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), count * sizeof(float));
    benchmark::ClobberMemory();
  }
}

void forward_rows(benchmark::State& state, Order order) {
  Inputs<float>& in = inputs<float>(state.range(0));
  const Plan<float> plan(in.kernel({order}));
  std::vector<float> v(static_cast<std::size_t>(kRows * in.n), 1.0F);
  std::vector<float> u(v.size());
  for (auto _ : state) {
    plan.apply(v.data(), u.data(), kRows);
    benchmark::ClobberMemory();
  }
}

void forward_and_gradients_rows(benchmark::State& state) {
  Inputs<float>& in = inputs<float>(state.range(0));
  const Plan<float> plan(in.kernel({Order::random}));
  std::vector<float> v(static_cast<std::size_t>(kRows * in.n), 1.0F);
  std::vector<float> u(v.size());
  AllGradients<float> gradients(v.size(), in.x.size());
  const Strides strides{0, in.n};
  for (auto _ : state) {
    plan.apply(v.data(), u.data(), kRows);
    plan.vjp(v.data(), strides, u.data(), strides, kRows, gradients.get());
    benchmark::ClobberMemory();
  }
}

template <class F>
void add(const std::string& name, std::int64_t n, const F& body, bool wall = false) {
  auto* benchmark = benchmark::RegisterBenchmark((name).c_str(), body)->Arg(n);
  benchmark->MinTime(0.02)->ReportAggregatesOnly()->ComputeStatistics(
      "min", [](const std::vector<double>& v) { return *std::min_element(v.begin(), v.end()); });
  if (wall) {
    benchmark->UseRealTime();
  } else {
    benchmark->MeasureProcessCPUTime();
  }
}

void add_size(std::int64_t n) {
  add("memcpy 28n", n, memcpy_28);
  add("gather + scatter", n, gather_scatter);
  add("radix sort of 2n", n, radix_sort);
  add("scalar loop, sorted", n, scalar_loop);
  const auto with = [n](const std::string& name, auto body, auto... arguments) {
    add(name, n, [=](benchmark::State& state) { body(state, arguments...); });
  };
  Case sorted;
  sorted.order = Order::sorted;
  Case cosine;
  cosine.cosine = true;
  with("forward, sorted", forward<float>, sorted);
  with("forward, random", forward<float>, Case{});
  with("forward, cosine", forward<float>, cosine);
  with("forward, sorted, f64", forward<double>, sorted);
  with("forward, random, f64", forward<double>, Case{});
  for (Case c : {Case{}, sorted}) {
    const std::string order = c.order == Order::sorted ? ", sorted" : ", random";
    for (int power = 1; power <= 4; ++power) {
      c.term = moment(power);
      with("forward, moment " + std::to_string(power) + order, forward<float>, c);
    }
    c.term = moment(0, Parity::odd);
    with("forward, odd moment 0" + order, forward<float>, c);
    c.term = {};
    c.profile = Profile::matern32;
    with("forward, matern32" + order, forward<float>, c);
    c.profile = Profile::matern52;
    with("forward, matern52" + order, forward<float>, c);
    c.profile = Profile::matern12;
    c.sparse = true;
    with("forward, sparse" + order, forward<float>, c);
  }
  with("forward + gradients, sorted", forward_and_gradients<float>, Order::sorted);
  with("forward + gradients, random", forward_and_gradients<float>, Order::random);
  with("new plan", new_plan<float>, Order::random);
  with("new plan, sorted", new_plan<float>, Order::sorted);
  with("new plan, f64", new_plan<double>, Order::random);
  with("update, small step", update<float>);
  if (n >= 1000000) {
    for (const int threads : {1, 2}) {
      Case c;
      c.threads = threads;
      add(
          "forward, random, wall, threads " + std::to_string(threads), n,
          [=](benchmark::State& state) { forward<float>(state, c); }, true);
    }
  }
  if (n <= 100000) {
    add("memcpy of 64 rows", n, memcpy_rows);
    with("forward, 64 rows", forward_rows, Order::random);
    with("forward, 64 rows, sorted", forward_rows, Order::sorted);
    add("forward + gradients, 64 rows", n, forward_and_gradients_rows);
  }
}

}  // namespace

int main(int argc, char** argv) {
  // Sizes first: laplex_bench 1000 100000 [--benchmark_...]
  std::vector<std::int64_t> sizes;
  int kept = 1;
  for (int k = 1; k < argc; ++k) {
    if (argv[k][0] == '-') {
      argv[kept++] = argv[k];
    } else {
      sizes.push_back(std::strtoll(argv[k], nullptr, 10));
    }
  }
  argc = kept;
  if (sizes.empty()) {
    sizes = {1000, 10000, 100000, 1000000, 10000000};
  }
  if (*std::min_element(sizes.begin(), sizes.end()) < 1) {
    std::fprintf(stderr,
                 "usage: laplex_bench [SIZE ...] [--benchmark_...]\nSIZE is the number of targets "
                 "and of sources, an integer of at least 1.\n");
    return 1;
  }
  benchmark::AddCustomContext("instruction set", laplex::name_of(laplex::instruction_set()));
  for (const std::int64_t n : sizes) {
    add_size(n);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) {
    return 1;
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
