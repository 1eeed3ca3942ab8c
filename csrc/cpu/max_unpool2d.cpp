#include "cpu/max_unpool2d.h"

#include <torch/csrc/stable/library.h>

#include "cpu/dispatch.h"
#include "glue/max_unpool2d.h"

namespace fastconv {

static Tensor max_unpool2d(const Tensor& input, const Tensor& switches, IntPair kernel_size,
                           IntPair stride, IntPair padding, IntPair dilation, IntPair output_size,
                           bool overwrite) {
  const char* op = "max_unpool2d";
  Pool2d p = unpool2d_of(op, "input", input, switches, kernel_size, stride, padding, dilation,
                         output_size);
  check_same_shape(op, "input", input, switches);

  const MemoryFormat format = memory_format_of(input);
  p.channels_last = format == MemoryFormat::ChannelsLast;
  const Tensor x = contiguous_as(input, format), sw = contiguous_as(switches, format);
  Tensor output =
      new_tensor(x, {p.batch, p.channels, p.h.input, p.w.input}, x.scalar_type(), format);

  const int64_t units = p.batch * (p.channels_last ? p.h.input : p.channels);
  const int64_t elements = output.numel();
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(),
      parallel_over(units, units ? 4 * elements / units : 0, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(max_unpool2d_forward(data<scalar_t>(x), data<uint8_t>(sw),
                                               mutable_data<scalar_t>(output), p, overwrite, begin,
                                               end));
      }))
  return output;
}

static Tensor max_unpool2d_backward(const Tensor& grad_output, const Tensor& switches,
                                    IntPair kernel_size, IntPair stride, IntPair padding,
                                    IntPair dilation, bool overwrite) {
  const char* op = "max_unpool2d_backward";
  check_rank4(op, "grad_output", grad_output);
  Pool2d p = unpool2d_of(op, "grad_output", grad_output, switches, kernel_size, stride, padding,
                         dilation, {grad_output.size(2), grad_output.size(3)});
  check_batch_and_channels(op, grad_output, switches);

  const MemoryFormat format = memory_format_of(switches);
  p.channels_last = format == MemoryFormat::ChannelsLast;
  const Tensor g = contiguous_as(grad_output, format), sw = contiguous_as(switches, format);
  Tensor grad_input =
      new_tensor(g, {p.batch, p.channels, p.h.output, p.w.output}, g.scalar_type(), format);

  const int64_t units = p.batch * (p.channels_last ? p.h.output : p.channels);
  const int64_t elements = grad_input.numel();
  FASTCONV_DISPATCH_FLOATING(
      g.scalar_type(),
      parallel_over(units, units ? 4 * elements / units : 0, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(max_unpool2d_backward(data<scalar_t>(g), data<uint8_t>(sw),
                                                mutable_data<scalar_t>(grad_input), p, overwrite,
                                                begin, end));
      }))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  FASTCONV_IMPL(m, max_unpool2d);
  FASTCONV_IMPL(m, max_unpool2d_backward);
}

}  // namespace fastconv
