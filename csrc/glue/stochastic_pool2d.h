// The arguments of stochastic_pool2d, its mean and its gradient, checked once, in one place.
#pragma once

#include "glue/pool2d.h"

namespace fastconv {

inline Pool2d stochastic_pool2d_of(const char* op, const Tensor& input, const IntPair& kernel_size,
                                   const IntPair& stride, const IntPair& padding, bool ceil_mode) {
  const Pool2d p = pool2d_of(op, input, kernel_size, stride, padding, {1, 1}, ceil_mode);
  check_switch_range(op, kernel_size);
  return p;
}

inline std::vector<int64_t> pooled_sizes(const Pool2d& p) {
  return {p.batch, p.channels, p.h.output, p.w.output};
}

inline void check_pooled_grad(const char* op, const Tensor& grad_output, const Tensor& input,
                              const Pool2d& p) {
  const std::vector<int64_t> sizes = pooled_sizes(p);
  check_rank4(op, "grad_output", grad_output);
  check_same_dtype(op, "grad_output", grad_output, "input", input);
  check_same_device(op, "grad_output", grad_output, "input", input);
  for (int64_t d = 0; d < 4; ++d) {
    FASTCONV_CHECK(op, grad_output.size(d) == sizes[d],
                   "grad_output must have the shape that input pools to (got ",
                   shape_text(grad_output), " for an input of ", shape_text(input), ")");
  }
}

}  // namespace fastconv
