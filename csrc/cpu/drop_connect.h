// Kernels of drop_connect on the CPU; drop_connect_kernel.cpp has their text.
#pragma once

#include "core/drop_connect.h"
#include "cpu/isa.h"

namespace fastconv {

// Tiles of the (examples, outputs, inputs) box. A unit of work is a tile of the result's two axes,
// the last axis fastest, and goes through all tiles of the third. Each call does the units
// [begin, end). A tile's weights stay in the first-level cache while all its examples pass.
constexpr int kDropTileExamples = 32, kDropTileOutputs = 16, kDropTileInputs = 256;

FASTCONV_FOR_EACH_ISA(
    // bias: null, one value an output (bias_stride 0), or one a result (bias_stride p.outputs).
    // Units: (outputs, examples), so that examples share weights that are still in the cache.
    template <typename scalar_t>
    void drop_connect_forward(const scalar_t* input, const scalar_t* weight, const scalar_t* bias,
                              int64_t bias_stride, scalar_t* output, const DropConnect& p,
                              int64_t begin, int64_t end);
    // Units: (inputs, examples).
    template <typename scalar_t>
    void drop_connect_input_grad(const scalar_t* grad_output, const scalar_t* weight,
                                 scalar_t* grad_input, const DropConnect& p, int64_t begin,
                                 int64_t end);
    // Units: (outputs, inputs).
    template <typename scalar_t>
    void drop_connect_weight_grad(const scalar_t* grad_output, const scalar_t* input,
                                  scalar_t* grad_weight, const DropConnect& p, int64_t begin,
                                  int64_t end);
    // mask[n, o, j] = 1 where weight (o, first_input + j) of example n is kept, j < p.inputs.
    // Units: (examples, outputs).
    void drop_connect_mask(uint8_t* mask, int64_t first_input, const DropConnect& p, int64_t begin,
                           int64_t end);)

}  // namespace fastconv
