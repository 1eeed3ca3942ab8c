#include "cuda/prepare_images.cuh"

namespace fastconv {

template decltype(launch_prepare_images<float>) launch_prepare_images<float>;
template decltype(launch_prepare_images<half>) launch_prepare_images<half>;
template decltype(launch_prepare_images<bfloat16>) launch_prepare_images<bfloat16>;

}  // namespace fastconv
