// What an average over a window is divided by: torch's rules.
#pragma once

#include "core/window.h"

namespace fastconv {

struct AvgPool2d {
  Pool2d pool;
  bool count_include_pad;
  int64_t divisor_override;  // 0: count the elements

  FASTCONV_HOST_DEVICE int64_t divisor(int64_t ph, int64_t pw) const {
    return divisor_override ? divisor_override : counted(pool.h, ph) * counted(pool.w, pw);
  }

 private:
  // Padding counts where count_include_pad says so; what hangs over it by ceil_mode never does.
  FASTCONV_HOST_DEVICE int64_t counted(const Window& axis, int64_t o) const {
    if (!count_include_pad) return axis.end_tap(o) - axis.first_tap(o);
    return min_of(axis.kernel, axis.input + axis.padding - axis.start(o));
  }
};

}  // namespace fastconv
