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
// threadIdx.x runs over a row of the tile, lanes fastest, so that a warp reads neighbours;
// threadIdx.y over rows. The lanes of a tile are a power of two, so that nothing is divided.
#pragma once

#include <cmath>

#include "core/response_norm.h"
#include "cuda/pack.cuh"

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

constexpr int kTileThreadsX = kWarpSize, kTileThreadsY = kThreads / kWarpSize;
constexpr size_t kTileBytes = 96 << 10;  // of shared memory: what every GPU since sm_80 has

struct ResponseAxis {
  int size, before, after, tile;

  FASTCONV_HOST_DEVICE int reach() const { return before + after; }
  FASTCONV_HOST_DEVICE int taps() const { return before + after + 1; }
  FASTCONV_HOST_DEVICE int tiles() const { return (size + tile - 1) / tile; }
};

struct ResponseTiles {
  int images;
  ResponseAxis rows, columns;
  int lanes, lane_bits;  // of the image; log2 of those of a tile

  FASTCONV_HOST_DEVICE int lane_tiles() const {
    return (lanes + (1 << lane_bits) - 1) >> lane_bits;
  }
  FASTCONV_HOST_DEVICE int blocks() const {
    return images * rows.tiles() * columns.tiles() * lane_tiles();
  }

  // Elements of an array that holds the tile and so many more rows and columns.
  FASTCONV_HOST_DEVICE int pitch(int more_columns) const {
    return (columns.tile + more_columns) << lane_bits;
  }
  FASTCONV_HOST_DEVICE int64_t area(int more_rows, int more_columns) const {
    return int64_t(rows.tile + more_rows) * pitch(more_columns);
  }
  int64_t forward_elements() const {
    const int x = columns.reach();
    return area(rows.reach(), x) + area(0, x);
  }
  int64_t backward_elements() const {
    const int y = rows.reach(), x = columns.reach();
    return area(2 * y, 2 * x) + area(y, 2 * x) + area(y, x) + area(0, 0);
  }
};

// The first element of this block's tile.
struct ResponseCorner {
  int image, y, x, lane;  // image: its first element

  __device__ explicit ResponseCorner(const ResponseTiles& t) {
    int rest = int(blockIdx.x);
    lane = rest % t.lane_tiles() << t.lane_bits;
    rest /= t.lane_tiles();
    x = rest % t.columns.tiles() * t.columns.tile;
    rest /= t.columns.tiles();
    y = rest % t.rows.tiles() * t.rows.tile;
    image = rest / t.rows.tiles() * (t.rows.size * t.columns.size * t.lanes);
  }

  // Where the element stands in memory that is `row` rows below the corner and `run` elements along
  // the tile's row; -1 outside the image.
  __device__ int element(const ResponseTiles& t, int row, int run) const {
    const int h = y + row, w = x + (run >> t.lane_bits);
    const int l = lane + (run & ((1 << t.lane_bits) - 1));
    const bool inside = h >= 0 && h < t.rows.size && w >= 0 && w < t.columns.size && l < t.lanes;
    return inside ? image + (h * t.columns.size + w) * t.lanes + l : -1;
  }
};

// body(row, position in the row) for an array of the tile.
template <class F>
__device__ __forceinline__ void for_tile(int rows, int pitch, const F& body) {
  for (int row = int(threadIdx.y); row < rows; row += kTileThreadsY) {
    for (int run = int(threadIdx.x); run < pitch; run += kTileThreadsX) body(row, run);
  }
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

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    response_norm_tile_forward_kernel(const scalar_t* input, scalar_t* output, ResponseTiles t,
                                      ResponseConstants<accumulate_t<scalar_t>> constants) {
  using acc_t = accumulate_t<scalar_t>;
  FASTCONV_DYNAMIC_SHARED(shared);
  const int reach_y = t.rows.reach(), reach_x = t.columns.reach(), lane_step = 1 << t.lane_bits;
  const int pitch = t.pitch(reach_x);
  acc_t* x = reinterpret_cast<acc_t*>(shared);    // the tile and what its windows reach
  acc_t* columns = x + t.area(reach_y, reach_x);  // squares summed over rows
  const ResponseCorner corner(t);

  const int before_x = t.columns.before << t.lane_bits;
  for_tile(t.rows.tile + reach_y, pitch, [&](int row, int run) {
    const int at = corner.element(t, row - t.rows.before, run - before_x);
    x[row * pitch + run] = at < 0 ? acc_t(0) : to_acc(input[at]);
  });
  __syncthreads();
  for_tile(t.rows.tile, pitch, [&](int row, int run) {
    columns[row * pitch + run] = sum_of_squares(x + row * pitch + run, t.rows.taps(), pitch);
  });
  __syncthreads();
  for_tile(t.rows.tile, t.pitch(0), [&](int row, int run) {
    const int at = corner.element(t, row, run);
    if (at < 0) return;
    const acc_t sum = sum_of(columns + row * pitch + run, t.columns.taps(), lane_step);
    const acc_t own = x[(row + t.rows.before) * pitch + run + before_x];
    from_acc(own / constants.power_of(constants.scale(sum)), output[at]);
  });
}

// Element i needs the ratios of [i - after, i + before], and those the x of [i - reach, i + reach].
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    response_norm_tile_backward_kernel(const scalar_t* grad_output, const scalar_t* input,
                                       scalar_t* grad_input, ResponseTiles t,
                                       ResponseConstants<accumulate_t<scalar_t>> constants) {
  using acc_t = accumulate_t<scalar_t>;
  FASTCONV_DYNAMIC_SHARED(shared);
  const int reach_y = t.rows.reach(), reach_x = t.columns.reach(), lane_step = 1 << t.lane_bits;
  const int wide = t.pitch(2 * reach_x), middle = t.pitch(reach_x), narrow = t.pitch(0);
  acc_t* x = reinterpret_cast<acc_t*>(shared);
  acc_t* columns = x + t.area(2 * reach_y, 2 * reach_x);  // squares, then ratios, summed over rows
  acc_t* ratios = columns + t.area(reach_y, 2 * reach_x);
  acc_t* direct = ratios + t.area(reach_y, reach_x);
  const ResponseCorner corner(t);

  for_tile(t.rows.tile + 2 * reach_y, wide, [&](int row, int run) {
    const int at = corner.element(t, row - reach_y, run - (reach_x << t.lane_bits));
    x[row * wide + run] = at < 0 ? acc_t(0) : to_acc(input[at]);
  });
  __syncthreads();
  for_tile(t.rows.tile + reach_y, wide, [&](int row, int run) {
    columns[row * wide + run] = sum_of_squares(x + row * wide + run, t.rows.taps(), wide);
  });
  __syncthreads();
  const int before_x = t.columns.before << t.lane_bits, after_x = t.columns.after << t.lane_bits;
  for_tile(t.rows.tile + reach_y, middle, [&](int row, int run) {
    const int tile_row = row - t.rows.after, tile_run = run - after_x;
    const int at = corner.element(t, tile_row, tile_run);
    acc_t quotient = 0, ratio = 0;
    if (at >= 0) {
      const acc_t sum = sum_of(columns + row * wide + run, t.columns.taps(), lane_step);
      const acc_t scale = constants.scale(sum);
      quotient = to_acc(grad_output[at]) / constants.power_of(scale);
      ratio = quotient * x[(row + t.rows.before) * wide + run + before_x] / scale;
    }
    ratios[row * middle + run] = ratio;
    if (tile_row >= 0 && tile_row < t.rows.tile && tile_run >= 0 && tile_run < narrow) {
      direct[tile_row * narrow + tile_run] = quotient;
    }
  });
  __syncthreads();
  for_tile(t.rows.tile, middle, [&](int row, int run) {
    columns[row * middle + run] = sum_of(ratios + row * middle + run, t.rows.taps(), middle);
  });
  __syncthreads();
  for_tile(t.rows.tile, narrow, [&](int row, int run) {
    const int at = corner.element(t, row, run);
    if (at < 0) return;
    const acc_t sum = sum_of(columns + row * middle + run, t.columns.taps(), lane_step);
    const acc_t own = x[(row + reach_y) * wide + run + (reach_x << t.lane_bits)];
    from_acc(direct[row * narrow + run] + constants.factor * own * sum, grad_input[at]);
  });
}

// Whether the maps of a pixel are neighbours in memory.
inline bool maps_are_neighbours(const ResponseNorm& p) {
  return p.channels_last || p.pixels() == 1;
}

inline ResponseAxis response_axis(int64_t size, int64_t before, int64_t after) {
  return {int(size), int(min_of(before, size - 1)), int(min_of(after, size - 1)), 1};
}

// The problem of `batch` images and the tile for it: about 2,048 elements, as square as may be
// where windows reach both ways. Halved until it fits into shared memory; false where none does.
inline bool response_tiles_of(const ResponseNorm& p, int64_t batch, size_t element_size,
                              bool backward, ResponseTiles& t) {
  constexpr int kElements = 2048, kMostLanes = 32, kMostLanesWithin = 8;
  const ResponseAxis alone = response_axis(1, 0, 0);
  int most_columns;
  if (p.within) {
    t.images = int(p.channels_last ? batch : batch * p.maps);
    t.rows = response_axis(p.height, p.before, p.after);
    t.columns = response_axis(p.width, p.before, p.after);
    t.lanes = p.channels_last ? int(p.maps) : 1;
    most_columns = p.channels_last ? 16 : 64;
  } else {
    const ResponseAxis maps = response_axis(p.maps, p.before, p.after);
    const ResponseAxis pixels = response_axis(p.pixels(), 0, 0);
    t.images = int(batch);
    t.rows = maps_are_neighbours(p) ? pixels : maps;
    t.columns = maps_are_neighbours(p) ? maps : alone;
    t.lanes = maps_are_neighbours(p) ? 1 : pixels.size;
    most_columns = 256;
  }
  t.lane_bits = 0;
  while (1 << t.lane_bits < min_of(t.lanes, p.within ? kMostLanesWithin : kMostLanes)) {
    ++t.lane_bits;
  }
  t.columns.tile = min_of(t.columns.size, most_columns);
  t.rows.tile = min_of(t.rows.size, max_of(1, (kElements / t.columns.tile) >> t.lane_bits));
  const auto too_large = [&] {
    const int64_t elements = backward ? t.backward_elements() : t.forward_elements();
    return size_t(elements) * element_size > kTileBytes;
  };
  while (too_large()) {
    if (t.lane_bits == 0 && t.rows.tile == 1 && t.columns.tile == 1) return false;
    if (t.lane_bits > 0) {
      --t.lane_bits;
    } else {
      int& longer = t.rows.tile > t.columns.tile ? t.rows.tile : t.columns.tile;
      longer = (longer + 1) / 2;
    }
  }
  return true;
}

template <typename scalar_t>
cudaError_t response_norm_forward_by_tiles(const scalar_t* input, scalar_t* output,
                                           const ResponseNorm& p, int64_t batch,
                                           cudaStream_t stream) {
  using acc_t = accumulate_t<scalar_t>;
  ResponseTiles t;
  if (!response_tiles_of(p, batch, sizeof(acc_t), false, t)) return cudaErrorInvalidValue;
  return launch(response_norm_tile_forward_kernel<scalar_t>, dim3(unsigned(t.blocks())),
                dim3(kTileThreadsX, kTileThreadsY), t.forward_elements() * sizeof(acc_t), stream,
                input, output, t, response_constants<acc_t>(p));
}

template <typename scalar_t>
cudaError_t response_norm_backward_by_tiles(const scalar_t* grad_output, const scalar_t* input,
                                            scalar_t* grad_input, const ResponseNorm& p,
                                            int64_t batch, cudaStream_t stream) {
  using acc_t = accumulate_t<scalar_t>;
  ResponseTiles t;
  if (!response_tiles_of(p, batch, sizeof(acc_t), true, t)) return cudaErrorInvalidValue;
  return launch(response_norm_tile_backward_kernel<scalar_t>, dim3(unsigned(t.blocks())),
                dim3(kTileThreadsX, kTileThreadsY), t.backward_elements() * sizeof(acc_t), stream,
                grad_output, input, grad_input, t, response_constants<acc_t>(p));
}

}  // namespace fastconv
