// The weights of tile (i, j) make the output pixels (y, x) with y % Th == i and x % Tw == j. With
// o, c the channels of a group and t a tap, each of these is a product (csrc/cpu/conv2d.h):
//
//   output        for each tile, a convolution of step stride * (Th, Tw)
//   grad_weight   for each tile, the gradient of that convolution
//   grad_input    for each phase, the input pixels q with the same q mod stride * (Th, Tw):
//                 sum over t, o of weight[tile(t), o, c, t] * grad_output[o, (q - t) / stride]
//
// In the last one every tap is of another tile. The pixels of a phase meet the same taps of the
// same tiles, and no other phase meets these: so the weights are put in the order of the phases
// once, and each phase is a convolution.
#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "cpu/conv2d_product.h"
#include "glue/conv2d.h"

namespace fastconv {

struct TiledConv2d {
  Conv2d conv;
  int64_t tiles_h, tiles_w;

  int64_t tiles() const { return tiles_h * tiles_w; }
  int64_t tile_weights() const {
    return conv.groups * conv.out_channels * conv.in_channels * conv.h.kernel * conv.w.kernel;
  }
};

static TiledConv2d tiled_conv2d_of(const char* op, const Sizes& input, const Sizes& weight,
                                   const IntPair& stride, const IntPair& padding, int64_t groups) {
  FASTCONV_CHECK(op, weight.size() == 6,
                 "weight must have 6 dimensions (tiles down, tiles across, out_channels, "
                 "in_channels / groups, height, width) (got shape ",
                 shape_text(weight), ")");
  FASTCONV_CHECK(op, weight[0] >= 1 && weight[1] >= 1,
                 "weight must have no empty dimension (got shape ", shape_text(weight), ")");
  check_pair(op, "padding", padding, 0);
  const Sizes of_tile(weight.begin() + 2, weight.end());
  return {conv2d_of(op, input, of_tile, stride, {padding[0], padding[0], padding[1], padding[1]},
                    {1, 1}, groups),
          weight[0], weight[1]};
}

static Sizes all_sizes_of(const Tensor& t) {
  Sizes sizes;
  for (int64_t d = 0; d < t.dim(); ++d) sizes.push_back(t.size(d));
  return sizes;
}

// Tile (0, 0) of contiguous weights as a 4-d tensor; an operand on it may reach into the others.
static Tensor first_tile(const Tensor& weight) {
  return torch::stable::select(torch::stable::select(weight, 0, 0), 0, 0);
}

// Every `step`-th of `count` positions, from `first` on.
static int64_t every(int64_t count, int64_t step, int64_t first) {
  return max_of(0, ceil_div(count - first, step));
}

// ---- The output ----

static Product output_of_tile(const TiledConv2d& p, const Tensor& input, const Tensor& weight,
                              int64_t i, int64_t j, Tensor& output) {
  const Conv2d& c = p.conv;
  const Tensor tile = first_tile(weight);
  const Axis pixels{{c.batch, every(c.h.output, p.tiles_h, i), every(c.w.output, p.tiles_w, j)}};
  const Side rows{
      pixels,
      padded_operand(input, pixel_steps(input, p.tiles_h * c.h.stride, p.tiles_w * c.w.stride),
                     tap_steps(input, 1, 1), c.in_channels, c.h.start(i), c.w.start(j)),
      pixel_steps(output, p.tiles_h, p.tiles_w), 0};
  Side channels{
      channel_axis(c.out_channels),
      plain_operand(tile, channel_steps(tile, 0), tap_steps(tile, 1, 1),
                    (i * p.tiles_w + j) * p.tile_weights(), c.out_channels * tile.stride(0)),
      channel_steps(output), 0};
  channels.operand.size = weight.numel();
  return image_product(rows, channels, {{c.h.kernel, c.w.kernel, c.in_channels}}, c.groups, output,
                       i * output.stride(2) + j * output.stride(3));
}

static Tensor tiled_conv2d(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias,
                           IntPair stride, IntPair padding, int64_t groups) {
  const char* op = "tiled_conv2d";
  check_rank4(op, "input", input);
  check_floating(op, "input", input);
  check_same_dtype(op, "weight", weight, "input", input);
  check_same_device(op, "weight", weight, "input", input);
  const TiledConv2d p =
      tiled_conv2d_of(op, sizes_of(input), all_sizes_of(weight), stride, padding, groups);
  if (bias) {
    const Sizes expected{p.tiles_h, p.tiles_w, weight.size(2)};
    FASTCONV_CHECK(op, all_sizes_of(*bias) == expected, "bias must have shape ",
                   shape_text(expected), " (got ", shape_text(*bias), ")");
    check_same_dtype(op, "bias", *bias, "input", input);
    check_same_device(op, "bias", *bias, "input", input);
    bias = contiguous_as(*bias, MemoryFormat::Contiguous);
  }
  const Tensor weights = contiguous_as(weight, MemoryFormat::Contiguous);
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

// One axis of a phase: the input pixels `pixel`, `pixel` + period, ... The first of them meets the
// output position `output` through the tap `tap`, the position before it through the tap
// `tap + stride`, and so on.
struct TiledPhase {
  int64_t pixel, pixels, tap, taps, output;
};

static TiledPhase tiled_phase_of(const Window& w, int64_t tiles, int64_t pixel) {
  const int64_t tap = (pixel + w.padding) % w.stride;
  return {pixel, every(w.input, tiles * w.stride, pixel), tap, every(w.kernel, w.stride, tap),
          (pixel + w.padding - tap) / w.stride};
}

// The weights in the order of the phases: [phase down][phase across][tap][tap][o][c], with the most
// taps that a phase can have.
struct PhaseOrder {
  int64_t phases_h, phases_w, taps_h, taps_w, filters, channels;

  explicit PhaseOrder(const TiledConv2d& p)
      : phases_h(min_of(p.tiles_h * p.conv.h.stride, p.conv.h.input)),
        phases_w(min_of(p.tiles_w * p.conv.w.stride, p.conv.w.input)),
        taps_h(ceil_div(p.conv.h.kernel, p.conv.h.stride)),
        taps_w(ceil_div(p.conv.w.kernel, p.conv.w.stride)),
        filters(p.conv.groups * p.conv.out_channels),
        channels(p.conv.in_channels) {}

  int64_t tap_size() const { return filters * channels; }
  int64_t phase_size() const { return taps_h * taps_w * tap_size(); }
};

template <typename scalar_t>
static void order_by_phase(const TiledConv2d& p, const PhaseOrder& order, const scalar_t* weight,
                           scalar_t* ordered) {
  const Window &h = p.conv.h, &w = p.conv.w;
  const int64_t tap_step = h.kernel * w.kernel;  // between the weights of one tap
  const auto phase = [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const TiledPhase down = tiled_phase_of(h, p.tiles_h, index / order.phases_w);
      const TiledPhase across = tiled_phase_of(w, p.tiles_w, index % order.phases_w);
      for (int64_t r = 0; r < down.taps; ++r) {
        for (int64_t s = 0; s < across.taps; ++s) {
          const int64_t i = (down.output - r) - floor_div(down.output - r, p.tiles_h) * p.tiles_h;
          const int64_t j =
              (across.output - s) - floor_div(across.output - s, p.tiles_w) * p.tiles_w;
          const scalar_t* from = weight + (i * p.tiles_w + j) * p.tile_weights() +
                                 (down.tap + r * h.stride) * w.kernel + across.tap + s * w.stride;
          scalar_t* to =
              ordered + index * order.phase_size() + (r * order.taps_w + s) * order.tap_size();
          for (int64_t k = 0; k < order.tap_size(); ++k) to[k] = from[k * tap_step];
        }
      }
    }
  };
  parallel_over(order.phases_h * order.phases_w, order.phase_size(), phase);
}

static Product grad_of_phase(const TiledConv2d& p, const PhaseOrder& order,
                             const Tensor& grad_output, const Tensor& ordered, const TiledPhase& h,
                             const TiledPhase& w, Tensor& grad_input) {
  const Conv2d& c = p.conv;
  const Side pixels{
      {{c.batch, h.pixels, w.pixels}},
      padded_operand(grad_output, pixel_steps(grad_output, p.tiles_h, p.tiles_w),
                     tap_steps(grad_output, -1, -1), c.out_channels, h.output, w.output),
      pixel_steps(grad_input, p.tiles_h * c.h.stride, p.tiles_w * c.w.stride),
      0};
  const Steps lead{{0, 0, 1}, {}, {}};
  const Steps sum{{order.taps_w * order.tap_size(), order.tap_size(), order.channels}, {}, {}};
  const Side channels{
      channel_axis(c.in_channels),
      plain_operand(ordered, lead, sum, (h.pixel * order.phases_w + w.pixel) * order.phase_size(),
                    c.out_channels * order.channels),
      channel_steps(grad_input), 0};
  return image_product(pixels, channels, {{h.taps, w.taps, c.out_channels}}, c.groups, grad_input,
                       h.pixel * grad_input.stride(2) + w.pixel * grad_input.stride(3));
}

static Tensor tiled_conv2d_input_grad(const Tensor& grad_output, const Tensor& weight,
                                      Sizes input_size, IntPair stride, IntPair padding,
                                      int64_t groups, bool channels_last) {
  const char* op = "tiled_conv2d_input_grad";
  check_rank4(op, "grad_output", grad_output);
  check_floating(op, "grad_output", grad_output);
  check_same_dtype(op, "weight", weight, "grad_output", grad_output);
  check_same_device(op, "weight", weight, "grad_output", grad_output);
  const TiledConv2d p =
      tiled_conv2d_of(op, input_size, all_sizes_of(weight), stride, padding, groups);
  check_grad_output(op, grad_output, p.conv);
  Tensor grad_input =
      new_tensor(grad_output, input_size, grad_output.scalar_type(),
                 channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);

  const PhaseOrder order(p);
  const Tensor weights = contiguous_as(weight, MemoryFormat::Contiguous);
  Tensor ordered = new_tensor(weight, {order.phases_h * order.phases_w, order.phase_size()},
                              weight.scalar_type(), MemoryFormat::Contiguous);
  FASTCONV_DISPATCH_FLOATING(weight.scalar_type(), order_by_phase(p, order, data<scalar_t>(weights),
                                                                  mutable_data<scalar_t>(ordered)))
  std::vector<Product> products;
  for (int64_t y = 0; y < order.phases_h; ++y) {
    for (int64_t x = 0; x < order.phases_w; ++x) {
      products.push_back(grad_of_phase(p, order, grad_output, ordered,
                                       tiled_phase_of(p.conv.h, p.tiles_h, y),
                                       tiled_phase_of(p.conv.w, p.tiles_w, x), grad_input));
    }
  }
  run_products(products, grad_output.scalar_type());
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  m.impl("tiled_conv2d", TORCH_BOX(&tiled_conv2d));
  m.impl("tiled_conv2d_input_grad", TORCH_BOX(&tiled_conv2d_input_grad));
  m.impl("tiled_conv2d_weight_grad", TORCH_BOX(&tiled_conv2d_weight_grad));
}

}  // namespace fastconv
