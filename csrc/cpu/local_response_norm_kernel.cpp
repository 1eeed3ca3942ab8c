// scale[i]  = k + alpha * sum of x[j]^2 over the window of i, [i - before, i + after]
// output[i] = x[i] / scale[i]^beta
// grad_input[i] = g[i] / scale[i]^beta
//                 - 2 alpha beta x[i] * sum over j, i in the window of j, of ratio[j],
// ratio[j]      = g[j] x[j] / scale[j]^(beta + 1)
//
// Memory is read and written once: the backward computes the scale again. A unit of work fills a
// line buffer with squares, zeros on both sides, and sums windows over it whose taps are `step`
// apart; sums are formed anew for each element, because subtracting what leaves a sliding window
// would cancel. A vector runs along contiguous memory in every case:
//
//                          run of contiguous elements     step           line buffer holds
//   across, channels_last  the maps of one pixel          1              squares
//   across, contiguous     kTilePixels pixels of one map  kTilePixels    squares
//   within, channels_last  one row of an image            maps           squares summed over rows
//   within, contiguous     one row of a map               1              squares summed over rows
#include <vector>

#include "cpu/local_response_norm.h"
#include "cpu/vec_math.h"

namespace fastconv {
namespace FASTCONV_ISA {

enum class Power { half, three_quarters, one, any };

template <Power power, typename vector_t>
static inline vector_t power_of(vector_t s, double beta) {
  if constexpr (power == Power::one) return s;
  if constexpr (power == Power::any) return pow_of(s, beta);
  const vector_t root = sqrt_of(s);
  return power == Power::half ? root : root * sqrt_of(root);
}

// `runs` stretches of `length` contiguous elements, `stride` apart in memory and `line_stride`
// apart in a line buffer, in which the neighbours along the window's axis are `step` apart.
struct Tile {
  int64_t runs, length, stride, line_stride, step;
};

// Calls body(offset in memory, offset in the line buffer, number of lanes) for each vector.
template <typename acc_t, class F>
static inline void for_each_vector(const Tile& tile, const F& body) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  for (int64_t run = 0; run < tile.runs; ++run) {
    for (int64_t i = 0; i < tile.length; i += kLanes) {
      body(run * tile.stride + i, run * tile.line_stride + i, int(min_of(kLanes, tile.length - i)));
    }
  }
}

template <typename acc_t>
static inline vec_t<acc_t> window_sum(const acc_t* first, int64_t step, int64_t taps) {
  vec_t<acc_t> sum = load(first);
  for (int64_t tap = 1; tap < taps; ++tap) sum += load(first + tap * step);
  return sum;
}

template <typename scalar_t, Power power>
class Kernel {
 public:
  using acc_t = accumulate_t<scalar_t>;
  using vector_t = vec_t<acc_t>;

  explicit Kernel(const ResponseNorm& problem)
      : p(problem), taps(p.before + p.after + 1), pad(max_of(p.before, p.after)) {}

  void forward(const scalar_t* input, scalar_t* output, int64_t begin, int64_t end) {
    squares.assign(line_elements(), 0);
    for (int64_t unit = begin; unit < end; ++unit) {
      int64_t at;
      const Tile tile = tile_of(unit, at);
      acc_t* line = squares.data() + pad * tile.step;
      if (p.within) {
        sum_square_rows(input + at, line, tile, unit % p.height);
      } else {
        square(input + at, line, tile);
      }
      normalise(input + at, line, output + at, tile);
    }
  }

  void backward(const scalar_t* grad_output, const scalar_t* input, scalar_t* grad_input,
                int64_t begin, int64_t end) {
    squares.assign(line_elements(), 0);
    ratios.assign(line_elements(), 0);
    if (p.within) return backward_within(grad_output, input, grad_input, begin, end);
    direct.resize(line_elements());
    for (int64_t unit = begin; unit < end; ++unit) {
      int64_t at;
      const Tile tile = tile_of(unit, at);
      const int64_t origin = pad * tile.step;
      square(input + at, squares.data() + origin, tile);
      divide_gradient(grad_output + at, input + at, squares.data() + origin, direct.data() + origin,
                      ratios.data() + origin, tile);
      finish_gradient(input + at, direct.data() + origin, ratios.data() + origin, grad_input + at,
                      tile);
    }
  }

 private:
  const ResponseNorm p;
  const int64_t taps, pad;
  std::vector<acc_t> squares, ratios, direct;  // line buffers

  int64_t row_elements() const { return p.width * (p.channels_last ? p.maps : 1); }

  // Room for a tile, its padding, and a last vector that hangs over.
  int64_t line_elements() const {
    constexpr int64_t kOverhang = Vec<acc_t>::kLanes;
    if (!p.within) return kTilePixels * (p.maps + 2 * pad) + kOverhang;
    return row_elements() + 2 * pad * (p.channels_last ? p.maps : 1) + kOverhang;
  }

  // The tile of a unit, and where in memory it begins.
  Tile tile_of(int64_t unit, int64_t& at) const {
    if (p.within) {
      at = unit * row_elements();
      return {1, row_elements(), 0, 0, p.channels_last ? p.maps : 1};
    }
    if (p.channels_last) {
      const int64_t first = unit * kTilePixels;
      at = first * p.maps;
      return {min_of(kTilePixels, p.batch * p.pixels() - first), p.maps, p.maps, p.maps + 2 * pad,
              1};
    }
    const int64_t tiles = ceil_div(p.pixels(), kTilePixels);
    const int64_t first = unit % tiles * kTilePixels;
    at = unit / tiles * p.maps * p.pixels() + first;
    return {p.maps, min_of(kTilePixels, p.pixels() - first), p.pixels(), kTilePixels, kTilePixels};
  }

  static void square(const scalar_t* input, acc_t* line, const Tile& tile) {
    for_each_vector<acc_t>(tile, [&](int64_t i, int64_t at, int n) {
      const vector_t x = load_n(input + i, n);
      store_n(x * x, line + at, n);
    });
  }

  // Squares summed over the rows of the window of row h, where `row` points.
  void sum_square_rows(const scalar_t* row, acc_t* line, const Tile& tile, int64_t h) const {
    const int64_t y0 = max_of(-p.before, -h), y1 = min_of(p.after, p.height - 1 - h);
    for_each_vector<acc_t>(tile, [&](int64_t i, int64_t at, int n) {
      vector_t sum{};
      for (int64_t y = y0; y <= y1; ++y) {
        const vector_t x = load_n(row + y * tile.length + i, n);
        sum += x * x;
      }
      store_n(sum, line + at, n);
    });
  }

  vector_t scale_at(const acc_t* squares_at, int64_t step) const {
    return acc_t(p.k) + acc_t(p.alpha) * window_sum(squares_at - p.before * step, step, taps);
  }

  void normalise(const scalar_t* input, const acc_t* line, scalar_t* output,
                 const Tile& tile) const {
    for_each_vector<acc_t>(tile, [&](int64_t i, int64_t at, int n) {
      const vector_t scale = scale_at(line + at, tile.step);
      store_n(load_n(input + i, n) / power_of<power>(scale, p.beta), output + i, n);
    });
  }

  void divide_gradient(const scalar_t* grad_output, const scalar_t* input, const acc_t* line,
                       acc_t* direct_line, acc_t* ratio_line, const Tile& tile) const {
    for_each_vector<acc_t>(tile, [&](int64_t i, int64_t at, int n) {
      const vector_t scale = scale_at(line + at, tile.step);
      const vector_t quotient = load_n(grad_output + i, n) / power_of<power>(scale, p.beta);
      store_n(quotient, direct_line + at, n);
      store_n(quotient * load_n(input + i, n) / scale, ratio_line + at, n);
    });
  }

  // The windows that hold i are those of [i - after, i + before].
  void finish_gradient(const scalar_t* input, const acc_t* direct_line, const acc_t* ratio_line,
                       scalar_t* grad_input, const Tile& tile) const {
    const acc_t factor = acc_t(2 * p.alpha * p.beta);
    for_each_vector<acc_t>(tile, [&](int64_t i, int64_t at, int n) {
      const vector_t sum = window_sum(ratio_line + at - p.after * tile.step, tile.step, taps);
      const vector_t through_scale = factor * load_n(input + i, n) * sum;
      store_n(load_n(direct_line + at, n) - through_scale, grad_input + i, n);
    });
  }

  // Rows in order, with a ring of the ratios of the last `taps` rows.
  void backward_within(const scalar_t* grad_output, const scalar_t* input, scalar_t* grad_input,
                       int64_t begin, int64_t end) {
    const int64_t row = row_elements();
    std::vector<acc_t> ring_ratio(taps * row), ring_direct(taps * row);
    int64_t done = 0;  // rows of this map whose ratios have been computed
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t h = unit % p.height;
      const int64_t y0 = max_of(0, h - p.after), y1 = min_of(p.height, h + p.before + 1);
      if (unit == begin || h == 0) done = y0;
      int64_t at;
      const Tile tile = tile_of(unit, at);
      const int64_t origin = pad * tile.step;
      for (; done < y1; ++done) {
        const int64_t there = at + (done - h) * row, slot = done % taps * row;
        sum_square_rows(input + there, squares.data() + origin, tile, done);
        divide_gradient(grad_output + there, input + there, squares.data() + origin,
                        ring_direct.data() + slot, ring_ratio.data() + slot, tile);
      }
      for_each_vector<acc_t>(tile, [&](int64_t, int64_t i, int n) {
        vector_t sum{};
        for (int64_t y = y0; y < y1; ++y) sum += load_n(&ring_ratio[y % taps * row + i], n);
        store_n(sum, ratios.data() + origin + i, n);
      });
      finish_gradient(input + at, ring_direct.data() + h % taps * row, ratios.data() + origin,
                      grad_input + at, tile);
    }
  }
};

// Calls body(Kernel) for the power that the problem asks for.
template <typename scalar_t, class F>
static void with_kernel(const ResponseNorm& p, const F& body) {
  if (p.beta == 0.75) return body(Kernel<scalar_t, Power::three_quarters>(p));
  if (p.beta == 0.5) return body(Kernel<scalar_t, Power::half>(p));
  if (p.beta == 1.0) return body(Kernel<scalar_t, Power::one>(p));
  body(Kernel<scalar_t, Power::any>(p));
}

template <typename scalar_t>
void local_response_norm_forward(const scalar_t* input, scalar_t* output, const ResponseNorm& p,
                                 int64_t begin, int64_t end) {
  with_kernel<scalar_t>(p, [&](auto kernel) { kernel.forward(input, output, begin, end); });
}

template <typename scalar_t>
void local_response_norm_backward(const scalar_t* grad_output, const scalar_t* input,
                                  scalar_t* grad_input, const ResponseNorm& p, int64_t begin,
                                  int64_t end) {
  with_kernel<scalar_t>(
      p, [&](auto kernel) { kernel.backward(grad_output, input, grad_input, begin, end); });
}

#define INSTANTIATE(scalar_t)                                                                \
  template void local_response_norm_forward(const scalar_t*, scalar_t*, const ResponseNorm&, \
                                            int64_t, int64_t);                               \
  template void local_response_norm_backward(const scalar_t*, const scalar_t*, scalar_t*,    \
                                             const ResponseNorm&, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
