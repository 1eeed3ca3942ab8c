// forward       output[n,o]      = bias[o] + sum over i of kept[n,o,i] * weight[o,i] * input[n,i]
// input grad    grad_input[n,i]  = sum over o of kept[n,o,i] * weight[o,i] * grad_output[n,o]
// weight grad   grad_weight[o,i] = sum over n of kept[n,o,i] * input[n,i] * grad_output[n,o]
//
// kept is drawn from Philox, 128 columns i at a time, and never stored (core/drop_connect.h). What
// is dropped reads as 0, as on the CPU, and then meets its factor in a multiply-add. Where p = 1/2
// a draw costs about 80 instructions for 128 weights, the rest about three for each.
//
// The matrices pass through shared memory in acc_t, zeros standing for what lies outside. Sums run
// in chunks, first within one and then over all, in one order: no atomics, the same bits each time.
// Bytes moved: each matrix once for each tile of the other, which the second-level cache holds.
#pragma once

#include "core/philox.h"
#include "core/window.h"
#include "cuda/drop_connect.h"
#include "cuda/pack.cuh"

namespace fastconv {

constexpr int kColumns = int(kDropGroup);    // of a tile: those of one draw
constexpr int kColumnWords = kColumns / 32;  // of 32 bits, a column each

struct KeptColumns {
  uint32_t word[kColumnWords];
};

// Which weights of columns group * kColumns ... example n keeps for output o.
__device__ __forceinline__ KeptColumns draw_kept(const DropConnect& p, uint64_t seed, int64_t group,
                                                 int64_t o, int64_t n) {
  uint32_t dropped[kColumnWords], undecided[kColumnWords];
  for (int w = 0; w < kColumnWords; ++w) {
    dropped[w] = 0;
    undecided[w] = ~0u;
  }
  const uint64_t counter = uint64_t(group) | uint64_t(o) << 32;
  uint64_t counter_high = uint64_t(n);
  for (uint64_t digits = p.p.digits; digits != 0; digits <<= 1) {
    const Philox4 drawn = philox4x32(seed, counter, counter_high);
    uint32_t rest = 0;
    for (int w = 0; w < kColumnWords; ++w) {
      compare_digit(drawn.word[w], bool(digits >> 63), dropped[w], undecided[w]);
      rest |= undecided[w];
    }
    if (rest == 0) break;
    counter_high += uint64_t(1) << 32;  // the next digit
  }
  KeptColumns kept;
  for (int w = 0; w < kColumnWords; ++w) kept.word[w] = p.p.always ? 0u : ~dropped[w];
  return kept;
}

// rows x columns elements at `from`, rows `stride` apart, as kRows x kColumns in acc_t, rows kPitch
// apart, padded with zeros. kCount elements at a time: with more than 1, `from` and stride are
// multiples of kCount, and so is `columns`.
template <int kRows, int kPitch, int kThreadsOfBlock, int kCount, typename scalar_t>
__device__ __forceinline__ void load_rows(const scalar_t* from, int64_t stride, int rows,
                                          int columns, accumulate_t<scalar_t>* to) {
  using acc_t = accumulate_t<scalar_t>;
  static_assert(kColumns % kCount == 0 && kPitch >= kColumns, "whole packs only");
  for (int at = int(threadIdx.x) * kCount; at < kRows * kColumns; at += kThreadsOfBlock * kCount) {
    const int row = at / kColumns, column = at % kColumns;
    Pack<scalar_t, kCount> pack{};
    if (row < rows && column < columns) pack = load_pack<kCount>(from + row * stride + column);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      to[row * kPitch + column + i] = acc_t(to_acc(pack.lane[i]));
    }
  }
}

// ---- Forward: a block makes 32 examples x 32 outputs, a thread 2 x 2, 16 apart. ----

struct DropForward {
  static constexpr int kSide = 32, kApart = 16, kEach = kSide / kApart;
  static_assert(kApart * kApart == kThreads, "each thread has its pairs");
  // Rows begin 16 bytes further in the banks than the one before: threads that read the same
  // column of neighbouring rows, 16 bytes each, never meet.
  template <typename acc_t>
  static constexpr int kPitch = kColumns + 16 / int(sizeof(acc_t));
  template <typename acc_t>
  static constexpr size_t kSharedBytes = 2 * kSide * kPitch<acc_t> * sizeof(acc_t);
};

// sums[n][o] += the products of 32 columns, with a bit of kept each.
template <typename acc_t>
__device__ __forceinline__ void add_products(const acc_t* x, const acc_t* w,
                                             const uint32_t (&kept)[2][2], acc_t (&sums)[2][2]) {
  constexpr int kVector = 16 / int(sizeof(acc_t));
  constexpr int kStep = DropForward::kApart * DropForward::kPitch<acc_t>;
#pragma unroll
  for (int at = 0; at < 32; at += kVector) {
    Pack<acc_t, kVector> xs[2], ws[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      xs[k] = load_pack<kVector>(x + k * kStep + at);
      ws[k] = load_pack<kVector>(w + k * kStep + at);
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const int n = pair / 2, o = pair % 2;
        const acc_t weight = kept[n][o] >> (at + i) & 1 ? ws[o].lane[i] : acc_t(0);
        sums[n][o] += weight * xs[n].lane[i];
      }
    }
  }
}

template <typename scalar_t, int kCount>
__global__ void __launch_bounds__(kThreads)
    drop_connect_forward_kernel(const scalar_t* input, const scalar_t* weight, const scalar_t* bias,
                                int64_t bias_stride, scalar_t* output, DropConnect p,
                                const int64_t* seed_at) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kSide = DropForward::kSide, kApart = DropForward::kApart;
  constexpr int kPitch = DropForward::kPitch<acc_t>;
  static_assert(DropForward::kEach == 2, "add_products takes 2 x 2");
  FASTCONV_DYNAMIC_SHARED(shared);
  acc_t *xs = reinterpret_cast<acc_t*>(shared), *ws = xs + kSide * kPitch;
  const uint64_t seed = uint64_t(*seed_at);
  // Examples change fastest over blocks: they share weights.
  const int64_t example_tiles = ceil_div(p.batch, kSide);
  const int64_t n0 = blockIdx.x % example_tiles * kSide, o0 = blockIdx.x / example_tiles * kSide;
  const int examples = int(min_of(kSide, p.batch - n0));
  const int outputs = int(min_of(kSide, p.outputs - o0));
  const int n = int(threadIdx.x) / kApart, o = int(threadIdx.x) % kApart;
  const bool works = n < examples && o < outputs;

  acc_t totals[2][2] = {};
  for (int64_t group = 0; group * kColumns < p.inputs; ++group) {
    const int columns = int(min_of(kColumns, p.inputs - group * kColumns));
    const int64_t first = group * kColumns;
    load_rows<kSide, kPitch, kThreads, kCount>(input + n0 * p.inputs + first, p.inputs, examples,
                                               columns, xs);
    load_rows<kSide, kPitch, kThreads, kCount>(weight + o0 * p.inputs + first, p.inputs, outputs,
                                               columns, ws);
    __syncthreads();
    if (works) {
      KeptColumns kept[2][2];
      acc_t sums[2][2] = {};
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        kept[pair / 2][pair % 2] =
            draw_kept(p, seed, group, o0 + o + pair % 2 * kApart, n0 + n + pair / 2 * kApart);
      }
#pragma unroll 1
      for (int at = 0; at < columns; at += 32) {
        const uint32_t bits[2][2] = {{kept[0][0].word[0], kept[0][1].word[0]},
                                     {kept[1][0].word[0], kept[1][1].word[0]}};
        add_products(xs + n * kPitch + at, ws + o * kPitch + at, bits, sums);
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {  // registers cannot be indexed: move up instead
          KeptColumns& words = kept[pair / 2][pair % 2];
          for (int w = 0; w + 1 < kColumnWords; ++w) words.word[w] = words.word[w + 1];
        }
      }
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) totals[pair / 2][pair % 2] += sums[pair / 2][pair % 2];
    }
    __syncthreads();
  }
#pragma unroll
  for (int pair = 0; pair < 4; ++pair) {
    const int row = n + pair / 2 * kApart, column = o + pair % 2 * kApart;
    if (row >= examples || column >= outputs) continue;
    acc_t sum = totals[pair / 2][pair % 2];
    if (bias != nullptr) sum += to_acc(bias[(n0 + row) * bias_stride + o0 + column]);
    from_acc(sum, output[(n0 + row) * p.outputs + o0 + column]);
  }
}

// ---- Gradients: result[r,i] = sum over s of kept * matrix[s,i] * factor[r,s], where
//
//        input grad: r = n, s = o, matrix = weight      weight grad: r = o, s = n, matrix = input
//
// A block makes 16 rows r x 128 columns i, a warp 4 rows, a lane 4 neighbouring columns. Draws for
// 16 x 32 pairs (r, s) are shared out over the threads and pass through shared memory, from which a
// lane picks its 4 bits. ----

struct DropGrad {
  static constexpr int kRows = 16, kSums = 32, kRowsOfWarp = 4;
  static constexpr int kThreads = kRows / kRowsOfWarp * kWarpSize;
  static constexpr int kColumnsOfLane = kColumns / kWarpSize;
  static constexpr int kFactorPitch = kSums + 1;  // neighbours in r stand in different banks too
  static_assert(32 % kColumnsOfLane == 0, "the bits of a lane are in one word");
};

template <typename scalar_t, bool kOfWeights, int kCount>
__global__ void __launch_bounds__(DropGrad::kThreads)
    drop_connect_grad_kernel(const scalar_t* grad_output, const scalar_t* matrix, scalar_t* result,
                             DropConnect p, const int64_t* seed_at) {
  using acc_t = accumulate_t<scalar_t>;
  using T = DropGrad;
  constexpr int kLane = T::kColumnsOfLane;
  FASTCONV_SHARED(acc_t, values, T::kSums * kColumns);
  FASTCONV_SHARED(acc_t, factors, T::kRows * T::kFactorPitch);
  FASTCONV_SHARED(uint32_t, kept, T::kRows* T::kSums* kColumnWords);
  const uint64_t seed = uint64_t(*seed_at);
  const int64_t all_rows = kOfWeights ? p.outputs : p.batch;
  const int64_t all_sums = kOfWeights ? p.batch : p.outputs;
  const int64_t groups = ceil_div(p.inputs, kColumns);
  const int64_t group = blockIdx.x % groups, r0 = blockIdx.x / groups * T::kRows;
  const int columns = int(min_of(kColumns, p.inputs - group * kColumns));
  const int rows = int(min_of(T::kRows, all_rows - r0));
  const int thread = int(threadIdx.x), lane = thread % kWarpSize;
  const int row = thread / kWarpSize * T::kRowsOfWarp, column = lane * kLane;

  acc_t totals[T::kRowsOfWarp][kLane] = {};
  for (int64_t s0 = 0; s0 < all_sums; s0 += T::kSums) {
    const int sums = int(min_of(T::kSums, all_sums - s0));
    load_rows<T::kSums, kColumns, T::kThreads, kCount>(matrix + s0 * p.inputs + group * kColumns,
                                                       p.inputs, sums, columns, values);
    for (int at = thread; at < T::kRows * T::kSums; at += T::kThreads) {
      // Neighbouring threads read neighbours in grad_output.
      const int r = kOfWeights ? at % T::kRows : at / T::kSums;
      const int s = kOfWeights ? at / T::kRows : at % T::kSums;
      if (r >= rows || s >= sums) continue;
      const int64_t n = kOfWeights ? s0 + s : r0 + r, o = kOfWeights ? r0 + r : s0 + s;
      factors[r * T::kFactorPitch + s] = to_acc(grad_output[n * p.outputs + o]);
      const KeptColumns drawn = draw_kept(p, seed, group, o, n);
#pragma unroll
      for (int w = 0; w < kColumnWords; ++w) {
        kept[(r * T::kSums + s) * kColumnWords + w] = drawn.word[w];
      }
    }
    __syncthreads();
    if (column < columns && row < rows) {
      acc_t partial[T::kRowsOfWarp][kLane] = {};
      for (int s = 0; s < sums; ++s) {
        acc_t m[kLane];
#pragma unroll
        for (int i = 0; i < kLane; ++i) m[i] = values[s * kColumns + column + i];
#pragma unroll
        for (int r = 0; r < T::kRowsOfWarp; ++r) {
          if (row + r >= rows) break;
          const uint32_t word = kept[((row + r) * T::kSums + s) * kColumnWords + column / 32];
          const uint32_t bits = word >> column % 32;
          const acc_t factor = factors[(row + r) * T::kFactorPitch + s];
#pragma unroll
          for (int i = 0; i < kLane; ++i) {
            partial[r][i] += (bits >> i & 1 ? m[i] : acc_t(0)) * factor;
          }
        }
      }
#pragma unroll
      for (int r = 0; r < T::kRowsOfWarp; ++r) {
#pragma unroll
        for (int i = 0; i < kLane; ++i) totals[r][i] += partial[r][i];
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < T::kRowsOfWarp; ++r) {
    if (row + r >= rows) break;
    scalar_t* to = result + (r0 + row + r) * p.inputs + group * kColumns + column;
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      if (column + i < columns) from_acc(totals[r][i], to[i]);
    }
  }
}

// ---- Mask: a thread writes 16 columns of one (example, output), counted from column 0. Eight
// threads make the same draw, which costs no more than the 16 bytes that each writes. ----

constexpr int kMaskColumns = 16;

template <bool kPacked>
__global__ void __launch_bounds__(kThreads)
    drop_connect_mask_kernel(uint8_t* mask, int64_t first_example, int64_t first_input,
                             DropConnect p, const int64_t* seed_at, int items) {
  const int item = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (item >= items) return;
  const int64_t first_part = first_input / kMaskColumns, end = first_input + p.inputs;
  const int parts = int(ceil_div(end, kMaskColumns) - first_part);
  const int row = item / parts, outputs = int(p.outputs);
  const int64_t begin = (first_part + item % parts) * kMaskColumns;
  const KeptColumns kept = draw_kept(p, uint64_t(*seed_at), begin / kColumns, row % outputs,
                                     first_example + row / outputs);
  const int word = int(begin % kColumns) / 32;
  uint32_t bits = 0;
#pragma unroll
  for (int w = 0; w < kColumnWords; ++w) bits = w == word ? kept.word[w] : bits;
  bits >>= begin % 32;

  uint8_t* to = mask + row * p.inputs - first_input + begin;
  Pack<uint8_t, kMaskColumns> bytes;
#pragma unroll
  for (int i = 0; i < kMaskColumns; ++i) bytes.lane[i] = uint8_t(bits >> i & 1);
  if constexpr (kPacked) {
    store_pack(to, bytes);
  } else {
#pragma unroll
    for (int i = 0; i < kMaskColumns; ++i) {
      if (begin + i >= first_input && begin + i < end) to[i] = bytes.lane[i];
    }
  }
}

// ---- Launchers ----

template <typename scalar_t>
cudaError_t launch_drop_connect(const scalar_t* input, const scalar_t* weight, const scalar_t* bias,
                                int64_t bias_stride, scalar_t* output, const DropConnect& p,
                                const int64_t* seed, cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>, kSide = DropForward::kSide;
  const int64_t blocks = ceil_div(p.batch, kSide) * ceil_div(p.outputs, kSide);
  if (blocks == 0) return cudaSuccess;
  const bool packed =
      p.inputs % kCount == 0 && fits_packs<kCount>(input) && fits_packs<kCount>(weight);
  const auto kernel = packed ? drop_connect_forward_kernel<scalar_t, kCount>
                             : drop_connect_forward_kernel<scalar_t, 1>;
  return launch(kernel, dim3(unsigned(blocks)), dim3(kThreads),
                DropForward::kSharedBytes<accumulate_t<scalar_t>>, stream, input, weight, bias,
                bias_stride, output, p, seed);
}

template <bool kOfWeights, typename scalar_t>
cudaError_t drop_grad(const scalar_t* grad_output, const scalar_t* matrix, scalar_t* result,
                      const DropConnect& p, const int64_t* seed, cudaStream_t stream) {
  constexpr int kCount = kPack<scalar_t>;
  const int64_t rows = kOfWeights ? p.outputs : p.batch;
  const int64_t blocks = ceil_div(rows, DropGrad::kRows) * ceil_div(p.inputs, kColumns);
  if (blocks == 0) return cudaSuccess;
  const bool packed = p.inputs % kCount == 0 && fits_packs<kCount>(matrix);
  const auto kernel = packed ? drop_connect_grad_kernel<scalar_t, kOfWeights, kCount>
                             : drop_connect_grad_kernel<scalar_t, kOfWeights, 1>;
  return launch(kernel, dim3(unsigned(blocks)), dim3(DropGrad::kThreads), 0, stream, grad_output,
                matrix, result, p, seed);
}

template <typename scalar_t>
cudaError_t launch_drop_connect_input_grad(const scalar_t* grad_output, const scalar_t* weight,
                                           scalar_t* grad_input, const DropConnect& p,
                                           const int64_t* seed, cudaStream_t stream) {
  return drop_grad<false>(grad_output, weight, grad_input, p, seed, stream);
}

template <typename scalar_t>
cudaError_t launch_drop_connect_weight_grad(const scalar_t* grad_output, const scalar_t* input,
                                            scalar_t* grad_weight, const DropConnect& p,
                                            const int64_t* seed, cudaStream_t stream) {
  return drop_grad<true>(grad_output, input, grad_weight, p, seed, stream);
}

cudaError_t launch_drop_connect_mask(uint8_t* mask, int64_t first_input, const DropConnect& p,
                                     const int64_t* seed, cudaStream_t stream) {
  const int64_t example = p.outputs * p.inputs;
  if (example == 0) return cudaSuccess;
  const int64_t parts = ceil_div(first_input + p.inputs, kMaskColumns) - first_input / kMaskColumns;
  return for_batch_parts(
      p.batch, max_of(example, p.outputs * parts), [&](int64_t first, int64_t count) {
        uint8_t* to = mask + first * example;
        const bool packed = first_input % kMaskColumns == 0 && p.inputs % kMaskColumns == 0 &&
                            fits_packs<kMaskColumns>(to);
        const int items = int(count * p.outputs * parts);
        const auto kernel =
            packed ? drop_connect_mask_kernel<true> : drop_connect_mask_kernel<false>;
        return launch(kernel, blocks_for(items), dim3(kThreads), 0, stream, to, first, first_input,
                      p, seed, items);
      });
}

}  // namespace fastconv
