// The problem of local_response_norm, shared by host and device.
#pragma once

#include <cstdint>

#include "core/window.h"

namespace fastconv {

// y = x * (k + alpha * sum of x^2 over the window)^-beta on (batch, maps, height, width). The
// window of position i is [i - before, i + after]: along the maps, or (within) along both axes of
// one map. Positions outside count as 0.
struct ResponseNorm {
  int64_t batch, maps, height, width;
  int64_t before, after;
  double alpha, beta, k;
  bool within, channels_last;

  FASTCONV_HOST_DEVICE int64_t pixels() const { return height * width; }
};

}  // namespace fastconv
