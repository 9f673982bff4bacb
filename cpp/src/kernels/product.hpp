/// Products: the sums of each cell, read off at the other side.
#pragma once

#include "cell.hpp"
#include "running.hpp"
#include "small_cells.hpp"

namespace laplex::detail::LAPLEX_LEVEL {

/// What is read off: the sum of both sides, as it is; any combination, scaled; or differences with
/// running sums.
enum class Reading { plain, any, cumulative };

/// Reads sums off at targets, `left_at` and `right_at` their places among the sums. The views are
/// copies: of what is reached by a reference, the compiler would believe that every store changes
/// it.
template <Form F, bool Wide, Reading R, class T, class Cell>
LAPLEX_INLINE void read_off(const Cell& buffers, const SideView<T> to, Range targets,
                            const std::uint16_t* left_at, const std::uint16_t* right_at,
                            Combine combine, const RunningSums<T> running, const Output<T> out) {
  constexpr int P = F == Form::real ? 1 : 2;
  constexpr bool Plain = R == Reading::plain;
  // The result at the targets from k on.
  const auto result = [&](std::int64_t k, Pack<T>* u) {
    Pack<T> right[P];
    look_up<Wide, P>(buffers, left_at, k, u, right);
    if (!Plain && left_at != right_at) {
      Pack<T> unused[P];
      look_up<Wide, P>(buffers, right_at, k, unused, right);
    }
    move_to<F, Wide, true>(to, targets.begin + k, u);
    move_to<F, Wide, false>(to, targets.begin + k, right);
    for (int p = 0; p < P; ++p) {
      if (Plain || combine == Combine::sum) {
        u[p] = u[p] + right[p];
      } else if (R == Reading::cumulative || combine == Combine::difference) {
        u[p] = u[p] - right[p];
      } else if (combine == Combine::right) {
        u[p] = right[p];
      }
    }
    if constexpr (R == Reading::cumulative) {
      const Pack<T> both =
          running.template at<Wide>(left_at + k) + running.template at<Wide>(right_at + k);
      u[0] = running.reverse ? u[0] + both : u[0] - both;
    }
  };
  if constexpr (Wide) {
    if (out.base == nullptr) {
      for (std::int64_t k = 0; k < targets.size(); k += 8) {
        const std::int64_t left = targets.size() - k;
        T* const rows = out.rows.first + targets.begin + k;
        Pack<T> group[8];
        const auto fill = [&](std::int64_t j) {
          Pack<T> u[P];
          result(k + j, u);
          turn_result<F, Wide>(to, targets.begin + k + j, u, out);
          return u[0];
        };
        if (left >= 8) {
          repeat<8>([&](auto j) { group[j.value] = fill(j.value); });
          store_group(group, rows, out.rows.stride);
        } else {
          for (std::int64_t j = 0; j < 8; ++j) {
            group[j] = j < left ? fill(j) : splat(T(0));
          }
          store_part(group, left, rows, out.rows.stride);
        }
      }
      return;
    }
  }
  for (std::int64_t k = 0; k < targets.size(); k += Wide ? 1 : 8) {
    Pack<T> u[P];
    result(k, u);
    put<F, Wide>(to, targets, k, u, out);
  }
}

/// Whether a product is a plain one with real results, by far the most: they have a loop without a
/// choice in it.
template <class T>
LAPLEX_INLINE bool is_plain(const std::uint16_t* left_at, const std::uint16_t* right_at,
                            Combine combine, const Output<T>& out) {
  return left_at == right_at && combine == Combine::sum && out.scale == T(1) && !out.conjugate &&
         !out.paired;
}

template <Form F, bool Wide, class T, class Cell>
LAPLEX_INLINE void read_off_as(bool plain, const Cell& buffers, const SideView<T>& to,
                               Range targets, const std::uint16_t* left_at,
                               const std::uint16_t* right_at, Combine combine,
                               const RunningSums<T>& running, const Output<T>& out) {
  if (plain) {
    read_off<F, Wide, Reading::plain>(
        buffers, to, targets, left_at, left_at, Combine::sum, running,
        Output<T>{out.base, out.step, false, false, T(1), out.sorted, out.rows});
    return;
  }
  if constexpr (F == Form::real) {
    if (running.sums != nullptr) {
      read_off<F, Wide, Reading::cumulative>(buffers, to, targets, left_at, right_at, combine,
                                             running, out);
      return;
    }
  }
  read_off<F, Wide, Reading::any>(buffers, to, targets, left_at, right_at, combine, running, out);
}

/// Eight small cells; a function by itself, so that the loop over others keeps its registers.
template <Form F, class T, class Cell>
LAPLEX_APART void product_small(const SideView<T>& from, const SideView<T>& to,
                                const std::uint16_t* left_at, const std::uint16_t* right_at,
                                const Input<T>& values, const Carries& carries, std::int64_t cell,
                                Combine combine, const Output<T>& out, Cell& buffers, T* sums) {
  std::uint16_t left[8 * kCell + 8];
  std::uint16_t right[8 * kCell + 8];
  RunningSums<T> running;
  if constexpr (F == Form::real) {
    if (carries.running.outside != nullptr) {
      running = run_small(from, values, carries.running, cell, sums);
    }
  }
  scan_small<F>(from, values, carries, cell, buffers);
  look_up_small(to, left_at, cell, left);
  if (left_at != right_at) {
    look_up_small(to, right_at, cell, right);
  }
  read_off_as<F, false>(is_plain(left_at, right_at, combine, out), buffers, to,
                        {to.first[cell], to.first[cell + 8]}, left,
                        left_at != right_at ? right : left, combine, running, out);
}

template <Form F, bool Wide, class T>
void product_of(const SideView<T>& from, const SideView<T>& to, const std::uint16_t* left_at,
                const std::uint16_t* right_at, const Input<T>& values, const Carries& carries,
                std::int64_t begin, std::int64_t end, Combine combine, const Output<T>& out,
                void* scratch) {
  constexpr int P = F == Form::real ? 1 : 2;
  const bool plain = is_plain(left_at, right_at, combine, out);
  auto* const both = static_cast<Buffers<T, P, Wide ? kRows : 1>*>(scratch);
  auto& buffers = both[0];
  T* const sums = both[1].value[0];
  for (std::int64_t cell = begin; cell < end; ++cell) {
    if constexpr (!Wide) {
      if (are_small(from, cell, end)) {
        product_small<F>(from, to, left_at, right_at, values, carries, cell, combine, out, buffers,
                         sums);
        cell += 7;
        continue;
      }
    }
    const Range sources = range_of(from, cell);
    const Range targets = range_of(to, cell);
    if (targets.size() == 0) {
      continue;
    }
    Carry<Wide> leaving[P];
    const bool point = is_point(from, cell);
    if (point) {
      scan_point<F, Wide, T>(carries, cell, buffers, leaving);
    } else {
      load_values<F, Wide>(from, values, sources, buffers.value[0], buffers.value[P - 1]);
      scan_cell<F, Wide>(from, sources, carries, cell, buffers, leaving);
    }
    RunningSums<T> running;
    if constexpr (F == Form::real) {
      if (carries.running.outside != nullptr) {
        running =
            point ? run_point<Wide>(carries, cell, sums)
                  : run_cell<Wide>(buffers.value[0], sources.size(), carries.running, cell, sums);
      }
    }
    read_off_as<F, Wide>(plain, buffers, to, targets, left_at + targets.begin,
                         right_at + targets.begin, combine, running, out);
  }
}

}  // namespace laplex::detail::LAPLEX_LEVEL
