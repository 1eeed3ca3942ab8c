// The launcher of prepare_images on CUDA; prepare_images.cuh has its text.
#pragma once

#include "core/numeric.h"
#include "core/prepare_images.h"
#include "cuda/launcher.h"

namespace fastconv {

// Rows of a window in one block's shared memory, and the longest that they may be, in bytes.
constexpr int kPrepareRows = 2;
constexpr int kMostPrepareRow = (48 << 10) / kPrepareRows - 32;

template <typename scalar_t>
cudaError_t launch_prepare_images(const PrepareImagesInputs& in, scalar_t* output,
                                  const PrepareImages& p, cudaStream_t stream);

}  // namespace fastconv
