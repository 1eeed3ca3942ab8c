// The arguments of avg_pool2d, sum_pool2d and their gradient, checked once, in one place.
#pragma once

#include <optional>

#include "core/avg_pool.h"
#include "glue/pool2d.h"

namespace fastconv {

using Divisor = std::optional<int64_t>;

inline AvgPool2d avg_pool2d_of(const char* op, const Pool2d& pool, bool count_include_pad,
                               Divisor divisor_override) {
  FASTCONV_CHECK(op, divisor_override != 0, "divisor_override must not be 0");
  return {pool, count_include_pad, divisor_override.value_or(0)};
}

// The problem that pooled maps of `input_size`.
inline AvgPool2d avg_pool2d_backward_of(const char* op, const Tensor& grad_output,
                                        const IntPair& input_size, bool channels_last,
                                        const IntPair& kernel_size, const IntPair& stride,
                                        const IntPair& padding, bool ceil_mode,
                                        bool count_include_pad, Divisor divisor_override) {
  check_rank4(op, "grad_output", grad_output);
  check_floating(op, "grad_output", grad_output);
  check_pair(op, "input_size", input_size, 1);
  Pool2d p = pool2d_windows(op, input_size[0], input_size[1], kernel_size, stride, padding, {1, 1});
  p.batch = grad_output.size(0);
  p.channels = grad_output.size(1);
  p.h.output = window_output_size(p.h.input, p.h.kernel, p.h.stride, p.h.padding, 1, ceil_mode);
  p.w.output = window_output_size(p.w.input, p.w.kernel, p.w.stride, p.w.padding, 1, ceil_mode);
  FASTCONV_CHECK(op, grad_output.size(2) == p.h.output && grad_output.size(3) == p.w.output,
                 "grad_output must have the size that input_size pools to (got ",
                 shape_text(grad_output), ", and input_size pools to ", p.h.output, "x", p.w.output,
                 ")");
  p.channels_last = channels_last;
  return avg_pool2d_of(op, p, count_include_pad, divisor_override);
}

}  // namespace fastconv
