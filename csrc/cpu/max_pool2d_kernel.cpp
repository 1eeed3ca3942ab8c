// output[n,c,ph,pw] = max over taps (r,s) of input[n, c, ph*stride+r*dilation-padding, likewise w]
// switches[n,c,ph,pw] = r * kernel_w + s of the first maximum, row by row
//
// As in torch, a NaN is larger than everything and the last NaN of a window is the one recorded;
// a window of -inf records its first element.
//
// channels_last: one vector holds kLanes channels of one output pixel, so that each tap is one
// load, one comparison and two selects. contiguous: one output element at a time.
#include <limits>

#include "cpu/max_pool2d.h"
#include "cpu/vec.h"

namespace fastconv {
namespace FASTCONV_ISA {

template <typename scalar_t>
static void pool_row_channels_last(const scalar_t* image, scalar_t* output, uint8_t* switches,
                                   const Pool2d& p, int64_t ph) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t r0 = p.h.first_tap(ph), r1 = p.h.end_tap(ph), y0 = p.h.start(ph);
  for (int64_t pw = 0; pw < p.w.output; ++pw) {
    const int64_t s0 = p.w.first_tap(pw), s1 = p.w.end_tap(pw), x0 = p.w.start(pw);
    const int first = int(r0 * p.w.kernel + s0);
    for_each_vector<acc_t>(p.channels, [&](int64_t c, auto n) {
      vec_t<acc_t> best = splat(-std::numeric_limits<acc_t>::infinity());
      int_vec_t<acc_t> which = int_vec_t<acc_t>{} + first;
      for (int64_t r = r0; r < r1; ++r) {
        const scalar_t* row = image + ((y0 + r * p.h.dilation) * p.w.input) * p.channels + c;
        for (int64_t s = s0; s < s1; ++s) {
          const scalar_t* at = row + (x0 + s * p.w.dilation) * p.channels;
          const vec_t<acc_t> value = load_n(at, n);
          const auto better = (value > best) | (value != value);
          best = better ? value : best;
          which = better ? int_vec_t<acc_t>{} + int(r * p.w.kernel + s) : which;
        }
      }
      const int64_t o = pw * p.channels + c;
      store_n(best, output + o, n);
      store_bytes_n<acc_t>(which, switches + o, n);
    });
  }
}

template <typename scalar_t>
static void pool_plane(const scalar_t* plane, scalar_t* output, uint8_t* switches,
                       const Pool2d& p) {
  using acc_t = accumulate_t<scalar_t>;
  for (int64_t ph = 0; ph < p.h.output; ++ph) {
    const int64_t r0 = p.h.first_tap(ph), r1 = p.h.end_tap(ph), y0 = p.h.start(ph);
    for (int64_t pw = 0; pw < p.w.output; ++pw) {
      const int64_t s0 = p.w.first_tap(pw), s1 = p.w.end_tap(pw), x0 = p.w.start(pw);
      acc_t best = -std::numeric_limits<acc_t>::infinity();
      int64_t which = r0 * p.w.kernel + s0;
      for (int64_t r = r0; r < r1; ++r) {
        const scalar_t* row = plane + (y0 + r * p.h.dilation) * p.w.input + x0;
        for (int64_t s = s0; s < s1; ++s) {
          const acc_t value = to_acc(row[s * p.w.dilation]);
          const bool better = (value > best) | (value != value);
          best = better ? value : best;
          which = better ? r * p.w.kernel + s : which;
        }
      }
      from_acc(best, output[ph * p.w.output + pw]);
      switches[ph * p.w.output + pw] = uint8_t(which);
    }
  }
}

template <typename scalar_t>
void max_pool2d_forward(const scalar_t* input, scalar_t* output, uint8_t* switches, const Pool2d& p,
                        int64_t begin, int64_t end) {
  const int64_t in_plane = p.h.input * p.w.input, out_plane = p.h.output * p.w.output;
  for (int64_t unit = begin; unit < end; ++unit) {
    if (p.channels_last) {
      const int64_t n = unit / p.h.output, ph = unit % p.h.output;
      const int64_t o = unit * p.w.output * p.channels;
      pool_row_channels_last(input + n * in_plane * p.channels, output + o, switches + o, p, ph);
    } else {
      const int64_t o = unit * out_plane;
      pool_plane(input + unit * in_plane, output + o, switches + o, p);
    }
  }
}

#define INSTANTIATE(scalar_t)                                                                    \
  template void max_pool2d_forward(const scalar_t*, scalar_t*, uint8_t*, const Pool2d&, int64_t, \
                                   int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
