// The arguments of conv2d and its gradients, checked once, in one place.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/conv2d.h"
#include "glue/pool2d.h"
#include "glue/tensor.h"

namespace fastconv {

// The problem with these shapes. `padding` is (top, bottom, left, right).
inline Conv2d conv2d_of(const char* op, const Sizes& input, const Sizes& weight,
                        const IntPair& stride, const std::vector<int64_t>& padding,
                        const IntPair& dilation, int64_t groups) {
  FASTCONV_CHECK(op, input.size() == 4 && weight.size() == 4,
                 "sizes of input and weight must have 4 dimensions (got ", shape_text(input),
                 " and ", shape_text(weight), ")");
  check_pair(op, "stride", stride, 1);
  check_pair(op, "dilation", dilation, 1);
  FASTCONV_CHECK(op, padding.size() == 4, "padding must be (top, bottom, left, right) (got ",
                 padding.size(), " integers)");
  check_pair(op, "padding", {padding[0], padding[1]}, 0);
  check_pair(op, "padding", {padding[2], padding[3]}, 0);
  FASTCONV_CHECK(op, groups >= 1, "groups must be at least 1 (got groups=", groups, ")");
  for (int d = 0; d < 4; ++d) {
    FASTCONV_CHECK(op, weight[d] >= 1 && weight[d] <= INT32_MAX,
                   "weight must have no empty dimension and none above ", INT32_MAX, " (got shape ",
                   shape_text(weight), ")");
    FASTCONV_CHECK(op, input[d] >= (d == 0 ? 0 : 1) && (d < 2 || input[d] <= INT32_MAX),
                   "input must have no empty dimension but the batch (got shape ",
                   shape_text(input), ")");
  }
  FASTCONV_CHECK(op, weight[0] % groups == 0,
                 "groups must divide the output channels (got groups=", groups,
                 " and weight of shape ", shape_text(weight), ")");
  FASTCONV_CHECK(op, input[1] == weight[1] * groups,
                 "input must have weight.shape[1] * groups channels (got input of shape ",
                 shape_text(input), ", weight of shape ", shape_text(weight), ", groups=", groups,
                 ")");
  Conv2d p{input[0], groups, weight[1], weight[0] / groups, {}, {}};
  p.h = Window{input[2], 0, weight[2], stride[0], padding[0], dilation[0]};
  p.w = Window{input[3], 0, weight[3], stride[1], padding[2], dilation[1]};
  for (int axis : {0, 1}) {
    Window& window = axis == 0 ? p.h : p.w;
    const int64_t padded = window.input + padding[2 * axis] + padding[2 * axis + 1];
    const int64_t span = window.dilation * (window.kernel - 1) + 1;
    FASTCONV_CHECK(op, span <= padded,
                   "the window must fit into the padded input (got padded size ", padded,
                   ", kernel_size=", window.kernel, ", dilation=", window.dilation, ")");
    FASTCONV_CHECK(op, padded <= INT32_MAX, "the padded input must be at most ", INT32_MAX,
                   " high and wide (got ", padded, ")");
    window.output = (padded - span) / window.stride + 1;
  }
  return p;
}

inline Sizes conv2d_output_sizes(const Conv2d& p) {
  return {p.batch, p.groups * p.out_channels, p.h.output, p.w.output};
}

// One of the tensors that an op reads beside `other`.
inline void check_conv2d_tensor(const char* op, const char* name, const Tensor& t,
                                const char* other_name, const Tensor& other) {
  check_rank4(op, name, t);
  check_floating(op, name, t);
  check_same_dtype(op, name, t, other_name, other);
  check_same_device(op, name, t, other_name, other);
}

inline void check_conv2d_bias(const char* op, const std::optional<Tensor>& bias,
                              const Tensor& input, const Conv2d& p) {
  if (!bias) return;
  FASTCONV_CHECK(op, bias->dim() == 1 && bias->size(0) == p.groups * p.out_channels,
                 "bias must have shape (", p.groups * p.out_channels, ",) (got ", shape_text(*bias),
                 ")");
  check_same_dtype(op, "bias", *bias, "input", input);
  check_same_device(op, "bias", *bias, "input", input);
}

inline void check_grad_output(const char* op, const Tensor& grad_output, const Conv2d& p) {
  FASTCONV_CHECK(op, sizes_of(grad_output) == conv2d_output_sizes(p),
                 "grad_output must have the output's shape ", shape_text(conv2d_output_sizes(p)),
                 " (got ", shape_text(grad_output), ")");
}

}  // namespace fastconv
