// output[n,g,i] = max over j < pool_size of input[n, g*stride + j, i],   switches[n,g,i] = that j
// grad_input[n,c,i] = sum of grad_output[n,g,i] over the groups g whose switch points at map c
//
// The first of equal maxima is recorded; a NaN is larger than everything, and the last NaN of a
// group is the one recorded: max_pool2d's rules.
//
//   maps first   one thread makes kCount pixels of one map, 16 bytes where the pixels and the
//                addresses allow
//   maps last    where groups stand side by side and cover all maps, all of memory is one group
//                after another: one thread takes a pack of 16 bytes of groups, whose maps are
//                pool_size packs. Else one thread makes one element.
//
// Bytes moved: each tensor once; groups that overlap meet in the first-level cache.
#pragma once

#include <limits>

#include "cuda/maxout.h"
#include "cuda/pack.cuh"

namespace fastconv {

// A thread's place in a tensor of `maps` maps.
struct MaxoutPosition {
  int image, map, pixel;
};

template <int kCount>
__device__ __forceinline__ MaxoutPosition maxout_position(int item, const Maxout32& p, int maps) {
  if (p.maps_last) {
    const int pixel = item / maps;
    return {pixel / p.pixels, item % maps, pixel % p.pixels};
  }
  const int packs = p.pixels / kCount, row = item / packs;
  return {row / maps, row % maps, item % packs * kCount};
}

// Where an element of a tensor of `maps` maps lies.
__device__ __forceinline__ int maxout_at(const MaxoutPosition& o, const Maxout32& p, int maps,
                                         int map) {
  return p.maps_last ? (o.image * p.pixels + o.pixel) * maps + map
                     : (o.image * maps + map) * p.pixels + o.pixel;
}

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 4)
    maxout_forward_kernel(const scalar_t* input, scalar_t* output, uint8_t* switches, Maxout32 p,
                          int items) {
  using acc_t = accumulate_t<scalar_t>;
  const int item = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (item >= items) return;
  const MaxoutPosition o = maxout_position<kCount>(item, p, p.maps.output);
  acc_t best[kCount];
  int which[kCount] = {};
  for (int i = 0; i < kCount; ++i) best[i] = -std::numeric_limits<acc_t>::infinity();
  for (int j = 0; j < p.maps.kernel; ++j) {
    const int at = maxout_at(o, p, p.maps.input, p.maps.start(o.map) + j);
    const auto values = load_pack<kCount>(input + at);
    for (int i = 0; i < kCount; ++i) {
      const acc_t value = to_acc(values.lane[i]);
      const bool better = value > best[i] || value != value;
      best[i] = better ? value : best[i];
      which[i] = better ? j : which[i];
    }
  }
  Pack<scalar_t, kCount> maxima;
  Pack<uint8_t, kCount> positions;
  for (int i = 0; i < kCount; ++i) {
    from_acc(best[i], maxima.lane[i]);
    positions.lane[i] = uint8_t(which[i]);
  }
  const int at = maxout_at(o, p, p.maps.output, o.map);
  store_pack(output + at, maxima);
  store_pack(switches + at, positions);
}

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 4)
    maxout_backward_kernel(const scalar_t* grad_output, const uint8_t* switches,
                           scalar_t* grad_input, Maxout32 p, int items) {
  using acc_t = accumulate_t<scalar_t>;
  const int item = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (item >= items) return;
  const MaxoutPosition o = maxout_position<kCount>(item, p, p.maps.input);
  acc_t sum[kCount] = {};
  const int end = p.maps.end_output(o.map);
  for (int g = p.maps.first_output(o.map); g < end; ++g) {
    const int at = maxout_at(o, p, p.maps.output, g);
    const auto which = load_pack<kCount>(switches + at);
    const auto grad = load_pack<kCount>(grad_output + at);
    for (int i = 0; i < kCount; ++i) {
      if (which.lane[i] == p.maps.tap(g, o.map)) sum[i] += to_acc(grad.lane[i]);
    }
  }
  Pack<scalar_t, kCount> result;
  for (int i = 0; i < kCount; ++i) from_acc(sum[i], result.lane[i]);
  store_pack(grad_input + maxout_at(o, p, p.maps.input, o.map), result);
}

// ---- Groups side by side ----

// Drops the first element and puts one at the end: registers cannot be indexed.
template <typename T, int kCount>
__device__ __forceinline__ void append(Pack<T, kCount>& pack, T value) {
#pragma unroll
  for (int i = 0; i + 1 < kCount; ++i) pack.lane[i] = pack.lane[i + 1];
  pack.lane[kCount - 1] = value;
}

// item: a pack of groups.
template <typename scalar_t>
__global__ void __launch_bounds__(kThreads, 4)
    maxout_side_by_side_forward_kernel(const scalar_t* input, scalar_t* output, uint8_t* switches,
                                       int pool_size, int items) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kCount = kPack<scalar_t>;
  const int item = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (item >= items) return;
  Pack<scalar_t, kCount> maxima{};
  Pack<uint8_t, kCount> positions{};
  acc_t best = -std::numeric_limits<acc_t>::infinity();
  int which = 0, j = 0;
  for (int k = 0; k < pool_size; ++k) {
    const auto values = load_pack<kCount>(input + (item * pool_size + k) * kCount);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const acc_t value = to_acc(values.lane[i]);
      const bool better = value > best || value != value;
      best = better ? value : best;
      which = better ? j : which;
      if (++j < pool_size) continue;
      scalar_t maximum;
      from_acc(best, maximum);
      append(maxima, maximum);
      append(positions, uint8_t(which));
      best = -std::numeric_limits<acc_t>::infinity();
      which = j = 0;
    }
  }
  store_pack(output + item * kCount, maxima);
  store_pack(switches + item * kCount, positions);
}

template <typename scalar_t>
__global__ void __launch_bounds__(kThreads, 4)
    maxout_side_by_side_backward_kernel(const scalar_t* grad_output, const uint8_t* switches,
                                        scalar_t* grad_input, int pool_size, int items) {
  constexpr int kCount = kPack<scalar_t>;
  const int item = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (item >= items) return;
  auto grad = load_pack<kCount>(grad_output + item * kCount);
  auto which = load_pack<kCount>(switches + item * kCount);
  int j = 0;
  for (int k = 0; k < pool_size; ++k) {
    Pack<scalar_t, kCount> result{};
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (which.lane[0] == j) result.lane[i] = grad.lane[0];
      if (++j < pool_size) continue;
      append(grad, scalar_t{});
      append(which, uint8_t(0));
      j = 0;
    }
    store_pack(grad_input + (item * pool_size + k) * kCount, result);
  }
}

// ---- Launchers ----

template <int kCount, typename... T>
bool maxout_moves_packs(const Maxout& p, const T*... pointers) {
  return !p.maps_last && p.pixels % kCount == 0 && (fits_packs<kCount>(pointers) && ...);
}

// `groups`: of all pixels.
template <int kCount, typename... T>
bool maxout_is_side_by_side(const Maxout& p, int64_t groups, const T*... pointers) {
  return p.maps_last && p.maps.input == p.maps.output * p.maps.kernel && groups % kCount == 0 &&
         (fits_packs<kCount>(pointers) && ...);
}

template <typename scalar_t>
cudaError_t launch_maxout(const scalar_t* input, scalar_t* output, uint8_t* switches,
                          const Maxout& p, cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const int64_t in_image = p.maps.input * p.pixels, out_image = p.maps.output * p.pixels;
  return for_batch_parts(p.batch, in_image, [&](int64_t first, int64_t count) {
    const scalar_t* x = input + first * in_image;
    scalar_t* y = output + first * out_image;
    uint8_t* z = switches + first * out_image;
    const int64_t groups = count * out_image;
    if (maxout_is_side_by_side<kCount>(p, groups, x, y, z)) {
      return launch(maxout_side_by_side_forward_kernel<scalar_t>, blocks_for(groups / kCount),
                    dim3(kThreads), 0, stream, x, y, z, int(p.maps.kernel), int(groups / kCount));
    }
    const bool packed = maxout_moves_packs<kCount>(p, x, y, z);
    const int items = int(groups / (packed ? kCount : 1));
    const auto kernel =
        packed ? maxout_forward_kernel<scalar_t, kCount> : maxout_forward_kernel<scalar_t, 1>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, x, y, z, narrow(p), items);
  });
}

template <typename scalar_t>
cudaError_t launch_maxout_backward(const scalar_t* grad_output, const uint8_t* switches,
                                   scalar_t* grad_input, const Maxout& p, cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const int64_t in_image = p.maps.input * p.pixels, out_image = p.maps.output * p.pixels;
  return for_batch_parts(p.batch, in_image, [&](int64_t first, int64_t count) {
    const scalar_t* g = grad_output + first * out_image;
    const uint8_t* z = switches + first * out_image;
    scalar_t* y = grad_input + first * in_image;
    const int64_t groups = count * out_image;
    if (maxout_is_side_by_side<kCount>(p, groups, g, z, y)) {
      return launch(maxout_side_by_side_backward_kernel<scalar_t>, blocks_for(groups / kCount),
                    dim3(kThreads), 0, stream, g, z, y, int(p.maps.kernel), int(groups / kCount));
    }
    const bool packed = maxout_moves_packs<kCount>(p, g, z, y);
    const int items = int(count * in_image / (packed ? kCount : 1));
    const auto kernel =
        packed ? maxout_backward_kernel<scalar_t, kCount> : maxout_backward_kernel<scalar_t, 1>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, g, z, y, narrow(p), items);
  });
}

}  // namespace fastconv
