// Launchers of conv2d's products on warpgroups (conv2d_wgmma.cuh), for GPUs of compute capability
// 9.0 alone. Where built_for_warpgroups (conv2d.h) is false they give an error.
#pragma once

#include "cuda/conv2d_product.cuh"
#include "cuda/launcher.h"

namespace fastconv {

// scalar_t: half or bfloat16. `filters_across`: outputs are adjacent, not channels.
template <typename scalar_t>
cudaError_t launch_image_wgmma(const ImageProduct<scalar_t>& product, bool filters_across,
                               cudaStream_t stream);

template <typename scalar_t>
cudaError_t launch_weight_wgmma(const WeightProduct<scalar_t>& product, cudaStream_t stream);

}  // namespace fastconv
