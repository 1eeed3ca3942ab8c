// output[n,c,ph,pw] = max over taps (r,s) of input[n, c, ph*stride+r*dilation-padding, likewise w]
// switches[n,c,ph,pw] = r * kernel_w + s of the first maximum, row by row
//
// switches may be null: then they are not recorded.
//
// As in torch, a NaN is larger than everything and the last NaN of a window is the one recorded;
// a window of -inf records its first element.
//
// One thread makes a pack of outputs (pool2d.cuh). Bytes moved: the input once (windows overlap in
// the first-level cache), the output once, a switch byte for each output.
#pragma once

#include <limits>

#include "cuda/max_pool2d.h"
#include "cuda/pool2d.cuh"

namespace fastconv {

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 4)
    max_pool2d_forward_kernel(const scalar_t* input, scalar_t* output, uint8_t* switches,
                              Pool2d32 p, int items) {
  using acc_t = accumulate_t<scalar_t>;
  const int item = pool_item();
  if (item >= items) return;
  const PoolPosition o = pool_position<kCount>(item, p, p.h.output, p.w.output);
  const int r0 = p.h.first_tap(o.y), r1 = p.h.end_tap(o.y);
  const int s0 = p.w.first_tap(o.x), s1 = p.w.end_tap(o.x);
  const int y0 = o.image * p.h.input + p.h.start(o.y), x0 = p.w.start(o.x);
  acc_t best[kCount];
  int which[kCount];
  for (int i = 0; i < kCount; ++i) {
    best[i] = -std::numeric_limits<acc_t>::infinity();
    which[i] = r0 * p.w.kernel + s0;
  }
  for (int r = r0; r < r1; ++r) {
    const int y = y0 + r * p.h.dilation;
    for (int s = s0; s < s1; ++s) {
      const int x = x0 + s * p.w.dilation;
      const auto values = load_pack<kCount>(input + (y * p.w.input + x) * o.step + o.c);
      for (int i = 0; i < kCount; ++i) {
        const acc_t value = to_acc(values.lane[i]);
        const bool better = value > best[i] || value != value;
        best[i] = better ? value : best[i];
        which[i] = better ? r * p.w.kernel + s : which[i];
      }
    }
  }
  Pack<scalar_t, kCount> maxima;
  Pack<uint8_t, kCount> positions;
  for (int i = 0; i < kCount; ++i) {
    from_acc(best[i], maxima.lane[i]);
    positions.lane[i] = uint8_t(which[i]);
  }
  store_pack(output + o.at, maxima);
  if (switches) store_pack(switches + o.at, positions);
}

template <typename scalar_t>
cudaError_t launch_max_pool2d(const scalar_t* input, scalar_t* output, uint8_t* switches,
                              const Pool2d& p, cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const PoolSizes sizes = pool_sizes(p);
  return for_pool_parts(p, [&](int64_t first, int64_t count) {
    const scalar_t* x = input + first * sizes.input;
    scalar_t* y = output + first * sizes.output;
    uint8_t* z = switches ? switches + first * sizes.output : nullptr;
    const bool packed = moves_packs<kCount>(p, x, y, z);
    const int items = int(count * sizes.output / (packed ? kCount : 1));
    const auto kernel = packed ? max_pool2d_forward_kernel<scalar_t, kCount>
                               : max_pool2d_forward_kernel<scalar_t, 1>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, x, y, z, narrow(p), items);
  });
}

}  // namespace fastconv
