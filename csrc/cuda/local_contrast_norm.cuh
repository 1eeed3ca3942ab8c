// Forward, with x_m the M maps of one image and A the blur by the Gaussian window:
//
//   mean  = A (1/M) sum_m x_m          v_m = x_m - mean
//   s     = sqrt(A (1/M) sum_m v_m^2)  the deviation
//   floor = max(eps, mean of s over the image) or eps
//   y_m   = v_m / max(floor, s)
//
// The gradient is that of cpu/local_contrast_norm_kernel.cpp; so are the statistics and the order
// of the steps. Each step needs its neighbourhood of the one before, so each is a launch:
//
//             launch                                    over                     x, g   statistics
//   forward   tabulate           weights of the window  -                        -      -
//             moments            sums over the maps     positions                x      2
//             mean, deviation    blurs                  tiles (tiles.cuh)        -      2, 4
//             floor              mean over an image     a block an image         -      1
//             divide                                    packs of elements        x      2
//   backward  floor              mean over an image     a block an image         -      1
//             gather             sums over the maps     positions                x, g   5
//             share              mean over an image     a block an image         -      2
//             two adjoint blurs                         tiles                    -      6, 2
//             add up                                    packs of elements        x, g   4
//
// Bytes moved: forward x twice, y once; backward x and g twice each, grad_input once; and the
// statistics that are read and written, 4 bytes for each position, which all maps share. The
// squares need no pass of their own: with a = (1/M) sum_m x_m,
//
//   (1/M) sum_m v_m^2 = (1/M) sum_m (x_m - a)^2 + (a - mean)^2
//
// Twice is the least without keeping an image on the chip: y waits for the deviation around it, and
// for that of the whole image; grad_input for sums over what surrounds it.
//
// With a single map, as where each has a mean and a deviation of its own, nothing is summed or
// gathered: the steps read x and g themselves, and statistics are as many as elements. Forward: x 3
// times, y once, 6 statistics; backward, where each map is by itself: x 5 times, g 3 times,
// grad_input once, 16 statistics.
//
// A window that does not fit into shared memory blurs rows, then columns, from global memory.
#pragma once

#include <cmath>

#include "core/contrast_norm.h"
#include "core/gaussian.h"
#include "cuda/pack.cuh"
#include "cuda/tiles.cuh"

namespace fastconv {

// Of a position, over its maps: sum g / divisor, sum v, and the gradient of the divisor, each with
// the divisor that this position has.
template <typename acc_t>
struct Gathered {
  acc_t direct, spread, change;
};
template <typename acc_t>
__device__ __forceinline__ Gathered<acc_t> gathered_of(acc_t sum_g, acc_t sum_v, acc_t sum_gv,
                                                       acc_t inverse) {
  return {sum_g * inverse, sum_v, -sum_gv * inverse * inverse};
}

// All that the kernels of one call read and write; null where the direction has no use for it.
// Statistics are [image][position], with position = (y, x, lane).
template <typename scalar_t>
struct Contrast {
  using acc_t = accumulate_t<scalar_t>;
  int images, height, width, lanes, maps, plane;
  bool interleaved, mean_divisor;
  acc_t share, least;  // 1 / maps; of all divisors
  const scalar_t *input, *grad_output;
  scalar_t* result;  // output or grad_input
  acc_t *mean, *deviation;
  int saved;                                // elements between the means of two images
  acc_t *average, *variance;                // over the maps of a position: a, (x - a)^2
  acc_t* half;                              // blurred along rows; of windows that do not fit
  acc_t *direct, *spread, *change;          // as on the CPU
  acc_t *floor, *floor_share;               // [image][lane]
  acc_t *gaussian, *inverse_h, *inverse_w;  // by distance; 1 / sum of the weights inside, by place

  __device__ int element(int image, int map, int position) const {
    return interleaved ? (image * plane + position) * maps + map
                       : (image * maps + map) * plane + position;
  }
  __device__ int lane_of(int image, int position) const {
    return lanes == 1 ? image : image * lanes + position % lanes;
  }
  // 1 / max(floor, s); a NaN of either stays.
  __device__ acc_t inverse_divisor(int image, int position) const {
    const acc_t s = deviation[image * saved + position], f = floor[lane_of(image, position)];
    return acc_t(1) / ((s > f) | (s != s) ? s : f);
  }
  // As the gather left it; a single map needs none.
  __device__ Gathered<acc_t> gathered(int image, int position) const {
    const int item = image * plane + position;
    if (maps > 1) return {direct[item], spread[item], change[item]};
    const acc_t v = to_acc(input[item]) - mean[image * saved + position];
    const acc_t g = to_acc(grad_output[item]);
    return gathered_of(g, v, g * v, inverse_divisor(image, position));
  }
};

// ---- Weights ----

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    contrast_tabulate_kernel(Contrast<scalar_t> c, int radius_h, int radius_w, double sigma) {
  using acc_t = accumulate_t<scalar_t>;
  int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  const int distances = max_of(radius_h, radius_w) + 1;
  if (i < distances) {
    c.gaussian[i] = acc_t(gaussian_at(i, sigma));
    return;
  }
  i -= distances;
  const bool vertical = i < c.height;
  if (!vertical) i -= c.height;
  if (!vertical && i >= c.width) return;
  const int size = vertical ? c.height : c.width, radius = vertical ? radius_h : radius_w;
  double sum = 0;
  for (int j = max_of(0, i - radius); j <= min_of(size - 1, i + radius); ++j) {
    sum += gaussian_at(j < i ? i - j : j - i, sigma);
  }
  (vertical ? c.inverse_h : c.inverse_w)[i] = acc_t(1 / sum);
}

// ---- Sums over the maps of a position ----

enum class ContrastSum { kMoments, kGather };

// kTeam threads share a position, kCount maps at a time: 1 and 1 where the maps are planes, and a
// warp reads neighbouring positions; 8 and up to 16 bytes where they are interleaved.
template <ContrastSum kSum, int kTeam, int kCount, typename scalar_t>
__global__ void __launch_bounds__(kThreads) contrast_sum_kernel(Contrast<scalar_t> c) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kSums = kSum == ContrastSum::kGather ? 3 : 2;
  const int item = int(blockIdx.x) * (kThreads / kTeam) + int(threadIdx.x) / kTeam;
  const int member = int(threadIdx.x) % kTeam;
  const bool exists = item < c.images * c.plane;
  const int image = exists ? item / c.plane : 0, position = exists ? item % c.plane : 0;
  const int first = c.element(image, 0, position), step = c.interleaved ? 1 : c.plane;
  // Relative to the first map the average is exact where all maps are equal, and the variance loses
  // at most M times a rounding: it is no less than a share of the first map's distance, squared.
  const acc_t base =
      kSum == ContrastSum::kMoments ? to_acc(c.input[first]) : c.mean[image * c.saved + position];
  acc_t sums[kSums] = {};
  if (exists) {
    for (int m = member * kCount; m < c.maps; m += kTeam * kCount) {
      const auto x = load_pack<kCount>(c.input + first + m * step);
      Pack<scalar_t, kCount> g{};
      if (kSum == ContrastSum::kGather) g = load_pack<kCount>(c.grad_output + first + m * step);
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        const acc_t v = to_acc(x.lane[i]) - base;
        if constexpr (kSum == ContrastSum::kGather) {
          sums[0] += to_acc(g.lane[i]);
          sums[1] += v;
          sums[2] += to_acc(g.lane[i]) * v;
        } else {
          sums[0] += v;
          sums[1] += v * v;
        }
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kSums; ++k) {
    for (int with = kTeam / 2; with > 0; with /= 2) {
      sums[k] += __shfl_xor_sync(kWholeWarp, sums[k], with);
    }
  }
  if (!exists || member != 0) return;
  if constexpr (kSum == ContrastSum::kGather) {
    const auto all = gathered_of(sums[0], sums[1], sums[2], c.inverse_divisor(image, position));
    c.direct[item] = all.direct;
    c.spread[item] = all.spread;
    c.change[item] = all.change;
  } else {
    const acc_t from_base = c.share * sums[0];
    const acc_t variance = c.share * sums[1] - from_base * from_base;
    c.average[item] = base + from_base;
    c.variance[item] = variance < 0 ? acc_t(0) : variance;  // a NaN stays
  }
}

// ---- Blurs ----

enum class ContrastBlur { kMean, kDeviation, kThroughDeviation, kThroughMean };

template <ContrastBlur kBlur>
constexpr bool kAdjointBlur =
    kBlur == ContrastBlur::kThroughDeviation || kBlur == ContrastBlur::kThroughMean;

// One element of a blurred line: neighbour(d) is the one d further. The mean is exact where the
// line is flat. Adjoint: each neighbour is divided by the sum of its own window.
template <ContrastBlur kBlur, typename acc_t, class F>
__device__ __forceinline__ acc_t blur_at(int at, const TileAxis& axis, const acc_t* gaussian,
                                         const acc_t* inverse, const F& neighbour) {
  constexpr bool kAdjoint = kAdjointBlur<kBlur>;
  const acc_t base = kBlur == ContrastBlur::kMean ? neighbour(0) : acc_t(0);
  const int last = min_of(axis.after, axis.size - 1 - at);
  acc_t sum = 0;
  for (int d = max_of(-axis.before, -at); d <= last; ++d) {
    const acc_t weight = gaussian[d < 0 ? -d : d];
    sum += (kAdjoint ? weight * inverse[at + d] : weight) * (neighbour(d) - base);
  }
  return kAdjoint ? sum : base + inverse[at] * sum;
}

template <ContrastBlur kBlur, typename scalar_t>
__device__ __forceinline__ accumulate_t<scalar_t> blur_source(const Contrast<scalar_t>& c,
                                                              int image, int position) {
  using acc_t = accumulate_t<scalar_t>;
  const int item = image * c.plane + position, saved = image * c.saved + position;
  if constexpr (kBlur == ContrastBlur::kMean) {
    return c.maps == 1 ? to_acc(c.input[item]) : c.average[item];
  } else if constexpr (kBlur == ContrastBlur::kDeviation) {
    const acc_t v = (c.average ? c.average[item] : to_acc(c.input[item])) - c.mean[saved];
    return c.average ? c.variance[item] + v * v : v * v;
  } else if constexpr (kBlur == ContrastBlur::kThroughDeviation) {
    const int lane = c.lane_of(image, position);
    const acc_t s = c.deviation[saved];
    const acc_t change = s > c.floor[lane] ? c.gathered(image, position).change : acc_t(0);
    const acc_t t = c.floor_share[lane] + change;
    return s > 0 ? c.share * t / s : acc_t(0);
  } else {
    return c.direct[item];
  }
}

template <ContrastBlur kBlur, typename scalar_t, typename acc_t>
__device__ __forceinline__ void blur_sink(const Contrast<scalar_t>& c, int image, int position,
                                          acc_t value) {
  const int item = image * c.plane + position, saved = image * c.saved + position;
  if constexpr (kBlur == ContrastBlur::kMean) {
    c.mean[saved] = value;
  } else if constexpr (kBlur == ContrastBlur::kDeviation) {
    c.deviation[saved] = std::sqrt(value);
  } else if constexpr (kBlur == ContrastBlur::kThroughDeviation) {  // value = r
    const auto all = c.gathered(image, position);
    c.direct[item] = c.share * (all.direct + value * all.spread);
    c.spread[item] = value;
  } else {
    c.change[item] = value;
  }
}

template <ContrastBlur kBlur, typename scalar_t>
__global__ void __launch_bounds__(kThreads) contrast_blur_kernel(Contrast<scalar_t> c, Tiles t) {
  using acc_t = accumulate_t<scalar_t>;
  FASTCONV_DYNAMIC_SHARED(shared);
  const int reach_y = t.rows.reach(), reach_x = t.columns.reach();
  const int wide = t.pitch(reach_x), narrow = t.pitch(0);
  const int above = t.rows.before, before = t.columns.before << t.lane_bits;
  acc_t* source = reinterpret_cast<acc_t*>(shared);
  acc_t* half = source + t.area(reach_y, reach_x);  // blurred along rows
  const TileCorner corner(t);

  for_tile(t.rows.tile + reach_y, wide, [&](int row, int run) {
    const int at = corner.element(t, row - above, run - before);
    source[row * wide + run] = at < 0 ? acc_t(0) : blur_source<kBlur>(c, corner.image, at);
  });
  __syncthreads();
  for_tile(t.rows.tile + reach_y, narrow, [&](int row, int run) {
    if (corner.element(t, row - above, run) < 0) return;
    const acc_t* line = source + row * wide + run + before;
    half[row * narrow + run] =
        blur_at<kBlur>(corner.x + (run >> t.lane_bits), t.columns, c.gaussian, c.inverse_w,
                       [&](int d) { return line[d * (1 << t.lane_bits)]; });
  });
  __syncthreads();
  for_tile(t.rows.tile, narrow, [&](int row, int run) {
    const int at = corner.element(t, row, run);
    if (at < 0) return;
    const acc_t* line = half + (row + above) * narrow + run;
    blur_sink<kBlur>(c, corner.image, at,
                     blur_at<kBlur>(corner.y + row, t.rows, c.gaussian, c.inverse_h,
                                    [&](int d) { return line[d * narrow]; }));
  });
}

// The same from global memory, a thread a position: first along rows, then along columns.
template <bool kColumns, ContrastBlur kBlur, typename scalar_t>
__device__ __forceinline__ void blur_far(const Contrast<scalar_t>& c, const TileAxis& axis,
                                         int item) {
  const int image = item / c.plane, position = item % c.plane;
  if constexpr (kColumns) {
    const int row = c.width * c.lanes;
    const auto value = blur_at<kBlur>(position / row, axis, c.gaussian, c.inverse_h,
                                      [&](int d) { return c.half[item + d * row]; });
    blur_sink<kBlur>(c, image, position, value);
  } else {
    c.half[item] =
        blur_at<kBlur>(position / c.lanes % c.width, axis, c.gaussian, c.inverse_w,
                       [&](int d) { return blur_source<kBlur>(c, image, position + d * c.lanes); });
  }
}

template <bool kColumns, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    contrast_far_blur_kernel(Contrast<scalar_t> c, TileAxis axis, ContrastBlur blur) {
  const int item = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (item >= c.images * c.plane) return;
  switch (blur) {
    case ContrastBlur::kMean:
      return blur_far<kColumns, ContrastBlur::kMean>(c, axis, item);
    case ContrastBlur::kDeviation:
      return blur_far<kColumns, ContrastBlur::kDeviation>(c, axis, item);
    case ContrastBlur::kThroughDeviation:
      return blur_far<kColumns, ContrastBlur::kThroughDeviation>(c, axis, item);
    case ContrastBlur::kThroughMean:
      return blur_far<kColumns, ContrastBlur::kThroughMean>(c, axis, item);
  }
}

// ---- Means over an image ----

enum class ContrastMean { kFloor, kFloorShare };

constexpr int kMeanThreads = 512;

// kFloor: floor = max(eps, mean of s), or eps. kFloorShare: the gradient of each deviation through
// the floor, the mean of what reaches it; 0 where that is eps. A block takes one image, or up to 32
// of its lanes; lanes change fastest over threads.
template <ContrastMean kMean, typename scalar_t>
__global__ void __launch_bounds__(kMeanThreads)
    contrast_mean_kernel(Contrast<scalar_t> c, int lane_bits) {
  using acc_t = accumulate_t<scalar_t>;
  FASTCONV_SHARED(double, sums, kMeanThreads);
  const int thread = int(threadIdx.x), lanes = 1 << lane_bits;
  const int lane_tiles = (c.lanes + lanes - 1) >> lane_bits;
  const int image = int(blockIdx.x) / lane_tiles;
  const int lane = (int(blockIdx.x) % lane_tiles << lane_bits) + (thread & (lanes - 1));
  const int pixels = c.height * c.width;
  const bool sums_up = c.mean_divisor && lane < c.lanes;
  const int out = image * c.lanes + lane;
  double sum = 0;  // gradients take one way below the mean and another above
  for (int i = thread >> lane_bits; sums_up && i < pixels; i += kMeanThreads >> lane_bits) {
    const int position = i * c.lanes + lane;
    const acc_t s = c.deviation[image * c.saved + position];
    if constexpr (kMean == ContrastMean::kFloor) {
      sum += double(s);
    } else {
      sum += s > c.floor[out] ? 0.0 : double(c.gathered(image, position).change);
    }
  }
  sums[thread] = sum;
  __syncthreads();
  for (int half = kMeanThreads / 2; half >= lanes; half /= 2) {
    if (thread < half) sums[thread] += sums[thread + half];
    __syncthreads();
  }
  if (thread >= lanes || lane >= c.lanes) return;
  const acc_t mean = acc_t(sums[thread] / pixels);
  if constexpr (kMean == ContrastMean::kFloor) {
    c.floor[out] = mean <= c.least ? c.least : mean;  // a NaN stays
  } else {
    c.floor_share[out] = c.floor[out] == c.least ? acc_t(0) : mean;
  }
}

// ---- The results ----

// item: kCount neighbours in memory.
template <bool kBackward, int kCount, typename scalar_t>
__global__ void __launch_bounds__(kThreads)
    contrast_result_kernel(Contrast<scalar_t> c, int items) {
  using acc_t = accumulate_t<scalar_t>;
  const int item = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (item >= items) return;
  const int first = item * kCount;
  const int line = first / (c.interleaved ? c.maps : c.plane);  // a position's maps, or a plane
  const int image = line / (c.interleaved ? c.plane : c.maps);
  const int position = c.interleaved ? line % c.plane : first % c.plane;
  const auto x = load_pack<kCount>(c.input + first);
  Pack<scalar_t, kCount> g{}, result;
  if (kBackward) g = load_pack<kCount>(c.grad_output + first);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const int at = c.interleaved ? position : position + i;
    const acc_t v = to_acc(x.lane[i]) - c.mean[image * c.saved + at];
    acc_t value;
    if constexpr (kBackward) {
      const int of = image * c.plane + at;
      value = to_acc(g.lane[i]) * c.inverse_divisor(image, at) + v * c.spread[of] - c.change[of];
    } else {
      value = v * c.inverse_divisor(image, at);
    }
    from_acc(value, result.lane[i]);
  }
  store_pack(c.result + first, result);
}

}  // namespace fastconv
