// The way back through a convolution's bias and ReLU, in one pass; conv2d_relu_kernel.cpp has its
// text.
#pragma once

#include <cstdint>

#include "core/numeric.h"
#include "cpu/isa.h"

namespace fastconv {

struct ReluGrad {
  // What is summed for one map at a time: `positions` of all maps side by side (maps_last), of
  // which the last unit may have fewer, or one map of one image.
  bool maps_last;
  int64_t positions, maps, images;

  static constexpr int64_t kTogether = 64;  // positions of a unit: a chain of additions
  int64_t parts() const {
    return maps_last ? (images * positions + kTogether - 1) / kTogether : images;
  }
  int64_t units() const { return maps_last ? parts() : parts() * maps; }
};

// grad = grad_output where the output is above 0 (or NaN), else 0; sums[part][map] = that, summed.
FASTCONV_FOR_EACH_ISA(template <typename scalar_t>
                      void conv2d_relu_grad(const ReluGrad& p, const scalar_t* grad_output,
                                            const scalar_t* output, scalar_t* grad,
                                            accumulate_t<scalar_t>* sums, int64_t begin,
                                            int64_t end);)

}  // namespace fastconv
