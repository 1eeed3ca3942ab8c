// Launchers of stochastic_pool2d on CUDA; stochastic_pool2d.cuh has their text.
#pragma once

#include "core/window.h"
#include "cuda/launcher.h"

namespace fastconv {

// The seed is read on the GPU.
template <typename scalar_t>
cudaError_t launch_stochastic_pool2d(const scalar_t* input, const int64_t* seed, scalar_t* output,
                                     uint8_t* switches, const Pool2d& p, cudaStream_t stream);

template <typename scalar_t>
cudaError_t launch_stochastic_pool2d_mean(const scalar_t* input, scalar_t* output, const Pool2d& p,
                                          cudaStream_t stream);

template <typename scalar_t>
cudaError_t launch_stochastic_pool2d_mean_backward(const scalar_t* grad_output,
                                                   const scalar_t* input, scalar_t* grad_input,
                                                   const Pool2d& p, cudaStream_t stream);

}  // namespace fastconv
