// Rows of max pooling in channels_last, forward and back, for the ops whose rows lie in memory and
// those that keep them in a buffer.
#pragma once

#include <limits>

#include "core/window.h"
#include "cpu/vec.h"

namespace fastconv {
namespace FASTCONV_ISA {

// The taps along an axis that the window before has seen already: the first ones.
static inline int64_t taps_seen_before(const Window& w) {
  return w.dilation == 1 ? max_of(0, w.kernel - w.stride) : 0;
}

// One row of windows: rows[r] is the row that tap r of the windows sees. Of what lies `next`
// elements further, if that is not 0, prefetches what no window has seen before. Without switches
// where there is no room for them.
template <typename scalar_t>
static void max_pool_row_channels_last(const scalar_t* const* rows, scalar_t* output,
                                       uint8_t* switches, const Pool2d& p, int64_t ph,
                                       int64_t next) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t channels = p.channels, step = p.w.dilation * channels;
  const int64_t first = p.h.first_tap(ph), end = p.h.end_tap(ph);
  const int64_t unseen_h = next ? taps_seen_before(p.h) : end, unseen_w = taps_seen_before(p.w);
  for (int64_t pw = 0; pw < p.w.output; ++pw) {
    const int64_t left = p.w.first_tap(pw), right = p.w.end_tap(pw);
    const int64_t start = p.w.start(pw) * channels, o = pw * channels;
    // The taps [r0, r1) x [s0, s1), of which those from (new_h, new_w) on were not seen before: all
    // of them constants in the usual window.
    const auto pool = [&](const auto& rows, auto r0, auto r1, auto s0, auto s1, auto kernel_w,
                          auto new_h, auto new_w, auto with_switches) {
      for_each_vector<acc_t>(channels, [&](int64_t c, auto n) {
        vec_t<acc_t> best, sum{};
        int_vec_t<acc_t> which;
        const auto look = [&](auto for_nan) {
          best = splat(-std::numeric_limits<acc_t>::infinity());
          which = int_vec_t<acc_t>{} + int(r0 * kernel_w + s0);
#pragma GCC unroll 3
          for (int64_t r = r0; r < r1; ++r) {
#pragma GCC unroll 3
            for (int64_t s = s0; s < s1; ++s) {
              const scalar_t* at = rows[r] + start + s * step + c;
              if (!for_nan && r >= new_h && s >= new_w) __builtin_prefetch(at + next);
              const vec_t<acc_t> value = load_n(at, n);
              sum += value;
              auto better = value > best;
              if (for_nan) better |= value != value;
              best = better ? value : best;
              if (with_switches) {
                which = better ? int_vec_t<acc_t>{} + int(r * kernel_w + s) : which;
              }
            }
          }
        };
        // A NaN wins, which takes another comparison at each tap. They are rare: a sum that is no
        // number tells where one may be.
        look(std::false_type());
        if (__builtin_expect(any_lane(sum != sum), false)) look(std::true_type());
        store_n(best, output + o + c, n);
        if (with_switches) store_bytes_n<acc_t>(which, switches + o + c, n);
      });
    };
    const auto choose = [&](auto with_switches) {
      constexpr std::integral_constant<int64_t, 0> none;
      constexpr std::integral_constant<int64_t, 1> one;
      constexpr std::integral_constant<int64_t, 3> three;
      if (p.w.kernel == 3 && first == 0 && end == 3 && left == 0 && right == 3) {
        const scalar_t* const three_rows[] = {rows[0], rows[1], rows[2]};
        if (unseen_h == 1 && unseen_w == 1) {
          return pool(three_rows, none, three, none, three, three, one, one, with_switches);
        }
        if (!next) {
          return pool(three_rows, none, three, none, three, three, three, three, with_switches);
        }
      }
      pool(rows, first, end, left, right, p.w.kernel, unseen_h, unseen_w, with_switches);
    };
    if (switches) {
      choose(std::true_type());
    } else {
      choose(std::false_type());
    }
  }
}

// Where the switches point, relative to the start of the window.
struct SwitchOffsets {
  int64_t h[256], w[256];

  explicit SwitchOffsets(const Pool2d& p) {
    for (int64_t which = 0; which < 256; ++which) {
      const bool valid = which < p.h.kernel * p.w.kernel;
      h[which] = valid ? which / p.w.kernel * p.h.dilation : INT64_MIN / 2;  // outside every map
      w[which] = which % p.w.kernel * p.w.dilation;
    }
  }
};

// A window that covers a pixel: where its switch and value stand, and the switch that means it.
struct Covering {
  int64_t at;
  int which;
};

// Of the windows (ph, pw) in the given ranges those that see (h, w), in row order. Each sees it
// with another tap: 256 at most.
static inline int find_covering(const Pool2d& p, int64_t ph0, int64_t ph1, int64_t pw0, int64_t pw1,
                                int64_t h, int64_t w, Covering* found) {
  int count = 0;
  for (int64_t ph = ph0; ph < ph1; ++ph) {
    const int64_t r = p.h.tap(ph, h);
    if (r < 0) continue;
    for (int64_t pw = pw0; pw < pw1; ++pw) {
      const int64_t s = p.w.tap(pw, w);
      if (s < 0) continue;
      found[count++] = {(ph * p.w.output + pw) * p.channels, int(r * p.w.kernel + s)};
    }
  }
  return count;
}

// Pixels [begin, end) of row h of the unpooled image: each gathers from the windows that cover it.
// `is_large`: the result that they are part of.
template <bool overwrite, typename scalar_t>
static void unpool_row_channels_last(const scalar_t* pooled, const uint8_t* switches,
                                     scalar_t* output, const Pool2d& p, int64_t h, int64_t begin,
                                     int64_t end, bool is_large) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t ph0 = p.h.first_output(h), ph1 = p.h.end_output(h);
  const int64_t span = p.w.dilation * (p.w.kernel - 1) + 1;
  // The windows follow w, which saves dividing by the stride at each pixel.
  int64_t pw0 = p.w.first_output(begin), pw1 = pw0;
  Covering covering[256];
  for (int64_t w = begin; w < end; ++w) {
    while (pw1 < p.w.output && p.w.start(pw1) <= w) ++pw1;
    while (pw0 < pw1 && p.w.start(pw0) + span <= w) ++pw0;
    const int count = find_covering(p, ph0, ph1, pw0, pw1, h, w, covering);
    const auto gather = [&](auto windows) {  // a constant where it is a usual number
      for_each_vector<acc_t>(p.channels, [&](int64_t c, auto n) {
        vec_t<acc_t> sum{};
        for (int i = 0; i < windows; ++i) {
          const int64_t at = covering[i].at + c;
          const auto hit =
              load_bytes_n<acc_t>(switches + at, n) == int_vec_t<acc_t>{} + covering[i].which;
          const vec_t<acc_t> value = load_n(pooled + at, n);
          sum = hit ? (overwrite ? value : sum + value) : sum;
        }
        store_result_n(sum, output + (w - begin) * p.channels + c, n, is_large);
      });
    };
    switch (count) {
      case 1:
        gather(std::integral_constant<int, 1>());
        break;
      case 2:
        gather(std::integral_constant<int, 2>());
        break;
      case 4:
        gather(std::integral_constant<int, 4>());
        break;
      default:
        gather(count);
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
