// Launchers of local_response_norm_max_pool2d on CUDA; local_response_norm_max_pool2d.cuh has
// their text.
#pragma once

#include "core/norm_pool.h"
#include "cuda/launcher.h"

namespace fastconv {

// Whether what one window sees, or (backward) what one window of maps reaches, fits into shared
// memory.
template <typename scalar_t>
bool norm_pool_fits(const NormPool2d& p, bool backward);

template <typename scalar_t>
cudaError_t launch_norm_pool(const scalar_t* input, scalar_t* output, uint8_t* switches,
                             const NormPool2d& p, cudaStream_t stream);

template <typename scalar_t>
cudaError_t launch_norm_pool_backward(const scalar_t* grad_output, const scalar_t* input,
                                      const uint8_t* switches, scalar_t* grad_input,
                                      const NormPool2d& p, cudaStream_t stream);

}  // namespace fastconv
