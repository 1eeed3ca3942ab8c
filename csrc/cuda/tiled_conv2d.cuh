// One product of conv2d_product.cuh for each tile, or each phase, of core/tiled_conv2d.h.
//
// In 16 bits, where channels fill packs, the products run on tensor cores in channels_last; else in
// ordinary arithmetic. Each tile is a launch: many small tiles, as in a locally connected layer,
// cost their launches. Bytes moved, beyond a convolution's: the weights once more for the input's
// gradient, which are put in the order of the phases first.
#pragma once

#include "core/tiled_conv2d.h"
#include "cuda/conv2d.cuh"

namespace fastconv {

template <typename scalar_t>
bool tiles_on_tensor_cores(const TiledConv2d& p) {
  return conv2d_path<scalar_t>(p.conv, false) == Conv2dPath::kTensorCores;
}

inline GatherAxis tile_axis(const Window& w, int64_t tiles, int64_t tile) {
  return {int32_t(every(w.output, tiles, tile)),
          int32_t(tiles * w.stride),
          int32_t(w.start(tile)),
          int32_t(w.kernel),
          1,
          int32_t(w.input)};
}

// Positions (i, j), (i + tiles_h, j), ... of a tensor with these steps.
inline ImageSteps every_tile(const ImageSteps& s, const TiledConv2d& p) {
  return {s.n, s.c, int32_t(s.h * p.tiles_h), int32_t(s.w * p.tiles_w)};
}

template <template <class> class Filters, typename scalar_t>
cudaError_t launch_image(bool cores, const ImageProduct<scalar_t>& m, cudaStream_t stream) {
  if constexpr (sizeof(scalar_t) == 2) {
    if (cores) return launch_image_mma<Filters>(m, stream);
  }
  return launch_plain(PlainImage<scalar_t>(m), stream);
}

// Weights of each tile: (O, C, kh, kw), or (O, kh, kw, C) for tensor cores, which demand `last` of
// input and output. Bias (tiles, O), or null.
template <typename scalar_t>
cudaError_t launch_tiled_conv2d(bool cores, const scalar_t* input, const scalar_t* weight,
                                const scalar_t* bias, scalar_t* output, const TiledConv2d& p,
                                bool last, cudaStream_t stream) {
  const int64_t filters = p.conv.groups * p.conv.out_channels;
  for (int64_t i = 0; i < min_of(p.tiles_h, p.conv.h.output); ++i) {
    for (int64_t j = 0; j < min_of(p.tiles_w, p.conv.w.output); ++j) {
      const int64_t tile = i * p.tiles_w + j;
      auto m = forward_product(input, weight + tile * p.tile_weights(),
                               bias ? bias + tile * filters : nullptr, output, p.conv, false, last,
                               cores);
      m.h = tile_axis(p.conv.h, p.tiles_h, i);
      m.w = tile_axis(p.conv.w, p.tiles_w, j);
      m.result += i * m.result_steps.h + j * m.result_steps.w;
      m.result_steps = every_tile(m.result_steps, p);
      const cudaError_t error = launch_image<FiltersAlong>(cores, m, stream);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

// grad_weight of each tile: (O, C, kh, kw). `partial`: scratch memory for one tile's splits.
template <typename scalar_t>
cudaError_t launch_tiled_conv2d_weight_grad(bool cores, const scalar_t* grad_output,
                                            const scalar_t* input, scalar_t* grad_weight,
                                            const TiledConv2d& p, bool last,
                                            accumulate_t<scalar_t>* partial, int splits,
                                            cudaStream_t stream) {
  const int64_t filters = p.conv.groups * p.conv.out_channels;
  for (int64_t i = 0; i < p.tiles_h; ++i) {
    for (int64_t j = 0; j < p.tiles_w; ++j) {
      auto m = weight_product(grad_output, input, partial, p.conv, splits, last);
      m.h = tile_axis(p.conv.h, p.tiles_h, i);
      m.w = tile_axis(p.conv.w, p.tiles_w, j);
      if (m.depth() > 0) m.grad += i * m.grad_steps.h + j * m.grad_steps.w;
      m.grad_steps = every_tile(m.grad_steps, p);
      cudaError_t error = cudaErrorInvalidValue;
      if constexpr (sizeof(scalar_t) == 2) {
        if (cores) error = launch_weight_mma(m, stream);
      }
      if (!cores) error = launch_plain(PlainWeight<scalar_t>(m), stream);
      if (error != cudaSuccess) return error;
      error =
          conv2d_sum_splits<scalar_t>(partial, grad_weight + (i * p.tiles_w + j) * p.tile_weights(),
                                      filters, splits, filter_taps(p.conv, false), stream);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

// One thread copies one weight into the order of the phases. Taps that a phase does not have are
// left as they are: nobody reads them.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    tiled_conv2d_order_kernel(const scalar_t* weight, scalar_t* ordered, TiledConv2d p,
                              PhaseOrder order, int64_t items) {
  const int64_t item = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (item >= items) return;
  const int64_t channel = item % order.tap_size(), rest = item / order.tap_size();
  const int64_t s = rest % order.taps_w, r = rest / order.taps_w % order.taps_h;
  const int64_t phase = rest / order.taps_w / order.taps_h;
  const TiledPhase down = tiled_phase_of(p.conv.h, p.tiles_h, phase / order.phases_w);
  const TiledPhase across = tiled_phase_of(p.conv.w, p.tiles_w, phase % order.phases_w);
  if (r >= down.taps || s >= across.taps) return;
  const int64_t tap_step = p.conv.h.kernel * p.conv.w.kernel;
  ordered[item] = weight[tap_of_phase(p, down, across, r, s) + channel * tap_step];
}

// Weights of each tile: (O, C, kh, kw). `ordered`: scratch memory, a phase_size for each phase.
template <typename scalar_t>
cudaError_t launch_tiled_conv2d_input_grad(bool cores, const scalar_t* grad_output,
                                           const scalar_t* weight, scalar_t* grad_input,
                                           const TiledConv2d& p, bool last, scalar_t* ordered,
                                           cudaStream_t stream) {
  const Conv2d& c = p.conv;
  const PhaseOrder order = phase_order(p);
  const int64_t items = order.phases_h * order.phases_w * order.phase_size();
  cudaError_t error = launch(tiled_conv2d_order_kernel<scalar_t>, blocks_for(items), dim3(kThreads),
                             0, stream, weight, ordered, p, order, items);
  for (int64_t y = 0; y < order.phases_h; ++y) {
    for (int64_t x = 0; x < order.phases_w; ++x) {
      if (error != cudaSuccess) return error;
      const TiledPhase h = tiled_phase_of(c.h, p.tiles_h, y);
      const TiledPhase w = tiled_phase_of(c.w, p.tiles_w, x);
      const ImageSteps out = image_steps(c.groups * c.in_channels, c.h.input, c.w.input, last);
      ImageProduct<scalar_t> m{};
      m.image = grad_output;
      m.image_steps = image_steps(c.groups * c.out_channels, c.h.output, c.w.output, last);
      m.weight = ordered + (y * order.phases_w + x) * order.phase_size();
      m.weight_steps = {1, int32_t(order.channels), int32_t(order.taps_w * order.tap_size()),
                        int32_t(order.tap_size())};
      m.weight_group = c.out_channels * order.channels;
      m.result = grad_input + y * out.h + x * out.w;
      m.result_steps = {out.n, out.c, int32_t(out.h * p.tiles_h * c.h.stride),
                        int32_t(out.w * p.tiles_w * c.w.stride)};
      m.batch = int32_t(c.batch);
      m.channels = int32_t(c.out_channels);
      m.outputs = int32_t(c.in_channels);
      m.groups = int32_t(c.groups);
      m.h = {int32_t(h.pixels),  int32_t(p.tiles_h), int32_t(h.output), int32_t(h.taps), -1,
             int32_t(c.h.output)};
      m.w = {int32_t(w.pixels),  int32_t(p.tiles_w), int32_t(w.output), int32_t(w.taps), -1,
             int32_t(c.w.output)};
      error = launch_image<FiltersAcross>(cores, m, stream);
    }
  }
  return error;
}

}  // namespace fastconv
