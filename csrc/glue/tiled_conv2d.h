// The arguments of tiled_conv2d and its gradients, checked once, in one place.
#pragma once

#include <optional>

#include "core/tiled_conv2d.h"
#include "glue/conv2d.h"

namespace fastconv {

inline TiledConv2d tiled_conv2d_of(const char* op, const Sizes& input, const Sizes& weight,
                                   const IntPair& stride, const IntPair& padding, int64_t groups) {
  FASTCONV_CHECK(op, weight.size() == 6,
                 "weight must have 6 dimensions (tiles down, tiles across, out_channels, "
                 "in_channels / groups, height, width) (got shape ",
                 shape_text(weight), ")");
  FASTCONV_CHECK(op, weight[0] >= 1 && weight[1] >= 1,
                 "weight must have no empty dimension (got shape ", shape_text(weight), ")");
  check_pair(op, "padding", padding, 0);
  const Sizes of_tile(weight.begin() + 2, weight.end());
  return {conv2d_of(op, input, of_tile, stride, {padding[0], padding[0], padding[1], padding[1]},
                    {1, 1}, groups),
          weight[0], weight[1]};
}

inline Sizes all_sizes_of(const Tensor& t) {
  Sizes sizes;
  for (int64_t d = 0; d < t.dim(); ++d) sizes.push_back(t.size(d));
  return sizes;
}

// What the forward pass and the input's gradient read: `t` and the weights.
inline TiledConv2d check_tiled_conv2d(const char* op, const char* name, const Tensor& t,
                                      const Tensor& weight, const Sizes& input_size,
                                      const IntPair& stride, const IntPair& padding,
                                      int64_t groups) {
  check_rank4(op, name, t);
  check_floating(op, name, t);
  check_same_dtype(op, "weight", weight, name, t);
  check_same_device(op, "weight", weight, name, t);
  return tiled_conv2d_of(op, input_size, all_sizes_of(weight), stride, padding, groups);
}

inline void check_tiled_bias(const char* op, const std::optional<Tensor>& bias,
                             const Tensor& weight, const Tensor& input) {
  if (!bias) return;
  const Sizes expected{weight.size(0), weight.size(1), weight.size(2)};
  FASTCONV_CHECK(op, all_sizes_of(*bias) == expected, "bias must have shape ", shape_text(expected),
                 " (got ", shape_text(*bias), ")");
  check_same_dtype(op, "bias", *bias, "input", input);
  check_same_device(op, "bias", *bias, "input", input);
}

}  // namespace fastconv
