// Launchers of tiled_conv2d on CUDA; tiled_conv2d.cuh has their text.
#pragma once

#include "core/numeric.h"
#include "core/tiled_conv2d.h"
#include "cuda/launcher.h"

namespace fastconv {

template <typename scalar_t>
bool tiles_on_tensor_cores(const TiledConv2d& p);

// How many parts the sums of the weight's gradient are cut into.
template <typename scalar_t>
int tiled_weight_splits(const TiledConv2d& p);

// Weights of each tile: (O, C, kh, kw), or (O, kh, kw, C) for tensor cores, which demand `last` of
// input and output. Bias (tiles, O), or null.
template <typename scalar_t>
cudaError_t launch_tiled_conv2d(bool cores, const scalar_t* input, const scalar_t* weight,
                                const scalar_t* bias, scalar_t* output, const TiledConv2d& p,
                                bool last, cudaStream_t stream);

// Weights of each tile: (O, C, kh, kw). `ordered`: scratch memory, a phase_size for each phase.
template <typename scalar_t>
cudaError_t launch_tiled_conv2d_input_grad(bool cores, const scalar_t* grad_output,
                                           const scalar_t* weight, scalar_t* grad_input,
                                           const TiledConv2d& p, bool last, scalar_t* ordered,
                                           cudaStream_t stream);

// grad_weight of each tile: (O, C, kh, kw). `partial`: scratch memory for the splits of all tiles.
template <typename scalar_t>
cudaError_t launch_tiled_conv2d_weight_grad(bool cores, const scalar_t* grad_output,
                                            const scalar_t* input, scalar_t* grad_weight,
                                            const TiledConv2d& p, bool last,
                                            accumulate_t<scalar_t>* partial, int splits,
                                            cudaStream_t stream);

}  // namespace fastconv
