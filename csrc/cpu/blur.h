// A separable blur of maps [height][width][lanes], one row at a time.
//
// kRelative: each result is x + sum_k w_k (x_k - x) instead of sum_k w_k x_k. Where the weights sum
// to 1 that is the same, but exact where x is flat.
#pragma once

#include "core/gaussian.h"
#include "cpu/parts.h"

namespace fastconv {
namespace FASTCONV_ISA {

// The elements that a result is summed from, tap after tap: `step` elements apart, or rows of a
// ring buffer, which goes on at `begin` where it ends.
template <typename acc_t>
struct Taps {
  const acc_t* first;
  int64_t step;
  const acc_t *begin = nullptr, *end = nullptr;  // of a ring

  const acc_t* next(const acc_t* tap) const { return tap + step == end ? begin : tap + step; }
};

// put(i, part, sum over the taps of a weight times the tap's element i), i < count; `middle`: the
// elements that the sum is relative to. From one weight to the next are `pitch` elements.
template <bool kRelative, typename acc_t, class F>
static inline void blur_any(const Taps<acc_t>& from, const acc_t* middle, const acc_t* weights,
                            int64_t pitch, int64_t taps, int64_t count, const F& put) {
  for_parts_apart<acc_t>(count, [&](int64_t i, auto part) {
    auto base = load_part(middle + i, part);
    if (!kRelative) base = decltype(base){};
    auto sum = base;
    const acc_t* tap = from.first;
    for (int64_t k = 0; k < taps; ++k, tap = from.next(tap)) {
      sum += weights[k * pitch] * (load_part(tap + i, part) - base);
    }
    put(i, part, sum);
  });
}

// The same for kTaps taps, an odd number, whose weights are the same on both sides: a pair less
// twice the middle is 0 where x is flat (up to half of the largest number, from where it
// overflows).
template <bool kRelative, int kTaps, typename acc_t, class F>
static inline void blur_symmetric(const Taps<acc_t>& from, const acc_t* weights, int64_t pitch,
                                  int64_t count, const F& put) {
  constexpr int kRadius = kTaps / 2;
  const acc_t* tap[kTaps] = {from.first};
  acc_t weight[kRadius + 1];
  for (int k = 1; k < kTaps; ++k) tap[k] = from.next(tap[k - 1]);
  for (int k = 0; k <= kRadius; ++k) weight[k] = weights[k * pitch];
  for_parts_apart<acc_t>(count, [&](int64_t i, auto part) {
    const auto middle = load_part(tap[kRadius] + i, part);
    const auto twice = middle + middle;
    auto sum = kRelative ? middle : weight[kRadius] * middle;
#pragma GCC unroll 8
    for (int k = 0; k < kRadius; ++k) {
      auto both = load_part(tap[k] + i, part) + load_part(tap[kTaps - 1 - k] + i, part);
      if (kRelative) both -= twice;
      sum += weight[k] * both;
    }
    put(i, part, sum);
  });
}

// Either, for the window of local_contrast_norm's default and any other.
template <bool kRelative, typename acc_t, class F>
static inline void blur_run(const Taps<acc_t>& from, const acc_t* middle, const acc_t* weights,
                            int64_t pitch, int64_t taps, int64_t count, const F& put) {
  constexpr int kUsual = 7;
  bool symmetric = taps == kUsual;
  for (int k = 0; symmetric && k < kUsual / 2; ++k) {
    symmetric = weights[k * pitch] == weights[(kUsual - 1 - k) * pitch];
  }
  if (symmetric) return blur_symmetric<kRelative, kUsual>(from, weights, pitch, count, put);
  blur_any<kRelative>(from, middle, weights, pitch, taps, count, put);
}

// put(i, part, element i of row y of `map` blurred along columns). Of a map in a ring buffer of
// `rows` rows, those that the window covers.
template <bool kRelative, typename acc_t, class F>
static void blur_columns(const acc_t* map, int64_t rows, const Band<acc_t>& band, int64_t row,
                         int64_t y, const F& put) {
  const int64_t first = max_of(0, y - band.radius), last = min_of(band.size - 1, y + band.radius);
  const acc_t* weights = band.weights + (first - y + band.radius) * band.size + y;
  const Taps<acc_t> from{map + first % rows * row, row, map, map + rows * row};
  blur_run<kRelative, acc_t>(from, map + y % rows * row, weights, band.size, last - first + 1, row,
                             put);
}
template <bool kRelative, typename acc_t>
static void blur_columns(const acc_t* map, acc_t* to, const Band<acc_t>& band, int64_t row,
                         int64_t y) {
  blur_columns<kRelative>(map, band.size, band, row, y,
                          [&](int64_t i, auto part, auto sum) { store_part(sum, to + i, part); });
}

// to = the padded row `line`, blurred along it. The weights of the padding are 0.
template <bool kRelative, typename acc_t>
static void blur_line(const acc_t* line, acc_t* to, const Band<acc_t>& band, int64_t lanes) {
  const int64_t taps = 2 * band.radius + 1, middle = band.radius * lanes;
  if (lanes >= Vec<acc_t>::kLanes) {  // that many elements, or all but the border's, in one run
    int64_t end;
    for (int64_t i = 0; i < band.size; i = end) {
      end = i == band.even_begin ? band.even_end : i + lanes;
      const auto put = [&](int64_t l, auto part, auto sum) { store_part(sum, to + i + l, part); };
      blur_run<kRelative, acc_t>({line + i, lanes}, line + middle + i, band.weights + i, band.size,
                                 taps, end - i, put);
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
