// output[n,c,ph,pw] = sum over taps (r,s) of input[n,c, ph*stride+r-padding, likewise w] / divisor
// grad_input[n,c,h,w] = sum over the windows (ph,pw) that cover (h,w) of grad_output / divisor
//
// One thread makes a pack of results (pool2d.cuh). Sums run down the columns of a window first,
// then across them. Bytes moved: each tensor once; windows overlap in the first-level cache.
#pragma once

#include "cuda/avg_pool2d.h"
#include "cuda/pool2d.cuh"

namespace fastconv {

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 4)
    avg_pool2d_forward_kernel(const scalar_t* input, scalar_t* output, AvgPool2d32 avg, int items) {
  using acc_t = accumulate_t<scalar_t>;
  const int item = pool_item();
  if (item >= items) return;
  const Pool2d32& p = avg.pool;
  const PoolPosition o = pool_position<kCount>(item, p, p.h.output, p.w.output);
  const int r0 = p.h.first_tap(o.y), r1 = p.h.end_tap(o.y);
  const int s0 = p.w.first_tap(o.x), s1 = p.w.end_tap(o.x);
  const int y0 = o.image * p.h.input + p.h.start(o.y), x0 = p.w.start(o.x);
  acc_t sum[kCount] = {};
  for (int s = s0; s < s1; ++s) {
    acc_t column[kCount] = {};
    for (int r = r0; r < r1; ++r) {
      const int at = ((y0 + r) * p.w.input + x0 + s) * o.step + o.c;
      const auto values = load_pack<kCount>(input + at);
      for (int i = 0; i < kCount; ++i) column[i] += to_acc(values.lane[i]);
    }
    for (int i = 0; i < kCount; ++i) sum[i] += column[i];
  }
  const acc_t divisor = acc_t(avg.divisor(o.y, o.x));
  Pack<scalar_t, kCount> result;
  for (int i = 0; i < kCount; ++i) from_acc(sum[i] / divisor, result.lane[i]);
  store_pack(output + o.at, result);
}

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 4)
    avg_pool2d_backward_kernel(const scalar_t* grad_output, scalar_t* grad_input, AvgPool2d32 avg,
                               int items) {
  using acc_t = accumulate_t<scalar_t>;
  const int item = pool_item();
  if (item >= items) return;
  const Pool2d32& p = avg.pool;
  const PoolPosition o = pool_position<kCount>(item, p, p.h.input, p.w.input);
  const int ph1 = p.h.end_output(o.y), pw0 = p.w.first_output(o.x), pw1 = p.w.end_output(o.x);
  acc_t sum[kCount] = {};
  for (int ph = p.h.first_output(o.y); ph < ph1; ++ph) {
    const int row = (o.image * p.h.output + ph) * p.w.output;
    for (int pw = pw0; pw < pw1; ++pw) {
      const acc_t divisor = acc_t(avg.divisor(ph, pw));
      const auto values = load_pack<kCount>(grad_output + (row + pw) * o.step + o.c);
      for (int i = 0; i < kCount; ++i) sum[i] += to_acc(values.lane[i]) / divisor;
    }
  }
  Pack<scalar_t, kCount> result;
  for (int i = 0; i < kCount; ++i) from_acc(sum[i], result.lane[i]);
  store_pack(grad_input + o.at, result);
}

template <typename scalar_t>
cudaError_t launch_avg_pool2d(const scalar_t* input, scalar_t* output, const AvgPool2d& avg,
                              cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const PoolSizes sizes = pool_sizes(avg.pool);
  return for_pool_parts(avg.pool, [&](int64_t first, int64_t count) {
    const scalar_t* x = input + first * sizes.input;
    scalar_t* y = output + first * sizes.output;
    const bool packed = moves_packs<kCount>(avg.pool, x, y);
    const int items = int(count * sizes.output / (packed ? kCount : 1));
    const auto kernel = packed ? avg_pool2d_forward_kernel<scalar_t, kCount>
                               : avg_pool2d_forward_kernel<scalar_t, 1>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, x, y, narrow(avg), items);
  });
}

template <typename scalar_t>
cudaError_t launch_avg_pool2d_backward(const scalar_t* grad_output, scalar_t* grad_input,
                                       const AvgPool2d& avg, cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const PoolSizes sizes = pool_sizes(avg.pool);
  return for_pool_parts(avg.pool, [&](int64_t first, int64_t count) {
    const scalar_t* g = grad_output + first * sizes.output;
    scalar_t* y = grad_input + first * sizes.input;
    const bool packed = moves_packs<kCount>(avg.pool, g, y);
    const int items = int(count * sizes.input / (packed ? kCount : 1));
    const auto kernel = packed ? avg_pool2d_backward_kernel<scalar_t, kCount>
                               : avg_pool2d_backward_kernel<scalar_t, 1>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, g, y, narrow(avg), items);
  });
}

}  // namespace fastconv
