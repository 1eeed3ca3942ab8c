// Kernels of local_response_norm_max_pool2d on the CPU; local_response_norm_max_pool2d_kernel.cpp
// has their text.
#pragma once

#include "core/norm_pool.h"
#include "cpu/isa.h"
#include "cpu/local_response_norm.h"

namespace fastconv {

// Rows of an image that the backward does at a time. In the contiguous format windows are
// scattered, those over a border between two parts by both: as many rows as the second-level cache
// holds.
template <typename scalar_t>
static inline int64_t norm_pool_rows(const NormPool2d& p) {
  if (p.pool.channels_last) return 1;
  constexpr int64_t kBytes = 256 << 10;
  const int64_t row = p.norm.width * p.norm.maps * int64_t(sizeof(scalar_t));
  return max_of(1, min_of(p.norm.height, kBytes / max_of(1, row)));
}

// Units of work of the forward: rows of the pooled image, with all their maps (batch * h.output).
// Of the backward: norm_pool_rows of the image (batch * ceil(h.input / norm_pool_rows)). Each call
// does the units [begin, end).
FASTCONV_FOR_EACH_ISA(
    template <typename scalar_t>
    void local_response_norm_max_pool2d_forward(const scalar_t* input, scalar_t* output,
                                                uint8_t* switches, const NormPool2d& p,
                                                int64_t begin, int64_t end);
    template <typename scalar_t>
    void local_response_norm_max_pool2d_backward(const scalar_t* grad_output, const scalar_t* input,
                                                 const uint8_t* switches, scalar_t* grad_input,
                                                 const NormPool2d& p, int64_t begin, int64_t end);)

}  // namespace fastconv
