// Kernels of stochastic_pool2d on the CPU; stochastic_pool2d_kernel.cpp has their text.
#pragma once

#include "core/numeric.h"
#include "core/window.h"
#include "cpu/isa.h"

namespace fastconv {

// Units of work: rows of the output (channels_last: batch * h.output), else planes (batch *
// channels); of the backward, rows of the input, else planes. Each call does the units
// [begin, end).
FASTCONV_FOR_EACH_ISA(
    template <typename scalar_t>
    void stochastic_pool2d_forward(const scalar_t* input, scalar_t* output, uint8_t* switches,
                                   uint64_t seed, const Pool2d& p, int64_t begin, int64_t end);
    template <typename scalar_t>
    void stochastic_pool2d_mean_forward(const scalar_t* input, scalar_t* output, const Pool2d& p,
                                        int64_t begin, int64_t end);
    // The mean of every window once more, unrounded, and its sum: what the backward divides by.
    template <typename scalar_t>
    void stochastic_pool2d_mean_windows(const scalar_t* input, accumulate_t<scalar_t>* means,
                                        accumulate_t<scalar_t>* sums, const Pool2d& p,
                                        int64_t begin, int64_t end);
    template <typename scalar_t>
    void stochastic_pool2d_mean_backward(const scalar_t* grad_output, const scalar_t* input,
                                         const accumulate_t<scalar_t>* means,
                                         const accumulate_t<scalar_t>* sums, scalar_t* grad_input,
                                         const Pool2d& p, int64_t begin, int64_t end);)

}  // namespace fastconv
