// output[n,c,ph,pw] = sum over taps (r,s) of input[n,c, ph*stride+r-padding, likewise w] / divisor
// grad_input[n,c,h,w] = sum over the windows (ph,pw) that cover (h,w) of grad_output / divisor
//
// Sums run down the columns of a window first, then across them, in both memory formats: so both
// give the same bits.
//
// channels_last: one vector holds kLanes channels of one pixel. contiguous: one vector holds kLanes
// pixels of a row. The rows of a window are added to one line, from which the windows are then
// added up; backward, the same two steps the other way.
#include "cpu/avg_pool2d.h"
#include "cpu/parts.h"
#include "cpu/pool_rows.h"
#include "cpu/rows.h"

namespace fastconv {
namespace FASTCONV_ISA {

// The divisor of every window, or 1 / divisor.
template <typename acc_t>
static void fill_divisors(const AvgPool2d& avg, acc_t* divisors, bool inverse) {
  for (int64_t ph = 0; ph < avg.pool.h.output; ++ph) {
    for (int64_t pw = 0; pw < avg.pool.w.output; ++pw) {
      const acc_t divisor = acc_t(avg.divisor(ph, pw));
      *divisors++ = inverse ? 1 / divisor : divisor;
    }
  }
}

// A column of a window, added up: as many vectors of channels.
template <typename acc_t, int kVectors>
struct ColumnSums {
  vec_t<acc_t> sum[kVectors] = {};
};

// The windows [begin, end) of a row, three pixels wide and two apart, all of them inside it: each
// shares a column with the one before. r0, r1: constants where the windows are usual in height too.
template <typename scalar_t, typename acc_t, class R0, class R1>
static void pool_three_wide(const scalar_t* rows, scalar_t* output, const Pool2d& p, R0 r0, R1 r1,
                            int64_t begin, int64_t end, const acc_t* divisors) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const int64_t channels = p.channels, row = p.w.input * channels, next = p.h.stride * row;
  const int64_t seen_h = taps_seen_before(p.h);
  for_blocks_apart<acc_t>(channels, [&](int64_t c, auto block) {
    using Column = ColumnSums<acc_t, decltype(block)::kVectors>;
    const auto column_at = [&](int64_t x, bool is_new) {
      Column column;
      const scalar_t* at = rows + r0 * row + x * channels + c;
#pragma GCC unroll 3
      for (int64_t r = r0; r < r1; ++r, at += row) {
        for (int k = 0; k < block.kVectors; ++k) {
          column.sum[k] += load_part(at + k * kLanes, block.part);
          if (is_new && r >= seen_h) __builtin_prefetch(at + k * kLanes + next);
        }
      }
      return column;
    };
    int64_t x = p.w.start(begin);
    Column left = column_at(x, false);
    for (int64_t pw = begin; pw < end; ++pw, x += 2) {
      const Column middle = column_at(x + 1, true), right = column_at(x + 2, true);
      const vec_t<acc_t> divisor = splat(divisors[pw]);
      for (int k = 0; k < block.kVectors; ++k) {
        const vec_t<acc_t> sum = left.sum[k] + middle.sum[k] + right.sum[k];
        store_part(sum / divisor, output + pw * channels + c + k * kLanes, block.part);
      }
      left = right;
    }
  });
}

template <typename scalar_t, typename acc_t>
static void pool_row_channels_last(const scalar_t* image, scalar_t* output, const Pool2d& p,
                                   int64_t ph, const acc_t* divisors) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const int64_t r0 = p.h.first_tap(ph), r1 = p.h.end_tap(ph), row = p.w.input * p.channels;
  const int64_t next = p.h.stride * row;  // to the windows below, whose rows come from memory
  const int64_t seen_h = taps_seen_before(p.h), seen_w = taps_seen_before(p.w);
  int64_t begin = 0, end = 0;  // of the windows that pool_three_wide takes
  if (p.w.kernel == 3 && p.w.stride == 2) {
    end = p.w.output;
    while (begin < end && p.w.first_tap(begin) > 0) ++begin;
    while (end > begin && p.w.end_tap(end - 1) < 3) --end;
  }
  if (begin < end) {
    const scalar_t* rows = image + p.h.start(ph) * row;
    const acc_t* of_row = divisors + ph * p.w.output;
    if (r0 == 0 && r1 == 3) {
      constexpr std::integral_constant<int64_t, 0> none;
      constexpr std::integral_constant<int64_t, 3> three;
      pool_three_wide(rows, output, p, none, three, begin, end, of_row);
    } else {
      pool_three_wide(rows, output, p, r0, r1, begin, end, of_row);
    }
  }
  for (int64_t pw = 0; pw < p.w.output; ++pw) {
    if (begin <= pw && pw < end) continue;
    const int64_t s0 = p.w.first_tap(pw), s1 = p.w.end_tap(pw);
    const scalar_t* window = image + p.h.start(ph) * row + p.w.start(pw) * p.channels;
    const vec_t<acc_t> divisor = splat(divisors[ph * p.w.output + pw]);
    for_blocks_apart<acc_t>(p.channels, [&](int64_t c, auto block) {
      vec_t<acc_t> sum[block.kVectors] = {};
      for (int64_t s = s0; s < s1; ++s) {
        vec_t<acc_t> column[block.kVectors] = {};
        const scalar_t* at = window + r0 * row + s * p.channels + c;
        for (int64_t r = r0; r < r1; ++r, at += row) {
          for (int k = 0; k < block.kVectors; ++k) {
            column[k] += load_part(at + k * kLanes, block.part);
            if (r >= seen_h && s >= seen_w) __builtin_prefetch(at + k * kLanes + next);
          }
        }
        for (int k = 0; k < block.kVectors; ++k) sum[k] += column[k];
      }
      for (int k = 0; k < block.kVectors; ++k) {
        store_part(sum[k] / divisor, output + pw * p.channels + c + k * kLanes, block.part);
      }
    });
  }
}

template <typename scalar_t, typename acc_t>
static void pool_row(const scalar_t* plane, scalar_t* output, const Pool2d& p, int64_t ph,
                     const acc_t* divisors, PhasedRows<acc_t>& line) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const int64_t r0 = p.h.first_tap(ph), r1 = p.h.end_tap(ph);
  const scalar_t* rows = plane + p.h.start(ph) * p.w.input;
  for_parts_apart<acc_t>(p.w.input, [&](int64_t x, auto part) {
    vec_t<acc_t> column{};
    for (int64_t r = r0; r < r1; ++r) column += load_part(rows + r * p.w.input + x, part);
    store_part(column, line.columns(0) + x, part);
  });
  line.split(0);
  for (int64_t pw = 0; pw < p.w.output; pw += kLanes) {
    vec_t<acc_t> sum{};
    for (int64_t s = 0; s < p.w.kernel; ++s) sum += load(line.tap(0, s) + pw);
    const int n = int(min_of(kLanes, p.w.output - pw));
    store_n(sum / load_n(divisors + ph * p.w.output + pw, n), output + pw, n);
  }
}

template <typename scalar_t>
void avg_pool2d_forward(const scalar_t* input, scalar_t* output, const AvgPool2d& avg,
                        int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const Pool2d& p = avg.pool;
  const int64_t in_plane = p.h.input * p.w.input, out_plane = p.h.output * p.w.output;
  Buffer<acc_t> divisors(out_plane);
  fill_divisors(avg, divisors.data(), false);
  if (p.channels_last) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / p.h.output, ph = unit % p.h.output;
      pool_row_channels_last(input + n * in_plane * p.channels,
                             output + unit * p.w.output * p.channels, p, ph, divisors.data());
    }
    return;
  }
  PhasedRows<acc_t> line(p.w, 1);
  for (int64_t unit = begin; unit < end; ++unit) {
    for (int64_t ph = 0; ph < p.h.output; ++ph) {
      pool_row(input + unit * in_plane, output + unit * out_plane + ph * p.w.output, p, ph,
               divisors.data(), line);
    }
  }
}

template <typename scalar_t, typename acc_t>
static void spread_row_channels_last(const scalar_t* grad_output, scalar_t* grad_input,
                                     const Pool2d& p, int64_t h, const acc_t* shares,
                                     bool is_large) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const int64_t ph0 = p.h.first_output(h), ph1 = p.h.end_output(h);
  for (int64_t w = 0; w < p.w.input; ++w) {
    const int64_t pw0 = p.w.first_output(w), pw1 = p.w.end_output(w);
    for_blocks_apart<acc_t>(p.channels, [&](int64_t c, auto block) {
      vec_t<acc_t> sum[block.kVectors] = {};
      for (int64_t pw = pw0; pw < pw1; ++pw) {
        vec_t<acc_t> column[block.kVectors] = {};
        for (int64_t ph = ph0; ph < ph1; ++ph) {
          const scalar_t* at = grad_output + (ph * p.w.output + pw) * p.channels + c;
          const vec_t<acc_t> share = splat(shares[ph * p.w.output + pw]);
          for (int k = 0; k < block.kVectors; ++k) {
            column[k] += load_part(at + k * kLanes, block.part) * share;
          }
        }
        for (int k = 0; k < block.kVectors; ++k) sum[k] += column[k];
      }
      for (int k = 0; k < block.kVectors; ++k) {
        store_result_part(sum[k], grad_input + w * p.channels + c + k * kLanes, block.part,
                          is_large);
      }
    });
  }
}

// A plane under a single window: its elements all get the same.
template <typename scalar_t, typename acc_t>
static void spread_one(scalar_t grad_output, scalar_t* grad_input, const Pool2d& p, acc_t share) {
  scalar_t inside, outside;
  from_acc(to_acc(grad_output) * share, inside);
  from_acc(acc_t(0), outside);
  const int64_t h1 = p.h.start(0) + p.h.kernel, w1 = p.w.start(0) + p.w.kernel;
  for (int64_t h = 0; h < p.h.input; ++h) {
    for (int64_t w = 0; w < p.w.input; ++w) {
      grad_input[h * p.w.input + w] = h < h1 && w < w1 ? inside : outside;
    }
  }
}

template <typename scalar_t, typename acc_t>
static void spread_row(const scalar_t* grad_output, scalar_t* grad_input, const Pool2d& p,
                       int64_t h, const acc_t* shares, PhasedRows<acc_t>& line) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  const int64_t ph0 = p.h.first_output(h), ph1 = p.h.end_output(h);
  line.clear(0);
  for (int64_t pw = 0; pw < p.w.output; pw += kLanes) {
    const int n = int(min_of(kLanes, p.w.output - pw));
    vec_t<acc_t> column{};
    for (int64_t ph = ph0; ph < ph1; ++ph) {
      column +=
          load_n(grad_output + ph * p.w.output + pw, n) * load_n(shares + ph * p.w.output + pw, n);
    }
    // The last tap first: so each element adds its windows from left to right.
    for (int64_t s = p.w.kernel - 1; s >= 0; --s) {
      acc_t* to = line.tap(0, s) + pw;
      store(load(to) + column, to);
    }
  }
  line.join(0);
  write_row(line.columns(0), grad_input, p.w.input);
}

template <typename scalar_t>
void avg_pool2d_backward(const scalar_t* grad_output, scalar_t* grad_input, const AvgPool2d& avg,
                         int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const Pool2d& p = avg.pool;
  const int64_t in_plane = p.h.input * p.w.input, out_plane = p.h.output * p.w.output;
  Buffer<acc_t> shares(out_plane);
  fill_divisors(avg, shares.data(), true);
  if (p.channels_last) {
    const bool is_large = is_large_result(p.input_elements() * int64_t(sizeof(scalar_t)));
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t n = unit / p.h.input, h = unit % p.h.input;
      spread_row_channels_last(grad_output + n * out_plane * p.channels,
                               grad_input + unit * p.w.input * p.channels, p, h, shares.data(),
                               is_large);
    }
    if (is_large) finish_stores_past_caches();
    return;
  }
  if (out_plane == 1) {
    for (int64_t unit = begin; unit < end; ++unit) {
      spread_one(grad_output[unit], grad_input + unit * in_plane, p, shares.data()[0]);
    }
    return;
  }
  PhasedRows<acc_t> line(p.w, 1);
  for (int64_t unit = begin; unit < end; ++unit) {
    for (int64_t h = 0; h < p.h.input; ++h) {
      spread_row(grad_output + unit * out_plane, grad_input + unit * in_plane + h * p.w.input, p, h,
                 shares.data(), line);
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
