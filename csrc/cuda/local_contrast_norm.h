// Launchers of local_contrast_norm on CUDA; local_contrast_norm_launch.cuh has their text.
#pragma once

#include "core/contrast_norm.h"
#include "core/numeric.h"
#include "cuda/launcher.h"

namespace fastconv {

// Elements of the scratch memory, in acc_t.
template <typename scalar_t>
int64_t contrast_norm_scratch(const ContrastProblem& p, bool backward);

template <typename scalar_t>
cudaError_t launch_contrast_norm(const scalar_t* input, scalar_t* output,
                                 accumulate_t<scalar_t>* statistics,
                                 accumulate_t<scalar_t>* scratch, const ContrastProblem& p,
                                 cudaStream_t stream);

// The statistics are those of the forward, and are only read.
template <typename scalar_t>
cudaError_t launch_contrast_norm_backward(const scalar_t* grad_output, const scalar_t* input,
                                          const accumulate_t<scalar_t>* statistics,
                                          scalar_t* grad_input, accumulate_t<scalar_t>* scratch,
                                          const ContrastProblem& p, cudaStream_t stream);

}  // namespace fastconv
