// output[n,c,h,w] = sum (accumulate) or last in row order (overwrite) of pooled[n,c,ph,pw] over
// the windows (ph,pw) whose switch points at (h,w); 0 where none does.
// grad_pooled[n,c,ph,pw] = grad_output where its switch points; when overwriting, 0 if a later
// window points there too.
//
// Accumulating is the exact adjoint of max pooling, so it is also max_pool2d's backward. A switch
// that points outside its window or into the padding goes nowhere.
//
// One thread makes a pack of results (pool2d.cuh): forward, an unpooled pixel gathers from the few
// windows that cover it. Bytes moved: pooled values and switches once (windows overlap in the
// first-level cache), the unpooled map once.
#pragma once

#include "cuda/max_unpool2d.h"
#include "cuda/pool2d.cuh"

namespace fastconv {

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 4)
    max_unpool2d_forward_kernel(const scalar_t* pooled, const uint8_t* switches, scalar_t* output,
                                Pool2d32 p, bool overwrite, int items) {
  using acc_t = accumulate_t<scalar_t>;
  const int item = pool_item();
  if (item >= items) return;
  const PoolPosition o = pool_position<kCount>(item, p, p.h.input, p.w.input);
  const int pw0 = p.w.first_output(o.x), pw1 = p.w.end_output(o.x), ph1 = p.h.end_output(o.y);
  acc_t sum[kCount] = {};
  for (int ph = p.h.first_output(o.y); ph < ph1; ++ph) {
    const int r = p.h.tap(ph, o.y);
    const int row = (o.image * p.h.output + ph) * p.w.output;
    for (int pw = pw0; pw < pw1; ++pw) {
      const int s = p.w.tap(pw, o.x);
      if (r < 0 || s < 0) continue;  // dilation steps over this pixel
      const int at = (row + pw) * o.step + o.c;
      const auto which = load_pack<kCount>(switches + at);
      const auto values = load_pack<kCount>(pooled + at);
      for (int i = 0; i < kCount; ++i) {
        if (which.lane[i] != r * p.w.kernel + s) continue;
        const acc_t value = to_acc(values.lane[i]);
        sum[i] = overwrite ? value : sum[i] + value;
      }
    }
  }
  Pack<scalar_t, kCount> result;
  for (int i = 0; i < kCount; ++i) from_acc(sum[i], result.lane[i]);
  store_pack(output + o.at, result);
}

// Whether a window after (ph, pw) in row order also points at (h, w); switches of one map.
__device__ inline bool is_overwritten(const uint8_t* switches, const Pool2d32& p, int step, int ph,
                                      int pw, int h, int w) {
  for (int qh = ph; qh < p.h.end_output(h); ++qh) {
    const int r = p.h.tap(qh, h);
    for (int qw = qh == ph ? pw + 1 : p.w.first_output(w); qw < p.w.end_output(w); ++qw) {
      const int s = p.w.tap(qw, w);
      if (r >= 0 && s >= 0 && switches[(qh * p.w.output + qw) * step] == r * p.w.kernel + s) {
        return true;
      }
    }
  }
  return false;
}

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 4)
    max_unpool2d_backward_kernel(const scalar_t* grad_output, const uint8_t* switches,
                                 scalar_t* grad_pooled, Pool2d32 p, bool overwrite, int items) {
  const int item = pool_item();
  if (item >= items) return;
  const PoolPosition o = pool_position<kCount>(item, p, p.h.output, p.w.output);
  const auto which = load_pack<kCount>(switches + o.at);
  const int in_image = p.h.input * p.w.input * o.step;
  const int out_image = p.h.output * p.w.output * o.step;
  Pack<scalar_t, kCount> result;
  for (int i = 0; i < kCount; ++i) {
    const int r = which.lane[i] / p.w.kernel, s = which.lane[i] % p.w.kernel;
    const int h = p.h.start(o.y) + r * p.h.dilation, w = p.w.start(o.x) + s * p.w.dilation;
    const bool inside = r < p.h.kernel && h >= 0 && h < p.h.input && w >= 0 && w < p.w.input;
    from_acc(accumulate_t<scalar_t>(0), result.lane[i]);
    if (!inside) continue;
    if (overwrite &&
        is_overwritten(switches + o.image * out_image + o.c + i, p, o.step, o.y, o.x, h, w)) {
      continue;
    }
    result.lane[i] = grad_output[o.image * in_image + (h * p.w.input + w) * o.step + o.c + i];
  }
  store_pack(grad_pooled + o.at, result);
}

template <typename scalar_t>
cudaError_t launch_max_unpool2d(const scalar_t* pooled, const uint8_t* switches, scalar_t* output,
                                const Pool2d& p, bool overwrite, cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const PoolSizes sizes = pool_sizes(p);
  return for_pool_parts(p, [&](int64_t first, int64_t count) {
    const scalar_t* x = pooled + first * sizes.output;
    const uint8_t* z = switches + first * sizes.output;
    scalar_t* y = output + first * sizes.input;
    const bool packed = moves_packs<kCount>(p, x, y, z);
    const int items = int(count * sizes.input / (packed ? kCount : 1));
    const auto kernel = packed ? max_unpool2d_forward_kernel<scalar_t, kCount>
                               : max_unpool2d_forward_kernel<scalar_t, 1>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, x, z, y, narrow(p),
                  overwrite, items);
  });
}

template <typename scalar_t>
cudaError_t launch_max_unpool2d_backward(const scalar_t* grad_output, const uint8_t* switches,
                                         scalar_t* grad_pooled, const Pool2d& p, bool overwrite,
                                         cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const PoolSizes sizes = pool_sizes(p);
  return for_pool_parts(p, [&](int64_t first, int64_t count) {
    const scalar_t* g = grad_output + first * sizes.input;
    const uint8_t* z = switches + first * sizes.output;
    scalar_t* y = grad_pooled + first * sizes.output;
    const bool packed = moves_packs<kCount>(p, y, z);
    const int items = int(count * sizes.output / (packed ? kCount : 1));
    const auto kernel = packed ? max_unpool2d_backward_kernel<scalar_t, kCount>
                               : max_unpool2d_backward_kernel<scalar_t, 1>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, g, z, y, narrow(p),
                  overwrite, items);
  });
}

}  // namespace fastconv
