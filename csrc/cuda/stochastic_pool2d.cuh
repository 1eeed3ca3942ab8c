// Of each window one element is drawn, with probability p_i = a_i / sum a for the positive a_i:
//
//   output[n,c,ph,pw] = the drawn element,  switches[n,c,ph,pw] = its position, r * kernel_w + s
//   mean[n,c,ph,pw] = sum p_i a_i
//   grad_input[n,c,h,w] = sum over the windows that cover (h,w) of
//                         grad_output * (2 a - mean) / sum a, for a > 0
//
// core/stochastic_pool.h has every case, and the operations' order, which makes the draws those of
// the CPU to the bit. The uniform number is word 0 of Philox at the output's logical index.
//
// One thread makes a pack of results (pool2d.cuh). Bytes moved: each tensor once. A window is read
// twice, from the first-level cache the second time, and the backward pass computes means and sums
// again, for storing them would move 8 bytes for each window.
#pragma once

#include "core/philox.h"
#include "core/stochastic_pool.h"
#include "cuda/pool2d.cuh"
#include "cuda/stochastic_pool2d.h"

namespace fastconv {

// The window (ph, pw) of channel c.
template <typename scalar_t>
__device__ __forceinline__ WindowElements<scalar_t> pool_window(const scalar_t* input,
                                                                const Pool2d32& p, int image,
                                                                int ph, int pw, int c, int step) {
  const int y0 = image * p.h.input + p.h.start(ph), x0 = p.w.start(pw);
  return {input + (int64_t(y0) * p.w.input + x0) * step + c,
          p.w.input * step,
          step,
          p.h.first_tap(ph),
          p.h.end_tap(ph),
          p.w.first_tap(pw),
          p.w.end_tap(pw),
          p.w.kernel};
}

// body(pack, position) for the taps of row r of kCount windows side by side.
template <int kCount, typename scalar_t, class F>
__device__ __forceinline__ void for_row_taps(const WindowElements<scalar_t>& a, int r,
                                             const F& body) {
  for (int s = int(a.s0); s < int(a.s1); ++s) {
    body(load_pack<kCount>(a.origin + (r * int(a.row_step) + s * int(a.column_step))),
         r * int(a.kernel_w) + s);
  }
}

// The same for every tap, row by row.
template <int kCount, typename scalar_t, class F>
__device__ __forceinline__ void for_pack_taps(const WindowElements<scalar_t>& a, const F& body) {
  for (int r = int(a.r0); r < int(a.r1); ++r) for_row_taps<kCount>(a, r, body);
}

template <typename scalar_t>
__device__ __forceinline__ WindowElements<scalar_t> beside(WindowElements<scalar_t> a, int lane) {
  a.origin += lane;
  return a;
}

// Windows out of the ordinary are rare: called, not inlined, they cost the others nothing. They go
// by value, in registers; by reference they would need a stack frame.
template <typename scalar_t>
__device__ FASTCONV_NOINLINE Drawn<accumulate_t<scalar_t>> draw_specially(
    WindowElements<scalar_t> window, float uniform) {
  return stochastic_draw(window, uniform);
}
template <typename scalar_t>
__device__ FASTCONV_NOINLINE Mean<accumulate_t<scalar_t>> mean_specially(
    WindowElements<scalar_t> window) {
  return stochastic_mean(window);
}

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 2)
    stochastic_pool2d_forward_kernel(const scalar_t* input, const int64_t* seed, scalar_t* output,
                                     uint8_t* switches, Pool2d32 p, int64_t first_index,
                                     int items) {
  using acc_t = accumulate_t<scalar_t>;
  const int item = pool_item();
  if (item >= items) return;
  const PoolPosition o = pool_position<kCount>(item, p, p.h.output, p.w.output);
  const auto window = pool_window(input, p, o.image, o.y, o.x, o.c, o.step);
  acc_t sum[kCount] = {};
  for_pack_taps<kCount>(window, [&](const auto& pack, int) {
    for (int i = 0; i < kCount; ++i) {
      const acc_t a = to_acc(pack.lane[i]);
      sum[i] += a <= 0 ? acc_t(0) : a;
    }
  });

  const int64_t map = p.h.output * p.w.output;
  const int64_t index =
      first_index + (p.channels_last
                         ? (int64_t(o.image) * p.channels + o.c) * map + o.y * p.w.output + o.x
                         : int64_t(item));
  float uniform[kCount];
  acc_t threshold[kCount], before[kCount] = {}, value[kCount] = {};
  int which[kCount];
  for (int i = 0; i < kCount; ++i) {
    uniform[i] = uniform01(philox4x32(uint64_t(*seed), uint64_t(index + i * map)).word[0]);
    threshold[i] = acc_t(uniform[i]) * sum[i];
    which[i] = int(window.r0 * window.kernel_w + window.s0);
  }
  for_pack_taps<kCount>(window, [&](const auto& pack, int position) {
    for (int i = 0; i < kCount; ++i) {
      const acc_t a = to_acc(pack.lane[i]);
      const bool positive = a > 0, reached = positive && before[i] <= threshold[i];
      value[i] = reached ? a : value[i];
      which[i] = reached ? position : which[i];
      before[i] += positive ? a : acc_t(0);
    }
  });
  Pack<scalar_t, kCount> drawn;
  Pack<uint8_t, kCount> positions;
  for (int i = 0; i < kCount; ++i) {
    if (!is_finite(sum[i])) {
      const auto special = draw_specially(beside(window, i), uniform[i]);
      value[i] = special.value;
      which[i] = special.which;
    }
    from_acc(value[i], drawn.lane[i]);
    positions.lane[i] = uint8_t(which[i]);
  }
  store_pack(output + o.at, drawn);
  store_pack(switches + o.at, positions);
}

// Means and sums of kCount windows side by side.
template <int kCount, typename scalar_t, typename acc_t>
__device__ __forceinline__ void window_means(const WindowElements<scalar_t>& window,
                                             acc_t (&mean)[kCount], acc_t (&sum)[kCount]) {
  acc_t squares[kCount] = {};
  for (int i = 0; i < kCount; ++i) sum[i] = 0;
  for (int r = int(window.r0); r < int(window.r1); ++r) {  // so rounding grows more slowly
    acc_t row_sum[kCount] = {}, row_squares[kCount] = {};
    for_row_taps<kCount>(window, r, [&](const auto& pack, int) {
      for (int i = 0; i < kCount; ++i) {
        const acc_t a = to_acc(pack.lane[i]), positive = a <= 0 ? acc_t(0) : a;
        row_sum[i] += positive;
        row_squares[i] += positive * positive;
      }
    });
    for (int i = 0; i < kCount; ++i) {
      sum[i] += row_sum[i];
      squares[i] += row_squares[i];
    }
  }
  for (int i = 0; i < kCount; ++i) {
    mean[i] = squares[i] / (sum[i] > 0 ? sum[i] : acc_t(1));
    // Within these bounds no square that matters overflows or vanishes, even in float.
    const bool ordinary = (sum[i] >= acc_t(0x1p-50) && sum[i] <= acc_t(0x1p50)) || sum[i] == 0;
    if (!ordinary) {
      const auto exact = mean_specially(beside(window, i));
      mean[i] = exact.value;
      sum[i] = exact.sum;
    }
  }
}

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 2)
    stochastic_pool2d_mean_kernel(const scalar_t* input, scalar_t* output, Pool2d32 p, int items) {
  using acc_t = accumulate_t<scalar_t>;
  const int item = pool_item();
  if (item >= items) return;
  const PoolPosition o = pool_position<kCount>(item, p, p.h.output, p.w.output);
  acc_t mean[kCount], sum[kCount];
  window_means(pool_window(input, p, o.image, o.y, o.x, o.c, o.step), mean, sum);
  Pack<scalar_t, kCount> result;
  for (int i = 0; i < kCount; ++i) from_acc(mean[i], result.lane[i]);
  store_pack(output + o.at, result);
}

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads, 2)
    stochastic_pool2d_mean_backward_kernel(const scalar_t* grad_output, const scalar_t* input,
                                           scalar_t* grad_input, Pool2d32 p, int items) {
  using acc_t = accumulate_t<scalar_t>;
  const int item = pool_item();
  if (item >= items) return;
  const PoolPosition o = pool_position<kCount>(item, p, p.h.input, p.w.input);
  const auto own = load_pack<kCount>(input + o.at);
  const int ph1 = p.h.end_output(o.y), pw0 = p.w.first_output(o.x), pw1 = p.w.end_output(o.x);
  acc_t grad[kCount] = {};
  for (int ph = p.h.first_output(o.y); ph < ph1; ++ph) {
    const int row = (o.image * p.h.output + ph) * p.w.output;
    for (int pw = pw0; pw < pw1; ++pw) {
      acc_t mean[kCount], sum[kCount];
      window_means(pool_window(input, p, o.image, ph, pw, o.c, o.step), mean, sum);
      const auto g = load_pack<kCount>(grad_output + (row + pw) * o.step + o.c);
      for (int i = 0; i < kCount; ++i) {
        const acc_t a = to_acc(own.lane[i]);  // in this order large values cancel in time
        grad[i] += to_acc(g.lane[i]) * ((a - mean[i] + a) / sum[i]);
      }
    }
  }
  Pack<scalar_t, kCount> result;
  for (int i = 0; i < kCount; ++i) {
    from_acc(to_acc(own.lane[i]) <= 0 ? acc_t(0) : grad[i], result.lane[i]);
  }
  store_pack(grad_input + o.at, result);
}

template <typename scalar_t>
cudaError_t launch_stochastic_pool2d(const scalar_t* input, const int64_t* seed, scalar_t* output,
                                     uint8_t* switches, const Pool2d& p, cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const PoolSizes sizes = pool_sizes(p);
  return for_pool_parts(p, [&](int64_t first, int64_t count) {
    const scalar_t* x = input + first * sizes.input;
    scalar_t* y = output + first * sizes.output;
    uint8_t* z = switches + first * sizes.output;
    const bool packed = moves_packs<kCount>(p, x, y, z);
    const int items = int(count * sizes.output / (packed ? kCount : 1));
    const auto kernel = packed ? stochastic_pool2d_forward_kernel<scalar_t, kCount>
                               : stochastic_pool2d_forward_kernel<scalar_t, 1>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, x, seed, y, z, narrow(p),
                  first * sizes.output, items);
  });
}

template <typename scalar_t>
cudaError_t launch_stochastic_pool2d_mean(const scalar_t* input, scalar_t* output, const Pool2d& p,
                                          cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const PoolSizes sizes = pool_sizes(p);
  return for_pool_parts(p, [&](int64_t first, int64_t count) {
    const scalar_t* x = input + first * sizes.input;
    scalar_t* y = output + first * sizes.output;
    const bool packed = moves_packs<kCount>(p, x, y);
    const int items = int(count * sizes.output / (packed ? kCount : 1));
    const auto kernel = packed ? stochastic_pool2d_mean_kernel<scalar_t, kCount>
                               : stochastic_pool2d_mean_kernel<scalar_t, 1>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, x, y, narrow(p), items);
  });
}

template <typename scalar_t>
cudaError_t launch_stochastic_pool2d_mean_backward(const scalar_t* grad_output,
                                                   const scalar_t* input, scalar_t* grad_input,
                                                   const Pool2d& p, cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const PoolSizes sizes = pool_sizes(p);
  return for_pool_parts(p, [&](int64_t first, int64_t count) {
    const scalar_t* g = grad_output + first * sizes.output;
    const scalar_t* x = input + first * sizes.input;
    scalar_t* y = grad_input + first * sizes.input;
    const bool packed = moves_packs<kCount>(p, g, x, y);
    const int items = int(count * sizes.input / (packed ? kCount : 1));
    const auto kernel = packed ? stochastic_pool2d_mean_backward_kernel<scalar_t, kCount>
                               : stochastic_pool2d_mean_backward_kernel<scalar_t, 1>;
    return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, g, x, y, narrow(p), items);
  });
}

}  // namespace fastconv
