// Kernels of maxout on the CPU; maxout_kernel.cpp has their text.
#pragma once

#include "core/maxout.h"
#include "cpu/isa.h"

namespace fastconv {

// Units of work: pixels with all their maps (maps_last: batch * pixels), else maps of the result:
// forward batch * maps.output, backward batch * maps.input. Each call does the units [begin, end).
FASTCONV_FOR_EACH_ISA(template <typename scalar_t>
                      void maxout_forward(const scalar_t* input, scalar_t* output,
                                          uint8_t* switches, const Maxout& p, int64_t begin,
                                          int64_t end);
                      template <typename scalar_t>
                      void maxout_backward(const scalar_t* grad_output, const uint8_t* switches,
                                           scalar_t* grad_input, const Maxout& p, int64_t begin,
                                           int64_t end);)

}  // namespace fastconv
