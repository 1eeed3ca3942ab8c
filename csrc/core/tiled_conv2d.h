// The problem of tiled_conv2d, shared by host and device.
//
// The weights of tile (i, j) make the output pixels (y, x) with y % tiles_h == i and
// x % tiles_w == j. With o, c the channels of a group and t a tap, each of these is a convolution's
// product:
//
//   output        for each tile, a convolution of step stride * (tiles_h, tiles_w)
//   grad_weight   for each tile, the gradient of that convolution
//   grad_input    for each phase, the input pixels q of the same q mod stride * (tiles_h, tiles_w):
//                 sum over t, o of weight[tile(t), o, c, t] * grad_output[o, (q - t) / stride]
//
// In the last one every tap is of another tile. The pixels of a phase meet the same taps of the
// same tiles, and no other phase meets these: so the weights are put in the order of the phases
// once, and each phase is a convolution.
#pragma once

#include <cstdint>

#include "core/conv2d.h"

namespace fastconv {

struct TiledConv2d {
  Conv2d conv;
  int64_t tiles_h, tiles_w;

  FASTCONV_HOST_DEVICE int64_t tiles() const { return tiles_h * tiles_w; }
  FASTCONV_HOST_DEVICE int64_t tile_weights() const {
    return conv.groups * conv.out_channels * conv.in_channels * conv.h.kernel * conv.w.kernel;
  }
};

// Every `step`-th of `count` positions, from `first` on.
template <typename index_t>
FASTCONV_INLINE index_t every(index_t count, index_t step, index_t first) {
  return max_of(index_t(0), ceil_div(count - first, step));
}

// One axis of a phase: the input pixels `pixel`, `pixel` + period, ... The first of them meets the
// output position `output` through the tap `tap`, the position before it through the tap
// `tap + stride`, and so on. The period is the number of phases: stride * tiles, or all pixels.
template <typename index_t>
struct BasicTiledPhase {
  index_t pixel, pixels, tap, taps, output;
};
using TiledPhase = BasicTiledPhase<int64_t>;

template <typename index_t>
FASTCONV_INLINE BasicTiledPhase<index_t> tiled_phase_of(const BasicWindow<index_t>& w,
                                                        index_t period, index_t pixel) {
  const index_t tap = (pixel + w.padding) % w.stride;
  return {pixel, every(w.input, period, pixel), tap, every(w.kernel, w.stride, tap),
          (pixel + w.padding - tap) / w.stride};
}

// The weights in the order of the phases: [phase down][phase across][tap][tap][o][c], with the most
// taps that a phase can have.
struct PhaseOrder {
  int64_t phases_h, phases_w, taps_h, taps_w, filters, channels;

  FASTCONV_HOST_DEVICE int64_t tap_size() const { return filters * channels; }
  FASTCONV_HOST_DEVICE int64_t phase_size() const { return taps_h * taps_w * tap_size(); }
};

FASTCONV_INLINE PhaseOrder phase_order(const TiledConv2d& p) {
  return {min_of(p.tiles_h * p.conv.h.stride, p.conv.h.input),
          min_of(p.tiles_w * p.conv.w.stride, p.conv.w.input),
          ceil_div(p.conv.h.kernel, p.conv.h.stride),
          ceil_div(p.conv.w.kernel, p.conv.w.stride),
          p.conv.groups * p.conv.out_channels,
          p.conv.in_channels};
}

// Where the tap (r, s) of a phase stands in tile after tile of (O, C, kh, kw) weights: the element
// of its first filter and channel.
FASTCONV_INLINE int64_t tap_of_phase(const TiledConv2d& p, const TiledPhase& down,
                                     const TiledPhase& across, int64_t r, int64_t s) {
  const int64_t i = (down.output - r) - floor_div(down.output - r, p.tiles_h) * p.tiles_h;
  const int64_t j = (across.output - s) - floor_div(across.output - s, p.tiles_w) * p.tiles_w;
  return (i * p.tiles_w + j) * p.tile_weights() +
         (down.tap + r * p.conv.h.stride) * p.conv.w.kernel + across.tap + s * p.conv.w.stride;
}

}  // namespace fastconv
