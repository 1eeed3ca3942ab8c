#include "cpu/conv2d_relu.h"

#include <torch/csrc/stable/library.h>

#include <tuple>
#include <vector>

#include "cpu/dispatch.h"
#include "glue/tensor.h"

namespace fastconv {

// The sum over the parts of each map, in double and always in the same order.
template <typename scalar_t>
static void add_parts(const ReluGrad& p, const accumulate_t<scalar_t>* sums, scalar_t* total) {
  std::vector<double> whole(p.maps);
  for (int64_t part = 0; part < p.parts(); ++part) {
    for (int64_t m = 0; m < p.maps; ++m) whole[m] += double(sums[part * p.maps + m]);
  }
  for (int64_t m = 0; m < p.maps; ++m) from_acc(accumulate_t<scalar_t>(whole[m]), total[m]);
}

// The gradient of what the ReLU saw, in the output's format, and that of the bias.
static std::tuple<Tensor, Tensor> conv2d_relu_grad(const Tensor& grad_output,
                                                   const Tensor& output) {
  const char* op = "conv2d_relu_grad";
  check_rank4(op, "grad_output", grad_output);
  check_rank4(op, "output", output);
  check_floating(op, "output", output);
  check_same_dtype(op, "grad_output", grad_output, "output", output);
  FASTCONV_CHECK(op, sizes_of(grad_output) == sizes_of(output),
                 "grad_output must have the shape of output (got ", shape_text(grad_output),
                 " and ", shape_text(output), ")");
  const MemoryFormat format = memory_format_of(output);
  const Tensor g = contiguous_as(grad_output, format), y = contiguous_as(output, format);
  Tensor grad = new_tensor(y, sizes_of(y), y.scalar_type(), format);
  Tensor bias_grad = new_tensor(y, {y.size(1)}, y.scalar_type(), MemoryFormat::Contiguous);
  const ReluGrad p{format == MemoryFormat::ChannelsLast, y.size(2) * y.size(3), y.size(1),
                   y.size(0)};
  const int64_t cost = p.units() ? 4 * y.numel() / p.units() : 0;
  FASTCONV_DISPATCH_FLOATING(
      y.scalar_type(), std::vector<accumulate_t<scalar_t>> sums(p.parts() * p.maps);
      parallel_over(p.units(), cost,
                    [&](int64_t begin, int64_t end) {
                      FASTCONV_ISA_CALL(conv2d_relu_grad(p, data<scalar_t>(g), data<scalar_t>(y),
                                                         mutable_data<scalar_t>(grad), sums.data(),
                                                         begin, end));
                    });
      add_parts(p, sums.data(), mutable_data<scalar_t>(bias_grad));)
  return {grad, bias_grad};
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) { FASTCONV_IMPL(m, conv2d_relu_grad); }

}  // namespace fastconv
