// Launchers of local_response_norm on CUDA; local_response_norm.cuh has their text.
#pragma once

#include "core/response_norm.h"
#include "cuda/launcher.h"

namespace fastconv {

// Whether the window fits into shared memory.
template <typename scalar_t>
bool response_norm_fits(const ResponseNorm& p, bool backward);

template <typename scalar_t>
cudaError_t launch_response_norm(const scalar_t* input, scalar_t* output, const ResponseNorm& p,
                                 cudaStream_t stream);

template <typename scalar_t>
cudaError_t launch_response_norm_backward(const scalar_t* grad_output, const scalar_t* input,
                                          scalar_t* grad_input, const ResponseNorm& p,
                                          cudaStream_t stream);

}  // namespace fastconv
