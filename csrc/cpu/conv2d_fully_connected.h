// When a convolution is a fully connected layer (csrc/cpu/fully_connected.h), and how it is run.
#pragma once

#include <optional>

#include "core/conv2d.h"
#include "cpu/conv2d_winograd.h"
#include "cpu/fully_connected.h"

namespace fastconv {

// One window, which is the whole image.
inline bool is_fully_connected(const Conv2d& p) {
  const auto covers = [](const Window& w) {
    return w.output == 1 && w.padding == 0 && w.kernel == w.input &&
           (w.dilation == 1 || w.kernel == 1);
  };
  return p.groups == 1 && p.batch > 0 && covers(p.h) && covers(p.w);
}

inline FullyConnected fully_connected_of(const Conv2d& p) {
  FullyConnected f{};
  f.batch = p.batch;
  f.inputs = p.in_channels * p.h.kernel * p.w.kernel;
  f.outputs = p.out_channels;
  return f;
}

inline bool fully_connected_forward(const Conv2d& p, const Tensor& input, const Tensor& weight,
                                    const std::optional<Tensor>& bias, bool relu, Tensor& output) {
  if (!is_fully_connected(p)) return false;
  // An example's elements in the order of the weight's, which is the larger matrix.
  const MemoryFormat format = memory_format_of(weight);
  const Tensor x = contiguous_as(input, format), w = contiguous_as(weight, format);
  FullyConnected f = fully_connected_of(p);
  f.input = x.const_data_ptr();
  f.weight = w.const_data_ptr();
  f.bias = bias ? bias->const_data_ptr() : nullptr;
  f.relu = relu;
  f.result = output.mutable_data_ptr();
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(),
      parallel_over(f.output_units(), kFullOutputs * f.inputs * f.batch,
                    [&](int64_t begin, int64_t end) {
                      FASTCONV_ISA_CALL(fully_connected_outputs<scalar_t>(f, begin, end));
                    }))
  return true;
}

inline bool fully_connected_input_grad(const Conv2d& p, const Tensor& grad_output,
                                       const Tensor& weight, Tensor& grad_input) {
  if (!is_fully_connected(p)) return false;
  const MemoryFormat wanted = memory_format_of(grad_input), format = memory_format_of(weight);
  const Tensor g = contiguous_as(grad_output, MemoryFormat::Contiguous);
  const Tensor w = contiguous_as(weight, format);
  if (wanted != format && p.h.kernel * p.w.kernel > 1) {
    grad_input = new_tensor(grad_output, sizes_of(grad_input), g.scalar_type(), format);
  }
  FullyConnected f = fully_connected_of(p);
  const Tensor packed = scratch(g, round_up(f.batch, kFullExamples) * f.outputs);
  f.grad_output = g.const_data_ptr();
  f.weight = w.const_data_ptr();
  f.result = grad_input.mutable_data_ptr();
  f.packed_grads = packed.mutable_data_ptr();
  FASTCONV_DISPATCH_FLOATING(
      g.scalar_type(),
      parallel_over(f.outputs, f.batch,
                    [&](int64_t begin, int64_t end) {
                      FASTCONV_ISA_CALL(fully_connected_pack_examples<scalar_t>(f, begin, end));
                    });
      parallel_over(f.input_units(), kFullInputs * f.outputs * f.batch,
                    [&](int64_t begin, int64_t end) {
                      FASTCONV_ISA_CALL(fully_connected_input_grad<scalar_t>(f, begin, end));
                    });)
  grad_input = contiguous_as(grad_input, wanted);
  return true;
}

inline bool fully_connected_weight_grad(const Conv2d& p, const Tensor& grad_output,
                                        const Tensor& input, Tensor& grad_weight) {
  if (!is_fully_connected(p)) return false;
  const Tensor g = contiguous_as(grad_output, MemoryFormat::Contiguous);
  const Tensor x = contiguous_as(input, memory_format_of(grad_weight));
  FullyConnected f = fully_connected_of(p);
  const Tensor inputs = scratch(x, f.batch * round_up(f.inputs, kFullColumns));
  const Tensor grads = scratch(g, f.batch * round_up(f.outputs, kFullOutputs));
  f.grad_output = g.const_data_ptr();
  f.input = x.const_data_ptr();
  f.result = grad_weight.mutable_data_ptr();
  f.packed_inputs = inputs.mutable_data_ptr();
  f.packed_grads = grads.mutable_data_ptr();
  FASTCONV_DISPATCH_FLOATING(
      g.scalar_type(),
      parallel_over(f.input_units() + f.output_units(), kFullInputs * f.batch,
                    [&](int64_t begin, int64_t end) {
                      FASTCONV_ISA_CALL(fully_connected_pack_columns<scalar_t>(f, begin, end));
                    });
      parallel_over(f.output_units(), kFullOutputs * f.inputs * f.batch,
                    [&](int64_t begin, int64_t end) {
                      FASTCONV_ISA_CALL(fully_connected_weight_grad<scalar_t>(f, begin, end));
                    });)
  return true;
}

}  // namespace fastconv
