#include "cuda/tiled_conv2d.h"

#include <torch/csrc/stable/library.h>

#include <optional>

#include "cuda/device.h"
#include "glue/dispatch.h"
#include "glue/tiled_conv2d.h"

namespace fastconv {

static MemoryFormat format_for(bool cores, const Tensor& t) {
  return cores ? MemoryFormat::ChannelsLast : memory_format_of(t);
}

// (Th, Tw, O, C, kh, kw), or (Th, Tw, O, kh, kw, C) in memory.
static Tensor ordered_weights(const Tensor& weight, bool channels_last) {
  using torch::stable::transpose;
  const Tensor w = channels_last ? transpose(transpose(weight, 3, 4), 4, 5) : weight;
  return aligned_as(w, MemoryFormat::Contiguous);
}

static Tensor tiled_conv2d(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias,
                           IntPair stride, IntPair padding, int64_t groups) {
  const char* op = "tiled_conv2d";
  const TiledConv2d p =
      check_tiled_conv2d(op, "input", input, weight, sizes_of(input), stride, padding, groups);
  check_tiled_bias(op, bias, weight, input);
  check_conv2d_extents(op, p.conv, p.tiles());

  const CudaCall call(op, input);
  if (bias) bias = contiguous_as(*bias, MemoryFormat::Contiguous);
  Tensor output;
  FASTCONV_DISPATCH_FLOATING(input.scalar_type(), {
    const bool cores = tiles_on_tensor_cores<scalar_t>(p);
    const Tensor x = aligned_as(input, format_for(cores, input));
    const Tensor w = ordered_weights(weight, cores);
    output = new_tensor(x, conv2d_output_sizes(p.conv), x.scalar_type(), format_for(cores, input));
    call.check(launch_tiled_conv2d(
        cores, data<scalar_t>(x), data<scalar_t>(w), bias ? data<scalar_t>(*bias) : nullptr,
        mutable_data<scalar_t>(output), p, cores || is_channels_last(x), call.stream()));
  })
  return contiguous_as(output, memory_format_of(input));
}

static Tensor tiled_conv2d_weight_grad(const Tensor& grad_output, const Tensor& input,
                                       Sizes weight_size, IntPair stride, IntPair padding,
                                       int64_t groups) {
  const char* op = "tiled_conv2d_weight_grad";
  check_rank4(op, "grad_output", grad_output);
  check_floating(op, "grad_output", grad_output);
  check_conv2d_tensor(op, "input", input, "grad_output", grad_output);
  const TiledConv2d p = tiled_conv2d_of(op, sizes_of(input), weight_size, stride, padding, groups);
  check_grad_output(op, grad_output, p.conv);
  check_conv2d_extents(op, p.conv, p.tiles());

  const CudaCall call(op, grad_output);
  const ScalarType type = grad_output.scalar_type();
  Tensor grad_weight = new_tensor(grad_output, weight_size, type, MemoryFormat::Contiguous);
  FASTCONV_DISPATCH_FLOATING(type, {
    const bool cores = tiles_on_tensor_cores<scalar_t>(p);
    const MemoryFormat format = format_for(cores, input);
    const Tensor x = aligned_as(input, format), dy = aligned_as(grad_output, format);
    const int splits = tiled_weight_splits<scalar_t>(p);
    const Tensor partial = new_tensor(
        x, {splits * p.tiles() * p.tile_weights()},
        sizeof(scalar_t) == 8 ? ScalarType::Double : ScalarType::Float, MemoryFormat::Contiguous);
    call.check(launch_tiled_conv2d_weight_grad(
        cores, data<scalar_t>(dy), data<scalar_t>(x), mutable_data<scalar_t>(grad_weight), p,
        cores || is_channels_last(x), mutable_data<accumulate_t<scalar_t>>(partial), splits,
        call.stream()));
  })
  return grad_weight;
}

static Tensor tiled_conv2d_input_grad(const Tensor& grad_output, const Tensor& weight,
                                      Sizes input_size, IntPair stride, IntPair padding,
                                      int64_t groups, bool channels_last) {
  const char* op = "tiled_conv2d_input_grad";
  const TiledConv2d p = check_tiled_conv2d(op, "grad_output", grad_output, weight, input_size,
                                           stride, padding, groups);
  check_grad_output(op, grad_output, p.conv);
  check_conv2d_extents(op, p.conv, p.tiles());

  const CudaCall call(op, grad_output);
  const ScalarType type = grad_output.scalar_type();
  const MemoryFormat wanted = memory_format_of(channels_last);
  const PhaseOrder order = phase_order(p);
  Tensor grad_input;
  FASTCONV_DISPATCH_FLOATING(type, {
    const bool cores = tiles_on_tensor_cores<scalar_t>(p);
    const MemoryFormat format = cores ? MemoryFormat::ChannelsLast : wanted;
    const Tensor dy = aligned_as(grad_output, format), w = ordered_weights(weight, false);
    const Tensor ordered = new_tensor(w, {order.phases_h * order.phases_w * order.phase_size()},
                                      type, MemoryFormat::Contiguous);
    grad_input = new_tensor(dy, input_size, type, format);
    call.check(launch_tiled_conv2d_input_grad(
        cores, data<scalar_t>(dy), data<scalar_t>(w), mutable_data<scalar_t>(grad_input), p,
        cores || is_channels_last(grad_input), mutable_data<scalar_t>(ordered), call.stream()));
  })
  return contiguous_as(grad_input, wanted);
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("tiled_conv2d", TORCH_BOX(&tiled_conv2d));
  m.impl("tiled_conv2d_input_grad", TORCH_BOX(&tiled_conv2d_input_grad));
  m.impl("tiled_conv2d_weight_grad", TORCH_BOX(&tiled_conv2d_weight_grad));
}

}  // namespace fastconv
