// The arguments of local_response_norm, checked once, in one place.
#pragma once

#include "core/response_norm.h"
#include "glue/tensor.h"

namespace fastconv {

inline ResponseNorm response_norm_of(const char* op, const Tensor& input, int64_t size,
                                     double alpha, double beta, double k, bool within) {
  check_rank4(op, "input", input);
  check_floating(op, "input", input);
  FASTCONV_CHECK(op, size >= 1, "size must be at least 1 (got size=", size, ")");
  ResponseNorm p{};
  p.batch = input.size(0);
  p.maps = input.size(1);
  p.height = input.size(2);
  p.width = input.size(3);
  // A window wider than the input reaches only padding there: cut it off.
  const int64_t reach = within ? max_of(p.height, p.width) : p.maps;
  p.before = min_of(size / 2, reach);  // torch's window: even sizes reach further back
  p.after = min_of((size - 1) / 2, reach);
  p.alpha = alpha;
  p.beta = beta;
  p.k = k;
  p.within = within;
  p.channels_last = is_channels_last(input);
  return p;
}

inline void check_response_norm_grad(const char* op, const Tensor& grad_output,
                                     const Tensor& input) {
  check_same_dtype(op, "grad_output", grad_output, "input", input);
  check_same_device(op, "grad_output", grad_output, "input", input);
  check_rank4(op, "grad_output", grad_output);
  for (int64_t d = 0; d < 4; ++d) {
    FASTCONV_CHECK(op, grad_output.size(d) == input.size(d),
                   "grad_output must have the shape of input (got ", shape_text(grad_output),
                   " and ", shape_text(input), ")");
  }
}

}  // namespace fastconv
