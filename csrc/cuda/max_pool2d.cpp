#include "cuda/max_pool2d.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cuda/device.h"
#include "glue/dispatch.h"
#include "glue/pool2d.h"

namespace fastconv {

static std::tuple<Tensor, Tensor> max_pool2d(const Tensor& input, IntPair kernel_size,
                                             IntPair stride, IntPair padding, IntPair dilation,
                                             bool ceil_mode, bool with_switches) {
  const char* op = "max_pool2d";
  const Pool2d p = pool2d_of(op, input, kernel_size, stride, padding, dilation, ceil_mode);
  check_switch_range(op, kernel_size);
  check_pool2d_image(op, p);

  const CudaCall call(op, input);
  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  const std::vector<int64_t> sizes{p.batch, p.channels, p.h.output, p.w.output};
  Tensor output = new_tensor(x, sizes, x.scalar_type(), format);
  Tensor switches = new_switches(x, p, with_switches);
  FASTCONV_DISPATCH_FLOATING(x.scalar_type(), call.check(launch_max_pool2d(
                                                  data<scalar_t>(x), mutable_data<scalar_t>(output),
                                                  switches_or_null(switches), p, call.stream())))
  return {output, switches};
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) { m.impl("max_pool2d", TORCH_BOX(&max_pool2d)); }

}  // namespace fastconv
