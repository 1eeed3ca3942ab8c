// Launchers of maxout on CUDA; maxout.cuh has their text.
#pragma once

#include "core/maxout.h"
#include "cuda/launcher.h"

namespace fastconv {

template <typename scalar_t>
cudaError_t launch_maxout(const scalar_t* input, scalar_t* output, uint8_t* switches,
                          const Maxout& p, cudaStream_t stream);

template <typename scalar_t>
cudaError_t launch_maxout_backward(const scalar_t* grad_output, const uint8_t* switches,
                                   scalar_t* grad_input, const Maxout& p, cudaStream_t stream);

}  // namespace fastconv
