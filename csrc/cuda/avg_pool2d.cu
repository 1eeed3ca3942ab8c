#include "cuda/avg_pool2d.cuh"

namespace fastconv {

FASTCONV_FOR_EACH_DTYPE(launch_avg_pool2d)
FASTCONV_FOR_EACH_DTYPE(launch_avg_pool2d_backward)

}  // namespace fastconv
