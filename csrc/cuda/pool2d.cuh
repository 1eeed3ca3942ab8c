// What the pools share: which elements a thread has, and when it may move 16 bytes at once.
#pragma once

#include "core/window.h"
#include "cuda/pack.cuh"

namespace fastconv {

// One thread makes a pack of a map of `height` x `width` pixels: in channels_last kCount channels
// of one pixel, item = (n, y, x, pack of c); in the contiguous format one element, item = (n, c, y,
// x).
struct PoolPosition {
  int image;  // channels_last: n; contiguous: n * channels + c, so that an image is a plane
  int y, x, c;
  int at;    // of the pack in its tensor
  int step;  // between neighbours in a row
};

template <int kCount>
__device__ __forceinline__ PoolPosition pool_position(int item, const Pool2d32& p, int height,
                                                      int width) {
  const int packs = p.channels_last ? p.channels / kCount : 1;
  const int c = item % packs * kCount, pixel = item / packs;
  const int row = pixel / width, step = p.channels_last ? p.channels : 1;
  return {row / height, row % height, pixel % width, c, pixel * step + c, step};
}

__device__ __forceinline__ int pool_item() { return int(blockIdx.x) * kThreads + int(threadIdx.x); }

// Whether packs of kCount channels can be moved to and from all of these.
template <int kCount, typename... T>
bool moves_packs(const Pool2d& p, const T*... pointers) {
  return p.channels_last && p.channels % kCount == 0 && (fits_packs<kCount>(pointers) && ...);
}

struct PoolSizes {
  int64_t input, output;  // elements of one image
};

inline PoolSizes pool_sizes(const Pool2d& p) {
  return {p.channels * p.h.input * p.w.input, p.channels * p.h.output * p.w.output};
}

// body(first, count) for parts of the batch whose tensors a launch can index.
template <class F>
cudaError_t for_pool_parts(const Pool2d& p, const F& body) {
  const PoolSizes sizes = pool_sizes(p);
  return for_batch_parts(p.batch, max_of(sizes.input, sizes.output), body);
}

}  // namespace fastconv
