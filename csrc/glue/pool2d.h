// The arguments that every pooling op takes, checked once, in one place.
#pragma once

#include <cstdint>
#include <vector>

#include "core/window.h"
#include "glue/dispatch.h"
#include "glue/tensor.h"

namespace fastconv {

using IntPair = std::vector<int64_t>;  // (height, width)

inline void check_pair(const char* op, const char* name, const IntPair& pair, int64_t least) {
  constexpr int64_t kMost = INT32_MAX;
  FASTCONV_CHECK(op, pair.size() == 2, name, " must be one integer or a pair (got ", pair.size(),
                 " integers)");
  for (int64_t value : pair) {
    FASTCONV_CHECK(op, value >= least, name, " must be at least ", least, " (got ", name, "=",
                   value, ")");
    FASTCONV_CHECK(op, value <= kMost, name, " must be at most ", kMost, " (got ", name, "=", value,
                   ")");
  }
}

// Windows over maps of `height` x `width`; `output` is left for the caller.
inline Pool2d pool2d_windows(const char* op, int64_t height, int64_t width,
                             const IntPair& kernel_size, const IntPair& stride,
                             const IntPair& padding, const IntPair& dilation) {
  check_pair(op, "kernel_size", kernel_size, 1);
  check_pair(op, "stride", stride, 1);
  check_pair(op, "padding", padding, 0);
  check_pair(op, "dilation", dilation, 1);
  for (int axis : {0, 1}) {
    FASTCONV_CHECK(op, padding[axis] <= kernel_size[axis] / 2,
                   "padding must be at most half of kernel_size (got padding=", padding[axis],
                   ", kernel_size=", kernel_size[axis], ")");
  }
  Pool2d p{};
  p.h = Window{height, 0, kernel_size[0], stride[0], padding[0], dilation[0]};
  p.w = Window{width, 0, kernel_size[1], stride[1], padding[1], dilation[1]};
  return p;
}

inline void check_switch_range(const char* op, const IntPair& kernel_size) {
  FASTCONV_CHECK(op, kernel_size[0] * kernel_size[1] <= 256,
                 "kernel_size must cover at most 256 elements, because a switch is one byte (got ",
                 kernel_size[0], "x", kernel_size[1], ")");
}

// The whole problem, for an op that pools `input`.
inline Pool2d pool2d_of(const char* op, const Tensor& input, const IntPair& kernel_size,
                        const IntPair& stride, const IntPair& padding, const IntPair& dilation,
                        bool ceil_mode) {
  check_rank4(op, "input", input);
  check_floating(op, "input", input);
  FASTCONV_CHECK(op, input.size(1) > 0 && input.size(2) > 0 && input.size(3) > 0,
                 "input must have no empty dimension but the batch (got shape ", shape_text(input),
                 ")");
  Pool2d p =
      pool2d_windows(op, input.size(2), input.size(3), kernel_size, stride, padding, dilation);
  p.batch = input.size(0);
  p.channels = input.size(1);
  p.channels_last = is_channels_last(input);
  for (Window* axis : {&p.h, &p.w}) {
    axis->output = window_output_size(axis->input, axis->kernel, axis->stride, axis->padding,
                                      axis->dilation, ceil_mode);
    FASTCONV_CHECK(op, axis->output >= 1,
                   "the window must fit into the padded input (got input size ", axis->input,
                   ", kernel_size=", axis->kernel, ", padding=", axis->padding,
                   ", dilation=", axis->dilation, ")");
  }
  return p;
}

// A byte for each output, or none at all.
inline Tensor new_switches(const Tensor& input, const Pool2d& p, bool wanted) {
  return new_tensor(input, {wanted ? p.batch : 0, p.channels, p.h.output, p.w.output},
                    ScalarType::Byte, memory_format_of(p.channels_last));
}
inline uint8_t* switches_or_null(const Tensor& switches) {
  return switches.numel() ? mutable_data<uint8_t>(switches) : nullptr;
}

}  // namespace fastconv
