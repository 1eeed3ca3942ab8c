// What surrounds the products: the sum of the weight product's splits, and images and filters with
// few channels rearranged so that the tensor cores can read them.
//
// A convolution with stride s over C channels equals one with stride 1 over s x s x C: block (Y, X)
// of the padded image holds its s x s pixels side by side, and the filter likewise,
//
//   blocks[n, Y, X, (dy, dx, c)] = image[n, c, Y * s + dy - padding, X * s + dx - padding]
//
// with zeros outside and up to `packed`, a number of channels that fills 16-byte packs. So the
// 11x11 filters with stride 4 on 3 maps become 3x3 filters with stride 1 on 48. Each element of the
// image lies in one block alone, so gradients come back by the same map.
#pragma once

#include "cuda/conv2d_product.cuh"
#include "cuda/pack.cuh"

namespace fastconv {

struct Blocks {
  int32_t channels, packed;      // of the image; of a block
  int32_t side_h, side_w;        // of a block: the stride
  int32_t padding_h, padding_w;  // at the top and left
  int32_t height, width;         // of the image
  int32_t block_rows, block_columns;
  ImageSteps steps;  // of the image
};

// One thread makes one pack of a block.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    conv2d_blocks_kernel(const scalar_t* image, scalar_t* blocks, Blocks p, int64_t packs) {
  constexpr int kCount = kPack<scalar_t>;
  const int64_t item = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= packs) return;
  const int in_block = p.packed / kCount;
  const int q0 = int(item % in_block) * kCount;
  const int64_t block = item / in_block;
  const int64_t row = block / p.block_columns;
  const int x0 = int(block % p.block_columns) * p.side_w - p.padding_w;
  const int y0 = int(row % p.block_rows) * p.side_h - p.padding_h;
  const scalar_t* source = image + row / p.block_rows * p.steps.n;
  Pack<scalar_t, kCount> pack;
  for (int i = 0; i < kCount; ++i) {
    const int c = (q0 + i) % p.channels, tap = (q0 + i) / p.channels;
    const int y = y0 + tap / p.side_w, x = x0 + tap % p.side_w;
    const bool inside = tap < p.side_h * p.side_w && unsigned(y) < unsigned(p.height) &&
                        unsigned(x) < unsigned(p.width);
    accumulate_t<scalar_t> value = 0;
    if (inside) value = to_acc(source[y * p.steps.h + x * p.steps.w + c * p.steps.c]);
    from_acc(value, pack.lane[i]);
  }
  store_pack(blocks + item * kCount, pack);
}

// The way back: each element of the image from the one place that held it. Blocks that no window
// saw were not made: zeros.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    conv2d_from_blocks_kernel(const scalar_t* blocks, scalar_t* image, Blocks p, int64_t items) {
  const int64_t item = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= items) return;
  const int c = int(item % p.channels);
  const int64_t pixel = item / p.channels, row = pixel / p.width;
  const int x = int(pixel % p.width) + p.padding_w, y = int(row % p.height) + p.padding_h;
  const int64_t n = row / p.height;
  const int block_y = y / p.side_h, block_x = x / p.side_w;
  accumulate_t<scalar_t> value = 0;
  if (block_y < p.block_rows && block_x < p.block_columns) {
    const int q = (y % p.side_h * p.side_w + x % p.side_w) * p.channels + c;
    const int64_t block = (n * p.block_rows + block_y) * p.block_columns + block_x;
    value = to_acc(blocks[block * p.packed + q]);
  }
  from_acc(value, image[n * p.steps.n + int64_t(y - p.padding_h) * p.steps.h +
                        (x - p.padding_w) * p.steps.w + c * p.steps.c]);
}

// grad_weight[o, c, r, s] = the sum over splits of partial[split, o, tap, channel]; `p` tells where
// a filter's element stands in its blocks. One thread makes one element.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    conv2d_sum_splits_kernel(const accumulate_t<scalar_t>* partial, scalar_t* grad_weight, Blocks p,
                             int splits, int64_t filter, int64_t split, int items) {
  const int item = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (item >= items) return;
  const int c = item % p.channels, tap = item / p.channels;
  const int s = tap % p.width, row = tap / p.width;
  const int r = row % p.height, o = row / p.height;
  const int block = r / p.side_h * p.block_columns + s / p.side_w;
  const int q = (r % p.side_h * p.side_w + s % p.side_w) * p.channels + c;
  const accumulate_t<scalar_t>* at = partial + o * filter + int64_t(block) * p.packed + q;
  accumulate_t<scalar_t> sum = 0;
  for (int i = 0; i < splits; ++i) sum += at[i * split];
  from_acc(sum, grad_weight[o * p.steps.n + r * p.steps.h + s * p.steps.w + c * p.steps.c]);
}

// The filters of p as they are, one channel tuple a tap.
inline Blocks filter_taps(const Conv2d& p, bool weight_last) {
  const int32_t channels = int32_t(p.in_channels);
  const int32_t kernel_h = int32_t(p.h.kernel), kernel_w = int32_t(p.w.kernel);
  return {channels,
          channels,
          1,
          1,
          0,
          0,
          kernel_h,
          kernel_w,
          kernel_h,
          kernel_w,
          image_steps(p.in_channels, p.h.kernel, p.w.kernel, weight_last)};
}

// What conv2d is on blocks.
inline Conv2d blocks_problem(const Conv2d& p, int64_t pack) {
  Conv2d b = p;
  b.in_channels = ceil_div(p.in_channels * p.h.stride * p.w.stride, pack) * pack;
  for (int axis : {0, 1}) {
    const Window& from = axis == 0 ? p.h : p.w;
    Window& to = axis == 0 ? b.h : b.w;
    to.kernel = ceil_div(from.kernel, from.stride);
    to.input = from.output + to.kernel - 1;
    to.stride = 1;
    to.padding = 0;
  }
  return b;
}

// Whether conv2d can run on blocks. Pixels between the windows would be copied and multiplied for
// nothing, and the rearranged image may be too large for 32 bits where the image is not.
inline bool fits_blocks(const Conv2d& p, int64_t pack) {
  if (p.groups != 1 || p.h.dilation != 1 || p.w.dilation != 1) return false;
  if (p.h.stride > p.h.kernel || p.w.stride > p.w.kernel) return false;
  constexpr int64_t kMost = INT32_MAX - 1024;
  const Conv2d b = blocks_problem(p, pack);
  const int64_t pixels = b.h.input * b.w.input;
  return pixels * b.in_channels <= kMost && p.batch * pixels <= kMost;
}

inline Blocks image_blocks(const Conv2d& p, const Conv2d& b, bool channels_last) {
  return {int32_t(p.in_channels),
          int32_t(b.in_channels),
          int32_t(p.h.stride),
          int32_t(p.w.stride),
          int32_t(p.h.padding),
          int32_t(p.w.padding),
          int32_t(p.h.input),
          int32_t(p.w.input),
          int32_t(b.h.input),
          int32_t(b.w.input),
          image_steps(p.in_channels, p.h.input, p.w.input, channels_last)};
}

inline Blocks filter_blocks(const Conv2d& p, const Conv2d& b, bool weight_last) {
  return {int32_t(p.in_channels),
          int32_t(b.in_channels),
          int32_t(p.h.stride),
          int32_t(p.w.stride),
          0,
          0,
          int32_t(p.h.kernel),
          int32_t(p.w.kernel),
          int32_t(b.h.kernel),
          int32_t(b.w.kernel),
          image_steps(p.in_channels, p.h.kernel, p.w.kernel, weight_last)};
}

template <typename scalar_t>
cudaError_t conv2d_to_blocks(const scalar_t* image, scalar_t* blocks, int64_t count,
                             const Blocks& p, cudaStream_t stream) {
  const int64_t packs = count * p.block_rows * p.block_columns * (p.packed / kPack<scalar_t>);
  if (packs == 0) return cudaSuccess;
  return launch(conv2d_blocks_kernel<scalar_t>, blocks_for(packs), dim3(kThreads), 0, stream, image,
                blocks, p, packs);
}

template <typename scalar_t>
cudaError_t conv2d_from_blocks(const scalar_t* blocks, scalar_t* image, int64_t count,
                               const Blocks& p, cudaStream_t stream) {
  const int64_t items = count * p.height * p.width * p.channels;
  if (items == 0) return cudaSuccess;
  return launch(conv2d_from_blocks_kernel<scalar_t>, blocks_for(items), dim3(kThreads), 0, stream,
                blocks, image, p, items);
}

// `filters` counts all groups' outputs.
template <typename scalar_t>
cudaError_t conv2d_sum_splits(const accumulate_t<scalar_t>* partial, scalar_t* grad_weight,
                              int64_t filters, int splits, const Blocks& p, cudaStream_t stream) {
  const int64_t filter = int64_t(p.block_rows) * p.block_columns * p.packed;
  const int64_t items = filters * p.height * p.width * p.channels;
  if (items > INT32_MAX - kThreads) return cudaErrorInvalidValue;
  return launch(conv2d_sum_splits_kernel<scalar_t>, blocks_for(items), dim3(kThreads), 0, stream,
                partial, grad_weight, p, splits, filter, filters * filter, int(items));
}

}  // namespace fastconv
