// The problem of local_response_norm_max_pool2d, shared by host and device.
#pragma once

#include "core/response_norm.h"

namespace fastconv {

// Normalisation across maps and the max pool behind it: `pool` windows lie over the normalised map.
struct NormPool2d {
  ResponseNorm norm;
  Pool2d pool;
};

}  // namespace fastconv
