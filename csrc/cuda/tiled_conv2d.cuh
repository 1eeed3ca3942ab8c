// The products of conv2d_product.cuh for each tile, or each phase, of core/tiled_conv2d.h: a launch
// takes them all, blockIdx.z tells which, and the block works out what its own differs in.
//
// In 16 bits, where channels fill packs, the products run on tensor cores in channels_last; else in
// ordinary arithmetic. Bytes moved, beyond a convolution's: the input once for each tile whose
// windows reach it, which the second-level cache holds; the weights once more for the input's
// gradient, which are put in the order of the phases first.
#pragma once

#include "cuda/conv2d.cuh"
#include "cuda/tiled_conv2d.h"

namespace fastconv {

template <typename scalar_t>
bool tiles_on_tensor_cores(const TiledConv2d& p) {
  return conv2d_path<scalar_t>(p.conv, false) == Conv2dPath::kTensorCores;
}

template <typename scalar_t>
int tiled_weight_splits(const TiledConv2d& p) {
  const bool cores = tiles_on_tensor_cores<scalar_t>(p);
  return cores ? weight_splits(p.conv, 128, 64, 512, p.tiles())
               : weight_splits(p.conv, PlainTile::kSide, PlainTile::kSide, 32 * PlainTile::kDepth,
                               p.tiles());
}

// ---- Families of products ----

// Members first, first + 1, ... of a family, which lie `across` to a row.
struct Members {
  int first, number, down, across;

  __device__ int row(int member) const { return (first + member) / across; }
  __device__ int column(int member) const { return (first + member) % across; }
};

// Every `period`-th of the pixels, from `first` on.
FASTCONV_HOST_DEVICE inline GatherAxis every_pixel(GatherAxis axis, int period, int first) {
  axis.pixels = first < axis.pixels ? (axis.pixels - first + period - 1) / period : 0;
  axis.offset += first * axis.scale;
  axis.scale *= period;
  return axis;
}

// Pixels (i, j), (i + down, j), ... of a tensor with these steps.
FASTCONV_HOST_DEVICE inline ImageSteps every_step(const ImageSteps& s, int down, int across) {
  return {s.n, s.c, s.h * down, s.w * across};
}

// The forward pass of each tile that makes pixels.
template <typename scalar_t>
struct ForwardTiles {
  using Product = ImageProduct<scalar_t>;
  Product whole;  // as if the first tile made all pixels
  Members tiles;
  int weights_across;  // tiles of the weights, of which some may make no pixels
  int64_t tile_weights;

  FASTCONV_HOST_DEVICE Product of_tile(int i, int j) const {
    Product m = whole;
    const int64_t tile = int64_t(i) * weights_across + j;
    m.weight += tile * tile_weights;
    if (m.bias) m.bias += tile * m.groups * m.outputs;
    m.h = every_pixel(m.h, tiles.down, i);
    m.w = every_pixel(m.w, tiles.across, j);
    m.result += i * m.result_steps.h + j * m.result_steps.w;
    m.result_steps = every_step(m.result_steps, tiles.down, tiles.across);
    return m;
  }
  __device__ Product at(int z) const { return of_tile(tiles.row(z), tiles.column(z)); }
  __device__ int split(int) const { return 0; }
  Product largest() const { return of_tile(0, 0); }
  int count() const { return tiles.number; }
};

// The weight's gradient of each tile; what a tile without pixels sums is 0.
template <typename scalar_t>
struct WeightTiles {
  using Product = WeightProduct<scalar_t>;
  Product whole;
  Members tiles;
  int period_h, period_w;  // between the pixels of a tile
  int64_t tile_weights;

  FASTCONV_HOST_DEVICE Product of_tile(int i, int j) const {
    Product m = whole;
    m.h = every_pixel(m.h, period_h, i);
    m.w = every_pixel(m.w, period_w, j);
    if (m.depth() > 0) m.grad += i * m.grad_steps.h + j * m.grad_steps.w;
    m.grad_steps = every_step(m.grad_steps, period_h, period_w);
    m.partial += (int64_t(i) * tiles.across + j) * tile_weights;
    return m;
  }
  __device__ Product at(int z) const {
    return of_tile(tiles.row(z / whole.splits), tiles.column(z / whole.splits));
  }
  __device__ int split(int z) const { return z % whole.splits; }
  Product largest() const { return of_tile(0, 0); }
  int count() const { return tiles.number; }
};

// The input's gradient at the pixels of each phase.
template <typename scalar_t>
struct InputPhases {
  using Product = ImageProduct<scalar_t>;
  Product common;
  Members phases;
  Window32 h, w;
  int32_t tiles_h, tiles_w;
  int64_t phase_size;  // of the weights in the order of the phases

  FASTCONV_HOST_DEVICE static GatherAxis axis_of(const Window32& w, int tiles, int period,
                                                 int pixel) {
    const auto phase = tiled_phase_of(w, period, pixel);
    return {phase.pixels, tiles, phase.output, phase.taps, -1, w.output};
  }
  FASTCONV_HOST_DEVICE Product of_phase(int y, int x) const {
    Product m = common;
    m.weight += (int64_t(y) * phases.across + x) * phase_size;
    m.h = axis_of(h, tiles_h, phases.down, y);
    m.w = axis_of(w, tiles_w, phases.across, x);
    m.result += y * m.result_steps.h + x * m.result_steps.w;
    m.result_steps = every_step(m.result_steps, phases.down, phases.across);
    return m;
  }
  __device__ Product at(int z) const { return of_phase(phases.row(z), phases.column(z)); }
  __device__ int split(int) const { return 0; }
  Product largest() const { return of_phase(0, 0); }
  int count() const { return phases.number; }
};

// ---- Launches ----

// body(members) for all of a family, in as few launches as a grid's third axis allows: one, but for
// more than 65,535 members and splits.
template <class F>
cudaError_t for_members(int64_t down, int64_t across, int splits, const F& body) {
  constexpr int64_t kMostBlocks = 65535;
  const int64_t most = kMostBlocks / splits;
  cudaError_t error = cudaSuccess;
  for (int64_t first = 0; first < down * across && error == cudaSuccess; first += most) {
    const int64_t number = min_of(most, down * across - first);
    error = body(Members{int(first), int(number), int(down), int(across)});
  }
  return error;
}

template <template <class> class Filters, typename scalar_t, class Family>
cudaError_t launch_images(bool cores, const Family& family, cudaStream_t stream) {
  if constexpr (sizeof(scalar_t) == 2) {
    if (cores) return launch_image_mma<Filters, scalar_t>(family, stream);
  }
  return launch_image_plain<scalar_t>(family, stream);
}

template <typename scalar_t>
cudaError_t launch_tiled_conv2d(bool cores, const scalar_t* input, const scalar_t* weight,
                                const scalar_t* bias, scalar_t* output, const TiledConv2d& p,
                                bool last, cudaStream_t stream) {
  const Window &h = p.conv.h, &w = p.conv.w;
  const auto whole =
      forward_product(input, weight, bias, output, p.conv, false, last, /*weight_last=*/cores);
  return for_members(
      min_of(p.tiles_h, h.output), min_of(p.tiles_w, w.output), 1, [&](const Members& tiles) {
        const ForwardTiles<scalar_t> family{whole, tiles, int(p.tiles_w), p.tile_weights()};
        return launch_images<FiltersAlong, scalar_t>(cores, family, stream);
      });
}

template <typename scalar_t>
cudaError_t launch_tiled_conv2d_weight_grad(bool cores, const scalar_t* grad_output,
                                            const scalar_t* input, scalar_t* grad_weight,
                                            const TiledConv2d& p, bool last,
                                            accumulate_t<scalar_t>* partial, int splits,
                                            cudaStream_t stream) {
  auto whole = weight_product(grad_output, input, partial, p.conv, splits, last);
  whole.split_step = p.tiles() * p.tile_weights();
  const int period_h = int(min_of(p.tiles_h, p.conv.h.output));
  const int period_w = int(min_of(p.tiles_w, p.conv.w.output));
  const cudaError_t error = for_members(p.tiles_h, p.tiles_w, splits, [&](const Members& tiles) {
    const WeightTiles<scalar_t> family{whole, tiles, period_h, period_w, p.tile_weights()};
    if constexpr (sizeof(scalar_t) == 2) {
      if (cores) return launch_weight_mma<scalar_t>(family, stream);
    }
    return launch_weight_plain<scalar_t>(family, stream);
  });
  if (error != cudaSuccess) return error;
  const int64_t filters = p.tiles() * p.conv.groups * p.conv.out_channels;
  return conv2d_sum_splits<scalar_t>(partial, grad_weight, filters, splits,
                                     filter_taps(p.conv, false), stream);
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
  const TiledPhase down = tiled_phase_of(p.conv.h, order.phases_h, phase / order.phases_w);
  const TiledPhase across = tiled_phase_of(p.conv.w, order.phases_w, phase % order.phases_w);
  if (r >= down.taps || s >= across.taps) return;
  const int64_t tap_step = p.conv.h.kernel * p.conv.w.kernel;
  ordered[item] = weight[tap_of_phase(p, down, across, r, s) + channel * tap_step];
}

template <typename scalar_t>
cudaError_t launch_tiled_conv2d_input_grad(bool cores, const scalar_t* grad_output,
                                           const scalar_t* weight, scalar_t* grad_input,
                                           const TiledConv2d& p, bool last, scalar_t* ordered,
                                           cudaStream_t stream) {
  const Conv2d& c = p.conv;
  const PhaseOrder order = phase_order(p);
  const int64_t items = order.phases_h * order.phases_w * order.phase_size();
  const cudaError_t error = launch(tiled_conv2d_order_kernel<scalar_t>, blocks_for(items),
                                   dim3(kThreads), 0, stream, weight, ordered, p, order, items);
  if (error != cudaSuccess) return error;
  ImageProduct<scalar_t> m{};
  m.image = grad_output;
  m.image_steps = image_steps(c.groups * c.out_channels, c.h.output, c.w.output, last);
  m.weight = ordered;
  m.weight_steps = {1, int32_t(order.channels), int32_t(order.taps_w * order.tap_size()),
                    int32_t(order.tap_size())};
  m.weight_group = c.out_channels * order.channels;
  m.result = grad_input;
  m.result_steps = image_steps(c.groups * c.in_channels, c.h.input, c.w.input, last);
  m.batch = int32_t(c.batch);
  m.channels = int32_t(c.out_channels);
  m.outputs = int32_t(c.in_channels);
  m.groups = int32_t(c.groups);
  return for_members(order.phases_h, order.phases_w, 1, [&](const Members& phases) {
    const InputPhases<scalar_t> family{m,
                                       phases,
                                       narrow(c.h),
                                       narrow(c.w),
                                       int32_t(p.tiles_h),
                                       int32_t(p.tiles_w),
                                       order.phase_size()};
    return launch_images<FiltersAcross, scalar_t>(cores, family, stream);
  });
}

}  // namespace fastconv
