// Kernels of max_pool2d on the CPU; max_pool2d_kernel.cpp has their text.
#pragma once

#include "core/window.h"
#include "cpu/isa.h"

namespace fastconv {

// Units of work: rows of the output (channels_last: batch * h.output), else planes (batch *
// channels). Each call does the units [begin, end).
FASTCONV_FOR_EACH_ISA(template <typename scalar_t>
                      void max_pool2d_forward(const scalar_t* input, scalar_t* output,
                                              uint8_t* switches, const Pool2d& p, int64_t begin,
                                              int64_t end);)

}  // namespace fastconv
