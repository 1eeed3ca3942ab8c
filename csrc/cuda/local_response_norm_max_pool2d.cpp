#include "cuda/local_response_norm_max_pool2d.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/device.h"
#include "cuda/local_response_norm.h"
#include "cuda/max_pool2d.h"
#include "glue/dispatch.h"
#include "glue/norm_pool.h"

namespace fastconv {

static bool fits(const NormPool2d& p, ScalarType type, bool backward) {
  return type == ScalarType::Double ? norm_pool_fits<double>(p, backward)
                                    : norm_pool_fits<float>(p, backward);
}

// The two kernels one after the other, for windows too large for one block's shared memory.
template <typename scalar_t>
static cudaError_t launch_apart(const scalar_t* x, scalar_t* normalised, scalar_t* output,
                                uint8_t* switches, const NormPool2d& p, cudaStream_t stream) {
  const cudaError_t error = launch_response_norm(x, normalised, p.norm, stream);
  if (error != cudaSuccess) return error;
  return launch_max_pool2d<scalar_t>(normalised, output, switches, p.pool, stream);
}

static std::tuple<Tensor, Tensor> local_response_norm_max_pool2d(
    const Tensor& input, int64_t size, double alpha, double beta, double k, IntPair kernel_size,
    IntPair stride, IntPair padding, IntPair dilation, bool ceil_mode, bool with_switches) {
  const char* op = "local_response_norm_max_pool2d";
  const NormPool2d p = norm_pool_of(op, input, size, alpha, beta, k, kernel_size, stride, padding,
                                    dilation, ceil_mode);
  check_pool2d_image(op, p.pool);
  const CudaCall call(op, input);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  const std::vector<int64_t> sizes{p.pool.batch, p.pool.channels, p.pool.h.output, p.pool.w.output};
  Tensor output = new_tensor(x, sizes, x.scalar_type(), format);
  Tensor switches = new_switches(x, p.pool, with_switches);
  if (output.numel() == 0) return {output, switches};

  if (fits(p, x.scalar_type(), false)) {
    FASTCONV_DISPATCH_FLOATING(
        x.scalar_type(),
        call.check(launch_norm_pool(data<scalar_t>(x), mutable_data<scalar_t>(output),
                                    switches_or_null(switches), p, call.stream())))
  } else {
    Tensor normalised = new_tensor(x, sizes_of(x), x.scalar_type(), format);
    FASTCONV_DISPATCH_FLOATING(
        x.scalar_type(),
        call.check(launch_apart(data<scalar_t>(x), mutable_data<scalar_t>(normalised),
                                mutable_data<scalar_t>(output), switches_or_null(switches), p,
                                call.stream())))
  }
  return {output, switches};
}

static Tensor local_response_norm_max_pool2d_backward(const Tensor& grad_output,
                                                      const Tensor& input, const Tensor& switches,
                                                      int64_t size, double alpha, double beta,
                                                      double k, IntPair kernel_size, IntPair stride,
                                                      IntPair padding, IntPair dilation) {
  const char* op = "local_response_norm_max_pool2d_backward";
  const NormPool2d p = norm_pool_grad_of(op, grad_output, input, switches, size, alpha, beta, k,
                                         kernel_size, stride, padding, dilation);
  check_pool2d_image(op, p.pool);
  const CudaCall call(op, input);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format), g = contiguous_as(grad_output, format);
  const Tensor sw = contiguous_as(switches, format);
  Tensor grad_input = new_tensor(x, sizes_of(x), x.scalar_type(), format);
  if (grad_input.numel() == 0) return grad_input;

  FASTCONV_CHECK(op, fits(p, x.scalar_type(), true),
                 "the window is too large for a GPU's shared memory (got one that reaches ",
                 p.norm.before, " maps back and ", p.norm.after, " ahead)");
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(),
      call.check(launch_norm_pool_backward(data<scalar_t>(g), data<scalar_t>(x), data<uint8_t>(sw),
                                           mutable_data<scalar_t>(grad_input), p, call.stream())))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("local_response_norm_max_pool2d", TORCH_BOX(&local_response_norm_max_pool2d));
  m.impl("local_response_norm_max_pool2d_backward",
         TORCH_BOX(&local_response_norm_max_pool2d_backward));
}

}  // namespace fastconv
