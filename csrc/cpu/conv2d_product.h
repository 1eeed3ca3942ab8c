// Convolutions as products (csrc/cpu/conv2d.h): views of tensors, and how products are run.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <vector>

#include "core/window.h"
#include "cpu/conv2d.h"
#include "cpu/dispatch.h"
#include "glue/tensor.h"

namespace fastconv {

// Elements from the first to the last in memory.
inline int64_t extent_of(const Tensor& t) {
  int64_t extent = 1;
  for (int64_t d = 0; d < t.dim(); ++d) extent += (t.size(d) - 1) * t.stride(d);
  return t.numel() == 0 ? 0 : extent;
}

// The channels of a group.
inline Axis channel_axis(int64_t channels) { return {{1, 1, channels}}; }
inline Steps channel_steps(const Tensor& t, int channel = 1) {
  return {{0, 0, t.stride(channel)}, {}, {}};
}

// (image, y, x), for pixels that are `h` rows and `w` columns apart.
inline Steps pixel_steps(const Tensor& t, int64_t h = 1, int64_t w = 1) {
  return {{t.stride(0), h * t.stride(2), w * t.stride(3)}, {0, h, 0}, {0, 0, w}};
}

// (tap row, tap column, channel), for taps that are `h` rows and `w` columns apart.
inline Steps tap_steps(const Tensor& t, int64_t h, int64_t w, int channel = 1) {
  return {{h * t.stride(2), w * t.stride(3), t.stride(channel)}, {h, 0, 0}, {0, w, 0}};
}

// A view of an image, zero outside it, in which element 0 is the pixel (y, x).
inline Operand padded_operand(const Tensor& image, const Steps& lead, const Steps& sum,
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
inline Operand plain_operand(const Tensor& t, Steps lead, Steps sum, int64_t base,
                             int64_t group_step) {
  for (Steps* steps : {&lead, &sum})
    *steps = {{steps->offset[0], steps->offset[1], steps->offset[2]}, {}, {}};
  return {t.const_data_ptr(), lead, sum, base, group_step, 0, 0, 1, 1, extent_of(t)};
}

// Chooses the tiles: few multiplications for the busiest thread, and little packing beside them.
inline void choose_tiles(Product& p) {
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

// The first of a product's units with at least so much work before it.
inline int64_t first_unit(const Product& p, int64_t work) {
  int64_t first = 0, end = p.units();
  while (first < end) {
    const int64_t middle = (first + end) / 2;
    if (p.work_before(middle) < work) {
      first = middle + 1;
    } else {
      end = middle;
    }
  }
  return first;
}

// The units that begin within [begin, end) of the multiplications of all products.
template <typename scalar_t>
void run_share(const std::vector<Product>& products, int64_t begin, int64_t end) {
  for (const Product& p : products) {
    const int64_t first = first_unit(p, begin), last = first_unit(p, end);
    if (first < last) FASTCONV_ISA_CALL(conv2d_product<scalar_t>(p, first, last));
    begin -= p.work();
    end -= p.work();
  }
}

// Runs the products over torch's threads, each of which gets its share of the multiplications, not
// of the units: those at the edges are smaller than others.
inline void run_products(std::vector<Product> products, ScalarType type) {
  int64_t work = 0;
  for (Product& p : products) {
    choose_tiles(p);
    work += p.work();
  }
  FASTCONV_DISPATCH_FLOATING(type, parallel_over(work, 1, [&](int64_t begin, int64_t end) {
                               run_share<scalar_t>(products, begin, end);
                             }))
}

// The product that makes an image, with its columns along the output's contiguous dimension.
inline Product image_product(const Side& pixels, const Side& channels, const Axis& sum,
                             int64_t groups, Tensor& image, int64_t base) {
  // Few channels fill a kernel's rows better than its columns, which are longer.
  constexpr int64_t kManyChannels = 64, kPanel = 32;  // a multiple of every kernel's columns
  const int64_t count = channels.axis.count();
  const bool channels_last =
      is_channels_last(image) && (count > kManyChannels || count % kPanel == 0);
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

}  // namespace fastconv
