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
  check_matrix(op, "input", input);
  check_operand(op, "weight", weight, "input", input);
  problem.batch = input.size(0);
  problem.inputs = input.size(1);
  problem.outputs = weight.size(0);
  FASTCONV_CHECK(op, weight.size(1) == problem.inputs,
                 "weight must have shape (out_features, in_features) with the in_features of "
                 "input (got ",
                 shape_text(weight), " and input of shape ", shape_text(input), ")");
  check_bias(op, bias, input, problem);
  check_counters(op, problem);

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
  check_matrix(op, "grad_output", grad_output);
  check_operand(op, "weight", weight, "grad_output", grad_output);
  problem.batch = grad_output.size(0);
  problem.outputs = weight.size(0);
  problem.inputs = weight.size(1);
  FASTCONV_CHECK(op, grad_output.size(1) == problem.outputs,
                 "grad_output must have one column for each row of weight (got ",
                 shape_text(grad_output), " and weight of shape ", shape_text(weight), ")");
  check_counters(op, problem);

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
  check_matrix(op, "grad_output", grad_output);
  check_operand(op, "input", input, "grad_output", grad_output);
  problem.batch = grad_output.size(0);
  problem.outputs = grad_output.size(1);
  problem.inputs = input.size(1);
  FASTCONV_CHECK(op, input.size(0) == problem.batch,
                 "input must have one row for each row of grad_output (got ", shape_text(input),
                 " and grad_output of shape ", shape_text(grad_output), ")");
  check_counters(op, problem);

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
  FASTCONV_CHECK(op, examples >= 0 && outputs >= 0,
                 "examples and outputs must be at least 0 (got examples=", examples,
                 ", outputs=", outputs, ")");
  FASTCONV_CHECK(op, 0 <= first_input && first_input <= end_input,
                 "first_input must be at least 0 and at most end_input (got first_input=",
                 first_input, ", end_input=", end_input, ")");
  problem.batch = examples;
  problem.outputs = outputs;
  problem.inputs = end_input;
  check_counters(op, problem);
  problem.inputs = end_input - first_input;

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
  m.impl("drop_connect", TORCH_BOX(&drop_connect));
  m.impl("drop_connect_input_grad", TORCH_BOX(&drop_connect_input_grad));
  m.impl("drop_connect_weight_grad", TORCH_BOX(&drop_connect_weight_grad));
  m.impl("drop_connect_mask", TORCH_BOX(&drop_connect_mask));
}

}  // namespace fastconv
