// normalised[n,c,h,w] = x / scale^beta, scale = k + alpha * sum of x^2 over the maps [c - before,
//                       c + after]; rounded to scalar_t
// output, switches    = its max pool: cuda/max_pool2d.cuh (switches may be null)
// grad_input          = g / scale^beta - 2 alpha beta x * sum over the maps [c - after, c + before]
//                       of g x / scale^(beta + 1), g the unpooled grad_output rounded to scalar_t
//
// Bytes moved: forward reads the input and writes the pooled map and its switches, backward reads
// the input, the pooled gradient and the switches and writes grad_input; the normalised map and its
// gradient never reach memory. For 3x3 windows 2 apart that is 1.3 maps for 3.3 of the two kernels
// apart, and 2.3 for 4.3 (a switch counted as nothing).
//
// forward   A block makes a tile of outputs for some maps. It normalises what their windows see
//           into shared memory, reading the maps around each element through the first-level cache,
//           then pools from there. Neighbouring tiles share (kernel - stride) rows and columns,
//           which both normalise: with 8 x 8 outputs 17 x 17 for 16 x 16.
// backward  A block makes a run of pixels for some maps. It gathers the gradient of its pixels from
//           the windows that see them, those of the maps around too, keeps quotients and ratios in
//           shared memory and sums the ratios over maps.
//
// In both, threads run along the axis that is contiguous in memory: maps in channels_last, else
// pixels.
#pragma once

#include <limits>

#include "cuda/local_response_norm_max_pool2d.h"
#include "cuda/local_response_norm_tiles.cuh"
#include "cuda/pool2d.cuh"

namespace fastconv {

// How the images of a launch are cut up. maps: of a block; rows, columns: of a block's outputs
// (backward: rows is 1 and columns counts pixels of the image).
struct NormPoolTiles {
  Pool2d32 pool;
  int before, after;
  int maps, rows, columns;

  FASTCONV_HOST_DEVICE int map_tiles() const { return (pool.channels + maps - 1) / maps; }

  // Rows and columns of the input that the windows of a tile span.
  FASTCONV_HOST_DEVICE int seen_rows() const {
    return (rows - 1) * pool.h.stride + (pool.h.kernel - 1) * pool.h.dilation + 1;
  }
  FASTCONV_HOST_DEVICE int seen_columns() const {
    return (columns - 1) * pool.w.stride + (pool.w.kernel - 1) * pool.w.dilation + 1;
  }
  FASTCONV_HOST_DEVICE int row_tiles() const { return (pool.h.output + rows - 1) / rows; }
  FASTCONV_HOST_DEVICE int column_tiles() const { return (pool.w.output + columns - 1) / columns; }
  FASTCONV_HOST_DEVICE int pixels() const { return pool.h.input * pool.w.input; }
  FASTCONV_HOST_DEVICE int pixel_tiles() const { return (pixels() + columns - 1) / columns; }

  // Elements of shared memory.
  int64_t forward_elements() const {
    const auto span = [](const Window32& w, int tile) {
      return int64_t(tile - 1) * w.stride + int64_t(w.kernel - 1) * w.dilation + 1;
    };
    return span(pool.h, rows) * span(pool.w, columns) * maps;
  }
  int64_t backward_elements() const { return int64_t(2 * maps + before + after) * columns; }

  int64_t forward_blocks() const {
    return int64_t(pool.batch) * row_tiles() * column_tiles() * map_tiles();
  }
  int64_t backward_blocks() const { return int64_t(pool.batch) * pixel_tiles() * map_tiles(); }

  // Where an element lies in an image of so many pixels.
  FASTCONV_HOST_DEVICE int at(int map, int pixel, int image_pixels) const {
    return pool.channels_last ? pixel * pool.channels + map : map * image_pixels + pixel;
  }
};

// body(map, pixel) for `maps` x `pixels` elements, neighbours in memory to neighbouring threads.
template <class F>
__device__ __forceinline__ void for_maps_and_pixels(bool maps_first, int maps, int pixels,
                                                    const F& body) {
  const int inner = maps_first ? maps : pixels;
  for (int i = int(threadIdx.x); i < maps * pixels; i += kThreads) {
    const int fast = i % inner, slow = i / inner;
    body(maps_first ? fast : slow, maps_first ? slow : fast);
  }
}

// scale of element (map, pixel) of an image
template <typename scalar_t>
__device__ __forceinline__ accumulate_t<scalar_t> scale_of(
    const scalar_t* image, const NormPoolTiles& t,
    const ResponseConstants<accumulate_t<scalar_t>>& constants, int map, int pixel) {
  using acc_t = accumulate_t<scalar_t>;
  const int first = max_of(0, map - t.before), last = min_of(t.pool.channels - 1, map + t.after);
  acc_t sum = 0;
  for (int c = first; c <= last; ++c) {
    const acc_t x = to_acc(image[t.at(c, pixel, t.pixels())]);
    sum += x * x;
  }
  return constants.scale(sum);
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads, 4)
    norm_pool_forward_kernel(const scalar_t* input, scalar_t* output, uint8_t* switches,
                             NormPoolTiles t, ResponseConstants<accumulate_t<scalar_t>> constants) {
  using acc_t = accumulate_t<scalar_t>;
  FASTCONV_DYNAMIC_SHARED(shared);
  acc_t* normalised = reinterpret_cast<acc_t*>(shared);  // [pixel][map], or [map][pixel]
  const Pool2d32& p = t.pool;
  int rest = int(blockIdx.x);
  const int c0 = rest % t.map_tiles() * t.maps;
  rest /= t.map_tiles();
  const int pw0 = rest % t.column_tiles() * t.columns;
  rest /= t.column_tiles();
  const int ph0 = rest % t.row_tiles() * t.rows, n = rest / t.row_tiles();
  const int maps = min_of(t.maps, p.channels - c0);
  const int columns = t.seen_columns(), seen = t.seen_rows() * columns;
  const int y0 = p.h.start(ph0), x0 = p.w.start(pw0);
  const auto shared_at = [&](int map, int pixel) {
    return p.channels_last ? pixel * maps + map : map * seen + pixel;
  };

  const scalar_t* image = input + n * p.channels * t.pixels();
  for_maps_and_pixels(p.channels_last, maps, seen, [&](int map, int pixel) {
    const int y = y0 + pixel / columns, x = x0 + pixel % columns;
    if (y < 0 || y >= p.h.input || x < 0 || x >= p.w.input) return;
    const int at = y * p.w.input + x;
    const acc_t scale = scale_of(image, t, constants, c0 + map, at);
    scalar_t rounded;
    from_acc(to_acc(image[t.at(c0 + map, at, t.pixels())]) / constants.power_of(scale), rounded);
    normalised[shared_at(map, pixel)] = to_acc(rounded);
  });
  __syncthreads();

  const int pooled = p.h.output * p.w.output, first = n * p.channels * pooled;
  for_maps_and_pixels(p.channels_last, maps, t.rows * t.columns, [&](int map, int window) {
    const int i = window / t.columns, j = window % t.columns, ph = ph0 + i, pw = pw0 + j;
    if (ph >= p.h.output || pw >= p.w.output) return;
    const int r0 = p.h.first_tap(ph), r1 = p.h.end_tap(ph);
    const int s0 = p.w.first_tap(pw), s1 = p.w.end_tap(pw);
    acc_t best = -std::numeric_limits<acc_t>::infinity();
    int which = r0 * p.w.kernel + s0;
    for (int r = r0; r < r1; ++r) {
      const int row = (i * p.h.stride + r * p.h.dilation) * columns + j * p.w.stride;
      for (int s = s0; s < s1; ++s) {
        const acc_t value = normalised[shared_at(map, row + s * p.w.dilation)];
        const bool better = value > best || value != value;
        best = better ? value : best;
        which = better ? r * p.w.kernel + s : which;
      }
    }
    const int at = first + t.at(c0 + map, ph * p.w.output + pw, pooled);
    from_acc(best, output[at]);
    if (switches) switches[at] = uint8_t(which);
  });
}

// The unpooled gradient of (map, pixel): the sum over the windows whose switch points there, in row
// order.
template <typename scalar_t>
__device__ __forceinline__ accumulate_t<scalar_t> unpooled_at(const scalar_t* grads,
                                                              const uint8_t* switches,
                                                              const NormPoolTiles& t, int map,
                                                              int pixel) {
  const Pool2d32& p = t.pool;
  const int y = pixel / p.w.input, x = pixel % p.w.input, pooled = p.h.output * p.w.output;
  accumulate_t<scalar_t> sum = 0;
  for (int ph = p.h.first_output(y); ph < p.h.end_output(y); ++ph) {
    const int r = p.h.tap(ph, y);
    if (r < 0) continue;
    for (int pw = p.w.first_output(x); pw < p.w.end_output(x); ++pw) {
      const int s = p.w.tap(pw, x);
      if (s < 0) continue;
      const int at = t.at(map, ph * p.w.output + pw, pooled);
      if (switches[at] == r * p.w.kernel + s) sum += to_acc(grads[at]);
    }
  }
  scalar_t rounded;
  from_acc(sum, rounded);
  return to_acc(rounded);
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads, 4)
    norm_pool_backward_kernel(const scalar_t* grad_output, const scalar_t* input,
                              const uint8_t* switches, scalar_t* grad_input, NormPoolTiles t,
                              ResponseConstants<accumulate_t<scalar_t>> constants) {
  using acc_t = accumulate_t<scalar_t>;
  FASTCONV_DYNAMIC_SHARED(shared);
  const Pool2d32& p = t.pool;
  int rest = int(blockIdx.x);
  const int c0 = rest % t.map_tiles() * t.maps;
  rest /= t.map_tiles();
  const int first = rest % t.pixel_tiles() * t.columns, n = rest / t.pixel_tiles();
  const int maps = min_of(t.maps, p.channels - c0), pixels = min_of(t.columns, t.pixels() - first);
  // Element i needs the ratios of [i - after, i + before]: map 0 of the ratios is c0 - after.
  const int wide = maps + t.before + t.after;
  acc_t* ratios = reinterpret_cast<acc_t*>(shared);
  acc_t* direct = ratios + wide * pixels;
  const auto shared_at = [&](int map, int pixel, int all) {
    return p.channels_last ? pixel * all + map : map * pixels + pixel;
  };

  const int pooled = p.channels * p.h.output * p.w.output, elements = p.channels * t.pixels();
  const scalar_t* image = input + n * elements;
  for_maps_and_pixels(p.channels_last, wide, pixels, [&](int i, int pixel) {
    const int map = c0 - t.after + i;
    acc_t ratio = 0;
    if (map >= 0 && map < p.channels) {
      const int at = first + pixel;
      const acc_t g = unpooled_at(grad_output + n * pooled, switches + n * pooled, t, map, at);
      const acc_t scale = scale_of(image, t, constants, map, at);
      const acc_t quotient = g / constants.power_of(scale);
      ratio = quotient * to_acc(image[t.at(map, at, t.pixels())]) / scale;
      const int own = i - t.after;
      if (own >= 0 && own < maps) direct[shared_at(own, pixel, maps)] = quotient;
    }
    ratios[shared_at(i, pixel, wide)] = ratio;
  });
  __syncthreads();
  for_maps_and_pixels(p.channels_last, maps, pixels, [&](int map, int pixel) {
    acc_t sum = 0;
    for (int i = 0; i <= t.before + t.after; ++i) sum += ratios[shared_at(map + i, pixel, wide)];
    const int at = t.at(c0 + map, first + pixel, t.pixels());
    const acc_t weight = constants.factor * to_acc(image[at]);
    from_acc(direct[shared_at(map, pixel, maps)] + weight * sum, grad_input[n * elements + at]);
  });
}

// The tile for the problem; false where none fits into shared memory. Threads run along whole cache
// lines: 32 maps (channels_last), or 32 pixels.
template <typename acc_t>
bool norm_pool_tiles_of(const NormPool2d& p, bool backward, NormPoolTiles& t) {
  constexpr int kLine = 32, kOutputs = 8, kMostMaps = 64, kMaps = 8;
  const bool last = p.pool.channels_last;
  const int channels = int(p.pool.channels);
  t.pool = narrow(p.pool);
  t.before = int(p.norm.before);
  t.after = int(p.norm.after);
  t.rows = backward ? 1 : min_of(kOutputs, t.pool.h.output);
  if (backward) {
    // A wide tile of maps, because the maps around it are computed again by its neighbours.
    t.maps = min_of(channels, max_of(kMostMaps, 4 * (t.before + t.after)));
    t.columns = kLine;
  } else {
    t.maps = min_of(channels, last ? kLine : kMaps);
    t.columns = min_of(last ? kOutputs : kLine, t.pool.w.output);
  }
  const auto bytes = [&] {
    return size_t(backward ? t.backward_elements() : t.forward_elements()) * sizeof(acc_t);
  };
  while (bytes() > kTileBytes) {
    int& most = t.columns > t.maps ? (t.rows > t.columns ? t.rows : t.columns)
                                   : (t.rows > t.maps ? t.rows : t.maps);
    if (most == 1) return false;
    most = (most + 1) / 2;
  }
  return true;
}

template <typename scalar_t>
bool norm_pool_fits(const NormPool2d& p, bool backward) {
  NormPoolTiles t;
  return norm_pool_tiles_of<accumulate_t<scalar_t>>(p, backward, t);
}

template <typename scalar_t>
cudaError_t launch_norm_pool(const scalar_t* input, scalar_t* output, uint8_t* switches,
                             const NormPool2d& p, cudaStream_t stream) {
  using acc_t = accumulate_t<scalar_t>;
  NormPoolTiles t;
  if (!norm_pool_tiles_of<acc_t>(p, false, t)) return cudaErrorInvalidValue;
  const PoolSizes sizes = pool_sizes(p.pool);
  return for_pool_parts(p.pool, [&](int64_t first, int64_t count) {
    t.pool.batch = int(count);
    return launch(norm_pool_forward_kernel<scalar_t>, dim3(unsigned(t.forward_blocks())),
                  dim3(kThreads), size_t(t.forward_elements()) * sizeof(acc_t), stream,
                  input + first * sizes.input, output + first * sizes.output,
                  switches ? switches + first * sizes.output : nullptr, t,
                  response_constants<acc_t>(p.norm));
  });
}

template <typename scalar_t>
cudaError_t launch_norm_pool_backward(const scalar_t* grad_output, const scalar_t* input,
                                      const uint8_t* switches, scalar_t* grad_input,
                                      const NormPool2d& p, cudaStream_t stream) {
  using acc_t = accumulate_t<scalar_t>;
  NormPoolTiles t;
  if (!norm_pool_tiles_of<acc_t>(p, true, t)) return cudaErrorInvalidValue;
  const PoolSizes sizes = pool_sizes(p.pool);
  return for_pool_parts(p.pool, [&](int64_t first, int64_t count) {
    t.pool.batch = int(count);
    return launch(norm_pool_backward_kernel<scalar_t>, dim3(unsigned(t.backward_blocks())),
                  dim3(kThreads), size_t(t.backward_elements()) * sizeof(acc_t), stream,
                  grad_output + first * sizes.output, input + first * sizes.input,
                  switches + first * sizes.output, grad_input + first * sizes.input, t,
                  response_constants<acc_t>(p.norm));
  });
}

}  // namespace fastconv
