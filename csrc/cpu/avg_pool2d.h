// Kernels of avg_pool2d on the CPU; avg_pool2d_kernel.cpp has their text.
#pragma once

#include "core/avg_pool.h"
#include "cpu/isa.h"

namespace fastconv {

// Units of work of the forward: rows of the output (channels_last: batch * h.output), else planes
// (batch * channels). Of the backward: rows of the input, else planes. Each call does the units
// [begin, end).
FASTCONV_FOR_EACH_ISA(template <typename scalar_t>
                      void avg_pool2d_forward(const scalar_t* input, scalar_t* output,
                                              const AvgPool2d& p, int64_t begin, int64_t end);
                      template <typename scalar_t>
                      void avg_pool2d_backward(const scalar_t* grad_output, scalar_t* grad_input,
                                               const AvgPool2d& p, int64_t begin, int64_t end);)

}  // namespace fastconv
