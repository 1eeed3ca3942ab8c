// Three products (csrc/cpu/conv2d.h), for each group, with o, c the channels of a group, p an
// output pixel (image, y, x) and t a tap (row, column):
//
//   output[o, p]         = sum over t, c of weight[o, c, t] * input[c, p * stride + t * dilation]
//   grad_weight[o, c, t] = sum over p    of grad_output[o, p] * input[c, p * stride + t * dilation]
//   grad_input[c, q]     = sum over t, o of weight[o, c, t] * grad_output[o, (q - t * dilation) /
//   stride]
//
// The last is gathered, not scattered. Only taps for which the division leaves no rest count, and
// those are the same for all input pixels with the same q mod stride. So it is one product for each
// of these phases, over the phase's own taps.
#include "cpu/conv2d.h"

#include <torch/csrc/stable/library.h>

#include <numeric>
#include <optional>
#include <vector>

#include "cpu/dispatch.h"
#include "glue/conv2d.h"

namespace fastconv {

// Elements from the first to the last in memory.
static int64_t extent_of(const Tensor& t) {
  int64_t extent = 1;
  for (int64_t d = 0; d < t.dim(); ++d) extent += (t.size(d) - 1) * t.stride(d);
  return t.numel() == 0 ? 0 : extent;
}

// The channels of a group.
static Axis channel_axis(int64_t channels) { return {{1, 1, channels}}; }
static Steps channel_steps(const Tensor& t, int channel = 1) {
  return {{0, 0, t.stride(channel)}, {}, {}};
}

// (image, y, x), for pixels that are `h` rows and `w` columns apart.
static Steps pixel_steps(const Tensor& t, int64_t h = 1, int64_t w = 1) {
  return {{t.stride(0), h * t.stride(2), w * t.stride(3)}, {0, h, 0}, {0, 0, w}};
}

// (tap row, tap column, channel), for taps that are `h` rows and `w` columns apart.
static Steps tap_steps(const Tensor& t, int64_t h, int64_t w, int channel = 1) {
  return {{h * t.stride(2), w * t.stride(3), t.stride(channel)}, {h, 0, 0}, {0, w, 0}};
}

// A view of an image, zero outside it, in which element 0 is the pixel (y, x).
static Operand padded_operand(const Tensor& image, const Steps& lead, const Steps& sum,
                              int64_t group_channels, int64_t y, int64_t x) {
  return {image.const_data_ptr(),
          lead,
          sum,
          y * image.stride(2) + x * image.stride(3),
          group_channels * image.stride(1),
          y,
          x,
          image.size(2),
          image.size(3),
          extent_of(image)};
}

// A view that stays inside the tensor.
static Operand plain_operand(const Tensor& t, Steps lead, Steps sum, int64_t base,
                             int64_t group_step) {
  for (Steps* steps : {&lead, &sum})
    *steps = {{steps->offset[0], steps->offset[1], steps->offset[2]}, {}, {}};
  return {t.const_data_ptr(), lead, sum, base, group_step, 0, 0, 1, 1, extent_of(t)};
}

// Chooses the tiles: few multiplications for the busiest thread, and little packing beside them.
static void choose_tiles(Product& p) {
  constexpr int64_t kStep = 96;  // a multiple of (nearly) every kernel's panels
  constexpr int64_t kMost = 384, kMostTogether = 576;  // what the second cache holds
  constexpr int64_t kPackingCost = 16;                 // of one element, in multiplications
  const int64_t threads = torch::stable::get_num_threads();
  int64_t least = -1;
  for (int64_t rows = kStep; rows <= kMost; rows += kStep) {
    for (int64_t cols = kStep; cols <= min_of(kMost, kMostTogether - rows); cols += kStep) {
      Product candidate = p;
      candidate.rows.tile = rows;
      candidate.cols.tile = cols;
      const int64_t h = min_of(rows, p.rows.axis.count()), w = min_of(cols, p.cols.axis.count());
      const int64_t cost = ceil_div(candidate.units(), threads) * (h * w + kPackingCost * (h + w));
      if (least < 0 || cost <= least) {
        least = cost;
        p = candidate;
      }
    }
  }
}

// Runs the products over torch's threads.
static void run_products(std::vector<Product> products, ScalarType type) {
  int64_t units = 0, multiplications = 0;
  for (Product& p : products) {
    choose_tiles(p);
    units += p.units();
    multiplications +=
        p.groups * p.rows.axis.count() * p.cols.axis.count() * max_of(1, p.sum.count());
  }
  if (units == 0) return;
  FASTCONV_DISPATCH_FLOATING(
      type, parallel_over(units, multiplications / units, [&](int64_t begin, int64_t end) {
        for (const Product& p : products) {
          const int64_t first = max_of(0, begin), last = min_of(p.units(), end);
          if (first < last) FASTCONV_ISA_CALL(conv2d_product<scalar_t>(p, first, last));
          begin -= p.units();
          end -= p.units();
        }
      }))
}

// The product that makes an image, with its columns along the output's contiguous dimension.
static Product image_product(const Side& pixels, const Side& channels, const Axis& sum,
                             int64_t groups, Tensor& image, int64_t base) {
  // Few channels fill a kernel's rows better than its columns, which are longer.
  constexpr int64_t kManyChannels = 64;
  const bool channels_last = is_channels_last(image) && channels.axis.count() > kManyChannels;
  Product p{};
  p.rows = channels_last ? pixels : channels;
  p.cols = channels_last ? channels : pixels;
  p.sum = sum;
  p.groups = groups;
  p.output = image.mutable_data_ptr();
  p.output_base = base;
  p.output_group_step = channels.axis.count() * image.stride(1);
  p.bias_along_rows = !channels_last;
  return p;
}

static Tensor conv2d(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias,
                     IntPair stride, std::vector<int64_t> padding, IntPair dilation, int64_t groups,
                     bool relu) {
  const char* op = "conv2d";
  check_rank4(op, "input", input);
  check_floating(op, "input", input);
  check_conv2d_tensor(op, "weight", weight, "input", input);
  const Conv2d p =
      conv2d_of(op, sizes_of(input), sizes_of(weight), stride, padding, dilation, groups);
  check_conv2d_bias(op, bias, input, p);
  // Packing the weights is quick where the channels are adjacent.
  const Tensor w = contiguous_as(weight, MemoryFormat::ChannelsLast);
  if (bias) bias = contiguous_as(*bias, MemoryFormat::Contiguous);
  Tensor output =
      new_tensor(input, conv2d_output_sizes(p), input.scalar_type(), memory_format_of(input));

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

// One axis of a phase: input pixels phase, phase + stride, ... and the taps that reach them, tap,
// tap + tap_step, ...; the first pixel sees the output position `output` through the first tap, and
// the position before it by `output_step` through the next.
struct Phase {
  int64_t pixel, pixels, tap, tap_step, taps, output, output_step;
};

static Phase phase_of(const Window& w, int64_t phase) {
  const int64_t common = std::gcd(w.stride, w.dilation);
  Phase p{
      phase, ceil_div(w.input - phase, w.stride), 0, w.stride / common, 0, 0, w.dilation / common};
  while (p.tap < min_of(w.kernel, p.tap_step) &&
         (phase + w.padding - p.tap * w.dilation) % w.stride != 0) {
    ++p.tap;
  }
  if (p.tap < min_of(w.kernel, p.tap_step)) p.taps = ceil_div(w.kernel - p.tap, p.tap_step);
  p.output = (phase + w.padding - p.tap * w.dilation) / w.stride;
  return p;
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

static Tensor conv2d_input_grad(const Tensor& grad_output, const Tensor& weight, Sizes input_size,
                                IntPair stride, std::vector<int64_t> padding, IntPair dilation,
                                int64_t groups, bool channels_last) {
  const char* op = "conv2d_input_grad";
  check_rank4(op, "grad_output", grad_output);
  check_floating(op, "grad_output", grad_output);
  check_conv2d_tensor(op, "weight", weight, "grad_output", grad_output);
  const Conv2d p = conv2d_of(op, input_size, sizes_of(weight), stride, padding, dilation, groups);
  check_grad_output(op, grad_output, p);
  Tensor grad_input =
      new_tensor(grad_output, input_size, grad_output.scalar_type(),
                 channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);

  // (c, o, tap), with the outputs that are summed over adjacent in memory.
  const Tensor turned =
      contiguous_as(torch::stable::transpose(weight, 0, 1), MemoryFormat::ChannelsLast);
  std::vector<Product> products;
  for (int64_t y = 0; y < min_of(p.h.stride, p.h.input); ++y) {
    for (int64_t x = 0; x < min_of(p.w.stride, p.w.input); ++x) {
      products.push_back(
          phase_product(grad_output, turned, p, phase_of(p.h, y), phase_of(p.w, x), grad_input));
    }
  }
  run_products(products, grad_output.scalar_type());
  return grad_input;
}

static Tensor conv2d_weight_grad(const Tensor& grad_output, const Tensor& input, Sizes weight_size,
                                 IntPair stride, std::vector<int64_t> padding, IntPair dilation,
                                 int64_t groups, bool channels_last) {
  const char* op = "conv2d_weight_grad";
  check_rank4(op, "grad_output", grad_output);
  check_floating(op, "grad_output", grad_output);
  check_conv2d_tensor(op, "input", input, "grad_output", grad_output);
  const Conv2d p = conv2d_of(op, sizes_of(input), weight_size, stride, padding, dilation, groups);
  check_grad_output(op, grad_output, p);
  Tensor grad_weight =
      new_tensor(grad_output, weight_size, grad_output.scalar_type(),
                 channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);

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
  m.impl("conv2d", TORCH_BOX(&conv2d));
  m.impl("conv2d_input_grad", TORCH_BOX(&conv2d_input_grad));
  m.impl("conv2d_weight_grad", TORCH_BOX(&conv2d_weight_grad));
}

}  // namespace fastconv
