#include "cpu/local_response_norm.h"

#include <torch/csrc/stable/library.h>

#include "cpu/dispatch.h"
#include "glue/response_norm.h"

namespace fastconv {

// Splits the units of a problem with so many elements over torch's threads.
template <typename scalar_t, class F>
static void parallel_over_units(const ResponseNorm& p, int64_t elements, int64_t cost_of_element,
                                const F& body) {
  const int64_t units = response_norm_units<scalar_t>(p);
  parallel_over(units, cost_of_element * (elements / units), body);
}

static Tensor local_response_norm(const Tensor& input, int64_t size, double alpha, double beta,
                                  double k, bool within) {
  const char* op = "local_response_norm";
  const ResponseNorm p = response_norm_of(op, input, size, alpha, beta, k, within);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  Tensor output = new_tensor(x, {p.batch, p.maps, p.height, p.width}, x.scalar_type(), format);
  if (output.numel() == 0) return output;

  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(),
      parallel_over_units<scalar_t>(p, x.numel(), 16, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(local_response_norm_forward(
            data<scalar_t>(x), mutable_data<scalar_t>(output), p, begin, end));
      }))
  return output;
}

static Tensor local_response_norm_backward(const Tensor& grad_output, const Tensor& input,
                                           int64_t size, double alpha, double beta, double k,
                                           bool within) {
  const char* op = "local_response_norm_backward";
  const ResponseNorm p = response_norm_of(op, input, size, alpha, beta, k, within);
  check_response_norm_grad(op, grad_output, input);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format), g = contiguous_as(grad_output, format);
  Tensor grad_input = new_tensor(x, {p.batch, p.maps, p.height, p.width}, x.scalar_type(), format);
  if (grad_input.numel() == 0) return grad_input;

  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(),
      parallel_over_units<scalar_t>(p, x.numel(), 32, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(local_response_norm_backward(data<scalar_t>(g), data<scalar_t>(x),
                                                       mutable_data<scalar_t>(grad_input), p, begin,
                                                       end));
      }))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  FASTCONV_IMPL(m, local_response_norm);
  FASTCONV_IMPL(m, local_response_norm_backward);
}

}  // namespace fastconv
