#include "cuda/max_pool2d.cuh"

namespace fastconv {

FASTCONV_FOR_EACH_DTYPE(launch_max_pool2d)

}  // namespace fastconv
