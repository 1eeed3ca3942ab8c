#include "cuda/drop_connect.cuh"

namespace fastconv {

FASTCONV_FOR_EACH_DTYPE(launch_drop_connect)
FASTCONV_FOR_EACH_DTYPE(launch_drop_connect_input_grad)
FASTCONV_FOR_EACH_DTYPE(launch_drop_connect_weight_grad)

}  // namespace fastconv
