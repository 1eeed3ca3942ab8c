// The seed tensor that every random op takes.
#pragma once

#include "glue/tensor.h"

namespace fastconv {

inline void check_seed(const char* op, const Tensor& seed) {
  FASTCONV_CHECK(op, seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
                 "seed must be one int64 number (got ",
                 torch::headeronly::toString(seed.scalar_type()), " of shape ", shape_text(seed),
                 ")");
}

}  // namespace fastconv
