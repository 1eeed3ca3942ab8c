// output[n,c,h,w] = sum (accumulate) or last in row order (overwrite) of pooled[n,c,ph,pw] over
// the windows (ph,pw) whose switch points at (h,w); 0 where none does.
//
// Accumulating is the exact adjoint of max pooling, so it is also max_pool2d's backward.
//
// Every unpooled element gathers from the few windows that cover it, in row order: no atomics, the
// same sum whatever the number of threads, and the same in both memory formats. A switch that
// points outside its window or into the padding matches no element.
#include "cpu/max_unpool2d.h"
#include "cpu/vec.h"

namespace fastconv {
namespace FASTCONV_ISA {

template <typename scalar_t>
static void unpool_row_channels_last(const scalar_t* pooled, const uint8_t* switches,
                                     scalar_t* output, const Pool2d& p, bool overwrite, int64_t h) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const int64_t ph0 = p.h.first_output(h), ph1 = p.h.end_output(h);
  for (int64_t w = 0; w < p.w.input; ++w) {
    const int64_t pw0 = p.w.first_output(w), pw1 = p.w.end_output(w);
    for (int64_t c = 0; c < p.channels; c += kLanes) {
      const int n = int(min_of(kLanes, p.channels - c));
      vec_t<acc_t> sum{};
      for (int64_t ph = ph0; ph < ph1; ++ph) {
        const int64_t r = p.h.tap(ph, h);
        if (r < 0) continue;
        for (int64_t pw = pw0; pw < pw1; ++pw) {
          const int64_t s = p.w.tap(pw, w);
          if (s < 0) continue;
          const int64_t at = (ph * p.w.output + pw) * p.channels + c;
          const auto hit =
              load_bytes_n<acc_t>(switches + at, n) == int_vec_t<acc_t>{} + int(r * p.w.kernel + s);
          const vec_t<acc_t> value = load_n(pooled + at, n);
          sum = hit ? (overwrite ? value : sum + value) : sum;
        }
      }
      scalar_t* to = output + w * p.channels + c;
      store_n(sum, to, n);
    }
  }
}

template <typename scalar_t>
static void unpool_plane(const scalar_t* pooled, const uint8_t* switches, scalar_t* output,
                         const Pool2d& p, bool overwrite) {
  using acc_t = accumulate_t<scalar_t>;
  for (int64_t h = 0; h < p.h.input; ++h) {
    const int64_t ph0 = p.h.first_output(h), ph1 = p.h.end_output(h);
    for (int64_t w = 0; w < p.w.input; ++w) {
      const int64_t pw0 = p.w.first_output(w), pw1 = p.w.end_output(w);
      acc_t sum = 0;
      for (int64_t ph = ph0; ph < ph1; ++ph) {
        const int64_t r = p.h.tap(ph, h);
        for (int64_t pw = pw0; pw < pw1; ++pw) {
          const int64_t s = p.w.tap(pw, w);
          const int64_t at = ph * p.w.output + pw;
          if (r >= 0 && s >= 0 && switches[at] == r * p.w.kernel + s) {
            sum = overwrite ? to_acc(pooled[at]) : sum + to_acc(pooled[at]);
          }
        }
      }
      from_acc(sum, output[h * p.w.input + w]);
    }
  }
}

template <typename scalar_t>
void max_unpool2d_forward(const scalar_t* pooled, const uint8_t* switches, scalar_t* output,
                          const Pool2d& p, bool overwrite, int64_t begin, int64_t end) {
  const int64_t in_plane = p.h.input * p.w.input, out_plane = p.h.output * p.w.output;
  for (int64_t unit = begin; unit < end; ++unit) {
    if (p.channels_last) {
      const int64_t n = unit / p.h.input, h = unit % p.h.input;
      const int64_t i = n * out_plane * p.channels, o = unit * p.w.input * p.channels;
      unpool_row_channels_last(pooled + i, switches + i, output + o, p, overwrite, h);
    } else {
      const int64_t i = unit * out_plane;
      unpool_plane(pooled + i, switches + i, output + unit * in_plane, p, overwrite);
    }
  }
}

// One element of one image or plane, addressed by strides: pooled (ph, pw) at
// (ph * w.output + pw) * step, unpooled likewise.
template <typename scalar_t>
static scalar_t take_through_switch(const scalar_t* grad_output, const uint8_t* switches,
                                    const Pool2d& p, bool overwrite, int64_t step, int64_t ph,
                                    int64_t pw) {
  scalar_t zero;
  from_acc(accumulate_t<scalar_t>(0), zero);
  const int64_t which = switches[(ph * p.w.output + pw) * step];
  const int64_t h = p.h.start(ph) + which / p.w.kernel * p.h.dilation;
  const int64_t w = p.w.start(pw) + which % p.w.kernel * p.w.dilation;
  const bool inside =
      which < p.h.kernel * p.w.kernel && h >= 0 && h < p.h.input && w >= 0 && w < p.w.input;
  if (!inside) return zero;
  if (overwrite) {  // a later window that points at the same element has replaced this one
    for (int64_t qh = ph; qh < p.h.end_output(h); ++qh) {
      const int64_t r = p.h.tap(qh, h);
      for (int64_t qw = qh == ph ? pw + 1 : p.w.first_output(w); qw < p.w.end_output(w); ++qw) {
        const int64_t s = p.w.tap(qw, w);
        if (r >= 0 && s >= 0 && switches[(qh * p.w.output + qw) * step] == r * p.w.kernel + s) {
          return zero;
        }
      }
    }
  }
  return grad_output[(h * p.w.input + w) * step];
}

template <typename scalar_t>
void max_unpool2d_backward(const scalar_t* grad_output, const uint8_t* switches,
                           scalar_t* grad_pooled, const Pool2d& p, bool overwrite, int64_t begin,
                           int64_t end) {
  const int64_t in_plane = p.h.input * p.w.input, out_plane = p.h.output * p.w.output;
  for (int64_t unit = begin; unit < end; ++unit) {
    if (p.channels_last) {
      const int64_t n = unit / p.h.output, ph = unit % p.h.output, step = p.channels;
      const scalar_t* from = grad_output + n * in_plane * step;
      const uint8_t* sw = switches + n * out_plane * step;
      scalar_t* to = grad_pooled + unit * p.w.output * step;
      for (int64_t pw = 0; pw < p.w.output; ++pw) {
        for (int64_t c = 0; c < step; ++c) {
          to[pw * step + c] = take_through_switch(from + c, sw + c, p, overwrite, step, ph, pw);
        }
      }
    } else {
      const scalar_t* from = grad_output + unit * in_plane;
      const uint8_t* sw = switches + unit * out_plane;
      scalar_t* to = grad_pooled + unit * out_plane;
      for (int64_t ph = 0; ph < p.h.output; ++ph) {
        for (int64_t pw = 0; pw < p.w.output; ++pw) {
          to[ph * p.w.output + pw] = take_through_switch(from, sw, p, overwrite, 1, ph, pw);
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
