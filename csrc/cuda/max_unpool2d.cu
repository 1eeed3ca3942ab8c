#include "cuda/max_unpool2d.cuh"

namespace fastconv {

FASTCONV_FOR_EACH_DTYPE(launch_max_unpool2d)
FASTCONV_FOR_EACH_DTYPE(launch_max_unpool2d_backward)

}  // namespace fastconv
