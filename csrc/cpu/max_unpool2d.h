// Kernels of max_unpool2d on the CPU; max_unpool2d_kernel.cpp has their text.
#pragma once

#include "core/window.h"
#include "cpu/isa.h"

namespace fastconv {

// Units of work of the forward: rows of the unpooled map (channels_last: batch * h.input), else
// planes (batch * channels). Of the backward: rows of the pooled map, else planes.
FASTCONV_FOR_EACH_ISA(template <typename scalar_t>
                      void max_unpool2d_forward(const scalar_t* pooled, const uint8_t* switches,
                                                scalar_t* output, const Pool2d& p, bool overwrite,
                                                int64_t begin, int64_t end);
                      template <typename scalar_t>
                      void max_unpool2d_backward(const scalar_t* grad_output,
                                                 const uint8_t* switches, scalar_t* grad_pooled,
                                                 const Pool2d& p, bool overwrite, int64_t begin,
                                                 int64_t end);)

}  // namespace fastconv
