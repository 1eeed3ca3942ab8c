// A separable blur of maps [height][width][lanes], one row at a time.
//
// kRelative: each result is x + sum_k w_k (x_k - x) instead of sum_k w_k x_k. Where the weights sum
// to 1 that is the same, but exact where x is flat.
#pragma once

#include "core/gaussian.h"
#include "cpu/parts.h"

namespace fastconv {
namespace FASTCONV_ISA {

// to = row y of `map`, blurred along columns.
template <bool kRelative, typename acc_t>
static void blur_columns(const acc_t* map, acc_t* to, const Band<acc_t>& band, int64_t row,
                         int64_t y) {
  const int64_t first = max_of(0, y - band.radius), last = min_of(band.size - 1, y + band.radius);
  const acc_t* weights = band.weights + (first - y + band.radius) * band.size + y;
  for_parts_apart<acc_t>(row, [&](int64_t i, auto part) {
    auto base = load_part(map + y * row + i, part);
    if (!kRelative) base = decltype(base){};
    auto sum = base;
    for (int64_t k = 0; k <= last - first; ++k) {
      sum += weights[k * band.size] * (load_part(map + (first + k) * row + i, part) - base);
    }
    store_part(sum, to + i, part);
  });
}

// to = the padded row `line`, blurred along it. The weights of the padding are 0.
template <bool kRelative, typename acc_t>
static void blur_line(const acc_t* line, acc_t* to, const Band<acc_t>& band, int64_t lanes) {
  const int64_t taps = 2 * band.radius + 1, middle = band.radius * lanes;
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
