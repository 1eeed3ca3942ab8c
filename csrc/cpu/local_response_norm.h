// Kernels of local_response_norm on the CPU; local_response_norm_kernel.cpp has their text.
#pragma once

#include "core/response_norm.h"
#include "cpu/isa.h"

namespace fastconv {

// Units of work. Across maps: tiles of a few cache lines of pixels, with all their maps. Within a
// map: rows of an image (channels_last: batch * height) or of a map (batch * maps * height).
template <typename scalar_t>
constexpr int64_t kTilePixels = 256 / sizeof(scalar_t);

template <typename scalar_t>
static inline int64_t response_norm_units(const ResponseNorm& p) {
  if (p.within) return p.batch * p.height * (p.channels_last ? 1 : p.maps);
  if (p.channels_last) return ceil_div(p.batch * p.pixels(), kTilePixels<scalar_t>);
  return p.batch * ceil_div(p.pixels(), kTilePixels<scalar_t>);
}

// Each call does the units [begin, end).
FASTCONV_FOR_EACH_ISA(template <typename scalar_t>
                      void local_response_norm_forward(const scalar_t* input, scalar_t* output,
                                                       const ResponseNorm& p, int64_t begin,
                                                       int64_t end);
                      template <typename scalar_t>
                      void local_response_norm_backward(const scalar_t* grad_output,
                                                        const scalar_t* input, scalar_t* grad_input,
                                                        const ResponseNorm& p, int64_t begin,
                                                        int64_t end);)

}  // namespace fastconv
