// With a the elements of a window, those at or below 0 counted as 0, and p_i = a_i / sum a:
//   draw   output = a_l and switch = l, with l drawn from p as core/stochastic_pool.h says
//   mean   output = sum p_i a_i = sum a^2 / sum a
//          grad_input_i = sum over its windows of grad_output * (2 a_i - mean) / sum a  where a_i >
//          0
//
// The uniform number of output (n,c,ph,pw) is Philox of its index in (N,C,Ho,Wo) order.
//
// A vector holds kLanes outputs: channels of one pixel where memory is channels_last; else
// neighbours in a row, whose windows are laid out so that one tap of them all is one load. Both run
// the same operations lane by lane, so both formats draw the same bits. The few windows whose sum
// is out of the ordinary go through core/stochastic_pool.h one by one.
#include <limits>

#include "core/stochastic_pool.h"
#include "cpu/parts.h"
#include "cpu/rows.h"
#include "cpu/stochastic_pool2d.h"
#include "cpu/vec_philox.h"

namespace fastconv {
namespace FASTCONV_ISA {

// A strip: windows side by side, a vector's worth (Part = Whole) or less (Some). What differs among
// them is s0 and s1: channels of one pixel have them in common; of neighbours in a row, `window`
// has all columns, and taps outside the input load as 0, which changes neither a sum nor a draw.
template <typename scalar_t, class Part>
struct ChannelStrip {
  using acc_t = accumulate_t<scalar_t>;
  WindowElements<scalar_t> window;  // of lane 0
  Part part;

  int lanes() const { return lanes_of<acc_t>(part); }
  vec_t<acc_t> load_tap(int64_t r, int64_t s) const {
    return load_part(window.origin + r * window.row_step + s * window.column_step, part);
  }
  int_vec_t<acc_t> first_position() const {
    return int_vec_t<acc_t>{} + int(window.r0 * window.kernel_w + window.s0);
  }
  WindowElements<scalar_t> window_of(int lane) const {
    WindowElements<scalar_t> mine = window;
    mine.origin += lane;
    return mine;
  }
};

template <typename scalar_t>
struct RowStrip {
  using acc_t = accumulate_t<scalar_t>;
  WindowElements<scalar_t> window;  // of lane 0
  Some part;
  const Window& w;
  int64_t pw;
  const PhasedRows<acc_t>& rows;

  int lanes() const { return part.n; }
  vec_t<acc_t> load_tap(int64_t r, int64_t s) const { return load(rows.tap(r, s) + pw); }
  int_vec_t<acc_t> first_position() const {
    int_vec_t<acc_t> first = int_vec_t<acc_t>{} + int(window.r0 * window.kernel_w);
    if (w.start(pw) >= 0) return first;
    for (int i = 0; i < lanes(); ++i) first[i] += w.first_tap(pw + i);
    return first;
  }
  WindowElements<scalar_t> window_of(int lane) const {
    WindowElements<scalar_t> mine = window;
    mine.origin += lane * w.stride;
    mine.s0 = w.first_tap(pw + lane);
    mine.s1 = w.end_tap(pw + lane);
    return mine;
  }
};

// visit(strip, at, index, step) for the strips of the units [begin, end): the result of lane i goes
// to memory at `at + i`, and `index + i * step` is its logical index.
template <typename scalar_t, class Visit>
static void for_channel_strips(const scalar_t* input, const Pool2d& p, int64_t begin, int64_t end,
                               const Visit& visit) {
  const int64_t pixel = p.channels, row = p.w.input * pixel;
  const int64_t out_plane = p.h.output * p.w.output;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t n = unit / p.h.output, ph = unit % p.h.output;
    const scalar_t* rows = input + (n * p.h.input + p.h.start(ph)) * row;
    for (int64_t pw = 0; pw < p.w.output; ++pw) {
      WindowElements<scalar_t> window{};
      window.row_step = row;
      window.column_step = pixel;
      window.r0 = p.h.first_tap(ph);
      window.r1 = p.h.end_tap(ph);
      window.s0 = p.w.first_tap(pw);
      window.s1 = p.w.end_tap(pw);
      window.kernel_w = p.w.kernel;
      for_parts_apart<accumulate_t<scalar_t>>(p.channels, [&](int64_t c, auto part) {
        window.origin = rows + p.w.start(pw) * pixel + c;
        const int64_t index = (n * p.channels + c) * out_plane + ph * p.w.output + pw;
        visit(ChannelStrip<scalar_t, decltype(part)>{window, part},
              (unit * p.w.output + pw) * pixel + c, index, out_plane);
      });
    }
  }
}

template <typename scalar_t, class Visit>
static void for_row_strips(const scalar_t* input, const Pool2d& p, int64_t begin, int64_t end,
                           const Visit& visit) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  PhasedRows<acc_t> rows(p.w, p.h.kernel);
  for (int64_t unit = begin; unit < end; ++unit) {
    const scalar_t* plane = input + unit * p.h.input * p.w.input;
    for (int64_t ph = 0; ph < p.h.output; ++ph) {
      const scalar_t* first_row = plane + p.h.start(ph) * p.w.input;
      WindowElements<scalar_t> window{};
      window.row_step = p.w.input;
      window.column_step = 1;
      window.r0 = p.h.first_tap(ph);
      window.r1 = p.h.end_tap(ph);
      window.s1 = window.kernel_w = p.w.kernel;
      for (int64_t r = window.r0; r < window.r1; ++r) {
        read_row(first_row + r * p.w.input, rows.columns(r), p.w.input);
        rows.split(r);
      }
      for (int64_t pw = 0; pw < p.w.output; pw += kLanes) {
        const Some part{int(min_of(kLanes, p.w.output - pw))};
        const int64_t at = (unit * p.h.output + ph) * p.w.output + pw;
        window.origin = first_row + p.w.start(pw);
        visit(RowStrip<scalar_t>{window, part, p.w, pw, rows}, at, at, int64_t(1));
      }
    }
  }
}

template <typename scalar_t, class Visit>
static void for_strips(const scalar_t* input, const Pool2d& p, int64_t begin, int64_t end,
                       const Visit& visit) {
  if (p.channels_last) {
    for_channel_strips(input, p, begin, end, visit);
  } else {
    for_row_strips(input, p, begin, end, visit);
  }
}

// body(values, position) for every tap of a strip, row by row.
template <class Strip, class F>
static inline void for_taps(const Strip& strip, const F& body) {
  const auto& window = strip.window;
  for (int64_t r = window.r0; r < window.r1; ++r) {
    for (int64_t s = window.s0; s < window.s1; ++s) {
      body(strip.load_tap(r, s), int(r * window.kernel_w + s));
    }
  }
}

template <class Strip, typename scalar_t>
static inline void draw(const Strip& strip, const uint32_t* words, scalar_t* output,
                        uint8_t* switches) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const vec_t<acc_t> zero{};
  vec_t<acc_t> sum{};
  for_taps(strip, [&](vec_t<acc_t> a, int) { sum += a <= zero ? zero : a; });

  acc_t uniform[kLanes];
  for (int i = 0; i < kLanes; ++i) uniform[i] = acc_t(uniform01(words[i]));
  const vec_t<acc_t> threshold = load(uniform) * sum;
  vec_t<acc_t> value{}, before{};
  int_vec_t<acc_t> which = strip.first_position();
  for_taps(strip, [&](vec_t<acc_t> a, int position) {
    const auto positive = a > zero;
    const auto reached = positive & (before <= threshold);
    value = reached ? a : value;
    which = reached ? int_vec_t<acc_t>{} + position : which;
    before += positive ? a : zero;
  });

  const auto ordinary = sum <= splat(std::numeric_limits<acc_t>::max());
  if (any_lane(~ordinary)) {
    for (int i = 0; i < strip.lanes(); ++i) {
      if (ordinary[i]) continue;
      const Drawn<acc_t> drawn = stochastic_draw(strip.window_of(i), uniform01(words[i]));
      value[i] = drawn.value;
      which[i] = drawn.which;
    }
  }
  store_part(value, output, strip.part);
  store_bytes_n<acc_t>(which, switches, strip.lanes());
}

template <typename scalar_t>
void stochastic_pool2d_forward(const scalar_t* input, scalar_t* output, uint8_t* switches,
                               uint64_t seed, const Pool2d& p, int64_t begin, int64_t end) {
  constexpr int kLanes = Vec<accumulate_t<scalar_t>>::kLanes;
  const PhiloxKeys keys = philox_keys(seed);
  for_strips(input, p, begin, end, [&](const auto& strip, int64_t at, int64_t index, int64_t step) {
    uint32_t words[kLanes];
    philox_first_words<kLanes>(keys, uint64_t(index), uint64_t(step), words);
    draw(strip, words, output + at, switches + at);
  });
}

// The means of a strip in lanes, and its sums.
template <typename acc_t>
struct Means {
  vec_t<acc_t> value{}, sum{};
};

template <class Strip>
static inline auto means_of(const Strip& strip) {
  using acc_t = typename Strip::acc_t;
  const vec_t<acc_t> zero{};
  Means<acc_t> mean;
  vec_t<acc_t> squares{};
  const auto& window = strip.window;
  for (int64_t r = window.r0; r < window.r1; ++r) {  // row by row: rounding grows more slowly
    vec_t<acc_t> row_sum{}, row_squares{};
    for (int64_t s = window.s0; s < window.s1; ++s) {
      const vec_t<acc_t> a = strip.load_tap(r, s), positive = a <= zero ? zero : a;
      row_sum += positive;
      row_squares += positive * positive;
    }
    mean.sum += row_sum;
    squares += row_squares;
  }
  mean.value = squares / (mean.sum > zero ? mean.sum : splat(acc_t(1)));

  // Within these bounds no square that matters overflows or vanishes, even in float.
  const auto ordinary = ((mean.sum >= splat(acc_t(0x1p-50))) & (mean.sum <= splat(acc_t(0x1p50)))) |
                        (mean.sum == zero);
  if (any_lane(~ordinary)) {
    for (int i = 0; i < strip.lanes(); ++i) {
      if (ordinary[i]) continue;
      const Mean<acc_t> exact = stochastic_mean(strip.window_of(i));
      mean.value[i] = exact.value;
      mean.sum[i] = exact.sum;
    }
  }
  return mean;
}

template <typename scalar_t>
void stochastic_pool2d_mean_forward(const scalar_t* input, scalar_t* output, const Pool2d& p,
                                    int64_t begin, int64_t end) {
  for_strips(input, p, begin, end, [=](const auto& strip, int64_t at, int64_t, int64_t) {
    store_part(means_of(strip).value, output + at, strip.part);
  });
}

template <typename scalar_t>
void stochastic_pool2d_mean_windows(const scalar_t* input, accumulate_t<scalar_t>* means,
                                    accumulate_t<scalar_t>* sums, const Pool2d& p, int64_t begin,
                                    int64_t end) {
  for_strips(input, p, begin, end, [=](const auto& strip, int64_t at, int64_t, int64_t) {
    const auto mean = means_of(strip);
    store_part(mean.value, means + at, strip.part);
    store_part(mean.sum, sums + at, strip.part);
  });
}

// Derivative of a window's mean by its element a > 0. In this order large values cancel in time.
template <typename T>
static inline T slope(T a, T mean, T sum) {
  return (a - mean + a) / sum;
}

template <typename scalar_t, typename acc_t>
static void backward_row_channels_last(const scalar_t* grad_output, const scalar_t* input,
                                       const acc_t* means, const acc_t* sums, scalar_t* grad_input,
                                       const Pool2d& p, int64_t h) {
  const vec_t<acc_t> zero{};
  for (int64_t w = 0; w < p.w.input; ++w) {
    for_parts_apart<acc_t>(p.channels, [&](int64_t c, auto part) {
      const vec_t<acc_t> a = load_part(input + w * p.channels + c, part);
      vec_t<acc_t> grad{};
      for (int64_t ph = p.h.first_output(h); ph < p.h.end_output(h); ++ph) {
        for (int64_t pw = p.w.first_output(w); pw < p.w.end_output(w); ++pw) {
          const int64_t at = (ph * p.w.output + pw) * p.channels + c;
          grad += load_part(grad_output + at, part) *
                  slope(a, load_part(means + at, part), load_part(sums + at, part));
        }
      }
      store_part(a <= zero ? zero : grad, grad_input + w * p.channels + c, part);
    });
  }
}

// Row h of a plane: each tap of the windows that cover it, added where it stands. The last tap
// first, so that each element adds its windows in row order.
template <typename scalar_t, typename acc_t>
static void backward_row(const scalar_t* grad_output, const scalar_t* input, const acc_t* means,
                         const acc_t* sums, scalar_t* grad_input, const Pool2d& p, int64_t h,
                         PhasedRows<acc_t>& a, PhasedRows<acc_t>& grad) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const vec_t<acc_t> zero{};
  read_row(input, a.columns(0), p.w.input);
  a.split(0);
  grad.clear(0);
  for (int64_t ph = p.h.first_output(h); ph < p.h.end_output(h); ++ph) {
    for (int64_t pw = 0; pw < p.w.output; pw += kLanes) {
      const int n = int(min_of(kLanes, p.w.output - pw));
      const int64_t at = ph * p.w.output + pw;
      const vec_t<acc_t> g = load_n(grad_output + at, n), mean = load_n(means + at, n);
      const vec_t<acc_t> sum = load_n(sums + at, n);  // 0 also in the lanes from n on
      for (int64_t s = p.w.kernel - 1; s >= 0; --s) {
        acc_t* to = grad.tap(0, s) + pw;
        const vec_t<acc_t> before = load(to);
        const vec_t<acc_t> after = before + g * slope(load(a.tap(0, s) + pw), mean, sum);
        store(sum == zero ? before : after, to);
      }
    }
  }
  grad.join(0);
  for_parts_apart<acc_t>(p.w.input, [&](int64_t w, auto part) {
    const vec_t<acc_t> value = load_part(a.columns(0) + w, part);
    const vec_t<acc_t> result = load_part(grad.columns(0) + w, part);
    store_part(value <= zero ? zero : result, grad_input + w, part);
  });
}

template <typename scalar_t>
void stochastic_pool2d_mean_backward(const scalar_t* grad_output, const scalar_t* input,
                                     const accumulate_t<scalar_t>* means,
                                     const accumulate_t<scalar_t>* sums, scalar_t* grad_input,
                                     const Pool2d& p, int64_t begin, int64_t end) {
  const int64_t out_plane = p.h.output * p.w.output;
  if (p.channels_last) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / p.h.input, h = unit % p.h.input;
      const int64_t o = n * out_plane * p.channels, i = unit * p.w.input * p.channels;
      backward_row_channels_last(grad_output + o, input + i, means + o, sums + o, grad_input + i, p,
                                 h);
    }
    return;
  }
  PhasedRows<accumulate_t<scalar_t>> a(p.w, 1), grad(p.w, 1);
  for (int64_t unit = begin; unit < end; ++unit) {
    for (int64_t h = 0; h < p.h.input; ++h) {
      const int64_t o = unit * out_plane, i = (unit * p.h.input + h) * p.w.input;
      backward_row(grad_output + o, input + i, means + o, sums + o, grad_input + i, p, h, a, grad);
    }
  }
}

#define INSTANTIATE(scalar_t)                                                                      \
  template void stochastic_pool2d_forward(const scalar_t*, scalar_t*, uint8_t*, uint64_t,          \
                                          const Pool2d&, int64_t, int64_t);                        \
  template void stochastic_pool2d_mean_forward(const scalar_t*, scalar_t*, const Pool2d&, int64_t, \
                                               int64_t);                                           \
  template void stochastic_pool2d_mean_windows(const scalar_t*, accumulate_t<scalar_t>*,           \
                                               accumulate_t<scalar_t>*, const Pool2d&, int64_t,    \
                                               int64_t);                                           \
  template void stochastic_pool2d_mean_backward(                                                   \
      const scalar_t*, const scalar_t*, const accumulate_t<scalar_t>*,                             \
      const accumulate_t<scalar_t>*, scalar_t*, const Pool2d&, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
