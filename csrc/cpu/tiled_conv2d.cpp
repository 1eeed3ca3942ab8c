// One product (csrc/cpu/conv2d.h) for each tile, or each phase, of core/tiled_conv2d.h.
#include "glue/tiled_conv2d.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "cpu/conv2d_product.h"

namespace fastconv {

// Tile (0, 0) of contiguous weights as a 4-d tensor; an operand on it may reach into the others.
static Tensor first_tile(const Tensor& weight) {
  return torch::stable::select(torch::stable::select(weight, 0, 0), 0, 0);
}

// ---- The output ----

// `weight` is (tile row, tile column, tap row, tap column, c, o): quick to pack across o.
static Product output_of_tile(const TiledConv2d& p, const Tensor& input, const Tensor& weight,
                              int64_t i, int64_t j, Tensor& output) {
  const Conv2d& c = p.conv;
  const Steps lead{{0, 0, 1}, {}, {}};
  const Steps taps{{weight.stride(2), weight.stride(3), weight.stride(4)}, {}, {}};
  const Axis pixels{{c.batch, every(c.h.output, p.tiles_h, i), every(c.w.output, p.tiles_w, j)}};
  const Side rows{
      pixels,
      padded_operand(input, pixel_steps(input, p.tiles_h * c.h.stride, p.tiles_w * c.w.stride),
                     tap_steps(input, 1, 1), c.in_channels, c.h.start(i), c.w.start(j)),
      pixel_steps(output, p.tiles_h, p.tiles_w), 0};
  const Side channels{
      channel_axis(c.out_channels),
      plain_operand(weight, lead, taps, (i * p.tiles_w + j) * p.tile_weights(), c.out_channels),
      channel_steps(output), 0};
  return image_product(rows, channels, {{c.h.kernel, c.w.kernel, c.in_channels}}, c.groups, output,
                       i * output.stride(2) + j * output.stride(3));
}

static Tensor tiled_conv2d(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias,
                           IntPair stride, IntPair padding, int64_t groups) {
  const char* op = "tiled_conv2d";
  const TiledConv2d p =
      check_tiled_conv2d(op, "input", input, weight, sizes_of(input), stride, padding, groups);
  check_tiled_bias(op, bias, weight, input);
  if (bias) bias = contiguous_as(*bias, MemoryFormat::Contiguous);
  using torch::stable::transpose;
  const Tensor weights = contiguous_as(transpose(transpose(transpose(weight, 2, 4), 3, 5), 4, 5),
                                       MemoryFormat::Contiguous);
  Tensor output =
      new_tensor(input, conv2d_output_sizes(p.conv), input.scalar_type(), memory_format_of(input));
  std::vector<Product> products;
  for (int64_t i = 0; i < min_of(p.tiles_h, p.conv.h.output); ++i) {
    for (int64_t j = 0; j < min_of(p.tiles_w, p.conv.w.output); ++j) {
      products.push_back(output_of_tile(p, input, weights, i, j, output));
      if (bias) {
        const int64_t first = (i * p.tiles_w + j) * weight.size(2) * bias->element_size();
        products.back().bias = static_cast<const char*>(bias->const_data_ptr()) + first;
      }
    }
  }
  run_products(products, input.scalar_type());
  return output;
}

// ---- The gradient of the weights ----

static Tensor tiled_conv2d_weight_grad(const Tensor& grad_output, const Tensor& input,
                                       Sizes weight_size, IntPair stride, IntPair padding,
                                       int64_t groups) {
  const char* op = "tiled_conv2d_weight_grad";
  check_rank4(op, "grad_output", grad_output);
  check_floating(op, "grad_output", grad_output);
  check_conv2d_tensor(op, "input", input, "grad_output", grad_output);
  const TiledConv2d p = tiled_conv2d_of(op, sizes_of(input), weight_size, stride, padding, groups);
  const Conv2d& c = p.conv;
  check_grad_output(op, grad_output, c);
  Tensor grad_weight =
      new_tensor(grad_output, weight_size, grad_output.scalar_type(), MemoryFormat::Contiguous);
  const Tensor tile = first_tile(grad_weight);
  std::vector<Product> products;
  for (int64_t i = 0; i < p.tiles_h; ++i) {
    for (int64_t j = 0; j < p.tiles_w; ++j) {
      Product product{};
      product.rows = {channel_axis(c.out_channels),
                      plain_operand(grad_output, channel_steps(grad_output),
                                    pixel_steps(grad_output, p.tiles_h, p.tiles_w),
                                    i * grad_output.stride(2) + j * grad_output.stride(3),
                                    c.out_channels * grad_output.stride(1)),
                      channel_steps(tile, 0), 0};
      product.cols = {
          {{c.h.kernel, c.w.kernel, c.in_channels}},
          padded_operand(input, tap_steps(input, 1, 1),
                         pixel_steps(input, p.tiles_h * c.h.stride, p.tiles_w * c.w.stride),
                         c.in_channels, c.h.start(i), c.w.start(j)),
          tap_steps(tile, 1, 1),
          0};
      product.sum = {{c.batch, every(c.h.output, p.tiles_h, i), every(c.w.output, p.tiles_w, j)}};
      product.groups = groups;
      product.output = grad_weight.mutable_data_ptr();
      product.output_base = (i * p.tiles_w + j) * p.tile_weights();
      product.output_group_step = c.out_channels * tile.stride(0);
      products.push_back(product);
    }
  }
  run_products(products, grad_output.scalar_type());
  return grad_weight;
}

// ---- The gradient of the input ----

// The phases of an axis that have taps; where strides are large, most have none.
static std::vector<TiledPhase> phases_with_taps(const Window& axis, int64_t period) {
  std::vector<TiledPhase> phases;
  for (int64_t pixel = 0; pixel < period; ++pixel) {
    const TiledPhase phase = tiled_phase_of(axis, period, pixel);
    if (phase.taps > 0) phases.push_back(phase);
  }
  return phases;
}

// The weights of these phases, one after another in the order of core/tiled_conv2d.h.
template <typename scalar_t>
static void order_by_phase(const TiledConv2d& p, const PhaseOrder& order,
                           const std::vector<TiledPhase>& down,
                           const std::vector<TiledPhase>& across, const scalar_t* weight,
                           scalar_t* ordered) {
  const int64_t tap_step = p.conv.h.kernel * p.conv.w.kernel;  // between the weights of one tap
  const int64_t columns = int64_t(across.size());
  const auto phase = [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const TiledPhase &h = down[index / columns], &w = across[index % columns];
      for (int64_t r = 0; r < h.taps; ++r) {
        for (int64_t s = 0; s < w.taps; ++s) {
          const scalar_t* from = weight + tap_of_phase(p, h, w, r, s);
          scalar_t* to =
              ordered + index * order.phase_size() + (r * order.taps_w + s) * order.tap_size();
          for (int64_t k = 0; k < order.tap_size(); ++k) to[k] = from[k * tap_step];
        }
      }
    }
  };
  parallel_over(int64_t(down.size()) * columns, order.phase_size(), phase);
}

// `first`: where the weights of the phase begin.
static Product grad_of_phase(const TiledConv2d& p, const PhaseOrder& order,
                             const Tensor& grad_output, const Tensor& ordered, int64_t first,
                             const TiledPhase& h, const TiledPhase& w, Tensor& grad_input) {
  const Conv2d& c = p.conv;
  const Side pixels{
      {{c.batch, h.pixels, w.pixels}},
      padded_operand(grad_output, pixel_steps(grad_output, p.tiles_h, p.tiles_w),
                     tap_steps(grad_output, -1, -1), c.out_channels, h.output, w.output),
      pixel_steps(grad_input, p.tiles_h * c.h.stride, p.tiles_w * c.w.stride),
      0};
  const Steps lead{{0, 0, 1}, {}, {}};
  const Steps sum{{order.taps_w * order.tap_size(), order.tap_size(), order.channels}, {}, {}};
  const Side channels{channel_axis(c.in_channels),
                      plain_operand(ordered, lead, sum, first, c.out_channels * order.channels),
                      channel_steps(grad_input), 0};
  return image_product(pixels, channels, {{h.taps, w.taps, c.out_channels}}, c.groups, grad_input,
                       h.pixel * grad_input.stride(2) + w.pixel * grad_input.stride(3));
}

static Tensor tiled_conv2d_input_grad(const Tensor& grad_output, const Tensor& weight,
                                      Sizes input_size, IntPair stride, IntPair padding,
                                      int64_t groups, bool channels_last) {
  const char* op = "tiled_conv2d_input_grad";
  const TiledConv2d p = check_tiled_conv2d(op, "grad_output", grad_output, weight, input_size,
                                           stride, padding, groups);
  check_grad_output(op, grad_output, p.conv);
  Tensor grad_input =
      new_tensor(grad_output, input_size, grad_output.scalar_type(),
                 channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);

  const PhaseOrder order = phase_order(p);
  const std::vector<TiledPhase> down = phases_with_taps(p.conv.h, order.phases_h);
  const std::vector<TiledPhase> across = phases_with_taps(p.conv.w, order.phases_w);
  const int64_t phases = int64_t(down.size() * across.size());
  if (phases < order.phases_h * order.phases_w) torch::stable::zero_(grad_input);
  const Tensor weights = contiguous_as(weight, MemoryFormat::Contiguous);
  Tensor ordered = new_tensor(weight, {phases, order.phase_size()}, weight.scalar_type(),
                              MemoryFormat::Contiguous);
  FASTCONV_DISPATCH_FLOATING(weight.scalar_type(),
                             order_by_phase(p, order, down, across, data<scalar_t>(weights),
                                            mutable_data<scalar_t>(ordered)))
  std::vector<Product> products;
  for (const TiledPhase& h : down) {
    for (const TiledPhase& w : across) {
      products.push_back(grad_of_phase(p, order, grad_output, ordered,
                                       int64_t(products.size()) * order.phase_size(), h, w,
                                       grad_input));
    }
  }
  run_products(products, grad_output.scalar_type());
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  FASTCONV_IMPL(m, tiled_conv2d);
  FASTCONV_IMPL(m, tiled_conv2d_input_grad);
  FASTCONV_IMPL(m, tiled_conv2d_weight_grad);
}

}  // namespace fastconv
