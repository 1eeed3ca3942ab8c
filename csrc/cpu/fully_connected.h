// A convolution whose window covers the whole image: a fully connected layer. On the CPU.
//
//   output[n, o]      = bias[o] + sum over i of input[n, i] * weight[o, i]
//   grad_input[n, i]  = sum over o of grad_output[n, o] * weight[o, i]
//   grad_weight[o, i] = sum over n of grad_output[n, o] * input[n, i]
//
// Matrices of few rows (examples) beside one that fills the memory: each pass goes through the
// weight, or its gradient, once and in order, and packs nothing of it but what the first cache
// holds.
#pragma once

#include <cstdint>

#include "core/window.h"
#include "cpu/isa.h"

namespace fastconv {

// Multiples of every kernel's panels.
constexpr int64_t kFullOutputs = 48;  // a unit of the output and of the weight's gradient
constexpr int64_t kFullInputs = 128;  // a unit of the input's gradient
constexpr int64_t kFullExamples = 8;  // a panel of examples holds at most so many
constexpr int64_t kFullColumns = 32;  // and a panel of inputs

struct FullyConnected {
  int64_t batch, inputs, outputs;
  const void *input, *weight, *grad_output, *bias;  // those that the pass reads
  bool relu;
  void* result;
  void *packed_inputs, *packed_grads;  // scratch of acc_t, in panels

  int64_t output_units() const { return ceil_div(outputs, kFullOutputs); }
  int64_t input_units() const { return ceil_div(inputs, kFullInputs); }
};

FASTCONV_FOR_EACH_ISA(
    // Units of kFullOutputs outputs.
    template <typename scalar_t>
    void fully_connected_outputs(const FullyConnected& p, int64_t begin, int64_t end);
    // Packs the gradient of [begin, end) outputs for the next: (panel of examples, output).
    template <typename scalar_t>
    void fully_connected_pack_examples(const FullyConnected& p, int64_t begin, int64_t end);
    // Units of kFullInputs inputs.
    template <typename scalar_t>
    void fully_connected_input_grad(const FullyConnected& p, int64_t begin, int64_t end);
    // Packs inputs (units of kFullInputs) and outputs' gradients (units of kFullOutputs), counted
    // in that order, for the next: (panel, example).
    template <typename scalar_t>
    void fully_connected_pack_columns(const FullyConnected& p, int64_t begin, int64_t end);
    // Units of kFullOutputs outputs.
    template <typename scalar_t>
    void fully_connected_weight_grad(const FullyConnected& p, int64_t begin, int64_t end);)

}  // namespace fastconv
