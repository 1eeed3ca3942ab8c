// Launchers of conv2d on CUDA, and which kernels run; conv2d.cuh has their text.
#pragma once

#include "core/conv2d.h"
#include "core/numeric.h"
#include "cuda/launcher.h"

namespace fastconv {

enum class Conv2dPath { kPlain, kTensorCores, kBlocks };

// `allow_tf32`: float32 may be rounded to tf32's 10 bits of fraction.
template <typename scalar_t>
Conv2dPath conv2d_path(const Conv2d& p, bool allow_tf32);

// Whether 9.0a was among the architectures of the build.
bool built_for_warpgroups();

// Elements of scratch memory that the passes need.
struct Conv2dScratch {
  int64_t image, filters;  // scalar_t: the blocks of input and weight
  int64_t partial;         // accumulate_t
  int splits;
};

template <typename scalar_t>
Conv2dScratch conv2d_scratch(Conv2dPath path, const Conv2d& p);

// Formats: `last` of input and output (kBlocks: of the input alone), `weight_last` of the weight.
// kTensorCores demands both; kBlocks gives a channels_last output. `image` and `filters` are
// scratch memory. `warpgroups`: tensor cores are fed by warpgroups where the type has 16 bits,
// which conv2d_sm90a.h must have and the GPU be able to.
template <typename scalar_t>
cudaError_t launch_conv2d(Conv2dPath path, const scalar_t* input, const scalar_t* weight,
                          const scalar_t* bias, scalar_t* output, const Conv2d& p, bool relu,
                          bool last, bool weight_last, scalar_t* image, scalar_t* filters,
                          bool warpgroups, cudaStream_t stream);

// kBlocks: a channels_last grad_output, `last` of grad_input.
template <typename scalar_t>
cudaError_t launch_conv2d_input_grad(Conv2dPath path, const scalar_t* grad_output,
                                     const scalar_t* weight, scalar_t* grad_input, const Conv2d& p,
                                     bool last, bool weight_last, scalar_t* image,
                                     scalar_t* filters, bool warpgroups, cudaStream_t stream);

// kBlocks: a channels_last grad_output, `last` of the input. `partial` and `image` are scratch
// memory.
template <typename scalar_t>
cudaError_t launch_conv2d_weight_grad(Conv2dPath path, const scalar_t* grad_output,
                                      const scalar_t* input, scalar_t* grad_weight, const Conv2d& p,
                                      bool last, bool weight_last, accumulate_t<scalar_t>* partial,
                                      int splits, scalar_t* image, bool warpgroups,
                                      cudaStream_t stream);

}  // namespace fastconv
