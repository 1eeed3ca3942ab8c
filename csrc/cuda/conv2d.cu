#include "cuda/conv2d.cuh"

namespace fastconv {

FASTCONV_FOR_EACH_DTYPE(conv2d_path)
FASTCONV_FOR_EACH_DTYPE(conv2d_scratch)
FASTCONV_FOR_EACH_DTYPE(launch_conv2d)
FASTCONV_FOR_EACH_DTYPE(launch_conv2d_input_grad)
FASTCONV_FOR_EACH_DTYPE(launch_conv2d_weight_grad)

}  // namespace fastconv
