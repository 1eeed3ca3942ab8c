// The problem of conv2d, shared by host and device.
#pragma once

#include <cstdint>

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

}  // namespace fastconv
