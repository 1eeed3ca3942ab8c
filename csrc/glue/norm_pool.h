// The arguments of local_response_norm_max_pool2d and its gradient, checked once, in one place.
#pragma once

#include "core/norm_pool.h"
#include "glue/max_unpool2d.h"
#include "glue/response_norm.h"

namespace fastconv {

inline NormPool2d norm_pool_of(const char* op, const Tensor& input, int64_t size, double alpha,
                               double beta, double k, const IntPair& kernel_size,
                               const IntPair& stride, const IntPair& padding,
                               const IntPair& dilation, bool ceil_mode) {
  const Pool2d pool = pool2d_of(op, input, kernel_size, stride, padding, dilation, ceil_mode);
  check_switch_range(op, kernel_size);
  return {response_norm_of(op, input, size, alpha, beta, k, false), pool};
}

// The problem whose forward gave these switches.
inline NormPool2d norm_pool_grad_of(const char* op, const Tensor& grad_output, const Tensor& input,
                                    const Tensor& switches, int64_t size, double alpha, double beta,
                                    double k, const IntPair& kernel_size, const IntPair& stride,
                                    const IntPair& padding, const IntPair& dilation) {
  const ResponseNorm norm = response_norm_of(op, input, size, alpha, beta, k, false);
  check_same_dtype(op, "grad_output", grad_output, "input", input);
  check_same_device(op, "input", input, "grad_output", grad_output);
  Pool2d pool = unpool2d_of(op, "grad_output", grad_output, switches, kernel_size, stride, padding,
                            dilation, {norm.height, norm.width});
  check_same_shape(op, "grad_output", grad_output, switches);
  FASTCONV_CHECK(op, pool.batch == norm.batch && pool.channels == norm.maps,
                 "switches must have the batch and channels of input (got ", shape_text(switches),
                 " and ", shape_text(input), ")");
  pool.channels_last = norm.channels_last;
  return {norm, pool};
}

}  // namespace fastconv
