#include "cuda/stochastic_pool2d.cuh"

namespace fastconv {

FASTCONV_FOR_EACH_DTYPE(launch_stochastic_pool2d)
FASTCONV_FOR_EACH_DTYPE(launch_stochastic_pool2d_mean)
FASTCONV_FOR_EACH_DTYPE(launch_stochastic_pool2d_mean_backward)

}  // namespace fastconv
