// output[n,c,ph,pw] = max over taps (r,s) of input[n, c, ph*stride+r*dilation-padding, likewise w]
// switches[n,c,ph,pw] = r * kernel_w + s of the first maximum, row by row
//
// switches may be null: then they are not recorded.
//
// As in torch, a NaN is larger than everything and the last NaN of a window is the one recorded;
// a window of -inf records its first element.
//
// channels_last: one vector holds kLanes channels of one output pixel, so that each tap is one
// load, one comparison and two selects. contiguous: one vector holds kLanes neighbouring windows of
// a row; those that reach over its ends are taken one by one.
#include <limits>

#include "cpu/max_pool2d.h"
#include "cpu/pool_rows.h"
#include "cpu/rows.h"
#include "cpu/vec.h"

namespace fastconv {
namespace FASTCONV_ISA {

template <typename scalar_t>
static void pool_row_channels_last(const scalar_t* image, scalar_t* output, uint8_t* switches,
                                   const Pool2d& p, int64_t ph) {
  const int64_t row = p.w.input * p.channels;
  const scalar_t* rows[256];
  for (int64_t r = p.h.first_tap(ph); r < p.h.end_tap(ph); ++r) {
    rows[r] = image + (p.h.start(ph) + r * p.h.dilation) * row;
  }
  // Prefetches the windows below, whose rows come from memory.
  max_pool_row_channels_last(rows, output, switches, p, ph, p.h.stride * row);
}

template <typename scalar_t>
static void pool_window(const scalar_t* plane, scalar_t* output, uint8_t* switches, const Pool2d& p,
                        int64_t ph, int64_t pw) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t r0 = p.h.first_tap(ph), s0 = p.w.first_tap(pw), s1 = p.w.end_tap(pw);
  acc_t best = -std::numeric_limits<acc_t>::infinity();
  int64_t which = r0 * p.w.kernel + s0;
  for (int64_t r = r0; r < p.h.end_tap(ph); ++r) {
    const scalar_t* row = plane + (p.h.start(ph) + r * p.h.dilation) * p.w.input + p.w.start(pw);
    for (int64_t s = s0; s < s1; ++s) {
      const acc_t value = to_acc(row[s * p.w.dilation]);
      if (value > best || value != value) {
        best = value;
        which = r * p.w.kernel + s;
      }
    }
  }
  from_acc(best, output[ph * p.w.output + pw]);
  if (switches) switches[ph * p.w.output + pw] = uint8_t(which);
}

// Elements `step` apart: n <= kLanes of them, and the last again in the lanes that are left.
template <typename scalar_t, typename step_t, typename lanes_t>
static inline vec_t<accumulate_t<scalar_t>> load_every(const scalar_t* p, step_t step, lanes_t n) {
  constexpr int kLanes = Vec<accumulate_t<scalar_t>>::kLanes;
  scalar_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = p[(i < n ? i : n - 1) * step];
  return load(lanes);
}

template <typename scalar_t, typename step_t, typename lanes_t>
static inline void pool_windows(const scalar_t* plane, scalar_t* output, uint8_t* switches,
                                const Pool2d& p, step_t stride, int64_t ph, int64_t pw, lanes_t n) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t r0 = p.h.first_tap(ph), r1 = p.h.end_tap(ph);
  vec_t<acc_t> best = splat(-std::numeric_limits<acc_t>::infinity());
  int_vec_t<acc_t> which = int_vec_t<acc_t>{} + int(r0 * p.w.kernel);
  for (int64_t r = r0; r < r1; ++r) {
    const scalar_t* row = plane + (p.h.start(ph) + r * p.h.dilation) * p.w.input + p.w.start(pw);
    for (int64_t s = 0; s < p.w.kernel; ++s) {
      const vec_t<acc_t> value = load_every(row + s * p.w.dilation, stride, n);
      const auto better = (value > best) | (value != value);
      best = better ? value : best;
      which = better ? int_vec_t<acc_t>{} + int(r * p.w.kernel + s) : which;
    }
  }
  const int64_t o = ph * p.w.output + pw;
  store_n(best, output + o, n);
  if (switches) store_bytes_n<acc_t>(which, switches + o, n);
}

template <typename scalar_t>
static void pool_plane(const scalar_t* plane, scalar_t* output, uint8_t* switches,
                       const Pool2d& p) {
  // Windows [inner, outer) lie inside the row.
  const int64_t inner = min_of(p.w.output, ceil_div(p.w.padding, p.w.stride));
  const int64_t room = p.w.input + p.w.padding - p.w.dilation * (p.w.kernel - 1) - 1;
  const int64_t outer = max_of(inner, min_of(p.w.output, floor_div(room, p.w.stride) + 1));
  with_step(p.w.stride, [&](auto stride) {
    for (int64_t ph = 0; ph < p.h.output; ++ph) {
      for (int64_t pw = 0; pw < inner; ++pw) pool_window(plane, output, switches, p, ph, pw);
      for_each_vector<accumulate_t<scalar_t>>(outer - inner, [&](int64_t i, auto n) {
        pool_windows(plane, output, switches, p, stride, ph, inner + i, n);
      });
      for (int64_t pw = outer; pw < p.w.output; ++pw) {
        pool_window(plane, output, switches, p, ph, pw);
      }
    }
  });
}

template <typename scalar_t>
void max_pool2d_forward(const scalar_t* input, scalar_t* output, uint8_t* switches, const Pool2d& p,
                        int64_t begin, int64_t end) {
  const int64_t in_plane = p.h.input * p.w.input, out_plane = p.h.output * p.w.output;
  for (int64_t unit = begin; unit < end; ++unit) {
    if (p.channels_last) {
      const int64_t n = unit / p.h.output, ph = unit % p.h.output;
      const int64_t o = unit * p.w.output * p.channels;
      pool_row_channels_last(input + n * in_plane * p.channels, output + o,
                             switches ? switches + o : nullptr, p, ph);
    } else {
      const int64_t o = unit * out_plane;
      pool_plane(input + unit * in_plane, output + o, switches ? switches + o : nullptr, p);
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
