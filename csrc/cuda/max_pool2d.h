// Launcher of max_pool2d on CUDA; max_pool2d.cuh has its text.
#pragma once

#include "core/window.h"
#include "cuda/launcher.h"

namespace fastconv {

template <typename scalar_t>
cudaError_t launch_max_pool2d(const scalar_t* input, scalar_t* output, uint8_t* switches,
                              const Pool2d& p, cudaStream_t stream);

}  // namespace fastconv
