// A line that several processes share: whatever their number, results have the bits of one plan.
// The processes are threads here, and their messages go through a barrier.
#include "cases.hpp"
#include "exact_sum.hpp"
#include "expect_error.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <thread>

namespace laplex::tests {
namespace {

/// Gathers numbers of threads.
class Exchange {
 public:
  explicit Exchange(int size) : parts_(static_cast<std::size_t>(size)) {}

  void gather(int rank, const double* mine, const std::int64_t* counts, double* all) {
    const auto at = static_cast<std::size_t>(rank);
    parts_[at].assign(mine, mine + counts[rank]);
    wait();
    for (std::size_t r = 0; r < parts_.size(); ++r) {
      EXPECT_EQ(static_cast<std::int64_t>(parts_[r].size()), counts[r]);
      all = std::copy(parts_[r].begin(), parts_[r].end(), all);
    }
    wait();
  }

 private:
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    const std::int64_t round = round_;
    if (++waiting_ == parts_.size()) {
      waiting_ = 0;
      ++round_;
      all_here_.notify_all();
    } else {
      all_here_.wait(lock, [&] { return round_ != round; });
    }
  }

  std::mutex mutex_;
  std::condition_variable all_here_;
  std::size_t waiting_ = 0;
  std::int64_t round_ = 0;
  std::vector<std::vector<double>> parts_;
};

/// Anchors in ascending order with their values: what a part of a line is cut from.
template <class T>
struct WholeLine {
  Form form;
  Profile profile = Profile::matern12;
  Side side = Side::both;
  Term term;
  bool self = false;
  std::vector<T> x, y, theta, phi;
  double lengthscale = 1.0;
  double frequency = 0.0;
  std::int64_t rows = 1;

  [[nodiscard]] std::vector<T> merged() const {
    std::vector<T> all(x);
    if (!self) {
      all.insert(all.end(), y.begin(), y.end());
    }
    std::sort(all.begin(), all.end());
    return all;
  }
  [[nodiscard]] bool oscillates() const { return form == Form::oscillating; }
  [[nodiscard]] bool phased() const { return form == Form::carrier; }
};

struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  [[nodiscard]] std::int64_t count() const { return end - begin; }
};

/// What a plan over targets and sources in these ranges gives.
template <class T>
struct Results {
  using C = std::complex<T>;
  std::vector<C> product, adjoint, values;
  std::vector<T> x, y, theta, phi;
  std::vector<double> scalars;
};

template <class T>
Results<T> results_of(const WholeLine<T>& line, const std::vector<std::complex<T>>& v,
                      const std::vector<std::complex<T>>& g, Range at, Range from,
                      const std::shared_ptr<const LinePart>& part) {
  using C = std::complex<T>;
  const auto part_of = [](const auto& all, Range range) {
    return all.empty()
               ? all
               : std::decay_t<decltype(all)>(all.begin() + range.begin, all.begin() + range.end);
  };
  const auto rows_of = [&](const std::vector<C>& all, Range range) {
    const std::int64_t count = static_cast<std::int64_t>(all.size()) / line.rows;
    std::vector<C> rows;
    for (std::int64_t r = 0; r < line.rows; ++r) {
      rows.insert(rows.end(), all.begin() + r * count + range.begin,
                  all.begin() + r * count + range.end);
    }
    return rows;
  };
  // One more entry, so that no pointer is null.
  auto x = part_of(line.x, at);
  auto y = part_of(line.y, from);
  auto theta = part_of(line.theta, at);
  auto phi = part_of(line.phi, from);
  auto mine = rows_of(v, from);
  auto cotangent = rows_of(g, at);
  for (auto* array : {&x, &y, &theta, &phi}) {
    array->push_back(T(0));
  }
  Kernel<T> kernel;
  kernel.num_targets = at.count();
  kernel.num_sources = from.count();
  kernel.targets = x.data();
  kernel.sources = line.self ? nullptr : y.data();
  kernel.lengthscale = &line.lengthscale;
  kernel.frequency = line.oscillates() ? &line.frequency : nullptr;
  kernel.target_phase = line.phased() ? theta.data() : nullptr;
  kernel.source_phase = line.phased() ? phi.data() : nullptr;
  kernel.profile = line.profile;
  kernel.side = line.side;
  kernel.num_threads = 1;
  kernel.part = part;
  const Plan<T> plan(kernel);

  Results<T> r;
  const auto n = static_cast<std::size_t>(at.count());
  const auto m = static_cast<std::size_t>(from.count());
  r.product.resize(cotangent.size());
  r.adjoint.resize(mine.size());
  r.values.resize(mine.size());
  r.x.resize(n);
  r.y.resize(m);
  r.theta.resize(n);
  r.phi.resize(m);
  r.scalars.resize(2);
  const Strides of_sources{line.rows * from.count(), from.count()};
  const Strides of_targets{line.rows * at.count(), at.count()};
  plan.apply(mine.data(), r.product.data(), line.rows, of_sources, of_targets, Mode::plain,
             line.term);
  plan.apply(cotangent.data(), r.adjoint.data(), line.rows, of_targets, of_sources, Mode::adjoint,
             line.term);
  Gradients<T, C> gradients;
  gradients.values = r.values.data();
  gradients.targets = r.x.data();
  gradients.sources = r.y.data();
  gradients.lengthscale = r.scalars.data();
  gradients.frequency = line.oscillates() ? r.scalars.data() + 1 : nullptr;
  gradients.target_phase = line.phased() ? r.theta.data() : nullptr;
  gradients.source_phase = line.phased() ? r.phi.data() : nullptr;
  plan.vjp(mine.data(), of_sources, cotangent.data(), of_targets, line.rows, gradients, line.term);
  return r;
}

/// The parts of a line, cut at multiples of a segment and never within a tie.
template <class T>
void expect_same_bits(const WholeLine<T>& line, int processes, const std::string& what) {
  using C = std::complex<T>;
  const auto n = static_cast<std::int64_t>(line.x.size());
  const auto m = line.self ? n : static_cast<std::int64_t>(line.y.size());
  const auto v = draw_values<C>(line.rows * m, 1);
  const auto g = draw_values<C>(line.rows * n, 2);
  const Results<T> whole = results_of(line, v, g, {0, n}, {0, m}, nullptr);

  const std::vector<T> all = line.merged();
  const auto total = static_cast<std::int64_t>(all.size());
  std::vector<std::int64_t> cuts{0};
  for (int r = 1; r < processes; ++r) {
    const std::int64_t segments = (total + LinePart::segment - 1) / LinePart::segment;
    std::int64_t cut = std::min(total, segments * r / processes * LinePart::segment);
    while (cut > 0 && cut < total &&
           all[static_cast<std::size_t>(cut)] == all[static_cast<std::size_t>(cut - 1)]) {
      ++cut;
    }
    cuts.push_back(std::max(cut, cuts.back()));
  }
  cuts.push_back(total);
  const auto range_of = [&](const std::vector<T>& side, std::size_t r) {
    const auto place = [&](std::int64_t cut) {
      return cut == total
                 ? static_cast<std::int64_t>(side.size())
                 : std::lower_bound(side.begin(), side.end(), all[static_cast<std::size_t>(cut)]) -
                       side.begin();
    };
    return Range{place(cuts[r]), place(cuts[r + 1])};
  };

  Exchange exchange(processes);
  std::vector<Results<T>> parts(static_cast<std::size_t>(processes));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < processes; ++rank) {
    threads.emplace_back([&, rank] {
      const auto r = static_cast<std::size_t>(rank);
      auto part = std::make_shared<LinePart>();
      part->rank = rank;
      part->size = processes;
      part->offset = cuts[r];
      part->total = total;
      part->has_next = cuts[r + 1] < total;
      part->next =
          part->has_next ? static_cast<double>(all[static_cast<std::size_t>(cuts[r + 1])]) : 0.0;
      part->gather = [&exchange, rank](const double* mine, const std::int64_t* counts,
                                       double* everyone) {
        exchange.gather(rank, mine, counts, everyone);
      };
      const Range at = range_of(line.x, r);
      parts[r] = results_of(line, v, g, at, line.self ? at : range_of(line.y, r), part);
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  const auto joined = [&](auto member, std::int64_t rows) {
    auto sum = whole.*member;
    sum.clear();
    for (std::int64_t row = 0; row < rows; ++row) {
      for (const Results<T>& part : parts) {
        const auto& one = part.*member;
        const auto count = static_cast<std::int64_t>(one.size()) / rows;
        sum.insert(sum.end(), one.begin() + row * count, one.begin() + (row + 1) * count);
      }
    }
    return sum;
  };
  const std::string on = what + " on " + std::to_string(processes);
  EXPECT_EQ(joined(&Results<T>::product, line.rows), whole.product) << on;
  EXPECT_EQ(joined(&Results<T>::adjoint, line.rows), whole.adjoint) << on;
  EXPECT_EQ(joined(&Results<T>::values, line.rows), whole.values) << on;
  EXPECT_EQ(joined(&Results<T>::x, 1), whole.x) << on;
  EXPECT_EQ(joined(&Results<T>::y, 1), whole.y) << on;
  EXPECT_EQ(joined(&Results<T>::theta, 1), whole.theta) << on;
  EXPECT_EQ(joined(&Results<T>::phi, 1), whole.phi) << on;
  for (const Results<T>& part : parts) {
    EXPECT_EQ(part.scalars, whole.scalars) << on;
  }
}

template <class T>
WholeLine<T> draw_line(Form form, std::int64_t n, std::int64_t m, double spread, bool tied) {
  std::mt19937_64 random(7);
  std::uniform_real_distribution<double> uniform(0.0, spread);
  const auto draw = [&](std::int64_t count) {
    std::vector<T> anchors(static_cast<std::size_t>(count));
    for (T& anchor : anchors) {
      const double place = uniform(random);
      anchor = static_cast<T>(tied ? std::floor(place * 40.0 / spread) : place);
    }
    std::sort(anchors.begin(), anchors.end());
    return anchors;
  };
  WholeLine<T> line;
  line.form = form;
  line.x = draw(n);
  line.y = draw(m);
  line.frequency = 3.5;
  for (const T x : line.x) {
    line.theta.push_back(static_cast<T>(std::sin(static_cast<double>(x))));
  }
  for (const T y : line.y) {
    line.phi.push_back(static_cast<T>(std::cos(static_cast<double>(y))));
  }
  return line;
}

template <class T>
class LineParts : public ::testing::Test {};
using Precisions = ::testing::Types<float, double>;
TYPED_TEST_SUITE(LineParts, Precisions);

TYPED_TEST(LineParts, HaveTheBitsOfOnePlan) {
  for (const Form form : {Form::real, Form::carrier, Form::oscillating}) {
    for (const int processes : {1, 2, 3, 7}) {
      auto line = draw_line<TypeParam>(form, 50'000, 30'000, 700.0, false);
      expect_same_bits(line, processes, "random");
      if (processes == 3) {
        line.rows = 9;
        expect_same_bits(line, processes, "nine rows");
      }
    }
    auto line = draw_line<TypeParam>(form, 60'000, 10'000, 40.0, true);
    expect_same_bits(line, 3, "ties");
    line.self = true;
    line.y.clear();
    line.phi = line.theta;
    expect_same_bits(line, 2, "self");
  }
}

TYPED_TEST(LineParts, HaveTheBitsOfOnePlanForPolynomials) {
  for (const Form form : {Form::real, Form::oscillating}) {
    auto line = draw_line<TypeParam>(form, 40'000, 40'000, 900.0, false);
    line.profile = Profile::matern32;
    expect_same_bits(line, 3, "Matern-3/2");
    line.profile = Profile::matern12;
    line.term = {Parity::odd, {1.0, -0.5}, false};
    expect_same_bits(line, 2, "an odd term");
  }
}

TYPED_TEST(LineParts, HaveTheBitsOfOnePlanForOneSide) {
  for (const Form form : {Form::real, Form::oscillating}) {
    auto line = draw_line<TypeParam>(form, 40'000, 40'000, 900.0, false);
    line.side = Side::left;
    expect_same_bits(line, 3, "left");
    auto tied = draw_line<TypeParam>(form, 60'000, 10'000, 40.0, true);
    tied.side = Side::right;
    expect_same_bits(tied, 3, "right, with ties");
  }
}

TYPED_TEST(LineParts, MayBeEmpty) {
  for (const auto& [n, m] : {std::pair<std::int64_t, std::int64_t>{0, 0}, {5, 0}, {0, 7}, {3, 4}}) {
    expect_same_bits(draw_line<TypeParam>(Form::real, n, m, 10.0, false), 4, "few anchors");
  }
  expect_same_bits(draw_line<TypeParam>(Form::real, 40'000, 40'000, 0.0, false), 3, "one point");
}

TEST(LinePart, MustFit) {
  const double anchors[] = {0.0, 1.0};
  Kernel<double> kernel;
  kernel.num_targets = kernel.num_sources = 2;
  kernel.targets = anchors;
  auto part = std::make_shared<LinePart>();
  kernel.part = part;
  expect_error([&] { Plan<double>{kernel}; }, ErrorCode::invalid_argument, "part.total");
  part->total = 2;
  part->gather = [](const double* mine, const std::int64_t* counts, double* all) {
    std::copy(mine, mine + counts[0], all);
  };
  Plan<double> plan(kernel);
  expect_error([&] { plan.update(anchors); }, ErrorCode::invalid_argument, "update");
  expect_error([&] { static_cast<void>(plan.rank()); }, ErrorCode::invalid_argument, "rank");
  part->rank = 1;
  expect_error([&] { Plan<double>{kernel}; }, ErrorCode::invalid_argument, "part.rank");
  kernel.heads = 2;
  expect_error([&] { Plan<double>{kernel}; }, ErrorCode::invalid_argument, "one head");
}

TEST(ExactSum, IsRoundedOnce) {
  using detail::ExactSum;
  const auto sum_of = [](std::vector<double> terms) {
    ExactSum one_by_one;
    for (const double term : terms) {
      one_by_one.add(term);
    }
    ExactSum together;
    together.add(terms.data(), static_cast<std::int64_t>(terms.size()));
    EXPECT_EQ(one_by_one.words(), together.words());
    return one_by_one.value();
  };
  constexpr double kTiny = std::numeric_limits<double>::denorm_min();
  constexpr double kHuge = std::numeric_limits<double>::max();
  EXPECT_EQ(sum_of({}), 0.0);
  EXPECT_EQ(sum_of({1e300, 1.0, -1e300}), 1.0);
  EXPECT_EQ(sum_of({kHuge, kTiny, kHuge, -kHuge, -kHuge}), kTiny);
  EXPECT_EQ(sum_of({-kTiny, -kTiny}), -2.0 * kTiny);
  EXPECT_EQ(sum_of({kHuge, kHuge}), std::numeric_limits<double>::infinity());
  EXPECT_EQ(sum_of({1.0, 0x1p-53}), 1.0);                      // half a unit: to even
  EXPECT_EQ(sum_of({1.0, 0x1p-53, 0x1p-200}), 1.0 + 0x1p-52);  // and a little more
  EXPECT_EQ(sum_of({-1.0, -0x1p-53, -0x1p-200}), -1.0 - 0x1p-52);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  ExactSum special;
  special.add(kInfinity);
  special.add(1.0);
  EXPECT_EQ(special.value(), kInfinity);
  special.add(-kInfinity);
  EXPECT_TRUE(std::isnan(special.value()));

  std::mt19937_64 random(3);
  std::uniform_int_distribution<int> exponent(-900, 900);
  std::normal_distribution<double> normal;
  std::vector<double> terms;
  for (int k = 0; k < 20'000; ++k) {
    terms.push_back(std::ldexp(normal(random), exponent(random)));
    terms.push_back(-terms.back());
  }
  terms.push_back(0.125);
  std::shuffle(terms.begin(), terms.end(), random);
  EXPECT_EQ(sum_of(terms), 0.125);
}

}  // namespace
}  // namespace laplex::tests
