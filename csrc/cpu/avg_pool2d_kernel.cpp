// output[n,c,ph,pw] = sum over taps (r,s) of input[n,c, ph*stride+r-padding, likewise w] / divisor
// grad_input[n,c,h,w] = sum over the windows (ph,pw) that cover (h,w) of grad_output / divisor
//
// Sums run down the columns of a window first, then across them, in both memory formats: so both
// give the same bits.
//
// channels_last: one vector holds kLanes channels of one pixel. contiguous: the rows of a window
// are added to one line, padding and all, from which the windows are then added up; backward, the
// same two steps the other way.
#include "cpu/avg_pool2d.h"
#include "cpu/buffer.h"
#include "cpu/rows.h"

namespace fastconv {
namespace FASTCONV_ISA {

// Divisors of the windows of row ph.
template <typename acc_t>
static void fill_divisors(const AvgPool2d& p, int64_t ph, acc_t* divisors) {
  for (int64_t pw = 0; pw < p.pool.w.output; ++pw) divisors[pw] = acc_t(p.divisor(ph, pw));
}

template <typename scalar_t>
static void pool_row_channels_last(const scalar_t* image, scalar_t* output, const AvgPool2d& avg,
                                   int64_t ph) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const Pool2d& p = avg.pool;
  const int64_t r0 = p.h.first_tap(ph), r1 = p.h.end_tap(ph), y0 = p.h.start(ph);
  for (int64_t pw = 0; pw < p.w.output; ++pw) {
    const int64_t s0 = p.w.first_tap(pw), s1 = p.w.end_tap(pw), x0 = p.w.start(pw);
    const vec_t<acc_t> divisor = splat(acc_t(avg.divisor(ph, pw)));
    for (int64_t c = 0; c < p.channels; c += kLanes) {
      const int n = int(min_of(kLanes, p.channels - c));
      vec_t<acc_t> sum{};
      for (int64_t s = s0; s < s1; ++s) {
        vec_t<acc_t> column{};
        for (int64_t r = r0; r < r1; ++r) {
          column += load_n(image + ((y0 + r) * p.w.input + x0 + s) * p.channels + c, n);
        }
        sum += column;
      }
      store_n(sum / divisor, output + pw * p.channels + c, n);
    }
  }
}

template <typename scalar_t, typename acc_t>
static void pool_row(const scalar_t* plane, scalar_t* output, const AvgPool2d& avg, int64_t ph,
                     acc_t* line, acc_t* sums, acc_t* divisors) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const Pool2d& p = avg.pool;
  const int64_t r0 = p.h.first_tap(ph), r1 = p.h.end_tap(ph);
  const scalar_t* rows = plane + p.h.start(ph) * p.w.input;
  for (int64_t x = 0; x < p.w.input; x += kLanes) {
    const int n = int(min_of(kLanes, p.w.input - x));
    vec_t<acc_t> column{};
    for (int64_t r = r0; r < r1; ++r) column += load_n(rows + r * p.w.input + x, n);
    store_n(column, line + p.w.padding + x, n);
  }
  memset(sums, 0, p.w.output * sizeof(acc_t));
  for (int64_t s = 0; s < p.w.kernel; ++s) add_every(line + s, p.w.stride, sums, p.w.output);
  fill_divisors(avg, ph, divisors);
  for (int64_t pw = 0; pw < p.w.output; ++pw) sums[pw] /= divisors[pw];
  write_row(sums, output, p.w.output);
}

template <typename scalar_t>
void avg_pool2d_forward(const scalar_t* input, scalar_t* output, const AvgPool2d& avg,
                        int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const Pool2d& p = avg.pool;
  const int64_t in_plane = p.h.input * p.w.input, out_plane = p.h.output * p.w.output;
  if (p.channels_last) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / p.h.output, ph = unit % p.h.output;
      pool_row_channels_last(input + n * in_plane * p.channels,
                             output + unit * p.w.output * p.channels, avg, ph);
    }
    return;
  }
  Buffer<acc_t> line(padded_width(p.w)), sums(p.w.output), divisors(p.w.output);
  for (int64_t unit = begin; unit < end; ++unit) {
    for (int64_t ph = 0; ph < p.h.output; ++ph) {
      pool_row(input + unit * in_plane, output + unit * out_plane + ph * p.w.output, avg, ph,
               line.data(), sums.data(), divisors.data());
    }
  }
}

template <typename scalar_t>
static void spread_row_channels_last(const scalar_t* grad_output, scalar_t* grad_input,
                                     const AvgPool2d& avg, int64_t h) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const Pool2d& p = avg.pool;
  const int64_t ph0 = p.h.first_output(h), ph1 = p.h.end_output(h);
  for (int64_t w = 0; w < p.w.input; ++w) {
    const int64_t pw0 = p.w.first_output(w), pw1 = p.w.end_output(w);
    for (int64_t c = 0; c < p.channels; c += kLanes) {
      const int n = int(min_of(kLanes, p.channels - c));
      vec_t<acc_t> sum{};
      for (int64_t pw = pw0; pw < pw1; ++pw) {
        vec_t<acc_t> column{};
        for (int64_t ph = ph0; ph < ph1; ++ph) {
          const scalar_t* at = grad_output + (ph * p.w.output + pw) * p.channels + c;
          column += load_n(at, n) / splat(acc_t(avg.divisor(ph, pw)));
        }
        sum += column;
      }
      store_n(sum, grad_input + w * p.channels + c, n);
    }
  }
}

template <typename scalar_t, typename acc_t>
static void spread_row(const scalar_t* grad_output, scalar_t* grad_input, const AvgPool2d& avg,
                       int64_t h, acc_t* line, acc_t* sums, acc_t* divisors) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const Pool2d& p = avg.pool;
  memset(sums, 0, p.w.output * sizeof(acc_t));
  for (int64_t ph = p.h.first_output(h); ph < p.h.end_output(h); ++ph) {
    fill_divisors(avg, ph, divisors);
    for (int64_t pw = 0; pw < p.w.output; pw += kLanes) {
      const int n = int(min_of(kLanes, p.w.output - pw));
      const vec_t<acc_t> grad = load_n(grad_output + ph * p.w.output + pw, n);
      store_n(load_n(sums + pw, n) + grad / load(divisors + pw), sums + pw, n);
    }
  }
  memset(line, 0, padded_width(p.w) * sizeof(acc_t));
  // The last tap first: so each element adds its windows from left to right.
  for (int64_t s = p.w.kernel - 1; s >= 0; --s) {
    add_to_every(sums, p.w.stride, line + s, p.w.output);
  }
  write_row(line + p.w.padding, grad_input, p.w.input);
}

template <typename scalar_t>
void avg_pool2d_backward(const scalar_t* grad_output, scalar_t* grad_input, const AvgPool2d& avg,
                         int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const Pool2d& p = avg.pool;
  const int64_t in_plane = p.h.input * p.w.input, out_plane = p.h.output * p.w.output;
  if (p.channels_last) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / p.h.input, h = unit % p.h.input;
      spread_row_channels_last(grad_output + n * out_plane * p.channels,
                               grad_input + unit * p.w.input * p.channels, avg, h);
    }
    return;
  }
  constexpr int kLanes = Vec<acc_t>::kLanes;
  Buffer<acc_t> line(padded_width(p.w)), sums(p.w.output), divisors(p.w.output + kLanes);
  for (int64_t unit = begin; unit < end; ++unit) {
    for (int64_t h = 0; h < p.h.input; ++h) {
      spread_row(grad_output + unit * out_plane, grad_input + unit * in_plane + h * p.w.input, avg,
                 h, line.data(), sums.data(), divisors.data());
    }
  }
}

#define INSTANTIATE(scalar_t)                                                             \
  template void avg_pool2d_forward(const scalar_t*, scalar_t*, const AvgPool2d&, int64_t, \
                                   int64_t);                                              \
  template void avg_pool2d_backward(const scalar_t*, scalar_t*, const AvgPool2d&, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
