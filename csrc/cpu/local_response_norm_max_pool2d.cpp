#include "cpu/local_response_norm_max_pool2d.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cpu/dispatch.h"
#include "glue/norm_pool.h"

namespace fastconv {

// The kernels lay rows of the contiguous format out in phases. Where strides or windows are so
// large that such a row would take far more room than it has elements, the image is put into
// channels_last, whose kernels look at single elements.
static MemoryFormat format_of_kernel(const NormPool2d& p) {
  Pool2d pool = p.pool;
  pool.w.kernel = pool.w.dilation * (pool.w.kernel - 1) + 1;
  return memory_format_of(without_long_rows(pool).channels_last);
}

static Tensor brought_to(const Tensor& t, MemoryFormat from, MemoryFormat to) {
  if (from == to) return t;
  Tensor result = new_tensor(t, sizes_of(t), t.scalar_type(), to);
  torch::stable::copy_(result, t);
  return result;
}

static std::tuple<Tensor, Tensor> local_response_norm_max_pool2d(
    const Tensor& input, int64_t size, double alpha, double beta, double k, IntPair kernel_size,
    IntPair stride, IntPair padding, IntPair dilation, bool ceil_mode, bool with_switches) {
  const char* op = "local_response_norm_max_pool2d";
  NormPool2d p = norm_pool_of(op, input, size, alpha, beta, k, kernel_size, stride, padding,
                              dilation, ceil_mode);
  const MemoryFormat asked = memory_format_of(input), format = format_of_kernel(p);
  p.pool.channels_last = p.norm.channels_last = format == MemoryFormat::ChannelsLast;

  const Tensor x = contiguous_as(input, format);
  const std::vector<int64_t> sizes{p.pool.batch, p.pool.channels, p.pool.h.output, p.pool.w.output};
  Tensor output = new_tensor(x, sizes, x.scalar_type(), format);
  Tensor switches = new_switches(x, p.pool, with_switches);

  const int64_t units = p.pool.batch * p.pool.h.output;
  const int64_t cost = units ? 16 * x.numel() / units : 0;
  FASTCONV_DISPATCH_FLOATING(x.scalar_type(),
                             parallel_over(units, cost, [&](int64_t begin, int64_t end) {
                               FASTCONV_ISA_CALL(local_response_norm_max_pool2d_forward(
                                   data<scalar_t>(x), mutable_data<scalar_t>(output),
                                   switches_or_null(switches), p, begin, end));
                             }))
  return {brought_to(output, format, asked), brought_to(switches, format, asked)};
}

static Tensor local_response_norm_max_pool2d_backward(const Tensor& grad_output,
                                                      const Tensor& input, const Tensor& switches,
                                                      int64_t size, double alpha, double beta,
                                                      double k, IntPair kernel_size, IntPair stride,
                                                      IntPair padding, IntPair dilation) {
  const char* op = "local_response_norm_max_pool2d_backward";
  NormPool2d p = norm_pool_grad_of(op, grad_output, input, switches, size, alpha, beta, k,
                                   kernel_size, stride, padding, dilation);
  const MemoryFormat asked = memory_format_of(input), format = format_of_kernel(p);
  p.pool.channels_last = p.norm.channels_last = format == MemoryFormat::ChannelsLast;

  const Tensor x = contiguous_as(input, format), g = contiguous_as(grad_output, format);
  const Tensor sw = contiguous_as(switches, format);
  Tensor grad_input = new_tensor(x, sizes_of(x), x.scalar_type(), format);

  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), const int64_t rows = norm_pool_rows<scalar_t>(p);
      const int64_t units = x.numel() ? p.norm.batch * ceil_div(p.norm.height, rows) : 0;
      parallel_over(units, units ? 40 * x.numel() / units : 0, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(local_response_norm_max_pool2d_backward(
            data<scalar_t>(g), data<scalar_t>(x), data<uint8_t>(sw),
            mutable_data<scalar_t>(grad_input), p, begin, end));
      }))
  return brought_to(grad_input, format, asked);
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  FASTCONV_IMPL(m, local_response_norm_max_pool2d);
  FASTCONV_IMPL(m, local_response_norm_max_pool2d_backward);
}

}  // namespace fastconv
