// Convolution's three passes as two kinds of product, which every kernel of conv2d computes:
//
//   image product    result[n, p, o]  = sum over taps t and c of image[n, seen(p, t), c] *
//                                       weight[o, c, t]
//                    the forward pass, and each phase of the input's gradient (core/conv2d.h),
//                    where the channels change their roles
//   weight product   result[o, t, c]  = sum over n, p of grad[n, p, o] * image[n, seen(p, t), c]
//
// each for every group. Strides are in elements; those within an image fit 32 bits.
#pragma once

#include "core/conv2d.h"
#include "core/macros.h"
#include "core/numeric.h"
#include "cuda/platform.cuh"

namespace fastconv {

// What numbers in [0, 2^31) are divided by: three instructions where the processor would take
// twenty, and loading an operand divides for every chunk. With value <= 2^shift, multiplier is
// 2^(31 + shift) / value rounded up, and so too large by at most 1: by less than 1 / value in the
// quotient.
struct Divisor {
  int32_t value;
  uint32_t multiplier, shift;

  Divisor() = default;
  FASTCONV_HOST_DEVICE Divisor(int32_t value) : value(value), multiplier(0), shift(0) {
    while (uint32_t(value) > 1u << shift) ++shift;
    if (value > 0) multiplier = uint32_t((uint64_t(1) << (31 + shift)) / uint32_t(value)) + 1;
  }
  FASTCONV_HOST_DEVICE operator int() const { return value; }

  FASTCONV_HOST_DEVICE friend int operator/(int number, const Divisor& d) {
    return int(uint32_t(uint64_t(2u * uint32_t(number)) * d.multiplier >> 32) >> d.shift);
  }
  FASTCONV_HOST_DEVICE friend int operator%(int number, const Divisor& d) {
    return number - number / d * d.value;
  }
};

// Pixel i sees, through tap t, the position i * scale + offset + t * step, if it is in [0, size).
struct GatherAxis {
  Divisor pixels;
  int32_t scale, offset;
  Divisor taps;
  int32_t step, size;

  __device__ int first(int pixel) const { return pixel * scale + offset; }
};

struct ImageSteps {
  int64_t n;
  int32_t c, h, w;
};

struct FilterSteps {
  int32_t o, c, h, w;
};

template <typename scalar_t>
struct ImageProduct {
  const scalar_t* image;
  const scalar_t* weight;
  const scalar_t* bias;  // null: none
  scalar_t* result;
  ImageSteps image_steps, result_steps;
  FilterSteps weight_steps;
  int64_t weight_group;  // from one group's weights to the next's
  Divisor channels;
  int32_t batch, outputs, groups;
  GatherAxis h, w;
  bool relu;

  __host__ __device__ int rows() const { return batch * h.pixels * w.pixels; }
  __host__ __device__ int depth() const { return h.taps * w.taps * channels; }
};

template <typename scalar_t>
struct WeightProduct {
  const scalar_t* grad;
  const scalar_t* image;
  accumulate_t<scalar_t>* partial;  // (splits, groups, outputs, taps, channels)
  int64_t split_step;               // from one split's sums to the next's
  ImageSteps grad_steps, image_steps;
  Divisor channels;
  int32_t batch, outputs, groups, splits;
  GatherAxis h, w;

  __host__ __device__ int columns() const { return h.taps * w.taps * channels; }
  __host__ __device__ int depth() const { return batch * h.pixels * w.pixels; }

  // Where the sums of filter o of a group begin.
  __device__ accumulate_t<scalar_t>* sums(int split, int group, int o) const {
    return partial + split * split_step + (int64_t(group) * outputs + o) * columns();
  }
  // Pixels [first, end) of one split, a multiple of `step` apart.
  __host__ __device__ int split_length(int step) const {
    return int(ceil_div(ceil_div(int64_t(depth()), splits), step)) * step;
  }
};

// What a kernel computes: the blocks with one blockIdx.z make the split `split(z)` of the product
// `at(z)`. Here that is one product; tiled_conv2d.cuh has families of them.
template <class Product_>
struct OneProduct {
  using Product = Product_;
  Product product;

  __device__ const Product& at(int) const { return product; }
  __device__ int split(int z) const { return z; }
  const Product& largest() const { return product; }
  int count() const { return 1; }
};
template <class Product>
OneProduct<Product> one(const Product& product) {
  return {product};
}

template <class Products>
constexpr bool kIsFamily = true;
template <class Product>
constexpr bool kIsFamily<OneProduct<Product>> = false;

struct PixelIndex {
  int n, y, x;
};

__device__ __forceinline__ PixelIndex pixel_at(int index, const GatherAxis& h,
                                               const GatherAxis& w) {
  const int row = index / w.pixels;
  return {row / h.pixels, row % h.pixels, index % w.pixels};
}

inline GatherAxis forward_axis(const Window& w) {
  return {int32_t(w.output), int32_t(w.stride),   -int32_t(w.padding),
          int32_t(w.kernel), int32_t(w.dilation), int32_t(w.input)};
}

inline GatherAxis phase_axis(const Window& w, const Phase& phase) {
  return {int32_t(phase.pixels),       1,
          int32_t(phase.output),       int32_t(phase.taps),
          -int32_t(phase.output_step), int32_t(w.output)};
}

// A tensor of images, dense in either memory format.
inline ImageSteps image_steps(int64_t channels, int64_t height, int64_t width, bool channels_last) {
  const int64_t image = channels * height * width;
  if (channels_last) return {image, 1, int32_t(width * channels), int32_t(channels)};
  return {image, int32_t(height * width), int32_t(width), 1};
}

inline FilterSteps filter_steps(const ImageSteps& s) { return {int32_t(s.n), s.c, s.h, s.w}; }

// output = convolution of input; null bias: none.
template <typename scalar_t>
ImageProduct<scalar_t> forward_product(const scalar_t* input, const scalar_t* weight,
                                       const scalar_t* bias, scalar_t* output, const Conv2d& p,
                                       bool relu, bool channels_last, bool weight_last) {
  ImageProduct<scalar_t> m{};
  m.image = input;
  m.weight = weight;
  m.bias = bias;
  m.result = output;
  m.image_steps = image_steps(p.groups * p.in_channels, p.h.input, p.w.input, channels_last);
  m.result_steps = image_steps(p.groups * p.out_channels, p.h.output, p.w.output, channels_last);
  m.weight_steps = filter_steps(image_steps(p.in_channels, p.h.kernel, p.w.kernel, weight_last));
  m.weight_group = p.out_channels * p.in_channels * p.h.kernel * p.w.kernel;
  m.batch = int32_t(p.batch);
  m.channels = int32_t(p.in_channels);
  m.outputs = int32_t(p.out_channels);
  m.groups = int32_t(p.groups);
  m.h = forward_axis(p.h);
  m.w = forward_axis(p.w);
  m.relu = relu;
  return m;
}

// The input's gradient at the positions of one phase (y, x).
template <typename scalar_t>
ImageProduct<scalar_t> phase_product(const scalar_t* grad_output, const scalar_t* weight,
                                     scalar_t* grad_input, const Conv2d& p, int64_t y, int64_t x,
                                     bool channels_last, bool weight_last) {
  const Phase h = phase_of(p.h, y), w = phase_of(p.w, x);
  ImageProduct<scalar_t> m{};
  m.image = grad_output;
  m.image_steps = image_steps(p.groups * p.out_channels, p.h.output, p.w.output, channels_last);
  const FilterSteps s =
      filter_steps(image_steps(p.in_channels, p.h.kernel, p.w.kernel, weight_last));
  m.weight = weight + h.tap * s.h + w.tap * s.w;
  m.weight_steps = {s.c, s.o, int32_t(s.h * h.tap_step), int32_t(s.w * w.tap_step)};
  m.weight_group = p.out_channels * p.in_channels * p.h.kernel * p.w.kernel;
  const ImageSteps out = image_steps(p.groups * p.in_channels, p.h.input, p.w.input, channels_last);
  m.result = grad_input + h.pixel * out.h + w.pixel * out.w;
  m.result_steps = {out.n, out.c, int32_t(out.h * p.h.stride), int32_t(out.w * p.w.stride)};
  m.batch = int32_t(p.batch);
  m.channels = int32_t(p.out_channels);
  m.outputs = int32_t(p.in_channels);
  m.groups = int32_t(p.groups);
  m.h = phase_axis(p.h, h);
  m.w = phase_axis(p.w, w);
  return m;
}

// body(product) for every phase of the input's gradient.
template <typename scalar_t, class F>
cudaError_t for_phases(const scalar_t* grad_output, const scalar_t* weight, scalar_t* grad_input,
                       const Conv2d& p, bool channels_last, bool weight_last, const F& body) {
  for (int64_t y = 0; y < min_of(p.h.stride, p.h.input); ++y) {
    for (int64_t x = 0; x < min_of(p.w.stride, p.w.input); ++x) {
      const cudaError_t error =
          body(phase_product(grad_output, weight, grad_input, p, y, x, channels_last, weight_last));
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

// The partial sums of the weight's gradient.
template <typename scalar_t>
WeightProduct<scalar_t> weight_product(const scalar_t* grad_output, const scalar_t* input,
                                       accumulate_t<scalar_t>* partial, const Conv2d& p, int splits,
                                       bool channels_last) {
  WeightProduct<scalar_t> m{};
  m.grad = grad_output;
  m.image = input;
  m.partial = partial;
  m.split_step = p.groups * p.out_channels * p.in_channels * p.h.kernel * p.w.kernel;
  m.grad_steps = image_steps(p.groups * p.out_channels, p.h.output, p.w.output, channels_last);
  m.image_steps = image_steps(p.groups * p.in_channels, p.h.input, p.w.input, channels_last);
  m.batch = int32_t(p.batch);
  m.channels = int32_t(p.in_channels);
  m.outputs = int32_t(p.out_channels);
  m.groups = int32_t(p.groups);
  m.splits = splits;
  m.h = forward_axis(p.h);
  m.w = forward_axis(p.w);
  return m;
}

// How many parts the weight product's sum is cut into, so that its blocks fill a large GPU: they
// are few otherwise, and the sum over all pixels is long.
inline int weight_splits(const Conv2d& p, int64_t tile_rows, int64_t tile_columns, int64_t shortest,
                         int64_t products = 1) {
  constexpr int64_t kBlocks = 528, kMost = 64;  // four for each processor of an H100
  const int64_t columns = p.h.kernel * p.w.kernel * p.in_channels;
  const int64_t tiles =
      products * p.groups * ceil_div(p.out_channels, tile_rows) * ceil_div(columns, tile_columns);
  const int64_t depth = p.batch * p.h.output * p.w.output / products;
  return int(max_of(1, min_of(min_of(kMost, ceil_div(depth, shortest)), kBlocks / tiles)));
}

}  // namespace fastconv
