// Launchers of max_unpool2d on CUDA; max_unpool2d.cuh has their text.
#pragma once

#include "core/window.h"
#include "cuda/launcher.h"

namespace fastconv {

template <typename scalar_t>
cudaError_t launch_max_unpool2d(const scalar_t* pooled, const uint8_t* switches, scalar_t* output,
                                const Pool2d& p, bool overwrite, cudaStream_t stream);

template <typename scalar_t>
cudaError_t launch_max_unpool2d_backward(const scalar_t* grad_output, const uint8_t* switches,
                                         scalar_t* grad_pooled, const Pool2d& p, bool overwrite,
                                         cudaStream_t stream);

}  // namespace fastconv
