#include "cpu/maxout.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cpu/dispatch.h"
#include "glue/maxout.h"

namespace fastconv {

static std::tuple<Tensor, Tensor> maxout(const Tensor& input, int64_t pool_size, int64_t stride) {
  const char* op = "maxout";
  const Maxout p = maxout_forward_of(op, input, pool_size, stride);

  const MemoryFormat format = memory_format_of(input);
  const Tensor x = contiguous_as(input, format);
  const std::vector<int64_t> sizes{p.batch, p.maps.output, x.size(2), x.size(3)};
  Tensor output = new_tensor(x, sizes, x.scalar_type(), format);
  Tensor switches = new_tensor(x, sizes, ScalarType::Byte, format);

  const int64_t units = p.batch * (p.maps_last ? p.pixels : p.maps.output);
  const int64_t cost = units ? output.numel() / units * pool_size : 0;
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(), parallel_over(units, cost, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(maxout_forward(data<scalar_t>(x), mutable_data<scalar_t>(output),
                                         mutable_data<uint8_t>(switches), p, begin, end));
      }))
  return {output, switches};
}

// channels_last: the format of the input, which a single group does not tell.
static Tensor maxout_backward(const Tensor& grad_output, const Tensor& switches, int64_t maps,
                              bool channels_last, int64_t pool_size, int64_t stride) {
  const char* op = "maxout_backward";
  const Maxout p =
      maxout_backward_of(op, grad_output, switches, maps, channels_last, pool_size, stride);

  const MemoryFormat format = memory_format_of(channels_last);
  const Tensor g = contiguous_as(grad_output, format), sw = contiguous_as(switches, format);
  Tensor grad_input = new_tensor(g, {p.batch, maps, g.size(2), g.size(3)}, g.scalar_type(), format);

  const int64_t units = p.batch * (p.maps_last ? p.pixels : maps);
  const int64_t cost = units ? 2 * grad_input.numel() / units : 0;
  FASTCONV_DISPATCH_FLOATING(
      g.scalar_type(), parallel_over(units, cost, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(maxout_backward(data<scalar_t>(g), data<uint8_t>(sw),
                                          mutable_data<scalar_t>(grad_input), p, begin, end));
      }))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  FASTCONV_IMPL(m, maxout);
  FASTCONV_IMPL(m, maxout_backward);
}

}  // namespace fastconv
