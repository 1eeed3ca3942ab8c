// scale[i]  = k + alpha * sum of x[j]^2 over the window of i, [i - before, i + after]
// output[i] = x[i] / scale[i]^beta
// grad_input[i] = g[i] / scale[i]^beta
//                 - 2 alpha beta x[i] * sum over j, i in the window of j, of ratio[j],
// ratio[j]      = g[j] x[j] / scale[j]^(beta + 1)
//
// Bytes moved: forward reads x and writes y, backward reads x and g and writes grad_input, each
// once; the scale is computed again, which costs less than 4 bytes an element each way would.
//
// packs   Across maps in channels_last, for odd windows of 3, 5 or 9: a thread makes kCount
//         neighbouring maps of one pixel, 16 bytes. The maps around its own come from the packs
//         beside it, by the first-level cache; the ratios around, from the threads beside it, by
//         shared memory.
// tiles   All else, 16 bytes at a time too where pixels or maps fill packs
//         (local_response_norm_tiles.cuh).
#pragma once

#include "cuda/local_response_norm.h"
#include "cuda/local_response_norm_tiles.cuh"
#include "cuda/pack.cuh"

namespace fastconv {

// Sums over the windows of kCount neighbours: values[kHalo + i] is element i.
template <int kReach, int kCount, int kHalo, typename acc_t>
__device__ __forceinline__ void window_sums(const acc_t* values, acc_t (&sums)[kCount]) {
  static_assert(kReach <= kHalo, "the window reaches beyond the values");
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    sums[i] = 0;
#pragma unroll
    for (int d = -kReach; d <= kReach; ++d) sums[i] += values[kHalo + i + d];
  }
}

// The maps around pack c of one pixel, kSides packs on either side; those that do not exist are 0.
template <int kCount, int kSides, typename scalar_t>
__device__ __forceinline__ void load_around(
    const scalar_t* pack, int c, int maps, accumulate_t<scalar_t> (&x)[(2 * kSides + 1) * kCount]) {
#pragma unroll
  for (int side = -kSides; side <= kSides; ++side) {
    const int at = c + side * kCount;
    Pack<scalar_t, kCount> values{};
    if (at >= 0 && at < maps) values = load_pack<kCount>(pack + side * kCount);
#pragma unroll
    for (int i = 0; i < kCount; ++i) x[(side + kSides) * kCount + i] = to_acc(values.lane[i]);
  }
}

template <int kReach, int kCount>
constexpr int kSidePacks = (kReach + kCount - 1) / kCount;

// scale of each element of the pack in the middle of x
template <int kReach, int kCount, int kHalo, typename acc_t>
__device__ __forceinline__ void scales_of(const acc_t* x, const ResponseConstants<acc_t>& constants,
                                          acc_t (&scales)[kCount]) {
  acc_t squares[kCount + 2 * kHalo];
#pragma unroll
  for (int i = 0; i < kCount + 2 * kHalo; ++i) squares[i] = x[i] * x[i];
  window_sums<kReach, kCount, kHalo>(squares, scales);
#pragma unroll
  for (int i = 0; i < kCount; ++i) scales[i] = constants.scale(scales[i]);
}

// item = (pixel of the batch, pack of maps)
template <typename scalar_t, int kReach>
__global__ void __launch_bounds__(kThreads)
    local_response_norm_forward_kernel(const scalar_t* input, scalar_t* output, int maps,
                                       ResponseConstants<accumulate_t<scalar_t>> constants,
                                       int items) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kCount = kPack<scalar_t>, kSides = kSidePacks<kReach, kCount>;
  constexpr int kHalo = kSides * kCount;
  const int item = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (item >= items) return;
  const int c = item % (maps / kCount) * kCount;
  acc_t x[kCount + 2 * kHalo], scales[kCount];
  load_around<kCount, kSides>(input + item * kCount, c, maps, x);
  scales_of<kReach, kCount, kHalo>(x, constants, scales);
  Pack<scalar_t, kCount> result;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    from_acc(x[kHalo + i] / constants.power_of(scales[i]), result.lane[i]);
  }
  store_pack(output + item * kCount, result);
}

// As above, but the first and the last kSides threads of a block give their ratios only.
template <typename scalar_t, int kReach>
__global__ void __launch_bounds__(kThreads)
    local_response_norm_backward_kernel(const scalar_t* grad_output, const scalar_t* input,
                                        scalar_t* grad_input, int maps,
                                        ResponseConstants<accumulate_t<scalar_t>> constants,
                                        int items) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kCount = kPack<scalar_t>, kSides = kSidePacks<kReach, kCount>;
  constexpr int kHalo = kSides * kCount, kWriters = kThreads - 2 * kSides;
  FASTCONV_SHARED(acc_t, shared, kThreads * kCount);
  const int thread = int(threadIdx.x);
  const int item = int(blockIdx.x) * kWriters + thread - kSides;
  const bool exists = item >= 0 && item < items;
  const int c = exists ? item % (maps / kCount) * kCount : 0;
  acc_t own[kCount] = {}, direct[kCount] = {}, ratio[kCount] = {};
  if (exists) {
    acc_t x[kCount + 2 * kHalo], scales[kCount];
    load_around<kCount, kSides>(input + item * kCount, c, maps, x);
    scales_of<kReach, kCount, kHalo>(x, constants, scales);
    const auto g = load_pack<kCount>(grad_output + item * kCount);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      own[i] = x[kHalo + i];
      direct[i] = to_acc(g.lane[i]) / constants.power_of(scales[i]);
      ratio[i] = direct[i] * own[i] / scales[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) shared[thread * kCount + i] = ratio[i];
  __syncthreads();
  if (!exists || thread < kSides || thread >= kThreads - kSides) return;

  acc_t ratios[kCount + 2 * kHalo], sums[kCount];
#pragma unroll
  for (int side = -kSides; side <= kSides; ++side) {
    const bool in_pixel = c + side * kCount >= 0 && c + side * kCount < maps;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const acc_t value = side == 0 ? ratio[i] : shared[(thread + side) * kCount + i];
      ratios[(side + kSides) * kCount + i] = in_pixel ? value : acc_t(0);
    }
  }
  window_sums<kReach, kCount, kHalo>(ratios, sums);
  Pack<scalar_t, kCount> result;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    from_acc(direct[i] + constants.factor * own[i] * sums[i], result.lane[i]);
  }
  store_pack(grad_input + item * kCount, result);
}

// The reach to each side for which packs of these maps have a kernel, or 0.
inline int reach_of_packs(const ResponseNorm& p, int pack) {
  const bool possible = !p.within && maps_are_neighbours(p) && p.maps % pack == 0;
  if (!possible || p.before != p.after) return 0;
  return p.before == 1 || p.before == 2 || p.before == 4 ? int(p.before) : 0;
}

template <typename scalar_t>
bool response_norm_fits(const ResponseNorm& p, bool backward) {
  Tiles tiles;
  return response_tiles_of(p, 1, sizeof(accumulate_t<scalar_t>), backward, tiles);
}

template <typename scalar_t>
cudaError_t launch_response_norm(const scalar_t* input, scalar_t* output, const ResponseNorm& p,
                                 cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const auto constants = response_constants<accumulate_t<scalar_t>>(p);
  const int64_t image = p.maps * p.pixels();
  return for_batch_parts(p.batch, image, [&](int64_t first, int64_t count) {
    const scalar_t* x = input + first * image;
    scalar_t* y = output + first * image;
    const int reach = reach_of_packs(p, kCount);
    if (reach == 0 || !fits_packs<kCount>(x) || !fits_packs<kCount>(y)) {
      return response_norm_forward_by_tiles(x, y, p, count, stream);
    }
    const int items = int(count * image / kCount);
    const auto kernel = reach == 1   ? local_response_norm_forward_kernel<scalar_t, 1>
                        : reach == 2 ? local_response_norm_forward_kernel<scalar_t, 2>
                                     : local_response_norm_forward_kernel<scalar_t, 4>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, x, y, int(p.maps),
                  constants, items);
  });
}

template <typename scalar_t>
cudaError_t launch_response_norm_backward(const scalar_t* grad_output, const scalar_t* input,
                                          scalar_t* grad_input, const ResponseNorm& p,
                                          cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const auto constants = response_constants<accumulate_t<scalar_t>>(p);
  const int64_t image = p.maps * p.pixels();
  return for_batch_parts(p.batch, image, [&](int64_t first, int64_t count) {
    const scalar_t *g = grad_output + first * image, *x = input + first * image;
    scalar_t* dx = grad_input + first * image;
    const int reach = reach_of_packs(p, kCount);
    if (reach == 0 || !fits_packs<kCount>(g) || !fits_packs<kCount>(x) || !fits_packs<kCount>(dx)) {
      return response_norm_backward_by_tiles(g, x, dx, p, count, stream);
    }
    const int items = int(count * image / kCount);
    const int sides = (reach + kCount - 1) / kCount;
    const auto kernel = reach == 1   ? local_response_norm_backward_kernel<scalar_t, 1>
                        : reach == 2 ? local_response_norm_backward_kernel<scalar_t, 2>
                                     : local_response_norm_backward_kernel<scalar_t, 4>;
    return launch(kernel, blocks_for(items, kThreads - 2 * sides), dim3(kThreads), 0, stream, g, x,
                  dx, int(p.maps), constants, items);
  });
}

}  // namespace fastconv
