// output[n,c,h,w] = sum (accumulate) or last in row order (overwrite) of pooled[n,c,ph,pw] over
// the windows (ph,pw) whose switch points at (h,w); 0 where none does.
//
// Accumulating is the exact adjoint of max pooling, so it is also max_pool2d's backward.
//
// channels_last: one vector holds kLanes channels of one unpooled pixel, which gathers from the few
// windows that cover it. contiguous: the windows of a plane are scattered one after the other, all
// by one thread. Either way each element receives its values in row order of the windows: the same
// sum whatever the number of threads, and the same in both memory formats. A switch that points
// outside its window or into the padding goes nowhere.
#include "cpu/buffer.h"
#include "cpu/max_unpool2d.h"
#include "cpu/pool_rows.h"

namespace fastconv {
namespace FASTCONV_ISA {

static inline bool inside(const Pool2d& p, int64_t h, int64_t w) {
  return h >= 0 && h < p.h.input && w >= 0 && w < p.w.input;
}

template <bool overwrite, typename scalar_t>
static void unpool_plane(const scalar_t* pooled, const uint8_t* switches, scalar_t* output,
                         const Pool2d& p, const SwitchOffsets& offsets,
                         accumulate_t<scalar_t>* sums) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t size = p.h.input * p.w.input;
  memset(sums, 0, size * sizeof(acc_t));
  for (int64_t ph = 0; ph < p.h.output; ++ph) {
    for (int64_t pw = 0; pw < p.w.output; ++pw, ++pooled, ++switches) {
      const int64_t h = p.h.start(ph) + offsets.h[*switches];
      const int64_t w = p.w.start(pw) + offsets.w[*switches];
      if (!inside(p, h, w)) continue;
      acc_t& sum = sums[h * p.w.input + w];
      sum = overwrite ? to_acc(*pooled) : sum + to_acc(*pooled);
    }
  }
  for_each_vector<acc_t>(size,
                         [&](int64_t i, auto n) { store_n(load_n(sums + i, n), output + i, n); });
}

template <bool overwrite, typename scalar_t>
static void unpool(const scalar_t* pooled, const uint8_t* switches, scalar_t* output,
                   const Pool2d& p, int64_t begin, int64_t end) {
  const int64_t in_plane = p.h.input * p.w.input, out_plane = p.h.output * p.w.output;
  if (p.channels_last) {
    const bool is_large = is_large_result(p.input_elements() * int64_t(sizeof(scalar_t)));
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / p.h.input, h = unit % p.h.input;
      const int64_t i = n * out_plane * p.channels, o = unit * p.w.input * p.channels;
      unpool_row_channels_last<overwrite>(pooled + i, switches + i, output + o, p, h, 0, p.w.input,
                                          is_large);
    }
    if (is_large) finish_stores_past_caches();
  } else {
    const SwitchOffsets offsets(p);
    Buffer<accumulate_t<scalar_t>> sums(in_plane);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t i = unit * out_plane;
      unpool_plane<overwrite>(pooled + i, switches + i, output + unit * in_plane, p, offsets,
                              sums.data());
    }
  }
}

template <typename scalar_t>
void max_unpool2d_forward(const scalar_t* pooled, const uint8_t* switches, scalar_t* output,
                          const Pool2d& p, bool overwrite, int64_t begin, int64_t end) {
  if (overwrite) return unpool<true>(pooled, switches, output, p, begin, end);
  unpool<false>(pooled, switches, output, p, begin, end);
}

// Whether a window after (ph, pw) in row order also points at (h, w).
static bool is_overwritten(const uint8_t* switches, const Pool2d& p, int64_t step, int64_t ph,
                           int64_t pw, int64_t h, int64_t w) {
  for (int64_t qh = ph; qh < p.h.end_output(h); ++qh) {
    const int64_t r = p.h.tap(qh, h);
    for (int64_t qw = qh == ph ? pw + 1 : p.w.first_output(w); qw < p.w.end_output(w); ++qw) {
      const int64_t s = p.w.tap(qw, w);
      if (r >= 0 && s >= 0 && switches[(qh * p.w.output + qw) * step] == r * p.w.kernel + s) {
        return true;
      }
    }
  }
  return false;
}

// One element of one image or plane, addressed by strides: pooled (ph, pw) at
// (ph * w.output + pw) * step, unpooled likewise.
template <typename scalar_t>
static scalar_t take_through_switch(const scalar_t* grad_output, const uint8_t* switches,
                                    const Pool2d& p, const SwitchOffsets& offsets, bool overwrite,
                                    int64_t step, int64_t ph, int64_t pw) {
  const uint8_t which = switches[(ph * p.w.output + pw) * step];
  const int64_t h = p.h.start(ph) + offsets.h[which], w = p.w.start(pw) + offsets.w[which];
  if (!inside(p, h, w) || (overwrite && is_overwritten(switches, p, step, ph, pw, h, w))) {
    scalar_t zero;
    from_acc(accumulate_t<scalar_t>(0), zero);
    return zero;
  }
  return grad_output[(h * p.w.input + w) * step];
}

template <typename scalar_t>
void max_unpool2d_backward(const scalar_t* grad_output, const uint8_t* switches,
                           scalar_t* grad_pooled, const Pool2d& p, bool overwrite, int64_t begin,
                           int64_t end) {
  const int64_t in_plane = p.h.input * p.w.input, out_plane = p.h.output * p.w.output;
  const SwitchOffsets offsets(p);
  for (int64_t unit = begin; unit < end; ++unit) {
    if (p.channels_last) {
      const int64_t n = unit / p.h.output, ph = unit % p.h.output, step = p.channels;
      const scalar_t* from = grad_output + n * in_plane * step;
      const uint8_t* sw = switches + n * out_plane * step;
      scalar_t* to = grad_pooled + unit * p.w.output * step;
      for (int64_t pw = 0; pw < p.w.output; ++pw) {
        for (int64_t c = 0; c < step; ++c) {
          to[pw * step + c] =
              take_through_switch(from + c, sw + c, p, offsets, overwrite, step, ph, pw);
        }
      }
    } else {
      const scalar_t* from = grad_output + unit * in_plane;
      const uint8_t* sw = switches + unit * out_plane;
      scalar_t* to = grad_pooled + unit * out_plane;
      for (int64_t ph = 0; ph < p.h.output; ++ph) {
        for (int64_t pw = 0; pw < p.w.output; ++pw) {
          *to++ = take_through_switch(from, sw, p, offsets, overwrite, 1, ph, pw);
        }
      }
    }
  }
}

#define INSTANTIATE(scalar_t)                                                                    \
  template void max_unpool2d_forward(const scalar_t*, const uint8_t*, scalar_t*, const Pool2d&,  \
                                     bool, int64_t, int64_t);                                    \
  template void max_unpool2d_backward(const scalar_t*, const uint8_t*, scalar_t*, const Pool2d&, \
                                      bool, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
