#include "cuda/local_contrast_norm.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/device.h"
#include "glue/contrast_norm.h"
#include "glue/dispatch.h"

namespace fastconv {

static void check_image(const char* op, const ContrastProblem& p) {
  check_image_size(op, "input", max_of(p.shape.maps, 2) * p.shape.plane());
}

static Tensor new_scratch(const Tensor& like, const ContrastProblem& p, bool backward) {
  const ScalarType type = statistics_type(like);
  const int64_t elements = type == ScalarType::Double ? contrast_norm_scratch<double>(p, backward)
                                                      : contrast_norm_scratch<float>(p, backward);
  return new_tensor(like, {elements}, type, MemoryFormat::Contiguous);
}

static std::tuple<Tensor, Tensor> local_contrast_norm(const Tensor& input, int64_t kernel_size,
                                                      double sigma, bool across_maps,
                                                      bool mean_divisor, double eps) {
  const char* op = "local_contrast_norm";
  const ContrastProblem p =
      contrast_problem(op, input, kernel_size, sigma, across_maps, mean_divisor, eps);
  check_image(op, p);

  const CudaCall call(op, input);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  Tensor output = new_tensor(x, sizes_of(x), x.scalar_type(), format);
  Tensor statistics =
      new_tensor(x, statistics_sizes(p, x), statistics_type(x), MemoryFormat::Contiguous);
  Tensor scratch = new_scratch(x, p, false);
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), using acc_t = accumulate_t<scalar_t>; call.check(launch_contrast_norm(
          data<scalar_t>(x), mutable_data<scalar_t>(output), mutable_data<acc_t>(statistics),
          mutable_data<acc_t>(scratch), p, call.stream())))
  return {output, statistics};
}

static Tensor local_contrast_norm_backward(const Tensor& grad_output, const Tensor& input,
                                           const Tensor& statistics, int64_t kernel_size,
                                           double sigma, bool across_maps, bool mean_divisor,
                                           double eps) {
  const char* op = "local_contrast_norm_backward";
  const ContrastProblem p =
      contrast_problem(op, input, kernel_size, sigma, across_maps, mean_divisor, eps);
  check_contrast_grad(op, p, grad_output, input, statistics);
  check_image(op, p);

  const CudaCall call(op, input);
  const MemoryFormat format = memory_format_of(input);
  const Tensor g = contiguous_as(grad_output, format), x = contiguous_as(input, format);
  const Tensor saved = contiguous_as(statistics, MemoryFormat::Contiguous);
  Tensor grad_input = new_tensor(x, sizes_of(x), x.scalar_type(), format);
  Tensor scratch = new_scratch(x, p, true);
  FASTCONV_DISPATCH_FLOATING(x.scalar_type(), using acc_t = accumulate_t<scalar_t>; call.check(
      launch_contrast_norm_backward(data<scalar_t>(g), data<scalar_t>(x), data<acc_t>(saved),
                                    mutable_data<scalar_t>(grad_input),
                                    mutable_data<acc_t>(scratch), p, call.stream())))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("local_contrast_norm", TORCH_BOX(&local_contrast_norm));
  m.impl("local_contrast_norm_backward", TORCH_BOX(&local_contrast_norm_backward));
}

}  // namespace fastconv
