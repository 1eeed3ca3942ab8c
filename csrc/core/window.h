// Geometry of a sliding window along one axis, shared by pooling and convolution.
//
// Output position o looks at the input positions start(o) + tap * dilation, tap in [0, kernel),
// where start(o) = o * stride - padding; positions outside [0, input) are padding.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/macros.h"

namespace fastconv {

template <typename A, typename B>
FASTCONV_INLINE std::common_type_t<A, B> floor_div(A a, B b) {  // b > 0
  const auto q = a / b;
  return q - (a % b != 0 && a < 0);
}

template <typename A, typename B>
FASTCONV_INLINE std::common_type_t<A, B> ceil_div(A a, B b) {
  return -floor_div(-a, b);
}
template <typename A, typename B>
FASTCONV_INLINE std::common_type_t<A, B> round_up(A a, B multiple) {
  return ceil_div(a, multiple) * multiple;
}

template <typename A, typename B>
FASTCONV_INLINE std::common_type_t<A, B> min_of(A a, B b) {
  return a < b ? a : b;
}
template <typename A, typename B>
FASTCONV_INLINE std::common_type_t<A, B> max_of(A a, B b) {
  return a > b ? a : b;
}

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

template <typename index_t>
struct BasicWindow {
  index_t input, output, kernel, stride, padding, dilation;

  FASTCONV_HOST_DEVICE index_t start(index_t o) const { return o * stride - padding; }

  // Taps of output o that fall inside the input: [first_tap(o), end_tap(o)).
  FASTCONV_HOST_DEVICE index_t first_tap(index_t o) const {
    return start(o) >= 0 ? 0 : min_of(kernel, ceil_div(-start(o), dilation));
  }
  FASTCONV_HOST_DEVICE index_t end_tap(index_t o) const {
    return max_of(0, min_of(kernel, ceil_div(input - start(o), dilation)));
  }

  // Outputs whose span covers input position i: [first_output(i), end_output(i)).
  FASTCONV_HOST_DEVICE index_t first_output(index_t i) const {
    return max_of(0, ceil_div(i + padding - dilation * (kernel - 1), stride));
  }
  FASTCONV_HOST_DEVICE index_t end_output(index_t i) const {
    return min_of(output, floor_div(i + padding, stride) + 1);
  }

  // The tap with which output o sees input i, or -1 where dilation steps over it.
  FASTCONV_HOST_DEVICE index_t tap(index_t o, index_t i) const {
    const index_t offset = i - start(o);
    return dilation == 1 ? offset : (offset % dilation == 0 ? offset / dilation : -1);
  }
};
using Window = BasicWindow<int64_t>;
using Window32 = BasicWindow<int32_t>;  // for the GPU, where 64-bit arithmetic is slow

FASTCONV_INLINE Window32 narrow(const Window& w) {
  return {int32_t(w.input),  int32_t(w.output),  int32_t(w.kernel),
          int32_t(w.stride), int32_t(w.padding), int32_t(w.dilation)};
}

// A pooling problem on (batch, channels, h.input, w.input). A switch is the position inside the
// window, tap_h * w.kernel + tap_w.
template <typename index_t>
struct BasicPool2d {
  index_t batch, channels;
  BasicWindow<index_t> h, w;
  bool channels_last;

  int64_t input_elements() const { return int64_t(batch) * channels * h.input * w.input; }
};
using Pool2d = BasicPool2d<int64_t>;
using Pool2d32 = BasicPool2d<int32_t>;

FASTCONV_INLINE Pool2d32 narrow(const Pool2d& p) {
  return {int32_t(p.batch), int32_t(p.channels), narrow(p.h), narrow(p.w), p.channels_last};
}

}  // namespace fastconv
