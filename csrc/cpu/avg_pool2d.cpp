#include "cpu/avg_pool2d.h"

#include <torch/csrc/stable/library.h>

#include "cpu/dispatch.h"
#include "glue/avg_pool2d.h"

namespace fastconv {

static Tensor pool(const char* op, const Tensor& input, const IntPair& kernel_size,
                   const IntPair& stride, const IntPair& padding, bool ceil_mode,
                   bool count_include_pad, Divisor divisor_override) {
  const Pool2d p = pool2d_of(op, input, kernel_size, stride, padding, {1, 1}, ceil_mode);
  const AvgPool2d avg =
      avg_pool2d_of(op, without_long_rows(p), count_include_pad, divisor_override);

  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  Tensor output =
      new_tensor(x, {p.batch, p.channels, p.h.output, p.w.output}, x.scalar_type(), format);
  const int64_t units = units_of(avg.pool, p.h.output);
  const int64_t cost = units ? output.numel() / units * p.h.kernel * p.w.kernel : 0;
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), parallel_over(units, cost, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(
            avg_pool2d_forward(data<scalar_t>(x), mutable_data<scalar_t>(output), avg, begin, end));
      }))
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

// channels_last: the format of the input, which one pooled pixel does not tell.
static Tensor avg_pool2d_backward(const Tensor& grad_output, IntPair input_size, bool channels_last,
                                  IntPair kernel_size, IntPair stride, IntPair padding,
                                  bool ceil_mode, bool count_include_pad,
                                  Divisor divisor_override) {
  const char* op = "avg_pool2d_backward";
  AvgPool2d avg =
      avg_pool2d_backward_of(op, grad_output, input_size, channels_last, kernel_size, stride,
                             padding, ceil_mode, count_include_pad, divisor_override);
  const Pool2d p = avg.pool;
  avg.pool = without_long_rows(p);
  const MemoryFormat format = memory_format_of(channels_last);

  const Tensor g = contiguous_as(grad_output, format);
  Tensor grad_input =
      new_tensor(g, {p.batch, p.channels, p.h.input, p.w.input}, g.scalar_type(), format);
  const int64_t units = units_of(avg.pool, p.h.input);
  const int64_t cost = units ? 4 * grad_input.numel() / units : 0;
  FASTCONV_DISPATCH_FLOATING(
      g.scalar_type(), parallel_over(units, cost, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(avg_pool2d_backward(data<scalar_t>(g), mutable_data<scalar_t>(grad_input),
                                              avg, begin, end));
      }))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  FASTCONV_IMPL(m, avg_pool2d);
  FASTCONV_IMPL(m, sum_pool2d);
  FASTCONV_IMPL(m, avg_pool2d_backward);
}

}  // namespace fastconv
