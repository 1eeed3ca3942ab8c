#include "cpu/max_pool2d.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cpu/dispatch.h"
#include "glue/pool2d.h"

namespace fastconv {

static std::tuple<Tensor, Tensor> max_pool2d(const Tensor& input, IntPair kernel_size,
                                             IntPair stride, IntPair padding, IntPair dilation,
                                             bool ceil_mode, bool with_switches) {
  const char* op = "max_pool2d";
  const Pool2d p = pool2d_of(op, input, kernel_size, stride, padding, dilation, ceil_mode);
  check_switch_range(op, kernel_size);

  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  const std::vector<int64_t> sizes{p.batch, p.channels, p.h.output, p.w.output};
  Tensor output = new_tensor(x, sizes, x.scalar_type(), format);
  Tensor switches = new_switches(x, p, with_switches);

  const int64_t units = p.batch * (p.channels_last ? p.h.output : p.channels);
  const int64_t outputs = output.numel();
  const int64_t cost = units ? outputs / units * p.h.kernel * p.w.kernel : 0;
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), parallel_over(units, cost, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(max_pool2d_forward(data<scalar_t>(x), mutable_data<scalar_t>(output),
                                             switches_or_null(switches), p, begin, end));
      }))
  return {output, switches};
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) { FASTCONV_IMPL(m, max_pool2d); }

}  // namespace fastconv
