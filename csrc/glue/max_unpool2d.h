// The arguments of max_unpool2d and its gradient, checked once, in one place.
#pragma once

#include "glue/pool2d.h"

namespace fastconv {

// The problem that pooled a map of `output_size` to the shape of `pooled`.
inline Pool2d unpool2d_of(const char* op, const char* name, const Tensor& pooled,
                          const Tensor& switches, const IntPair& kernel_size, const IntPair& stride,
                          const IntPair& padding, const IntPair& dilation,
                          const IntPair& output_size) {
  check_rank4(op, name, pooled);
  check_floating(op, name, pooled);
  check_pair(op, "output_size", output_size, 1);
  Pool2d p =
      pool2d_windows(op, output_size[0], output_size[1], kernel_size, stride, padding, dilation);
  check_switch_range(op, kernel_size);
  FASTCONV_CHECK(op, switches.scalar_type() == ScalarType::Byte,
                 "switches must be uint8, as max_pool2d_with_switches returns them (got ",
                 torch::headeronly::toString(switches.scalar_type()), ")");
  check_rank4(op, "switches", switches);
  check_same_device(op, "switches", switches, name, pooled);
  p.batch = switches.size(0);
  p.channels = switches.size(1);
  p.h.output = switches.size(2);
  p.w.output = switches.size(3);
  for (const Window* axis : {&p.h, &p.w}) {
    const int64_t least = window_output_size(axis->input, axis->kernel, axis->stride, axis->padding,
                                             axis->dilation, false);
    const int64_t most = window_output_size(axis->input, axis->kernel, axis->stride, axis->padding,
                                            axis->dilation, true);
    FASTCONV_CHECK(
        op, axis->output == least || axis->output == most,
        "output_size must be a size that pools to the size of switches (got output_size=",
        axis->input, ", which pools to ", least, most == least ? "" : " or more",
        ", and switches of size ", axis->output, ")");
  }
  return p;
}

inline void check_same_shape(const char* op, const char* name, const Tensor& t,
                             const Tensor& switches) {
  bool same = t.dim() == 4;
  for (int64_t d = 0; same && d < 4; ++d) same = t.size(d) == switches.size(d);
  FASTCONV_CHECK(op, same, "switches must have the shape of ", name, " (got ", shape_text(switches),
                 " and ", shape_text(t), ")");
}

inline void check_batch_and_channels(const char* op, const Tensor& grad_output,
                                     const Tensor& switches) {
  FASTCONV_CHECK(op,
                 grad_output.size(0) == switches.size(0) && grad_output.size(1) == switches.size(1),
                 "grad_output must have the batch and channels of switches (got ",
                 shape_text(grad_output), " and ", shape_text(switches), ")");
}

}  // namespace fastconv
