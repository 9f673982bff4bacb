// The one body of the inner loops. Each level's file compiles it into a namespace of its own.
#include "chunks.hpp"
#include "exponentials.hpp"
#include "extract.hpp"
#include "gradients.hpp"
#include "moments.hpp"
#include "place.hpp"
#include "product.hpp"
#include "repair.hpp"
#include "running.hpp"
#include "strands.hpp"
#include "tiles.hpp"
#include "totals.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

template <class F>
LAPLEX_INLINE void with_form(Form form, bool wide, const F& f) {
  const auto with_width = [&](auto form_constant) {
    if (wide) {
      f(form_constant, Constant<bool, true>{});
    } else {
      f(form_constant, Constant<bool, false>{});
    }
  };
  switch (form) {
    case Form::real:
      return with_width(Constant<Form, Form::real>{});
    case Form::complex:
      return with_width(Constant<Form, Form::complex>{});
    default:
      return with_width(Constant<Form, Form::oscillating>{});
  }
}

template <class T>
void totals(Form form, bool wide, const SideView<T>& from, const Input<T>& values,
            std::int64_t begin, std::int64_t end, double* grown, double* shrunk, void* scratch) {
  with_form(form, wide, [&](auto f, auto w) {
    totals_of<decltype(f)::value, decltype(w)::value>(from, values, begin, end, grown, shrunk,
                                                      scratch);
  });
}

template <class T>
void plain_sums(bool wide, const SideView<T>& from, const Input<T>& values, std::int64_t begin,
                std::int64_t end, double* sums, void* scratch) {
  if (wide) {
    plain_sums_of<true>(from, values, begin, end, sums, scratch);
  } else {
    plain_sums_of<false>(from, values, begin, end, sums, scratch);
  }
}

template <class T>
void sum_chunks(Form form, bool wide, const ChunkLevel& level, std::int64_t begin, std::int64_t end,
                double* sums) {
  with_form(form, wide, [&](auto f, auto w) {
    with_chunks<decltype(f)::value, decltype(w)::value>(
        level, [&](const auto& chunks) { chunks.sum(begin, end, sums); });
  });
}

template <class T>
void spread_chunks(Form form, bool wide, const ChunkLevel& level, std::int64_t begin,
                   std::int64_t end, const double* comes, double* out) {
  with_form(form, wide, [&](auto f, auto w) {
    with_chunks<decltype(f)::value, decltype(w)::value>(
        level, [&](const auto& chunks) { chunks.spread(begin, end, comes, out); });
  });
}

template <class T>
void product(Form form, bool wide, const SideView<T>& from, const SideView<T>& to,
             const std::uint16_t* left_at, const std::uint16_t* right_at, const Input<T>& values,
             const Carries& carries, std::int64_t begin, std::int64_t end, Combine combine,
             const Output<T>& out, void* scratch) {
  with_form(form, wide, [&](auto f, auto w) {
    product_of<decltype(f)::value, decltype(w)::value>(from, to, left_at, right_at, values, carries,
                                                       begin, end, combine, out, scratch);
  });
}

template <class T>
void gradients(Form form, bool wide, const GradientJob<T>& job, std::int64_t begin,
               std::int64_t end, void* scratch) {
  with_form(form, wide, [&](auto f, auto w) {
    gradients_of<decltype(f)::value, decltype(w)::value>(job, begin, end, scratch);
  });
}

template <class T>
void moment_totals(Form form, bool wide, int degree, const MomentJob<T>& job, std::int64_t begin,
                   std::int64_t end, double* grown, double* shrunk, void* scratch) {
  with_form(form, wide, [&](auto f, auto w) {
    with_degree(degree, [&](auto d) {
      moment_totals_of<decltype(f)::value, decltype(w)::value, decltype(d)::value>(
          job, begin, end, grown, shrunk, scratch);
    });
  });
}

template <class T>
void moment_products(Form form, bool wide, int degree, const MomentJob<T>& job, std::int64_t begin,
                     std::int64_t end, void* scratch) {
  with_form(form, wide, [&](auto f, auto w) {
    with_degree(degree, [&](auto d) {
      moment_products_of<decltype(f)::value, decltype(w)::value, decltype(d)::value>(job, begin,
                                                                                     end, scratch);
    });
  });
}

/// Of a level; a constant, so that nothing of the level's code runs before it is chosen.
template <class T>
constexpr Kernels<T> table() {
  return {sort_nearly_sorted<T>, place<T>,         exponentials<T>, totals<T>,    plain_sums<T>,
          sum_chunks<T>,         spread_chunks<T>, product<T>,      gradients<T>, moment_totals<T>,
          moment_products<T>,    to_tile<T>,       from_tile<T>,    strands,      extract};
}

static_assert(2 * sizeof(Buffers<double, 2, kRows>) == scratch_bytes(sizeof(double), true));
static_assert(2 * sizeof(Buffers<float, 2, 1>) == scratch_bytes(sizeof(float), false));
static_assert(sizeof(MomentBuffers<double, 2, kMaxMoment, kRows>) ==
              moment_scratch_bytes(sizeof(double), true));
static_assert(sizeof(MomentBuffers<float, 2, kMaxMoment, 1>) ==
              moment_scratch_bytes(sizeof(float), false));

}  // namespace laplex::detail::LAPLEX_LEVEL
