// Three products (csrc/cpu/conv2d.h), for each group, with o, c the channels of a group, p an
// output pixel (image, y, x) and t a tap (row, column):
//
//   output[o, p]         = sum over t, c of weight[o, c, t] * input[c, p * stride + t * dilation]
//   grad_weight[o, c, t] = sum over p    of grad_output[o, p] * input[c, p * stride + t * dilation]
//   grad_input[c, q]     = sum over t, o of weight[o, c, t] * grad_output[o, (q - t * dilation) /
//   stride]
//
// The last is gathered, one product for each phase of core/conv2d.h.
#include "cpu/conv2d.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "cpu/conv2d_few_channels.h"
#include "cpu/conv2d_fully_connected.h"
#include "cpu/conv2d_product.h"
#include "cpu/conv2d_winograd.h"
#include "glue/conv2d.h"

namespace fastconv {

static void check_no_warpgroups(const char* op, bool warpgroups) {
  FASTCONV_CHECK(op, !warpgroups, "warpgroup products run on GPUs alone (got a tensor on the CPU)");
}

// `filters`, if any, are what conv2d_filters() makes of the weight.
static Tensor forward(const char* op, const Tensor& input, const Tensor& weight,
                      const std::optional<Tensor>& filters, std::optional<Tensor> bias,
                      IntPair stride, std::vector<int64_t> padding, IntPair dilation,
                      int64_t groups, bool relu) {
  check_rank4(op, "input", input);
  check_floating(op, "input", input);
  check_conv2d_tensor(op, "weight", weight, "input", input);
  const Conv2d p =
      conv2d_of(op, sizes_of(input), sizes_of(weight), stride, padding, dilation, groups);
  check_conv2d_bias(op, bias, input, p);
  if (bias) bias = contiguous_as(*bias, MemoryFormat::Contiguous);
  if (filters) check_conv2d_filters(op, *filters, weight, p);
  Tensor output =
      new_tensor(input, conv2d_output_sizes(p), input.scalar_type(), memory_format_of(input));
  if (fully_connected_forward(p, input, weight, bias, relu, output) ||
      winograd_forward(p, input, weight, bias, relu, output, filters) ||
      few_channels_forward(p, input, weight, bias, relu, output)) {
    return output;
  }

  // Packing the weights is quick where the channels are adjacent.
  const Tensor w = contiguous_as(weight, MemoryFormat::ChannelsLast);

  const Steps taps = tap_steps(input, p.h.dilation, p.w.dilation);
  const Side pixels{{{p.batch, p.h.output, p.w.output}},
                    padded_operand(input, pixel_steps(input, p.h.stride, p.w.stride), taps,
                                   p.in_channels, -p.h.padding, -p.w.padding),
                    pixel_steps(output),
                    0};
  const Side channels{
      channel_axis(p.out_channels),
      plain_operand(w, channel_steps(w, 0), tap_steps(w, 1, 1), 0, p.out_channels * w.stride(0)),
      channel_steps(output), 0};
  Product product =
      image_product(pixels, channels, {{p.h.kernel, p.w.kernel, p.in_channels}}, groups, output, 0);
  product.bias = bias ? bias->const_data_ptr() : nullptr;
  product.relu = relu;
  run_products({product}, input.scalar_type());
  return output;
}

static Tensor conv2d(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias,
                     IntPair stride, std::vector<int64_t> padding, IntPair dilation, int64_t groups,
                     bool /*allow_tf32*/, bool relu, bool warpgroups) {
  check_no_warpgroups("conv2d", warpgroups);
  return forward("conv2d", input, weight, std::nullopt, bias, stride, padding, dilation, groups,
                 relu);
}

static Tensor conv2d_prepared(const Tensor& input, const Tensor& weight, const Tensor& filters,
                              std::optional<Tensor> bias, IntPair stride,
                              std::vector<int64_t> padding, int64_t groups, bool relu) {
  return forward("conv2d_prepared", input, weight, filters, bias, stride, padding, {1, 1}, groups,
                 relu);
}

static Tensor conv2d_filters(const Tensor& weight, IntPair stride, int64_t groups) {
  const char* op = "conv2d_filters";
  check_rank4(op, "weight", weight);
  check_floating(op, "weight", weight);
  FASTCONV_CHECK(op, groups >= 1, "groups must be at least 1 (got groups=", groups, ")");
  const Sizes image{1, weight.size(1) * groups, weight.size(2), weight.size(3)};
  const Conv2d p = conv2d_of(op, image, sizes_of(weight), stride, {0, 0, 0, 0}, {1, 1}, groups);
  FASTCONV_CHECK(op, steps_are_small(p), "stride must be at most 16 (got stride=(", stride[0], ", ",
                 stride[1], "))");
  return winograd_filters_of(p, weight);
}

static Product phase_product(const Tensor& grad_output, const Tensor& turned, const Conv2d& p,
                             const Phase& h, const Phase& w, Tensor& grad_input) {
  const Side pixels{{{p.batch, h.pixels, w.pixels}},
                    padded_operand(grad_output, pixel_steps(grad_output),
                                   tap_steps(grad_output, -h.output_step, -w.output_step),
                                   p.out_channels, h.output, w.output),
                    pixel_steps(grad_input, p.h.stride, p.w.stride),
                    0};
  const Side channels{
      channel_axis(p.in_channels),
      plain_operand(turned, channel_steps(turned, 0), tap_steps(turned, h.tap_step, w.tap_step),
                    h.tap * turned.stride(2) + w.tap * turned.stride(3),
                    p.out_channels * turned.stride(1)),
      channel_steps(grad_input), 0};
  return image_product(pixels, channels, {{h.taps, w.taps, p.out_channels}}, p.groups, grad_input,
                       h.pixel * grad_input.stride(2) + w.pixel * grad_input.stride(3));
}

static std::vector<Phase> phases_with_taps(const Window& axis) {
  std::vector<Phase> phases;
  for (int64_t pixel = 0; pixel < min_of(axis.stride, axis.input); ++pixel) {
    const Phase phase = phase_of(axis, pixel);
    if (phase.taps > 0) phases.push_back(phase);
  }
  return phases;
}

static Tensor conv2d_input_grad(const Tensor& grad_output, const Tensor& weight, Sizes input_size,
                                IntPair stride, std::vector<int64_t> padding, IntPair dilation,
                                int64_t groups, bool /*allow_tf32*/, bool channels_last,
                                bool warpgroups) {
  const char* op = "conv2d_input_grad";
  check_no_warpgroups(op, warpgroups);
  check_rank4(op, "grad_output", grad_output);
  check_floating(op, "grad_output", grad_output);
  check_conv2d_tensor(op, "weight", weight, "grad_output", grad_output);
  const Conv2d p = conv2d_of(op, input_size, sizes_of(weight), stride, padding, dilation, groups);
  check_grad_output(op, grad_output, p);
  Tensor grad_input =
      new_tensor(grad_output, input_size, grad_output.scalar_type(),
                 channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  if (fully_connected_input_grad(p, grad_output, weight, grad_input) ||
      winograd_input_grad(p, grad_output, weight, grad_input)) {
    return grad_input;
  }

  // (c, o, tap), with the outputs that are summed over adjacent in memory.
  const Tensor turned =
      contiguous_as(torch::stable::transpose(weight, 0, 1), MemoryFormat::ChannelsLast);
  // A phase without taps is all 0; where steps are large nearly all are.
  const std::vector<Phase> down = phases_with_taps(p.h), across = phases_with_taps(p.w);
  const int64_t phases = min_of(p.h.stride, p.h.input) * min_of(p.w.stride, p.w.input);
  if (int64_t(down.size() * across.size()) < phases) torch::stable::zero_(grad_input);
  std::vector<Product> products;
  for (const Phase& h : down) {
    for (const Phase& w : across) {
      products.push_back(phase_product(grad_output, turned, p, h, w, grad_input));
    }
  }
  run_products(products, grad_output.scalar_type());
  return grad_input;
}

static Tensor conv2d_weight_grad(const Tensor& grad_output, const Tensor& input, Sizes weight_size,
                                 IntPair stride, std::vector<int64_t> padding, IntPair dilation,
                                 int64_t groups, bool /*allow_tf32*/, bool channels_last,
                                 bool warpgroups) {
  const char* op = "conv2d_weight_grad";
  check_no_warpgroups(op, warpgroups);
  check_rank4(op, "grad_output", grad_output);
  check_floating(op, "grad_output", grad_output);
  check_conv2d_tensor(op, "input", input, "grad_output", grad_output);
  const Conv2d p = conv2d_of(op, sizes_of(input), weight_size, stride, padding, dilation, groups);
  check_grad_output(op, grad_output, p);
  Tensor grad_weight =
      new_tensor(grad_output, weight_size, grad_output.scalar_type(),
                 channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  if (fully_connected_weight_grad(p, grad_output, input, grad_weight) ||
      winograd_weight_grad(p, grad_output, input, grad_weight) ||
      few_channels_weight_grad(p, grad_output, input, grad_weight)) {
    return grad_weight;
  }

  Product product{};
  product.rows = {channel_axis(p.out_channels),
                  plain_operand(grad_output, channel_steps(grad_output), pixel_steps(grad_output),
                                0, p.out_channels * grad_output.stride(1)),
                  channel_steps(grad_weight, 0), 0};
  product.cols = {{{p.h.kernel, p.w.kernel, p.in_channels}},
                  padded_operand(input, tap_steps(input, p.h.dilation, p.w.dilation),
                                 pixel_steps(input, p.h.stride, p.w.stride), p.in_channels,
                                 -p.h.padding, -p.w.padding),
                  tap_steps(grad_weight, 1, 1),
                  0};
  product.sum = {{p.batch, p.h.output, p.w.output}};
  product.groups = groups;
  product.output = grad_weight.mutable_data_ptr();
  product.output_group_step = p.out_channels * grad_weight.stride(0);
  run_products({product}, grad_output.scalar_type());
  return grad_weight;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  FASTCONV_IMPL(m, conv2d);
  FASTCONV_IMPL(m, conv2d_filters);
  FASTCONV_IMPL(m, conv2d_prepared);
  FASTCONV_IMPL(m, conv2d_input_grad);
  FASTCONV_IMPL(m, conv2d_weight_grad);
}

}  // namespace fastconv
