// forward       output[n,o]      = bias[o] + sum over i of kept[n,o,i] * weight[o,i] * input[n,i]
// input grad    grad_input[n,i]  = sum over o of kept[n,o,i] * weight[o,i] * grad_output[n,o]
// weight grad   grad_weight[o,i] = sum over n of kept[n,o,i] * input[n,i] * grad_output[n,o]
//
// kept is drawn from Philox, 16 x 256 weights of one example at a time, as half a kilobyte of bits,
// and each of the three draws it again (core/drop_connect.h). All three vectorise along i: a vector
// of weights or inputs is loaded through the bits of its lanes (what is dropped reads as 0) and
// meets a vector of inputs or one splat gradient in one multiply-add.
//
// Every sum runs in the order of its axis inside one unit of work, so that the result does not
// depend on the number of threads.
#include "cpu/buffer.h"
#include "cpu/drop_connect_tile.h"
#include "cpu/parts.h"

namespace fastconv {
namespace FASTCONV_ISA {

struct Range {
  int64_t first;
  int count;
};

static Range tile_range(int64_t tile, int64_t tile_size, int64_t size) {
  return {tile * tile_size, int(min_of(tile_size, size - tile * tile_size))};
}

constexpr int kRows = 4;  // outputs at once that share a vector of inputs

// sums[o] (a vector each) += weight[o,i] * input[i] over the kept weights of one example's tile.
template <typename acc_t>
static void multiply_rows(const acc_t* weight, const acc_t* input, const KeepBits& keep,
                          int outputs, int words, acc_t* sums) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  static_assert(kDropTileOutputs % kRows == 0, "whole groups of rows only");
  for (int o = 0; o < outputs; o += kRows) {
    vec_t<acc_t> sum[kRows];
    for (int r = 0; r < kRows; ++r) sum[r] = load(sums + (o + r) * kLanes);
    for (int w = 0; w < words; ++w) {
      const uint64_t* bits[kRows];
      for (int r = 0; r < kRows; ++r) bits[r] = keep.word(o + r, w);
      const acc_t* row = weight + o * kDropTileInputs + w * kWordBits;
#pragma GCC unroll 32
      for (int at = 0; at < kWordBits; at += kLanes) {
        const vec_t<acc_t> x = load(input + w * kWordBits + at);
        for (int r = 0; r < kRows; ++r) {
          sum[r] += load_where(row + r * kDropTileInputs + at, bits[r], at) * x;
        }
      }
    }
    for (int r = 0; r < kRows; ++r) store(sum[r], sums + (o + r) * kLanes);
  }
}

template <typename scalar_t>
void drop_connect_forward(const scalar_t* input, const scalar_t* weight, const scalar_t* bias,
                          int64_t bias_stride, scalar_t* output, const DropConnect& p,
                          int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  constexpr int64_t kSums = int64_t(kDropTileOutputs) * kLanes;
  Buffer<acc_t> weights(kDropTileOutputs * kDropTileInputs);
  Buffer<acc_t> inputs(kDropTileExamples * kDropTileInputs);
  Buffer<acc_t> sums(kDropTileExamples * kSums);
  const int64_t example_tiles = ceil_div(p.batch, kDropTileExamples);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Range os = tile_range(unit / example_tiles, kDropTileOutputs, p.outputs);
    const Range ns = tile_range(unit % example_tiles, kDropTileExamples, p.batch);
    memset(sums.data(), 0, ns.count * kSums * sizeof(acc_t));
    for (int64_t tile = 0; tile * kDropTileInputs < p.inputs; ++tile) {
      const Range is = tile_range(tile, kDropTileInputs, p.inputs);
      pack_tile(weight + os.first * p.inputs + is.first, p.inputs, os.count, is.count,
                weights.data());
      pack_tile(input + ns.first * p.inputs + is.first, p.inputs, ns.count, is.count,
                inputs.data());
      KeepBits keep(p, os.first, os.count, is.first, is.count);
      for (int n = 0; n < ns.count; ++n) {
        keep.draw(ns.first + n);
        multiply_rows(weights.data(), inputs.data() + n * kDropTileInputs, keep, os.count,
                      words_of(is.count), sums.data() + n * kSums);
      }
    }
    for (int n = 0; n < ns.count; ++n) {
      for (int o = 0; o < os.count; ++o) {
        acc_t sum = sum_of_lanes<acc_t>(load(sums.data() + n * kSums + o * kLanes));
        const int64_t example = ns.first + n, at = os.first + o;
        if (bias != nullptr) sum += to_acc(bias[example * bias_stride + at]);
        from_acc(sum, output[example * p.outputs + at]);
      }
    }
  }
}

// sums[i] += weight[o,i] * grad[o] over the kept weights of one example's tile.
template <typename acc_t>
static void multiply_columns(const acc_t* weight, const acc_t* grad, const KeepBits& keep,
                             int outputs, int words, acc_t* sums) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  constexpr int kVectors = kWordBits / kLanes < 8 ? kWordBits / kLanes : 8;  // held in registers
  for (int w = 0; w < words; ++w, weight += kWordBits, sums += kWordBits) {
#pragma GCC unroll 4
    for (int at = 0; at < kWordBits; at += kVectors * kLanes) {
      vec_t<acc_t> sum[kVectors];
      for (int v = 0; v < kVectors; ++v) sum[v] = load(sums + at + v * kLanes);
      for (int o = 0; o < outputs; ++o) {
        const uint64_t* bits = keep.word(o, w);
        const acc_t* row = weight + o * kDropTileInputs;
        const vec_t<acc_t> g = splat(grad[o]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          sum[v] += load_where(row + at + v * kLanes, bits, at + v * kLanes) * g;
        }
      }
      for (int v = 0; v < kVectors; ++v) store(sum[v], sums + at + v * kLanes);
    }
  }
}

template <typename scalar_t>
void drop_connect_input_grad(const scalar_t* grad_output, const scalar_t* weight,
                             scalar_t* grad_input, const DropConnect& p, int64_t begin,
                             int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  Buffer<acc_t> weights(kDropTileOutputs * kDropTileInputs);
  Buffer<acc_t> sums(kDropTileExamples * kDropTileInputs);
  const int64_t example_tiles = ceil_div(p.batch, kDropTileExamples);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Range is = tile_range(unit / example_tiles, kDropTileInputs, p.inputs);
    const Range ns = tile_range(unit % example_tiles, kDropTileExamples, p.batch);
    memset(sums.data(), 0, int64_t(ns.count) * kDropTileInputs * sizeof(acc_t));
    for (int64_t tile = 0; tile * kDropTileOutputs < p.outputs; ++tile) {
      const Range os = tile_range(tile, kDropTileOutputs, p.outputs);
      pack_tile(weight + os.first * p.inputs + is.first, p.inputs, os.count, is.count,
                weights.data());
      KeepBits keep(p, os.first, os.count, is.first, is.count);
      for (int n = 0; n < ns.count; ++n) {
        acc_t grad[kDropTileOutputs];
        for (int o = 0; o < os.count; ++o) {
          grad[o] = to_acc(grad_output[(ns.first + n) * p.outputs + os.first + o]);
        }
        keep.draw(ns.first + n);
        multiply_columns(weights.data(), grad, keep, os.count, words_of(is.count),
                         sums.data() + n * kDropTileInputs);
      }
    }
    unpack_tile(sums.data(), ns.count, is.count, grad_input + ns.first * p.inputs + is.first,
                p.inputs);
  }
}

// sums[o,i] += input[i] * grad[o] over the kept weights of one example's tile.
template <typename acc_t>
static void add_outer_product(const acc_t* input, const acc_t* grad, const KeepBits& keep,
                              int outputs, int words, acc_t* sums) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  for (int o = 0; o < outputs; ++o, sums += kDropTileInputs) {
    const vec_t<acc_t> g = splat(grad[o]);
    for (int w = 0; w < words; ++w) {
      const uint64_t* bits = keep.word(o, w);
#pragma GCC unroll 32
      for (int at = 0; at < kWordBits; at += kLanes) {
        acc_t* sum = sums + w * kWordBits + at;
        store(load(sum) + load_where(input + w * kWordBits + at, bits, at) * g, sum);
      }
    }
  }
}

template <typename scalar_t>
void drop_connect_weight_grad(const scalar_t* grad_output, const scalar_t* input,
                              scalar_t* grad_weight, const DropConnect& p, int64_t begin,
                              int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  Buffer<acc_t> inputs(kDropTileInputs);
  Buffer<acc_t> sums(kDropTileOutputs * kDropTileInputs);
  const int64_t input_tiles = ceil_div(p.inputs, kDropTileInputs);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Range os = tile_range(unit / input_tiles, kDropTileOutputs, p.outputs);
    const Range is = tile_range(unit % input_tiles, kDropTileInputs, p.inputs);
    memset(sums.data(), 0, int64_t(os.count) * kDropTileInputs * sizeof(acc_t));
    KeepBits keep(p, os.first, os.count, is.first, is.count);
    for (int64_t n = 0; n < p.batch; ++n) {
      pack_tile(input + n * p.inputs + is.first, p.inputs, 1, is.count, inputs.data());
      acc_t grad[kDropTileOutputs];
      for (int o = 0; o < os.count; ++o) {
        grad[o] = to_acc(grad_output[n * p.outputs + os.first + o]);
      }
      keep.draw(n);
      add_outer_product(inputs.data(), grad, keep, os.count, words_of(is.count), sums.data());
    }
    unpack_tile(sums.data(), os.count, is.count, grad_weight + os.first * p.inputs + is.first,
                p.inputs);
  }
}

void drop_connect_mask(uint8_t* mask, int64_t first_input, const DropConnect& p, int64_t begin,
                       int64_t end) {
  const int64_t output_tiles = ceil_div(p.outputs, kDropTileOutputs);
  const int64_t end_input = first_input + p.inputs;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / output_tiles;
    const Range os = tile_range(unit % output_tiles, kDropTileOutputs, p.outputs);
    // Tiles count from column 0, as the groups of 128 do.
    for (int64_t tile = first_input / kDropTileInputs; tile * kDropTileInputs < end_input; ++tile) {
      const Range is = tile_range(tile, kDropTileInputs, end_input);
      KeepBits keep(p, os.first, os.count, is.first, is.count);
      keep.draw(n);
      const int64_t from = max_of(is.first, first_input);
      for (int o = 0; o < os.count; ++o) {
        uint8_t* row = mask + (n * p.outputs + os.first + o) * p.inputs;
        for (int64_t i = from; i < is.first + is.count; ++i) {
          const int column = int(i - is.first);
          row[i - first_input] = *keep.word(o, column / kWordBits) >> column % kWordBits & 1;
        }
      }
    }
  }
}

#define INSTANTIATE(scalar_t)                                                                    \
  template void drop_connect_forward(const scalar_t*, const scalar_t*, const scalar_t*, int64_t, \
                                     scalar_t*, const DropConnect&, int64_t, int64_t);           \
  template void drop_connect_input_grad(const scalar_t*, const scalar_t*, scalar_t*,             \
                                        const DropConnect&, int64_t, int64_t);                   \
  template void drop_connect_weight_grad(const scalar_t*, const scalar_t*, scalar_t*,            \
                                         const DropConnect&, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
