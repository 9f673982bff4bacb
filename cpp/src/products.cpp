// Products with K, K^T and K^H, the derivative family, and the half sums.
#include "boundary.hpp"
#include "checks.hpp"
#include "product_pass.hpp"
#include "state.hpp"

#include <laplex/plan.hpp>

#include <algorithm>

namespace laplex {

using namespace detail;

template <class T>
void Plan<T>::apply_any(const T* v, bool v_complex, std::int64_t rows, Strides v_strides, T* u,
                        bool u_complex, Strides u_strides, Mode mode, Term term,
                        int num_threads) const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  check_mode(mode);
  const bool transposed = mode != Mode::plain;
  check_rows(fixed.heads, rows, std::max(fixed.n, fixed.m));
  check_type("result", u_complex, v_complex || kernel_is_complex());
  check_array("v", v, fixed.heads * rows * (transposed ? fixed.n : fixed.m));
  check_array("u", u, fixed.heads * rows * (transposed ? fixed.m : fixed.n));
  check_cumulative(term, fixed.cumulates(), v_complex);
  term.polynomial = polynomial_of(term, fixed.profile);
  const int parts = parts_of(fixed, v_complex);
  guarded([&] {
    const Vectors<const T> in{v, v_complex, v_strides, parts};
    const Vectors<T> out{u, u_complex, u_strides, parts};
    const bool conjugate = mode == Mode::adjoint && parts == 1;
    const int threads = num_threads > 0 ? num_threads : fixed.num_threads;
    run<T>(*snapshot, in, rows, transposed, conjugate, {result_of(term, out)}, threads);
  });
}

template <class T>
void Plan<T>::half_sums_any(const T* v, bool v_complex, std::int64_t rows, Strides v_strides,
                            T* left, T* right, bool u_complex, Strides u_strides,
                            int num_threads) const {
  const auto snapshot = state();
  const Fixed<T>& fixed = snapshot->fixed();
  check_rows(fixed.heads, rows, std::max(fixed.n, fixed.m));
  check_type("result", u_complex, v_complex || kernel_is_complex());
  check_array("v", v, fixed.heads * rows * fixed.m);
  check_array("left", left, fixed.heads * rows * fixed.n);
  check_array("right", right, fixed.heads * rows * fixed.n);
  if (fixed.side != Side::both) {
    invalid("half_sums needs a plan with side both: the product with this one is one of them");
  }
  const int parts = parts_of(fixed, v_complex);
  guarded([&] {
    const Polynomial polynomial = polynomial_of(fixed.profile);
    const auto half = [&](Combine side, T* to) {
      return Result<T>{Parity::even, polynomial, {to, u_complex, u_strides, parts}, side};
    };
    run<T>(*snapshot, {v, v_complex, v_strides, parts}, rows, false, false,
           {half(Combine::left, left), half(Combine::right, right)},
           num_threads > 0 ? num_threads : fixed.num_threads);
  });
}

template void Plan<float>::apply_any(const float*, bool, std::int64_t, Strides, float*, bool,
                                     Strides, Mode, Term, int) const;
template void Plan<double>::apply_any(const double*, bool, std::int64_t, Strides, double*, bool,
                                      Strides, Mode, Term, int) const;
template void Plan<float>::half_sums_any(const float*, bool, std::int64_t, Strides, float*, float*,
                                         bool, Strides, int) const;
template void Plan<double>::half_sums_any(const double*, bool, std::int64_t, Strides, double*,
                                          double*, bool, Strides, int) const;

}  // namespace laplex
