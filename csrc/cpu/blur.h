// A separable blur of maps [height][width][lanes], one row at a time.
//
// kRelative: each result is x + sum_k w_k (x_k - x) instead of sum_k w_k x_k. Where the weights sum
// to 1 that is the same, but exact where x is flat.
#pragma once

#include "core/gaussian.h"
#include "cpu/parts.h"

namespace fastconv {
namespace FASTCONV_ISA {

// to = sum over the taps of a weight times `from`, `step` elements further for each tap; `middle`:
// the elements that the sum is relative to. From one weight to the next are `pitch` elements.
template <bool kRelative, typename acc_t, class taps_t>
static inline void blur_taps(const acc_t* from, int64_t step, const acc_t* middle,
                             const acc_t* weights, int64_t pitch, taps_t taps, int64_t count,
                             acc_t* to) {
  for_parts_apart<acc_t>(count, [&](int64_t i, auto part) {
    auto base = load_part(middle + i, part);
    if (!kRelative) base = decltype(base){};
    auto sum = base;
#pragma GCC unroll 8
    for (int64_t k = 0; k < taps; ++k) {
      sum += weights[k * pitch] * (load_part(from + k * step + i, part) - base);
    }
    store_part(sum, to + i, part);
  });
}

// The same; the usual number of weights stays in registers.
template <bool kRelative, typename acc_t>
static void blur_run(const acc_t* from, int64_t step, const acc_t* middle, const acc_t* weights,
                     int64_t pitch, int64_t taps, int64_t count, acc_t* to) {
  constexpr int64_t kUsual = 7;
  if (taps != kUsual) {
    blur_taps<kRelative>(from, step, middle, weights, pitch, taps, count, to);
    return;
  }
  acc_t few[kUsual];
  for (int64_t k = 0; k < kUsual; ++k) few[k] = weights[k * pitch];
  blur_taps<kRelative>(from, step, middle, few, 1, std::integral_constant<int64_t, kUsual>(), count,
                       to);
}

// to = row y of `map`, blurred along columns.
template <bool kRelative, typename acc_t>
static void blur_columns(const acc_t* map, acc_t* to, const Band<acc_t>& band, int64_t row,
                         int64_t y) {
  const int64_t first = max_of(0, y - band.radius), last = min_of(band.size - 1, y + band.radius);
  const acc_t* weights = band.weights + (first - y + band.radius) * band.size + y;
  blur_run<kRelative, acc_t>(map + first * row, row, map + y * row, weights, band.size,
                             last - first + 1, row, to);
}

// to = the padded row `line`, blurred along it. The weights of the padding are 0.
template <bool kRelative, typename acc_t>
static void blur_line(const acc_t* line, acc_t* to, const Band<acc_t>& band, int64_t lanes) {
  const int64_t taps = 2 * band.radius + 1, middle = band.radius * lanes;
  if (lanes >= Vec<acc_t>::kLanes) {  // that many elements have the same weights
    for (int64_t i = 0; i < band.size; i += lanes) {
      blur_run<kRelative, acc_t>(line + i, lanes, line + middle + i, band.weights + i, band.size,
                                 taps, lanes, to + i);
    }
    return;
  }
  for_parts_apart<acc_t>(band.size, [&](int64_t i, auto part) {
    auto base = load_part(line + middle + i, part);
    if (!kRelative) base = decltype(base){};
    auto sum = base;
    for (int64_t k = 0; k < taps; ++k) {
      const auto weight = load_part(band.weights + k * band.size + i, part);
      sum += weight * (load_part(line + i + k * lanes, part) - base);
    }
    store_part(sum, to + i, part);
  });
}

template <bool kRelative, typename acc_t>
static void blur_row(const acc_t* from, acc_t* to, acc_t* line, const Band<acc_t>& band,
                     int64_t lanes) {
  memcpy(line + band.radius * lanes, from, band.size * sizeof(acc_t));
  blur_line<kRelative>(line, to, band, lanes);
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
