// The problem of conv2d, shared by host and device.
#pragma once

#include <cstdint>
#include <numeric>

#include "core/window.h"

namespace fastconv {

// Input (batch, groups * in_channels, h.input, w.input), weight (groups * out_channels,
// in_channels, h.kernel, w.kernel), output (batch, groups * out_channels, h.output, w.output).
// The windows hold the padding at the top and left; what stands at the bottom and right shows in
// their output sizes alone.
struct Conv2d {
  int64_t batch, groups, in_channels, out_channels;  // channels of one group
  Window h, w;
};

// The input's gradient is gathered:
//
//   grad_input[q] = sum over taps t of weight[t] * grad_output[(q + padding - t * dilation) /
//   stride]
//
// Only taps for which the division leaves no rest count, and those are the same for all input
// positions with the same q mod stride. So it is one product for each of these phases, over the
// phase's own taps.
//
// One axis of a phase: input positions phase, phase + stride, ... and the taps that reach them,
// tap, tap + tap_step, ...; the first position sees the output position `output` through the first
// tap, and the position before it by `output_step` through the next.
struct Phase {
  int64_t pixel, pixels, tap, tap_step, taps, output, output_step;
};

static inline Phase phase_of(const Window& w, int64_t phase) {
  const int64_t common = std::gcd(w.stride, w.dilation);
  Phase p{
      phase, ceil_div(w.input - phase, w.stride), 0, w.stride / common, 0, 0, w.dilation / common};
  while (p.tap < min_of(w.kernel, p.tap_step) &&
         (phase + w.padding - p.tap * w.dilation) % w.stride != 0) {
    ++p.tap;
  }
  if (p.tap < min_of(w.kernel, p.tap_step)) p.taps = ceil_div(w.kernel - p.tap, p.tap_step);
  p.output = (phase + w.padding - p.tap * w.dilation) / w.stride;
  return p;
}

}  // namespace fastconv
