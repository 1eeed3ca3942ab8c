// Geometry of a sliding window along one axis, shared by pooling and convolution.
//
// Output position o looks at the input positions start(o) + tap * dilation, tap in [0, kernel),
// where start(o) = o * stride - padding; positions outside [0, input) are padding.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fastconv {

FASTCONV_INLINE int64_t floor_div(int64_t a, int64_t b) {  // b > 0
  const int64_t q = a / b;
  return q - (a % b != 0 && a < 0);
}

FASTCONV_INLINE int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

FASTCONV_INLINE int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }
FASTCONV_INLINE int64_t max_of(int64_t a, int64_t b) { return a > b ? a : b; }

// Number of window positions. With ceil_mode a last, partial window counts if it starts inside
// the input or its left padding. The result is below 1 where the window does not fit.
FASTCONV_INLINE int64_t window_output_size(int64_t input, int64_t kernel, int64_t stride,
                                           int64_t padding, int64_t dilation, bool ceil_mode) {
  const int64_t span = dilation * (kernel - 1) + 1;
  const int64_t room = input + 2 * padding - span;
  int64_t output = floor_div(room + (ceil_mode ? stride - 1 : 0), stride) + 1;
  if (ceil_mode && (output - 1) * stride >= input + padding) --output;
  return output;
}

struct Window {
  int64_t input, output, kernel, stride, padding, dilation;

  FASTCONV_HOST_DEVICE int64_t start(int64_t o) const { return o * stride - padding; }

  // Taps of output o that fall inside the input: [first_tap(o), end_tap(o)).
  FASTCONV_HOST_DEVICE int64_t first_tap(int64_t o) const {
    return start(o) >= 0 ? 0 : min_of(kernel, ceil_div(-start(o), dilation));
  }
  FASTCONV_HOST_DEVICE int64_t end_tap(int64_t o) const {
    return max_of(0, min_of(kernel, ceil_div(input - start(o), dilation)));
  }

  // Outputs whose span covers input position i: [first_output(i), end_output(i)).
  FASTCONV_HOST_DEVICE int64_t first_output(int64_t i) const {
    return max_of(0, ceil_div(i + padding - dilation * (kernel - 1), stride));
  }
  FASTCONV_HOST_DEVICE int64_t end_output(int64_t i) const {
    return min_of(output, floor_div(i + padding, stride) + 1);
  }

  // The tap with which output o sees input i, or -1 where dilation steps over it.
  FASTCONV_HOST_DEVICE int64_t tap(int64_t o, int64_t i) const {
    const int64_t offset = i - start(o);
    return dilation == 1 ? offset : (offset % dilation == 0 ? offset / dilation : -1);
  }
};

// A pooling problem on (batch, channels, h.input, w.input). A switch is the position inside the
// window, tap_h * w.kernel + tap_w.
struct Pool2d {
  int64_t batch, channels;
  Window h, w;
  bool channels_last;
};

}  // namespace fastconv
