#include "cuda/max_unpool2d.h"

#include <torch/csrc/stable/library.h>

#include "cuda/device.h"
#include "glue/dispatch.h"
#include "glue/max_unpool2d.h"

namespace fastconv {

static Tensor max_unpool2d(const Tensor& input, const Tensor& switches, IntPair kernel_size,
                           IntPair stride, IntPair padding, IntPair dilation, IntPair output_size,
                           bool overwrite) {
  const char* op = "max_unpool2d";
  Pool2d p = unpool2d_of(op, "input", input, switches, kernel_size, stride, padding, dilation,
                         output_size);
  check_same_shape(op, "input", input, switches);
  check_pool2d_image(op, p);

  const CudaCall call(op, input);
  const MemoryFormat format = memory_format_of(input);
  p.channels_last = format == MemoryFormat::ChannelsLast;
  const Tensor x = contiguous_as(input, format), sw = contiguous_as(switches, format);
  Tensor output =
      new_tensor(x, {p.batch, p.channels, p.h.input, p.w.input}, x.scalar_type(), format);
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(),
      call.check(launch_max_unpool2d(data<scalar_t>(x), data<uint8_t>(sw),
                                     mutable_data<scalar_t>(output), p, overwrite, call.stream())))
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
  check_pool2d_image(op, p);

  const CudaCall call(op, grad_output);
  const MemoryFormat format = memory_format_of(switches);
  p.channels_last = format == MemoryFormat::ChannelsLast;
  const Tensor g = contiguous_as(grad_output, format), sw = contiguous_as(switches, format);
  Tensor grad_input =
      new_tensor(g, {p.batch, p.channels, p.h.output, p.w.output}, g.scalar_type(), format);
  FASTCONV_DISPATCH_FLOATING(
      g.scalar_type(), call.check(launch_max_unpool2d_backward(data<scalar_t>(g), data<uint8_t>(sw),
                                                               mutable_data<scalar_t>(grad_input),
                                                               p, overwrite, call.stream())))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("max_unpool2d", TORCH_BOX(&max_unpool2d));
  m.impl("max_unpool2d_backward", TORCH_BOX(&max_unpool2d_backward));
}

}  // namespace fastconv
