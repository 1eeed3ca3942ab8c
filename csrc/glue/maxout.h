// The arguments of maxout and its gradient, checked once, in one place.
#pragma once

#include "core/maxout.h"
#include "glue/tensor.h"

namespace fastconv {

// The groups over `maps` maps; the rest of the problem is left for the caller.
inline Maxout maxout_of(const char* op, int64_t maps, int64_t pool_size, int64_t stride) {
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

inline void set_layout(Maxout& p, const Tensor& t, bool channels_last) {
  p.batch = t.size(0);
  p.pixels = t.size(2) * t.size(3);
  p.maps_last = p.pixels == 1 || channels_last;
}

inline Maxout maxout_forward_of(const char* op, const Tensor& input, int64_t pool_size,
                                int64_t stride) {
  check_rank4(op, "input", input);
  check_floating(op, "input", input);
  Maxout p = maxout_of(op, input.size(1), pool_size, stride);
  set_layout(p, input, is_channels_last(input));
  return p;
}

// channels_last: the format of the input, which a single group does not tell.
inline Maxout maxout_backward_of(const char* op, const Tensor& grad_output, const Tensor& switches,
                                 int64_t maps, bool channels_last, int64_t pool_size,
                                 int64_t stride) {
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
  return p;
}

}  // namespace fastconv
