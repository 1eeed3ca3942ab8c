// local_response_norm for any window in both formats, by tiles in shared memory.
//
// All four cases are one: images [rows][columns][lanes] and a window over rows and columns.
//
//                          images         rows    columns  lanes   window over
//   across, contiguous     batch          maps    1        pixels  rows
//   across, channels_last  batch          pixels  maps     1       columns
//   within, contiguous     batch * maps   height  width    1       both
//   within, channels_last  batch          height  width    maps    both
//
// A block makes one tile of one image. It loads x with what the windows reach around the tile,
// which the second-level cache holds from the neighbour's load, and sums over rows, then columns.
// Where lanes fill packs and addresses are aligned, a thread moves 16 bytes of them at a time: the
// contiguous format across maps, if the pixels of a map fill packs (13 x 13 do not, 56 x 56 do),
// and channels_last within maps. Else one element. tiles.cuh maps threads to elements.
#pragma once

#include <cmath>

#include "core/numeric.h"
#include "core/response_norm.h"
#include "cuda/tiles.cuh"

namespace fastconv {

enum class Power { kHalf, kThreeQuarters, kOne, kAny };

template <typename acc_t>
struct ResponseConstants {
  acc_t alpha, beta, k, factor;  // factor = -2 alpha beta
  Power power;

  __device__ acc_t scale(acc_t sum) const { return k + alpha * sum; }
  __device__ acc_t power_of(acc_t s) const {
    if (power == Power::kAny) return std::pow(s, beta);
    if (power == Power::kOne) return s;
    const acc_t root = std::sqrt(s);
    return power == Power::kHalf ? root : root * std::sqrt(root);
  }
};

template <typename acc_t>
ResponseConstants<acc_t> response_constants(const ResponseNorm& p) {
  const Power power = p.beta == 0.75  ? Power::kThreeQuarters
                      : p.beta == 0.5 ? Power::kHalf
                      : p.beta == 1.0 ? Power::kOne
                                      : Power::kAny;
  return {acc_t(p.alpha), acc_t(p.beta), acc_t(p.k), acc_t(-2 * p.alpha * p.beta), power};
}

// Elements of shared memory, as the kernels lay it out.
inline int64_t response_forward_elements(const Tiles& t) {
  const int x = t.columns.reach();
  return t.area(t.rows.reach(), x) + t.area(0, x);
}
inline int64_t response_backward_elements(const Tiles& t) {
  const int y = t.rows.reach(), x = t.columns.reach();
  return t.area(2 * y, 2 * x) + t.area(y, 2 * x) + t.area(y, x) + t.area(0, 0);
}

template <typename acc_t>
__device__ __forceinline__ acc_t sum_of(const acc_t* values, int count, int step) {
  acc_t sum = 0;
  for (int i = 0; i < count; ++i) sum += values[i * step];
  return sum;
}

template <typename acc_t>
__device__ __forceinline__ acc_t sum_of_squares(const acc_t* values, int count, int step) {
  acc_t sum = 0;
  for (int i = 0; i < count; ++i) sum += values[i * step] * values[i * step];
  return sum;
}

// kCount neighbouring elements of x, where the tile has any, into shared memory.
template <int kCount, typename scalar_t>
__device__ __forceinline__ void load_elements(const scalar_t* image, int at,
                                              accumulate_t<scalar_t>* to) {
  using acc_t = accumulate_t<scalar_t>;
  Pack<scalar_t, kCount> pack{};
  if (at >= 0) pack = load_pack<kCount>(image + at);
  acc_t values[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = to_acc(pack.lane[i]);
  store_neighbours<kCount>(to, values);
}

// sums[k] = sum of `count` values from values[k] on, `step` apart
template <int kCount, typename acc_t>
__device__ __forceinline__ void sums_of(const acc_t* values, int count, int step,
                                        acc_t (&sums)[kCount]) {
  for (int k = 0; k < kCount; ++k) sums[k] = 0;
  for (int i = 0; i < count; ++i) {
    acc_t more[kCount];
    load_neighbours<kCount>(values + i * step, more);
#pragma unroll
    for (int k = 0; k < kCount; ++k) sums[k] += more[k];
  }
}

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads)
    response_norm_tile_forward_kernel(const scalar_t* input, scalar_t* output, Tiles t,
                                      ResponseConstants<accumulate_t<scalar_t>> constants) {
  using acc_t = accumulate_t<scalar_t>;
  FASTCONV_DYNAMIC_SHARED(shared);
  const int reach_y = t.rows.reach(), reach_x = t.columns.reach(), lane_step = 1 << t.lane_bits;
  const int pitch = t.pitch(reach_x);
  acc_t* x = reinterpret_cast<acc_t*>(shared);    // the tile and what its windows reach
  acc_t* columns = x + t.area(reach_y, reach_x);  // squares summed over rows
  const TileCorner corner(t);
  const int image = corner.image * t.image_elements();

  const int before_x = t.columns.before << t.lane_bits;
  for_tile_packs<kCount>(t.rows.tile + reach_y, pitch, [&](int row, int run) {
    const int at = corner.element(t, row - t.rows.before, run - before_x);
    load_elements<kCount>(input + image, at, x + row * pitch + run);
  });
  __syncthreads();
  for_tile(t.rows.tile, pitch, [&](int row, int run) {
    columns[row * pitch + run] = sum_of_squares(x + row * pitch + run, t.rows.taps(), pitch);
  });
  __syncthreads();
  for_tile_packs<kCount>(t.rows.tile, t.pitch(0), [&](int row, int run) {
    const int at = corner.element(t, row, run);
    if (at < 0) return;
    acc_t sums[kCount], own[kCount];
    sums_of<kCount>(columns + row * pitch + run, t.columns.taps(), lane_step, sums);
    load_neighbours<kCount>(x + (row + t.rows.before) * pitch + run + before_x, own);
    Pack<scalar_t, kCount> result;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      from_acc(own[i] / constants.power_of(constants.scale(sums[i])), result.lane[i]);
    }
    store_pack(output + image + at, result);
  });
}

// Element i needs the ratios of [i - after, i + before], and those the x of [i - reach, i + reach].
template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads)
    response_norm_tile_backward_kernel(const scalar_t* grad_output, const scalar_t* input,
                                       scalar_t* grad_input, Tiles t,
                                       ResponseConstants<accumulate_t<scalar_t>> constants) {
  using acc_t = accumulate_t<scalar_t>;
  FASTCONV_DYNAMIC_SHARED(shared);
  const int reach_y = t.rows.reach(), reach_x = t.columns.reach(), lane_step = 1 << t.lane_bits;
  const int wide = t.pitch(2 * reach_x), middle = t.pitch(reach_x), narrow = t.pitch(0);
  acc_t* x = reinterpret_cast<acc_t*>(shared);
  acc_t* columns = x + t.area(2 * reach_y, 2 * reach_x);  // squares, then ratios, summed over rows
  acc_t* ratios = columns + t.area(reach_y, 2 * reach_x);
  acc_t* direct = ratios + t.area(reach_y, reach_x);
  const TileCorner corner(t);
  const int image = corner.image * t.image_elements();

  for_tile_packs<kCount>(t.rows.tile + 2 * reach_y, wide, [&](int row, int run) {
    const int at = corner.element(t, row - reach_y, run - (reach_x << t.lane_bits));
    load_elements<kCount>(input + image, at, x + row * wide + run);
  });
  __syncthreads();
  for_tile(t.rows.tile + reach_y, wide, [&](int row, int run) {
    columns[row * wide + run] = sum_of_squares(x + row * wide + run, t.rows.taps(), wide);
  });
  __syncthreads();
  const int before_x = t.columns.before << t.lane_bits, after_x = t.columns.after << t.lane_bits;
  for_tile_packs<kCount>(t.rows.tile + reach_y, middle, [&](int row, int run) {
    const int tile_row = row - t.rows.after, tile_run = run - after_x;
    const int at = corner.element(t, tile_row, tile_run);
    acc_t quotient[kCount] = {}, ratio[kCount] = {};
    if (at >= 0) {
      acc_t sums[kCount], own[kCount];
      sums_of<kCount>(columns + row * wide + run, t.columns.taps(), lane_step, sums);
      load_neighbours<kCount>(x + (row + t.rows.before) * wide + run + before_x, own);
      const auto g = load_pack<kCount>(grad_output + image + at);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const acc_t scale = constants.scale(sums[i]);
        quotient[i] = to_acc(g.lane[i]) / constants.power_of(scale);
        ratio[i] = quotient[i] * own[i] / scale;
      }
    }
    store_neighbours<kCount>(ratios + row * middle + run, ratio);
    if (tile_row >= 0 && tile_row < t.rows.tile && tile_run >= 0 && tile_run < narrow) {
      store_neighbours<kCount>(direct + tile_row * narrow + tile_run, quotient);
    }
  });
  __syncthreads();
  for_tile(t.rows.tile, middle, [&](int row, int run) {
    columns[row * middle + run] = sum_of(ratios + row * middle + run, t.rows.taps(), middle);
  });
  __syncthreads();
  for_tile_packs<kCount>(t.rows.tile, narrow, [&](int row, int run) {
    const int at = corner.element(t, row, run);
    if (at < 0) return;
    acc_t sums[kCount], own[kCount], quotient[kCount];
    sums_of<kCount>(columns + row * middle + run, t.columns.taps(), lane_step, sums);
    load_neighbours<kCount>(x + (row + reach_y) * wide + run + (reach_x << t.lane_bits), own);
    load_neighbours<kCount>(direct + row * narrow + run, quotient);
    Pack<scalar_t, kCount> result;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      from_acc(quotient[i] + constants.factor * own[i] * sums[i], result.lane[i]);
    }
    store_pack(grad_input + image + at, result);
  });
}

// Whether the maps of a pixel are neighbours in memory.
inline bool maps_are_neighbours(const ResponseNorm& p) {
  return p.channels_last || p.pixels() == 1;
}

// The problem of `batch` images and the tile for it: about 2,048 elements, as square as may be
// where windows reach both ways. False where none fits into shared memory.
inline bool response_tiles_of(const ResponseNorm& p, int64_t batch, size_t element_size,
                              bool backward, Tiles& t) {
  constexpr int kElements = 2048, kMostLanes = 32, kMostLanesWithin = 8;
  const TileAxis alone = tile_axis(1, 0, 0);
  int most_columns;
  if (p.within) {
    t.images = int(p.channels_last ? batch : batch * p.maps);
    t.rows = tile_axis(p.height, p.before, p.after);
    t.columns = tile_axis(p.width, p.before, p.after);
    t.lanes = p.channels_last ? int(p.maps) : 1;
    most_columns = p.channels_last ? 16 : 64;
  } else {
    const TileAxis maps = tile_axis(p.maps, p.before, p.after);
    const TileAxis pixels = tile_axis(p.pixels(), 0, 0);
    t.images = int(batch);
    t.rows = maps_are_neighbours(p) ? pixels : maps;
    t.columns = maps_are_neighbours(p) ? maps : alone;
    t.lanes = maps_are_neighbours(p) ? 1 : pixels.size;
    most_columns = 256;
  }
  t.choose(kElements, most_columns, p.within ? kMostLanesWithin : kMostLanes);
  return t.shrink_to_fit([&] {
    return (backward ? response_backward_elements(t) : response_forward_elements(t)) * element_size;
  });
}

template <typename scalar_t>
cudaError_t response_norm_forward_by_tiles(const scalar_t* input, scalar_t* output,
                                           const ResponseNorm& p, int64_t batch,
                                           cudaStream_t stream) {
  using acc_t = accumulate_t<scalar_t>;
  Tiles t;
  if (!response_tiles_of(p, batch, sizeof(acc_t), false, t)) return cudaErrorInvalidValue;
  constexpr int kCount = kPack<scalar_t>;
  const bool packed =
      t.has_packs(kCount) && fits_packs<kCount>(input) && fits_packs<kCount>(output);
  const auto kernel = packed ? response_norm_tile_forward_kernel<scalar_t, kCount>
                             : response_norm_tile_forward_kernel<scalar_t, 1>;
  return launch_tiles(kernel, t, response_forward_elements(t) * sizeof(acc_t), stream, input,
                      output, t, response_constants<acc_t>(p));
}

template <typename scalar_t>
cudaError_t response_norm_backward_by_tiles(const scalar_t* grad_output, const scalar_t* input,
                                            scalar_t* grad_input, const ResponseNorm& p,
                                            int64_t batch, cudaStream_t stream) {
  using acc_t = accumulate_t<scalar_t>;
  Tiles t;
  if (!response_tiles_of(p, batch, sizeof(acc_t), true, t)) return cudaErrorInvalidValue;
  constexpr int kCount = kPack<scalar_t>;
  const bool packed = t.has_packs(kCount) && fits_packs<kCount>(grad_output) &&
                      fits_packs<kCount>(input) && fits_packs<kCount>(grad_input);
  const auto kernel = packed ? response_norm_tile_backward_kernel<scalar_t, kCount>
                             : response_norm_tile_backward_kernel<scalar_t, 1>;
  return launch_tiles(kernel, t, response_backward_elements(t) * sizeof(acc_t), stream, grad_output,
                      input, grad_input, t, response_constants<acc_t>(p));
}

}  // namespace fastconv
