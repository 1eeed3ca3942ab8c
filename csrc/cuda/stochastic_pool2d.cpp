#include "cuda/stochastic_pool2d.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/device.h"
#include "glue/dispatch.h"
#include "glue/random.h"
#include "glue/stochastic_pool2d.h"

namespace fastconv {

static std::tuple<Tensor, Tensor> stochastic_pool2d(const Tensor& input, const Tensor& seed,
                                                    IntPair kernel_size, IntPair stride,
                                                    IntPair padding, bool ceil_mode) {
  const char* op = "stochastic_pool2d";
  const Pool2d p = stochastic_pool2d_of(op, input, kernel_size, stride, padding, ceil_mode);
  check_seed(op, seed);
  check_same_device(op, "seed", seed, "input", input);
  check_pool2d_image(op, p);

  const CudaCall call(op, input);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  Tensor output = new_tensor(x, pooled_sizes(p), x.scalar_type(), format);
  Tensor switches = new_tensor(x, pooled_sizes(p), ScalarType::Byte, format);
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), call.check(launch_stochastic_pool2d(
                           data<scalar_t>(x), data<int64_t>(seed), mutable_data<scalar_t>(output),
                           mutable_data<uint8_t>(switches), p, call.stream())))
  return {output, switches};
}

static Tensor stochastic_pool2d_mean(const Tensor& input, IntPair kernel_size, IntPair stride,
                                     IntPair padding, bool ceil_mode) {
  const char* op = "stochastic_pool2d";
  const Pool2d p = stochastic_pool2d_of(op, input, kernel_size, stride, padding, ceil_mode);
  check_pool2d_image(op, p);
  const CudaCall call(op, input);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  Tensor output = new_tensor(x, pooled_sizes(p), x.scalar_type(), format);
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), call.check(launch_stochastic_pool2d_mean(
                           data<scalar_t>(x), mutable_data<scalar_t>(output), p, call.stream())))
  return output;
}

static Tensor stochastic_pool2d_mean_backward(const Tensor& grad_output, const Tensor& input,
                                              IntPair kernel_size, IntPair stride, IntPair padding,
                                              bool ceil_mode) {
  const char* op = "stochastic_pool2d_mean_backward";
  const Pool2d p = stochastic_pool2d_of(op, input, kernel_size, stride, padding, ceil_mode);
  check_pooled_grad(op, grad_output, input, p);
  check_pool2d_image(op, p);

  const CudaCall call(op, input);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format), g = contiguous_as(grad_output, format);
  Tensor grad_input =
      new_tensor(x, {p.batch, p.channels, p.h.input, p.w.input}, x.scalar_type(), format);
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), call.check(launch_stochastic_pool2d_mean_backward(
                           data<scalar_t>(g), data<scalar_t>(x), mutable_data<scalar_t>(grad_input),
                           p, call.stream())))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("stochastic_pool2d", TORCH_BOX(&stochastic_pool2d));
  m.impl("stochastic_pool2d_mean", TORCH_BOX(&stochastic_pool2d_mean));
  m.impl("stochastic_pool2d_mean_backward", TORCH_BOX(&stochastic_pool2d_mean_backward));
}

}  // namespace fastconv
