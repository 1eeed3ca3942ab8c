// output[n,c,ph,pw] = max over taps (r,s) of input[n, c, ph*stride+r*dilation-padding, likewise w]
// switches[n,c,ph,pw] = r * kernel_w + s of the first maximum, row by row
//
// As in torch, a NaN is larger than everything and the last NaN of a window is the one recorded;
// a window of -inf records its first element.
//
// One thread makes a pack of outputs: in channels_last kCount maps of one pixel (16 bytes where the
// maps and the addresses allow), in the contiguous format one element. Bytes moved: the input once
// (windows overlap in the first-level cache), the output once, a switch byte for each output.
#pragma once

#include <limits>

#include "core/window.h"
#include "cuda/pack.cuh"

namespace fastconv {

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 4)
    max_pool2d_forward_kernel(const scalar_t* input, scalar_t* output, uint8_t* switches,
                              Pool2d32 p, int items) {
  using acc_t = accumulate_t<scalar_t>;
  const int item = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (item >= items) return;
  // channels_last: item = (n, ph, pw, pack of c), else (n, c, ph, pw).
  const int packs = p.channels_last ? p.channels / kCount : 1;
  const int c = item % packs * kCount, pixel = item / packs;
  const int pw = pixel % p.w.output, row = pixel / p.w.output;
  const int ph = row % p.h.output, image = row / p.h.output;
  const int step = p.channels_last ? p.channels : 1;  // between neighbours in a row

  const int r0 = p.h.first_tap(ph), r1 = p.h.end_tap(ph);
  const int s0 = p.w.first_tap(pw), s1 = p.w.end_tap(pw);
  const int y0 = image * p.h.input + p.h.start(ph), x0 = p.w.start(pw);
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
      const auto values = load_pack<kCount>(input + (y * p.w.input + x) * step + c);
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
  store_pack(output + pixel * step + c, maxima);
  store_pack(switches + pixel * step + c, positions);
}

template <typename scalar_t>
cudaError_t max_pool2d_forward(const scalar_t* input, scalar_t* output, uint8_t* switches,
                               const Pool2d& p, cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const int64_t in_image = p.channels * p.h.input * p.w.input;
  const int64_t out_image = p.channels * p.h.output * p.w.output;
  return for_batch_parts(p.batch, max_of(in_image, out_image), [&](int64_t first, int64_t count) {
    const scalar_t* x = input + first * in_image;
    scalar_t* y = output + first * out_image;
    uint8_t* z = switches + first * out_image;
    const bool packed = p.channels_last && p.channels % kCount == 0 && fits_packs<kCount>(x) &&
                        fits_packs<kCount>(y) && fits_packs<kCount>(z);
    const int items = int(count * out_image / (packed ? kCount : 1));
    const auto kernel = packed ? max_pool2d_forward_kernel<scalar_t, kCount>
                               : max_pool2d_forward_kernel<scalar_t, 1>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, x, y, z, narrow(p), items);
  });
}

}  // namespace fastconv
