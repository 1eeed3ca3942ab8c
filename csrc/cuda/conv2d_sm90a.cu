// Compiled for sm_90a and nothing else (build_support/extensions.py); without that architecture
// there are no kernels here.
#include "cuda/conv2d.h"
#include "cuda/conv2d_sm90a.cuh"

#if defined(FASTCONV_SM90A)
#include "cuda/conv2d_wgmma.cuh"
#endif

namespace fastconv {

#if defined(FASTCONV_SM90A)
bool built_for_warpgroups() { return true; }
#else
bool built_for_warpgroups() { return false; }

template <typename scalar_t>
cudaError_t launch_image_wgmma(const ImageProduct<scalar_t>&, bool, cudaStream_t) {
  return cudaErrorNoKernelImageForDevice;
}
template <typename scalar_t>
cudaError_t launch_weight_wgmma(const WeightProduct<scalar_t>&, cudaStream_t) {
  return cudaErrorNoKernelImageForDevice;
}
#endif

template cudaError_t launch_image_wgmma(const ImageProduct<half>&, bool, cudaStream_t);
template cudaError_t launch_image_wgmma(const ImageProduct<bfloat16>&, bool, cudaStream_t);
template cudaError_t launch_weight_wgmma(const WeightProduct<half>&, cudaStream_t);
template cudaError_t launch_weight_wgmma(const WeightProduct<bfloat16>&, cudaStream_t);

}  // namespace fastconv
