// A maxout problem on (batch, maps.input, pixels): groups of maps.kernel maps, maps.stride apart.
// A switch is the position inside the group.
#pragma once

#include "core/window.h"

namespace fastconv {

struct Maxout {
  int64_t batch, pixels;
  Window maps;     // no padding, no dilation
  bool maps_last;  // memory is (batch, pixels, maps)
};

}  // namespace fastconv
