#pragma once

#include "cuda/launcher.h"

namespace fastconv {

cudaError_t launch_cuda_probe(const float* input, float* output, int64_t count,
                              cudaStream_t stream);

}  // namespace fastconv
