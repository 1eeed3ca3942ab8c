// What an average over a window is divided by: torch's rules.
#pragma once

#include "core/window.h"

namespace fastconv {

template <typename index_t>
struct BasicAvgPool2d {
  BasicPool2d<index_t> pool;
  bool count_include_pad;
  int64_t divisor_override;  // 0: count the elements

  FASTCONV_HOST_DEVICE int64_t divisor(index_t ph, index_t pw) const {
    return divisor_override ? divisor_override : int64_t(counted(pool.h, ph)) * counted(pool.w, pw);
  }

 private:
  // Padding counts where count_include_pad says so; what hangs over it by ceil_mode never does.
  FASTCONV_HOST_DEVICE index_t counted(const BasicWindow<index_t>& axis, index_t o) const {
    if (!count_include_pad) return axis.end_tap(o) - axis.first_tap(o);
    return min_of(axis.kernel, axis.input + axis.padding - axis.start(o));
  }
};
using AvgPool2d = BasicAvgPool2d<int64_t>;
using AvgPool2d32 = BasicAvgPool2d<int32_t>;

FASTCONV_INLINE AvgPool2d32 narrow(const AvgPool2d& p) {
  return {narrow(p.pool), p.count_include_pad, p.divisor_override};
}

}  // namespace fastconv
