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

inline Tensor row_major(const Tensor& t) { return contiguous_as(t, MemoryFormat::Contiguous); }

inline Tensor new_matrix(const Tensor& like, int64_t rows, int64_t columns) {
  return new_tensor(like, {rows, columns}, like.scalar_type(), MemoryFormat::Contiguous);
}

}  // namespace fastconv
