// A maxout problem on (batch, maps.input, pixels): groups of maps.kernel maps, maps.stride apart.
// A switch is the position inside the group.
#pragma once

#include "core/window.h"

namespace fastconv {

template <typename index_t>
struct BasicMaxout {
  index_t batch, pixels;
  BasicWindow<index_t> maps;  // no padding, no dilation
  bool maps_last;             // memory is (batch, pixels, maps)
};
using Maxout = BasicMaxout<int64_t>;
using Maxout32 = BasicMaxout<int32_t>;

FASTCONV_INLINE Maxout32 narrow(const Maxout& p) {
  return {int32_t(p.batch), int32_t(p.pixels), narrow(p.maps), p.maps_last};
}

}  // namespace fastconv
