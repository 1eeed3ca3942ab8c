#include "cuda/avg_pool2d.h"

#include <torch/csrc/stable/library.h>

#include "cuda/device.h"
#include "glue/avg_pool2d.h"
#include "glue/dispatch.h"

namespace fastconv {

static Tensor pool(const char* op, const Tensor& input, const IntPair& kernel_size,
                   const IntPair& stride, const IntPair& padding, bool ceil_mode,
                   bool count_include_pad, Divisor divisor_override) {
  const Pool2d p = pool2d_of(op, input, kernel_size, stride, padding, {1, 1}, ceil_mode);
  const AvgPool2d avg = avg_pool2d_of(op, p, count_include_pad, divisor_override);
  check_pool2d_image(op, p);

  const CudaCall call(op, input);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  Tensor output =
      new_tensor(x, {p.batch, p.channels, p.h.output, p.w.output}, x.scalar_type(), format);
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), call.check(launch_avg_pool2d(
                           data<scalar_t>(x), mutable_data<scalar_t>(output), avg, call.stream())))
  return output;
}

static Tensor avg_pool2d(const Tensor& input, IntPair kernel_size, IntPair stride, IntPair padding,
                         bool ceil_mode, bool count_include_pad, Divisor divisor_override) {
  return pool("avg_pool2d", input, kernel_size, stride, padding, ceil_mode, count_include_pad,
              divisor_override);
}

static Tensor sum_pool2d(const Tensor& input, IntPair kernel_size, IntPair stride, IntPair padding,
                         bool ceil_mode) {
  return pool("sum_pool2d", input, kernel_size, stride, padding, ceil_mode, true, 1);
}

static Tensor avg_pool2d_backward(const Tensor& grad_output, IntPair input_size, bool channels_last,
                                  IntPair kernel_size, IntPair stride, IntPair padding,
                                  bool ceil_mode, bool count_include_pad,
                                  Divisor divisor_override) {
  const char* op = "avg_pool2d_backward";
  const AvgPool2d avg =
      avg_pool2d_backward_of(op, grad_output, input_size, channels_last, kernel_size, stride,
                             padding, ceil_mode, count_include_pad, divisor_override);
  const Pool2d& p = avg.pool;
  check_pool2d_image(op, p);

  const CudaCall call(op, grad_output);
  const MemoryFormat format = memory_format_of(channels_last);
  const Tensor g = contiguous_as(grad_output, format);
  Tensor grad_input =
      new_tensor(g, {p.batch, p.channels, p.h.input, p.w.input}, g.scalar_type(), format);
  FASTCONV_DISPATCH_FLOATING(
      g.scalar_type(),
      call.check(launch_avg_pool2d_backward(data<scalar_t>(g), mutable_data<scalar_t>(grad_input),
                                            avg, call.stream())))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("avg_pool2d", TORCH_BOX(&avg_pool2d));
  m.impl("sum_pool2d", TORCH_BOX(&sum_pool2d));
  m.impl("avg_pool2d_backward", TORCH_BOX(&avg_pool2d_backward));
}

}  // namespace fastconv
