#include "cuda/local_response_norm_max_pool2d.cuh"

namespace fastconv {

FASTCONV_FOR_EACH_DTYPE(norm_pool_fits)
FASTCONV_FOR_EACH_DTYPE(launch_norm_pool)
FASTCONV_FOR_EACH_DTYPE(launch_norm_pool_backward)

}  // namespace fastconv
