// The arguments of drop_connect and its gradients, checked once, in one place.
#pragma once

#include <cstdint>
#include <optional>

#include "core/drop_connect.h"
#include "glue/tensor.h"

namespace fastconv {

// The problem with this seed and probability; the sizes are left for the caller.
inline DropConnect drop_connect_of(const char* op, uint64_t seed, double p) {
  FASTCONV_CHECK(op, p >= 0 && p <= 1, "p must be a probability within [0, 1] (got p=", p, ")");
  return DropConnect{0, 0, 0, seed, drop_probability(p)};
}

inline void check_matrix(const char* op, const char* name, const Tensor& t) {
  FASTCONV_CHECK(op, t.dim() == 2, name, " must have 2 dimensions (got shape ", shape_text(t), ")");
  check_floating(op, name, t);
}

// A matrix that is read beside `other`.
inline void check_operand(const char* op, const char* name, const Tensor& t, const char* other_name,
                          const Tensor& other) {
  check_matrix(op, name, t);
  check_same_dtype(op, name, t, other_name, other);
  check_same_device(op, name, t, other_name, other);
}

inline void check_bias(const char* op, const std::optional<Tensor>& bias, const Tensor& input,
                       const DropConnect& problem) {
  if (!bias) return;
  const bool of_outputs = bias->dim() == 1 && bias->size(0) == problem.outputs;
  const bool of_results =
      bias->dim() == 2 && bias->size(0) == problem.batch && bias->size(1) == problem.outputs;
  FASTCONV_CHECK(op, of_outputs || of_results, "bias must have shape (", problem.outputs,
                 ",), or (", problem.batch, ", ", problem.outputs,
                 ") where it is masked already (got ", shape_text(*bias), ")");
  check_same_dtype(op, "bias", *bias, "input", input);
  check_same_device(op, "bias", *bias, "input", input);
}

// Each index of a weight is one 32-bit word of the counter that draws its mask.
inline void check_counters(const char* op, const DropConnect& problem) {
  for (int64_t size : {problem.batch, problem.outputs, problem.inputs / kDropGroup}) {
    FASTCONV_CHECK(op, size <= INT64_C(0xffffffff),
                   "examples, outputs and blocks of 128 inputs must be at most 2^32 - 1 (got ",
                   size, ")");
  }
}

// The sizes of each op's problem, once its tensors are what they must be.

inline void set_forward_sizes(const char* op, DropConnect& problem, const Tensor& input,
                              const Tensor& weight, const std::optional<Tensor>& bias) {
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
}

inline void set_input_grad_sizes(const char* op, DropConnect& problem, const Tensor& grad_output,
                                 const Tensor& weight) {
  check_matrix(op, "grad_output", grad_output);
  check_operand(op, "weight", weight, "grad_output", grad_output);
  problem.batch = grad_output.size(0);
  problem.outputs = weight.size(0);
  problem.inputs = weight.size(1);
  FASTCONV_CHECK(op, grad_output.size(1) == problem.outputs,
                 "grad_output must have one column for each row of weight (got ",
                 shape_text(grad_output), " and weight of shape ", shape_text(weight), ")");
  check_counters(op, problem);
}

inline void set_weight_grad_sizes(const char* op, DropConnect& problem, const Tensor& grad_output,
                                  const Tensor& input) {
  check_matrix(op, "grad_output", grad_output);
  check_operand(op, "input", input, "grad_output", grad_output);
  problem.batch = grad_output.size(0);
  problem.outputs = grad_output.size(1);
  problem.inputs = input.size(1);
  FASTCONV_CHECK(op, input.size(0) == problem.batch,
                 "input must have one row for each row of grad_output (got ", shape_text(input),
                 " and grad_output of shape ", shape_text(grad_output), ")");
  check_counters(op, problem);
}

inline void set_mask_sizes(const char* op, DropConnect& problem, int64_t examples, int64_t outputs,
                           int64_t first_input, int64_t end_input) {
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
}

inline Tensor row_major(const Tensor& t) { return contiguous_as(t, MemoryFormat::Contiguous); }

inline Tensor new_matrix(const Tensor& like, int64_t rows, int64_t columns) {
  return new_tensor(like, {rows, columns}, like.scalar_type(), MemoryFormat::Contiguous);
}

}  // namespace fastconv
