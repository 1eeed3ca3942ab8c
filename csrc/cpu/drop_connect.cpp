#include "cpu/drop_connect.h"

#include <torch/csrc/stable/library.h>

#include <optional>

#include "core/window.h"
#include "cpu/dispatch.h"
#include "glue/drop_connect.h"

namespace fastconv {

static int64_t tiles(int64_t size, int64_t tile) { return ceil_div(size, tile); }

static Tensor drop_connect(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias,
                           const Tensor& seed, double p) {
  const char* op = "drop_connect";
  DropConnect problem = drop_connect_of(op, seed_of(op, seed), p);
  set_forward_sizes(op, problem, input, weight, bias);

  const Tensor x = row_major(input), w = row_major(weight);
  const std::optional<Tensor> b = bias ? std::optional(row_major(*bias)) : std::nullopt;
  const int64_t bias_stride = b && b->dim() == 2 ? problem.outputs : 0;
  Tensor output = new_matrix(x, problem.batch, problem.outputs);
  const int64_t units = tiles(problem.outputs, kDropTileOutputs) *  //
                        tiles(problem.batch, kDropTileExamples);
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(),
      parallel_over(units, kDropTileOutputs * problem.inputs, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(drop_connect_forward(
            data<scalar_t>(x), data<scalar_t>(w), b ? data<scalar_t>(*b) : nullptr, bias_stride,
            mutable_data<scalar_t>(output), problem, begin, end));
      }))
  return output;
}

static Tensor drop_connect_input_grad(const Tensor& grad_output, const Tensor& weight,
                                      const Tensor& seed, double p) {
  const char* op = "drop_connect_input_grad";
  DropConnect problem = drop_connect_of(op, seed_of(op, seed), p);
  set_input_grad_sizes(op, problem, grad_output, weight);

  const Tensor g = row_major(grad_output), w = row_major(weight);
  Tensor grad_input = new_matrix(g, problem.batch, problem.inputs);
  const int64_t units = tiles(problem.inputs, kDropTileInputs) *  //
                        tiles(problem.batch, kDropTileExamples);
  FASTCONV_DISPATCH_FLOATING(
      g.scalar_type(),
      parallel_over(units, kDropTileInputs * problem.outputs, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(drop_connect_input_grad(data<scalar_t>(g), data<scalar_t>(w),
                                                  mutable_data<scalar_t>(grad_input), problem,
                                                  begin, end));
      }))
  return grad_input;
}

static Tensor drop_connect_weight_grad(const Tensor& grad_output, const Tensor& input,
                                       const Tensor& seed, double p) {
  const char* op = "drop_connect_weight_grad";
  DropConnect problem = drop_connect_of(op, seed_of(op, seed), p);
  set_weight_grad_sizes(op, problem, grad_output, input);

  const Tensor g = row_major(grad_output), x = row_major(input);
  Tensor grad_weight = new_matrix(g, problem.outputs, problem.inputs);
  const int64_t units = tiles(problem.outputs, kDropTileOutputs) *  //
                        tiles(problem.inputs, kDropTileInputs);
  FASTCONV_DISPATCH_FLOATING(
      g.scalar_type(),
      parallel_over(units, kDropTileOutputs * problem.batch * 64, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(drop_connect_weight_grad(data<scalar_t>(g), data<scalar_t>(x),
                                                   mutable_data<scalar_t>(grad_weight), problem,
                                                   begin, end));
      }))
  return grad_weight;
}

static Tensor drop_connect_mask(const Tensor& seed, int64_t examples, int64_t outputs,
                                int64_t first_input, int64_t end_input, double p) {
  const char* op = "drop_connect_mask";
  DropConnect problem = drop_connect_of(op, seed_of(op, seed), p);
  set_mask_sizes(op, problem, examples, outputs, first_input, end_input);

  Tensor mask = new_tensor(seed, {examples, outputs, problem.inputs}, ScalarType::Bool,
                           MemoryFormat::Contiguous);
  const int64_t units = examples * tiles(outputs, kDropTileOutputs);
  parallel_over(units, kDropTileOutputs * problem.inputs, [&](int64_t begin, int64_t end) {
    FASTCONV_ISA_CALL(
        drop_connect_mask(mutable_data<uint8_t>(mask), first_input, problem, begin, end));
  });
  return mask;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  FASTCONV_IMPL(m, drop_connect);
  FASTCONV_IMPL(m, drop_connect_input_grad);
  FASTCONV_IMPL(m, drop_connect_weight_grad);
  FASTCONV_IMPL(m, drop_connect_mask);
}

}  // namespace fastconv
