#include "cuda/local_contrast_norm_launch.cuh"

namespace fastconv {

FASTCONV_FOR_EACH_DTYPE(contrast_norm_scratch)
FASTCONV_FOR_EACH_DTYPE(launch_contrast_norm)
FASTCONV_FOR_EACH_DTYPE(launch_contrast_norm_backward)

}  // namespace fastconv
