// Launchers of avg_pool2d on CUDA; avg_pool2d.cuh has their text.
#pragma once

#include "core/avg_pool.h"
#include "cuda/launcher.h"

namespace fastconv {

template <typename scalar_t>
cudaError_t launch_avg_pool2d(const scalar_t* input, scalar_t* output, const AvgPool2d& avg,
                              cudaStream_t stream);

template <typename scalar_t>
cudaError_t launch_avg_pool2d_backward(const scalar_t* grad_output, scalar_t* grad_input,
                                       const AvgPool2d& avg, cudaStream_t stream);

}  // namespace fastconv
