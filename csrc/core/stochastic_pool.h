// Stochastic pooling of one window, in full: what its draw and its mean are, whatever it holds.
//
// With a_i the elements of the window, those at or below 0 counted as 0, element i is drawn with
// probability p_i = a_i / sum a: walking row by row, it is the one in which uniform * sum a falls.
// The mean of all draws is sum p_i a_i.
//
//   no element above 0   both are 0; the first element is recorded, though nothing is drawn
//   a NaN                both are NaN; the first NaN is recorded
//   else a +inf          the first +inf has all the probability
//   sum a too large      as if it were not: it is taken in double, scaled down
//
// A vector kernel treats ordinary windows in lanes, with these operations in this order, and leaves
// the others to these functions.
#pragma once

#include <cstdint>
#include <limits>

#include "core/macros.h"
#include "core/numeric.h"

namespace fastconv {

// The elements of one window that lie in the input: rows [r0, r1) and columns [s0, s1) of it.
template <typename scalar_t>
struct WindowElements {
  const scalar_t* origin;  // element (0, 0), which may be padding
  int64_t row_step, column_step, r0, r1, s0, s1, kernel_w;
};

template <typename acc_t>
struct Drawn {
  acc_t value;
  int which;  // r * kernel_w + s
};

template <typename acc_t>
struct Mean {
  acc_t value, sum;  // sum p_i a_i and sum a; both NaN or both inf where an element is
};

// More than the elements of a window, and a power of two, so that scaling is exact.
constexpr double kScaleOfLargeSums = 1.0 / 1024;

// body(value, position) for each element, row by row, until it returns false.
template <typename scalar_t, class F>
FASTCONV_INLINE void for_elements(const WindowElements<scalar_t>& a, const F& body) {
  for (int64_t r = a.r0; r < a.r1; ++r) {
    for (int64_t s = a.s0; s < a.s1; ++s) {
      const auto value = to_acc(a.origin[r * a.row_step + s * a.column_step]);
      if (!body(value, int(r * a.kernel_w + s))) return;
    }
  }
}

template <typename sum_t>
FASTCONV_INLINE bool is_finite(sum_t sum) {  // of a sum of positive numbers
  return sum <= std::numeric_limits<sum_t>::max();
}

template <typename sum_t, typename scalar_t>
FASTCONV_INLINE sum_t positive_sum(const WindowElements<scalar_t>& a, sum_t scale) {
  sum_t sum = 0;
  for_elements(a, [&](auto value, int) {
    sum += value <= 0 ? sum_t(0) : sum_t(value) * scale;  // a NaN is added
    return true;
  });
  return sum;
}

// The last positive element with at most `threshold` before it. That is the one in which threshold
// falls, but rounding can neither fall off the end nor stop at an element without probability.
template <typename sum_t, typename scalar_t>
FASTCONV_INLINE Drawn<accumulate_t<scalar_t>> walk(const WindowElements<scalar_t>& a, sum_t scale,
                                                   sum_t threshold) {
  Drawn<accumulate_t<scalar_t>> drawn{0, int(a.r0 * a.kernel_w + a.s0)};
  sum_t before = 0;
  for_elements(a, [&](auto value, int position) {
    if (value > 0) {
      if (before <= threshold) drawn = {value, position};
      before += sum_t(value) * scale;
    }
    return true;
  });
  return drawn;
}

// The first NaN, or else the first +inf; false where the window has neither.
template <typename scalar_t>
FASTCONV_INLINE bool find_not_finite(const WindowElements<scalar_t>& a,
                                     Drawn<accumulate_t<scalar_t>>& found) {
  bool any = false;
  for_elements(a, [&](auto value, int position) {
    const bool is_nan = value != value;
    if (is_nan || (!any && value > 0 && !is_finite(value))) {
      found = {value, position};
      any = true;
    }
    return !is_nan;
  });
  return any;
}

template <typename scalar_t>
FASTCONV_INLINE Drawn<accumulate_t<scalar_t>> stochastic_draw(const WindowElements<scalar_t>& a,
                                                              float uniform) {
  using acc_t = accumulate_t<scalar_t>;
  const acc_t sum = positive_sum(a, acc_t(1));
  if (is_finite(sum)) return walk(a, acc_t(1), acc_t(uniform) * sum);
  Drawn<acc_t> found{};
  if (find_not_finite(a, found)) return found;
  return walk(a, kScaleOfLargeSums, uniform * positive_sum(a, kScaleOfLargeSums));
}

template <typename scalar_t>
FASTCONV_INLINE Mean<accumulate_t<scalar_t>> stochastic_mean(const WindowElements<scalar_t>& a) {
  using acc_t = accumulate_t<scalar_t>;
  Drawn<acc_t> found{};
  if (find_not_finite(a, found)) return {found.value, found.value};
  double scale = 1, sum = positive_sum(a, scale), mean = 0;
  if (!is_finite(sum)) sum = positive_sum(a, scale = kScaleOfLargeSums);
  for_elements(a, [&](auto value, int) {
    if (value > 0) mean += value * scale / sum * value;
    return true;
  });
  return {acc_t(mean), acc_t(sum / scale)};
}

}  // namespace fastconv
