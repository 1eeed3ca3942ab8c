#include "cpu/maxout.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cpu/dispatch.h"

namespace fastconv {

// The groups over `maps` maps; the rest of the problem is left for the caller.
static Maxout maxout_of(const char* op, int64_t maps, int64_t pool_size, int64_t stride) {
  FASTCONV_CHECK(op, pool_size >= 1 && pool_size <= 256,
                 "pool_size must be from 1 to 256, because a switch is one byte (got pool_size=",
                 pool_size, ")");
  FASTCONV_CHECK(op, pool_size <= maps,
                 "pool_size must be at most the number of maps (got pool_size=", pool_size, " and ",
                 maps, " maps)");
  FASTCONV_CHECK(op, stride >= 1 && stride <= pool_size,
                 "stride must be from 1 to pool_size, or maps between groups are lost (got stride=",
                 stride, ", pool_size=", pool_size, ")");
  FASTCONV_CHECK(op, (maps - pool_size) % stride == 0,
                 "the last group must end at the last map (got ", maps,
                 " maps, pool_size=", pool_size, ", stride=", stride, ": ",
                 (maps - pool_size) % stride, " maps are left over)");
  Maxout p{};
  p.maps = Window{maps, (maps - pool_size) / stride + 1, pool_size, stride, 0, 1};
  return p;
}

static void set_layout(Maxout& p, const Tensor& t, bool channels_last) {
  p.batch = t.size(0);
  p.pixels = t.size(2) * t.size(3);
  p.maps_last = p.pixels == 1 || channels_last;
}

static std::tuple<Tensor, Tensor> maxout(const Tensor& input, int64_t pool_size, int64_t stride) {
  const char* op = "maxout";
  check_rank4(op, "input", input);
  check_floating(op, "input", input);
  Maxout p = maxout_of(op, input.size(1), pool_size, stride);
  set_layout(p, input, is_channels_last(input));

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
  check_rank4(op, "switches", switches);
  check_rank4(op, "grad_output", grad_output);
  check_floating(op, "grad_output", grad_output);
  check_same_device(op, "switches", switches, "grad_output", grad_output);
  FASTCONV_CHECK(op, switches.scalar_type() == ScalarType::Byte,
                 "switches must be uint8, as maxout returns them (got ",
                 torch::headeronly::toString(switches.scalar_type()), ")");
  Maxout p = maxout_of(op, maps, pool_size, stride);
  set_layout(p, switches, channels_last);
  FASTCONV_CHECK(op, switches.size(1) == p.maps.output, "switches must have a map for each of ",
                 p.maps.output, " groups (got shape ", shape_text(switches), ")");
  for (int64_t d = 0; d < 4; ++d) {
    FASTCONV_CHECK(op, grad_output.size(d) == switches.size(d),
                   "grad_output must have the shape of switches (got ", shape_text(grad_output),
                   " and ", shape_text(switches), ")");
  }

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
  m.impl("maxout", TORCH_BOX(&maxout));
  m.impl("maxout_backward", TORCH_BOX(&maxout_backward));
}

}  // namespace fastconv
