// Plans of the parts of one line, on as many ranks, against the dense matrix in extended precision.
#include "../cpp/expect_error.hpp"
#include "cases.hpp"

#if defined(LAPLEX_CUDA_EMULATION)
#include "emulated_runtime.hpp"
#endif

#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace laplex::cuda::tests {
namespace {

using laplex::tests::Wide;

/// Ranks as threads of which one runs at a time, as the emulation has one block: a rank that waits
/// for the others lets them run.
class Ranks {
 public:
  explicit Ranks(int size) : messages_(static_cast<std::size_t>(size)) {}

  void run(const std::function<void(int rank)>& body) {
    std::vector<std::thread> threads;
    std::exception_ptr failure;
    for (int rank = 0; rank < static_cast<int>(messages_.size()); ++rank) {
      threads.emplace_back([&, rank] {
        lock_of(rank) = std::unique_lock<std::mutex>(running_);
        try {
          body(rank);
        } catch (...) {
          failure = failure ? failure : std::current_exception();
          failed_ = true;
          all_here_.notify_all();
        }
        lock_of(rank).unlock();
      });
    }
    for (std::thread& thread : threads) {
      thread.join();
    }
    if (failure) {
      std::rethrow_exception(failure);
    }
  }

  void gather(int rank, const double* mine, const std::int64_t* counts, double* all) {
    Message& message = messages_[static_cast<std::size_t>(rank)];
    message.numbers.assign(mine, mine + counts[rank]);
    const std::int64_t round = round_;
    if (++here_ == messages_.size()) {
      joined_.clear();
      for (const Message& each : messages_) {
        joined_.insert(joined_.end(), each.numbers.begin(), each.numbers.end());
      }
      here_ = 0;
      ++round_;
      all_here_.notify_all();
    } else {
      all_here_.wait(message.lock, [&] { return round_ != round || failed_; });
      if (round_ == round) {
        throw std::runtime_error("another rank failed");
      }
    }
    std::copy(joined_.begin(), joined_.end(), all);  // before anybody can fill the next round
  }

 private:
  struct Message {
    std::unique_lock<std::mutex> lock;
    std::vector<double> numbers;
  };
  std::unique_lock<std::mutex>& lock_of(int rank) {
    return messages_[static_cast<std::size_t>(rank)].lock;
  }
  std::mutex running_;
  std::condition_variable all_here_;
  std::vector<Message> messages_;
  std::vector<double> joined_;
  std::size_t here_ = 0;
  std::int64_t round_ = 0;
  bool failed_ = false;
};

/// Which rank has each anchor: the number of cuts below it, so that ties stay together.
template <class T>
std::vector<std::vector<std::size_t>> owned(const std::vector<T>& anchors,
                                            const std::vector<double>& cuts) {
  std::vector<std::vector<std::size_t>> of_rank(cuts.size() + 1);
  for (std::size_t k = 0; k < anchors.size(); ++k) {
    const auto rank = std::lower_bound(cuts.begin(), cuts.end(), static_cast<double>(anchors[k]));
    of_rank[static_cast<std::size_t>(rank - cuts.begin())].push_back(k);
  }
  return of_rank;
}

/// For each of `rows` vectors of `count` entries, those with the given numbers.
template <class V>
std::vector<V> pick(const std::vector<V>& all, const std::vector<std::size_t>& which,
                    std::size_t count) {
  std::vector<V> some;
  for (std::size_t begin = 0; count > 0 && begin < all.size(); begin += count) {
    for (const std::size_t k : which) {
      some.push_back(all[begin + k]);
    }
  }
  return some;
}
template <class V>
void put(const std::vector<V>& some, const std::vector<std::size_t>& which, std::size_t count,
         std::vector<V>& all) {
  for (std::size_t k = 0; k < some.size(); ++k) {
    all[k / which.size() * count + which[k % which.size()]] = some[k];
  }
}

/// A line that is cut into parts, one a rank.
template <class T>
class CutLine {
 public:
  CutLine(const Case<T>& c, std::vector<double> cuts)
      : whole(c), targets(owned(c.x, cuts)), sources(owned(c.self ? c.x : c.y, cuts)) {
    std::vector<T> all = c.x;
    all.insert(all.end(), c.y.begin(), c.y.end());
    std::sort(all.begin(), all.end());
    total_ = static_cast<std::int64_t>(all.size());
    cuts.push_back(HUGE_VAL);
    for (const double cut : cuts) {
      const auto next = std::upper_bound(all.begin(), all.end(), cut);
      ends_.push_back(next - all.begin());
      nexts_.push_back(next == all.end() ? HUGE_VAL : static_cast<double>(*next));
    }
  }
  /// Calls body(plan, rank) on all ranks.
  void run(const std::function<void(const Plan<T>&, std::size_t)>& body) const {
    Ranks ranks(static_cast<int>(ends_.size()));
    ranks.run([&](int rank) {
      const auto r = static_cast<std::size_t>(rank);
      auto part = std::make_shared<LinePart>();
      part->rank = rank;
      part->size = static_cast<int>(ends_.size());
      part->offset = rank > 0 ? ends_[r - 1] : 0;
      part->total = total_;
      part->has_next = ends_[r] < total_;
      part->next = nexts_[r];
      part->gather = [&ranks, rank](const double* mine, const std::int64_t* counts, double* all) {
        ranks.gather(rank, mine, counts, all);
      };
      const auto n = static_cast<std::size_t>(whole.n);
      const auto m = static_cast<std::size_t>(whole.m);
      const OnDevice<T> x(pick(whole.x, targets[r], n));
      const OnDevice<T> y(pick(whole.y, sources[r], m));
      const OnDevice<T> theta(pick(whole.theta, targets[r], n));
      const OnDevice<T> phi(pick(whole.phi, sources[r], m));
      const OnDevice<double> ell(whole.lengthscale);
      const OnDevice<double> omega(whole.frequency);
      Kernel<T> kernel = whole.kernel();
      kernel.num_targets = static_cast<std::int64_t>(targets[r].size());
      kernel.num_sources = static_cast<std::int64_t>(sources[r].size());
      kernel.targets = x.data();
      kernel.sources = whole.self ? nullptr : y.data();
      kernel.lengthscale = ell.data();
      kernel.frequency = whole.frequency.empty() ? nullptr : omega.data();
      kernel.target_phase = whole.theta.empty() ? nullptr : theta.data();
      kernel.source_phase = whole.phi.empty() ? nullptr : phi.data();
      kernel.part = part;
      body(Plan<T>(kernel, kStream), r);
    });
  }

  const Case<T> whole;
  std::vector<std::vector<std::size_t>> targets;  ///< of each rank, in the order of the whole
  std::vector<std::vector<std::size_t>> sources;

 private:
  std::int64_t total_ = 0;
  std::vector<std::int64_t> ends_;  ///< of each rank, in the merged order
  std::vector<double> nexts_;
};

/// The anchors at some fractions of the merged line.
template <class T>
std::vector<double> cuts_at(const Case<T>& c, const std::vector<double>& fractions) {
  std::vector<double> all(c.x.begin(), c.x.end());
  all.insert(all.end(), c.y.begin(), c.y.end());
  std::sort(all.begin(), all.end());
  std::vector<double> cuts;
  for (const double fraction : fractions) {
    cuts.push_back(
        all.empty()
            ? 0.0
            : all[static_cast<std::size_t>(fraction * static_cast<double>(all.size() - 1))]);
  }
  return cuts;
}

template <class V>
Wide wide(const V& value) {
  if constexpr (kIsComplex<V>) {
    return {static_cast<long double>(value.real()), static_cast<long double>(value.imag())};
  } else {
    return {static_cast<long double>(value), 0.0L};
  }
}

/// Calls f(i, j, K_ij) for all entries.
template <class T, class F>
void for_each_entry(const Case<T>& c, const F& f) {
  for (std::int64_t i = 0; i < c.n; ++i) {
    for (std::int64_t j = 0; j < c.m; ++j) {
      f(static_cast<std::size_t>(i), static_cast<std::size_t>(j), c.entry(0, i, j));
    }
  }
}

constexpr std::int64_t kRows = 2;

template <class R, class T, class V>
void check_product(const CutLine<T>& line, const std::vector<V>& v, Mode mode) {
  const Case<T>& c = line.whole;
  const bool back = mode != Mode::plain;
  const auto in = static_cast<std::size_t>(back ? c.n : c.m);
  const auto out = static_cast<std::size_t>(back ? c.m : c.n);
  std::vector<R> got(kRows * out, R(9));
  line.run([&](const Plan<T>& plan, std::size_t r) {
    const auto mine = pick(v, (back ? line.targets : line.sources)[r], in);
    put(device_product<R>(plan, mine, kRows, mode), (back ? line.sources : line.targets)[r], out,
        got);
  });
  std::vector<Wide> want(got.size());
  std::vector<long double> scale(got.size());
  for_each_entry(c, [&](std::size_t i, std::size_t j, Wide entry) {
    const long double size = std::abs(entry);
    entry = c.real_part ? Wide(entry.real()) : mode == Mode::adjoint ? std::conj(entry) : entry;
    for (std::size_t row = 0; row < kRows; ++row) {
      const std::size_t to = row * out + (back ? j : i);
      const Wide value = wide(v[row * in + (back ? i : j)]);
      want[to] += entry * value;
      scale[to] += size * std::abs(value);
    }
  });
  for (std::size_t k = 0; k < got.size(); ++k) {
    const long double allowed =
        promise<T>() * scale[k] +
        static_cast<long double>(in) * static_cast<long double>(std::numeric_limits<T>::min());
    ASSERT_LE(std::abs(wide(got[k]) - want[k]), allowed) << k;
  }
}

template <class T>
void check_products(const CutLine<T>& line) {
  const Case<T>& c = line.whole;
  const bool complex = !c.real_part && !(c.frequency.empty() && c.theta.empty());
  for (const Mode mode : {Mode::plain, Mode::transpose, Mode::adjoint}) {
    SCOPED_TRACE("mode " + std::to_string(static_cast<int>(mode)));
    const std::int64_t in = kRows * (mode == Mode::plain ? c.m : c.n);
    const auto v = draw_values<T>(in, 3);
    if (complex) {
      check_product<std::complex<T>>(line, v, mode);
    } else {
      check_product<T>(line, v, mode);
    }
    if (!c.real_part) {
      check_product<std::complex<T>>(line, draw_values<std::complex<T>>(in, 4), mode);
    }
  }
}

/// The ways to cut a line: one part, two and three; and with a part that has no anchors, at either
/// end or between others.
const std::vector<std::vector<double>> kCuts = {{}, {0.4}, {0.3, 0.8}, {0.5, 0.5}, {0.2, 1.0}};

template <class T>
class CudaSharedLine : public testing::Test {};
using Precisions = testing::Types<float, double>;
TYPED_TEST_SUITE(CudaSharedLine, Precisions);

/// Small lines of every form with every kind of anchors, each form and kind with every cut.
template <class T, class F>
void for_each_small_line(const F& f) {
  for (std::size_t form = 0; form < std::size(kForms); ++form) {
    for (std::size_t kind = 0; kind < std::size(kAnchors); ++kind) {
      const std::size_t cut = (form + kind) % kCuts.size();
      const bool self = (form + 2 * kind) % 3 == 0;
      SCOPED_TRACE(laplex::tests::name(kForms[form]) + ", anchors " + std::to_string(kind) +
                   ", cut " + std::to_string(cut) + (self ? ", self" : ""));
      const Case<T> c = make_case<T>(kForms[form], kAnchors[kind], 40, 53, 5 * form + kind, self);
      f(CutLine<T>(c, cuts_at(c, kCuts[cut])));
      if (testing::Test::HasFatalFailure()) {
        return;
      }
    }
  }
}

TYPED_TEST(CudaSharedLine, SmallProductsOfEveryForm) {
  for_each_small_line<TypeParam>([](const auto& line) { check_products(line); });
}

TYPED_TEST(CudaSharedLine, SeveralTilesAndSidesApart) {
  using T = TypeParam;
  for (const Anchors kind : {Anchors::uniform, Anchors::grid, Anchors::skewed}) {
    SCOPED_TRACE("anchors " + std::to_string(static_cast<int>(kind)));
    const Case<T> c = make_case<T>(Form::real, kind, 2600, 2500, 7);
    const CutLine<T> line(c, cuts_at(c, {0.1, 0.12}));
    check_product<T>(line, draw_values<T>(kRows * c.m, 3), Mode::plain);
    check_product<T>(line, draw_values<T>(kRows * c.n, 4), Mode::transpose);
  }
  // All sources on one rank, all targets on another, and nothing on those beside them.
  for (const Form form : {Form::real, Form::oscillating}) {
    Case<T> c = make_case<T>(form, Anchors::uniform, 300, 400, 8);
    for (T& place : c.y) {
      place += T(2);
    }
    check_products(CutLine<T>(c, {-1.0, 1.5, 4.0}));
  }
}

TYPED_TEST(CudaSharedLine, SmallFarValuesOfManyRanksAreExact) {
  // Every entry of the matrix by itself: what comes from far is small, and exact relative to
  // itself.
  using T = TypeParam;
  Case<T> c = make_case<T>(Form::real, Anchors::uniform, 40, 53, 9);
  c.lengthscale = {0.004};  // the line is hundreds of lengthscales long
  const CutLine<T> line(c, cuts_at(c, {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}));
  for (const std::size_t j : {0, 29, 52}) {
    std::vector<T> v(static_cast<std::size_t>(kRows * c.m), T(0));
    v[j] = T(1);
    check_product<T>(line, v, Mode::plain);
  }
}

/// All seven gradients, in extended precision where they are wanted and as the device gives them.
template <class N, class V>
struct All {
  std::vector<V> values;
  std::vector<N> x, y, theta, phi;
  N ell{}, omega{};

  template <class T>
  explicit All(const Case<T>& c)
      : values(static_cast<std::size_t>(kRows * c.m)),
        x(static_cast<std::size_t>(c.n)),
        y(static_cast<std::size_t>(c.m)),
        theta(x),
        phi(y) {}
};

template <class R, class V, class T>
All<double, Wide> device_gradients(const CutLine<T>& line, const std::vector<V>& v,
                                   const std::vector<R>& g, const Term& term) {
  const Case<T>& c = line.whole;
  const auto n = static_cast<std::size_t>(c.n);
  const auto m = static_cast<std::size_t>(c.m);
  All<double, Wide> all(c);
  std::vector<double> ells;
  std::vector<double> omegas;
  line.run([&](const Plan<T>& plan, std::size_t r) {
    const std::size_t mine_n = line.targets[r].size();
    const std::size_t mine_m = line.sources[r].size();
    const OnDevice<V> values(pick(v, line.sources[r], m));
    const OnDevice<R> grad(pick(g, line.targets[r], n));
    const OnDevice<V> d_values(kRows * mine_m, V(9));
    const OnDevice<T> x(mine_n, T(9)), y(mine_m, T(9)), theta(mine_n, T(9)), phi(mine_m, T(9));
    const OnDevice<double> ell(1, 9.0), omega(1, 9.0);
    Gradients<T, T> wanted;
    wanted.values = reinterpret_cast<T*>(d_values.data());
    wanted.targets = x.data();
    wanted.sources = y.data();
    wanted.lengthscale = ell.data();
    wanted.frequency = omega.data();
    // Without phases nobody asks for their gradients, and real ones in float go by cells.
    wanted.target_phase = c.theta.empty() ? nullptr : theta.data();
    wanted.source_phase = c.phi.empty() ? nullptr : phi.data();
    const auto in = static_cast<std::int64_t>(mine_m);
    const auto out = static_cast<std::int64_t>(mine_n);
    plan.vjp({values.data(), kIsComplex<V>, {kRows * in, in}},
             {grad.data(), kIsComplex<R>, {kRows * out, out}}, kRows, wanted, kStream, term);
    const auto widen = [](const auto& some) {
      return std::vector<double>(some.begin(), some.end());
    };
    std::vector<Wide> each;
    for (const V& value : d_values.host()) {
      each.push_back(wide(value));
    }
    put(each, line.sources[r], m, all.values);
    put(widen(x.host()), line.targets[r], n, all.x);
    put(widen(y.host()), line.sources[r], m, all.y);
    put(widen(theta.host()), line.targets[r], n, all.theta);
    put(widen(phi.host()), line.sources[r], m, all.phi);
    ells.push_back(ell.host()[0]);
    omegas.push_back(omega.host()[0]);
  });
  for (std::size_t r = 0; r < ells.size(); ++r) {  // the same on all ranks
    EXPECT_EQ(ells[r], ells[0]);
    EXPECT_EQ(omegas[r], omegas[0]);
  }
  all.ell = ells[0];
  all.omega = omegas[0];
  return all;
}

template <class R, class V, class T>
void check_gradients(const CutLine<T>& line) {
  const Case<T>& c = line.whole;
  const auto n = static_cast<std::size_t>(c.n);
  const auto m = static_cast<std::size_t>(c.m);
  const auto v = draw_values<V>(kRows * c.m, 1);
  const auto g = draw_values<R>(kRows * c.n, 2);
  const All<double, Wide> got = device_gradients(line, v, g, {});
  const auto ell = static_cast<long double>(c.lengthscale[0]);
  const auto omega = c.frequency.empty() ? 0.0L : static_cast<long double>(c.frequency[0]);
  const Wide rate{1.0L / ell, -omega};
  All<long double, Wide> want(c);
  All<long double, long double> scale(c);
  for_each_entry(c, [&](std::size_t i, std::size_t j, Wide entry) {
    const auto x = static_cast<long double>(c.x[i]);
    const auto y = static_cast<long double>(c.self ? c.x[j] : c.y[j]);
    const long double distance = std::fabs(x - y);
    const long double sign = x > y ? 1.0L : x < y ? -1.0L : 0.0L;
    const long double modulus = std::abs(entry);
    const Wide matrix = c.real_part ? Wide(entry.real()) : entry;
    for (std::size_t row = 0; row < kRows; ++row) {
      const Wide value = wide(v[row * m + j]);
      const Wide grad = wide(g[row * n + i]);
      const Wide d_value = std::conj(matrix) * grad;
      want.values[row * m + j] += kIsComplex<V> ? d_value : Wide(d_value.real());
      scale.values[row * m + j] += modulus * std::abs(grad);
      const Wide share = std::conj(grad) * entry * value;
      const long double size = std::abs(grad) * modulus * std::abs(value);
      const long double slope = (rate * share).real() * sign;
      want.x[i] -= slope;
      want.y[j] += slope;
      want.theta[i] -= share.imag();
      want.phi[j] += share.imag();
      scale.x[i] += std::abs(rate) * size;
      scale.y[j] += std::abs(rate) * size;
      scale.theta[i] += size;
      scale.phi[j] += size;
      if (modulus > 0.0L) {  // the distance may be too large to be a number
        want.ell += share.real() * distance / ell / ell;
        want.omega -= share.imag() * distance;
        scale.ell += size * distance / ell / ell;
        scale.omega += size * distance;
      }
    }
  });
  const auto near = [&](const auto& a, const auto& b, long double size, const char* what) {
    ASSERT_LE(std::abs(wide(a) - Wide(b)),
              4 * promise<T>() * size + static_cast<long double>(n + m) *
                                            static_cast<long double>(std::numeric_limits<T>::min()))
        << what;
  };
  for (std::size_t k = 0; k < got.values.size(); ++k) {
    near(got.values[k], want.values[k], scale.values[k], "value");
  }
  for (std::size_t i = 0; i < n; ++i) {
    near(got.x[i], want.x[i], scale.x[i], "target");
    if (!c.theta.empty()) {
      near(got.theta[i], want.theta[i], scale.theta[i], "target phase");
    }
  }
  for (std::size_t j = 0; j < m; ++j) {
    near(got.y[j], want.y[j], scale.y[j], "source");
    if (!c.phi.empty()) {
      near(got.phi[j], want.phi[j], scale.phi[j], "source phase");
    }
  }
  near(got.ell, want.ell, scale.ell, "lengthscale");
  near(got.omega, want.omega, scale.omega, "frequency");
}

TYPED_TEST(CudaSharedLine, SmallGradientsOfEveryForm) {
  using T = TypeParam;
  for_each_small_line<T>([](const CutLine<T>& line) {
    const Case<T>& c = line.whole;
    if (!c.real_part && !(c.frequency.empty() && c.theta.empty())) {
      check_gradients<std::complex<T>, T>(line);
      check_gradients<std::complex<T>, std::complex<T>>(line);
    } else {
      check_gradients<T, T>(line);
    }
  });
}

TYPED_TEST(CudaSharedLine, GradientsOfSeveralTilesAndSidesApart) {
  using T = TypeParam;
  for (const Anchors kind : {Anchors::uniform, Anchors::grid, Anchors::skewed}) {
    for (const bool self : {false, true}) {
      if (self && kind != Anchors::grid)
        continue;
      SCOPED_TRACE("anchors " + std::to_string(static_cast<int>(kind)) + (self ? ", self" : ""));
      const Case<T> c = make_case<T>(Form::real, kind, 2600, 2500, 7, self);
      check_gradients<T, T>(CutLine<T>(c, cuts_at(c, {0.1, 0.12})));
    }
  }
  Case<T> c = make_case<T>(Form::real, Anchors::uniform, 300, 400, 8);
  for (T& place : c.y) {
    place += T(2);
  }
  check_gradients<T, T>(CutLine<T>(c, {-1.0, 1.5, 4.0}));
}

// What is made of products, against the same on a line that nobody shares.
TYPED_TEST(CudaSharedLine, SmallTermsAndHalvesAreThoseOfTheWhole) {
  using T = TypeParam;
  for (const Profile profile : {Profile::matern12, Profile::matern32, Profile::matern52}) {
    for (const Form form : {Form::real, Form::oscillating}) {
      Case<T> c = make_case<T>(form, Anchors::grid, 60, 50, 11);
      c.profile = profile;
      const Term term{Parity::odd, {0.5, 1.0}};  // with a Matern-5/2 kernel, all that there is
      const auto v = draw_values<std::complex<T>>(kRows * c.m, 1);
      const auto g = draw_values<std::complex<T>>(kRows * c.n, 2);
      const auto whole = device_gradients(CutLine<T>(c, {}), v, g, term);
      const auto parts = device_gradients(CutLine<T>(c, cuts_at(c, {0.3, 0.8})), v, g, term);
      const auto close = [&](const auto& a, const auto& b) {
        ASSERT_LE(std::abs(Wide(a) - Wide(b)), 1e3L * promise<T>());
      };
      for (std::size_t k = 0; k < whole.values.size(); ++k) {
        close(parts.values[k], whole.values[k]);
      }
      for (std::size_t i = 0; i < whole.x.size(); ++i) {
        close(parts.x[i], whole.x[i]);
      }
      for (std::size_t j = 0; j < whole.y.size(); ++j) {
        close(parts.y[j], whole.y[j]);
      }
      close(parts.ell, whole.ell);
      close(parts.omega, whole.omega);
    }
  }
  const Case<T> c = make_case<T>(Form::real, Anchors::grid, 60, 50, 12);
  const CutLine<T> line(c, cuts_at(c, {0.3, 0.8}));
  const auto v = draw_values<T>(c.m, 3);
  std::vector<T> left(60), right(60), want_left(60), want_right(60);
  line.run([&](const Plan<T>& plan, std::size_t r) {
    const OnDevice<T> values(pick(v, line.sources[r], 50));
    const auto in = static_cast<std::int64_t>(line.sources[r].size());
    const auto out = static_cast<std::int64_t>(line.targets[r].size());
    const OnDevice<T> l(line.targets[r].size(), T(9)), h(line.targets[r].size(), T(9));
    plan.half_sums({values.data(), false, {in, in}}, 1, {l.data(), false, {out, out}},
                   {h.data(), false, {out, out}}, kStream);
    put(l.host(), line.targets[r], 60, left);
    put(h.host(), line.targets[r], 60, right);
  });
  laplex::Plan<T>(c.kernel())
      .half_sums(v.data(), want_left.data(), want_right.data(), 1, Strides{50, 50},
                 Strides{60, 60});
  for (std::size_t i = 0; i < left.size(); ++i) {
    ASSERT_LE(std::abs(wide(left[i]) - wide(want_left[i])), 50 * promise<T>());
    ASSERT_LE(std::abs(wide(right[i]) - wide(want_right[i])), 50 * promise<T>());
  }
}

TYPED_TEST(CudaSharedLine, SmallRefusals) {
  using T = TypeParam;
  using laplex::tests::expect_error;
  const Case<T> c = make_case<T>(Form::real, Anchors::uniform, 5, 4, 1, false, 2);
  const DeviceCase<T> device(c);
  const auto lone = [](const double* mine, const std::int64_t* counts, double* all) {
    std::copy(mine, mine + counts[0], all);
  };
  Kernel<T> kernel = device.kernel();
  kernel.part = std::make_shared<LinePart>(LinePart{0, 1, 0, 9, false, 0.0, lone});
  const auto expect_refusal = [&](const char* part, Report* report = nullptr) {
    expect_error([&] { Plan<T>(kernel, kStream, {}, {}, report); }, ErrorCode::invalid_argument,
                 part);
  };
  expect_refusal("one head");
  kernel.heads = 1;
  Report report;
  expect_refusal("takes no report", &report);
  Plan<T> plan(kernel, kStream);
  expect_error([&] { plan.update(kernel.targets, kernel.sources, kStream); },
               ErrorCode::invalid_argument, "update is not there for a part of a line");
#if defined(LAPLEX_CUDA_EMULATION)
  emulation::runtime().capture = 1;
  expect_error([&] { Plan<T>(kernel, kStream); }, ErrorCode::device, "part of a line");
  expect_error([&] { device_product<T>(plan, std::vector<T>(4, T(1)), 1); }, ErrorCode::device,
               "part of a line");
  emulation::runtime().capture.reset();
#endif
  kernel.part = std::make_shared<LinePart>(LinePart{0, 1, 1, 9, false, 0.0, lone});
  expect_refusal("within part.total");
}

}  // namespace
}  // namespace laplex::cuda::tests
