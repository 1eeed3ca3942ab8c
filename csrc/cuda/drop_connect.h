// Launchers of drop_connect on CUDA; drop_connect.cuh has their text. The seed is read on the GPU;
// p.seed does not count.
#pragma once

#include "core/drop_connect.h"
#include "cuda/launcher.h"

namespace fastconv {

// bias: null, one value an output (bias_stride 0), or one a result (bias_stride p.outputs).
template <typename scalar_t>
cudaError_t launch_drop_connect(const scalar_t* input, const scalar_t* weight, const scalar_t* bias,
                                int64_t bias_stride, scalar_t* output, const DropConnect& p,
                                const int64_t* seed, cudaStream_t stream);

template <typename scalar_t>
cudaError_t launch_drop_connect_input_grad(const scalar_t* grad_output, const scalar_t* weight,
                                           scalar_t* grad_input, const DropConnect& p,
                                           const int64_t* seed, cudaStream_t stream);

template <typename scalar_t>
cudaError_t launch_drop_connect_weight_grad(const scalar_t* grad_output, const scalar_t* input,
                                            scalar_t* grad_weight, const DropConnect& p,
                                            const int64_t* seed, cudaStream_t stream);

// mask[n,o,j]: whether column first_input + j is kept, j < p.inputs.
cudaError_t launch_drop_connect_mask(uint8_t* mask, int64_t first_input, const DropConnect& p,
                                     const int64_t* seed, cudaStream_t stream);

}  // namespace fastconv
