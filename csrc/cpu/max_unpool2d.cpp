#include "cpu/max_unpool2d.h"

#include <torch/csrc/stable/library.h>

#include "cpu/dispatch.h"
#include "glue/pool2d.h"

namespace fastconv {

// The problem that pooled a map of `output_size` to the shape of `pooled`.
static Pool2d unpool2d_of(const char* op, const char* name, const Tensor& pooled,
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

static void check_same_shape(const char* op, const char* name, const Tensor& t,
                             const Tensor& switches) {
  bool same = t.dim() == 4;
  for (int64_t d = 0; same && d < 4; ++d) same = t.size(d) == switches.size(d);
  FASTCONV_CHECK(op, same, "switches must have the shape of ", name, " (got ", shape_text(switches),
                 " and ", shape_text(t), ")");
}

static Tensor max_unpool2d(const Tensor& input, const Tensor& switches, IntPair kernel_size,
                           IntPair stride, IntPair padding, IntPair dilation, IntPair output_size,
                           bool overwrite) {
  const char* op = "max_unpool2d";
  Pool2d p = unpool2d_of(op, "input", input, switches, kernel_size, stride, padding, dilation,
                         output_size);
  check_same_shape(op, "input", input, switches);

  const MemoryFormat format = memory_format_of(input);
  p.channels_last = format == MemoryFormat::ChannelsLast;
  const Tensor x = contiguous_as(input, format), sw = contiguous_as(switches, format);
  Tensor output =
      new_tensor(x, {p.batch, p.channels, p.h.input, p.w.input}, x.scalar_type(), format);

  const int64_t units = p.batch * (p.channels_last ? p.h.input : p.channels);
  const int64_t elements = output.numel();
  FASTCONV_DISPATCH_FLOATING(
      x.scalar_type(),
      parallel_over(units, units ? 4 * elements / units : 0, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(max_unpool2d_forward(data<scalar_t>(x), data<uint8_t>(sw),
                                               mutable_data<scalar_t>(output), p, overwrite, begin,
                                               end));
      }))
  return output;
}

static Tensor max_unpool2d_backward(const Tensor& grad_output, const Tensor& switches,
                                    IntPair kernel_size, IntPair stride, IntPair padding,
                                    IntPair dilation, bool overwrite) {
  const char* op = "max_unpool2d_backward";
  check_rank4(op, "grad_output", grad_output);
  Pool2d p = unpool2d_of(op, "grad_output", grad_output, switches, kernel_size, stride, padding,
                         dilation, {grad_output.size(2), grad_output.size(3)});
  FASTCONV_CHECK(op, grad_output.size(0) == p.batch && grad_output.size(1) == p.channels,
                 "grad_output must have the batch and channels of switches (got ",
                 shape_text(grad_output), " and ", shape_text(switches), ")");

  const MemoryFormat format = memory_format_of(switches);
  p.channels_last = format == MemoryFormat::ChannelsLast;
  const Tensor g = contiguous_as(grad_output, format), sw = contiguous_as(switches, format);
  Tensor grad_input =
      new_tensor(g, {p.batch, p.channels, p.h.output, p.w.output}, g.scalar_type(), format);

  const int64_t units = p.batch * (p.channels_last ? p.h.output : p.channels);
  const int64_t elements = grad_input.numel();
  FASTCONV_DISPATCH_FLOATING(
      g.scalar_type(),
      parallel_over(units, units ? 4 * elements / units : 0, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(max_unpool2d_backward(data<scalar_t>(g), data<uint8_t>(sw),
                                                mutable_data<scalar_t>(grad_input), p, overwrite,
                                                begin, end));
      }))
  return grad_input;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) {
  m.impl("max_unpool2d", TORCH_BOX(&max_unpool2d));
  m.impl("max_unpool2d_backward", TORCH_BOX(&max_unpool2d_backward));
}

}  // namespace fastconv
