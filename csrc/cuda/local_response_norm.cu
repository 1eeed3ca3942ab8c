#include "cuda/local_response_norm.cuh"

namespace fastconv {

FASTCONV_FOR_EACH_DTYPE(response_norm_fits)
FASTCONV_FOR_EACH_DTYPE(launch_response_norm)
FASTCONV_FOR_EACH_DTYPE(launch_response_norm_backward)

}  // namespace fastconv
