#include "cuda/maxout.cuh"

namespace fastconv {

FASTCONV_FOR_EACH_DTYPE(launch_maxout)
FASTCONV_FOR_EACH_DTYPE(launch_maxout_backward)

}  // namespace fastconv
