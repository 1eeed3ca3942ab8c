#include "cuda/tiled_conv2d.cuh"

namespace fastconv {

FASTCONV_FOR_EACH_DTYPE(tiles_on_tensor_cores)
FASTCONV_FOR_EACH_DTYPE(tiled_weight_splits)
FASTCONV_FOR_EACH_DTYPE(launch_tiled_conv2d)
FASTCONV_FOR_EACH_DTYPE(launch_tiled_conv2d_input_grad)
FASTCONV_FOR_EACH_DTYPE(launch_tiled_conv2d_weight_grad)

}  // namespace fastconv
