#include "cuda/local_response_norm.h"

#include <torch/csrc/stable/library.h>

#include "cuda/device.h"
#include "glue/dispatch.h"
#include "glue/response_norm.h"

namespace fastconv {

static void check_fits(const char* op, const ResponseNorm& p, ScalarType type, bool backward) {
  check_image_size(op, "input", p.maps * p.pixels());
  const bool fits = type == ScalarType::Double ? response_norm_fits<double>(p, backward)
                                               : response_norm_fits<float>(p, backward);
  FASTCONV_CHECK(op, fits,
                 "the window is too large for a GPU's shared memory (got one that reaches ",
                 p.before, " elements back and ", p.after, " ahead)");
}

static Tensor local_response_norm(const Tensor& input, int64_t size, double alpha, double beta,
                                  double k, bool within) {
  const char* op = "local_response_norm";
  const ResponseNorm p = response_norm_of(op, input, size, alpha, beta, k, within);
  const CudaCall call(op, input);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  Tensor output = new_tensor(x, {p.batch, p.maps, p.height, p.width}, x.scalar_type(), format);
  if (output.numel() == 0) return output;

  check_fits(op, p, x.scalar_type(), false);
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), call.check(launch_response_norm(
                           data<scalar_t>(x), mutable_data<scalar_t>(output), p, call.stream())))
  return output;
}

static Tensor local_response_norm_backward(const Tensor& grad_output, const Tensor& input,
                                           int64_t size, double alpha, double beta, double k,
                                           bool within) {
  const char* op = "local_response_norm_backward";
  const ResponseNorm p = response_norm_of(op, input, size, alpha, beta, k, within);
  check_response_norm_grad(op, grad_output, input);
  const CudaCall call(op, input);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format), g = contiguous_as(grad_output, format);
  Tensor grad_input = new_tensor(x, {p.batch, p.maps, p.height, p.width}, x.scalar_type(), format);
  if (grad_input.numel() == 0) return grad_input;

  check_fits(op, p, x.scalar_type(), true);
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), call.check(launch_response_norm_backward(
                           data<scalar_t>(g), data<scalar_t>(x), mutable_data<scalar_t>(grad_input),
                           p, call.stream())))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("local_response_norm", TORCH_BOX(&local_response_norm));
  m.impl("local_response_norm_backward", TORCH_BOX(&local_response_norm_backward));
}

}  // namespace fastconv
