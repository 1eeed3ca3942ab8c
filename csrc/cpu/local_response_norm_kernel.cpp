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
//   across, contiguous     kPixels pixels of one map      kPixels        squares
//   within, channels_last  one row of an image            maps           squares summed over rows
//   within, contiguous     one row of a map               1              squares summed over rows
#include "cpu/buffer.h"
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

// The elements of a unit of work: `runs` stretches of `length` contiguous elements, the first at
// `start`, `stride` apart in memory and `line_stride` apart in a line buffer.
struct Tile {
  int64_t start, runs, length, stride, line_stride;
};

// body(offset in memory, offset in the line buffer, number of lanes) for each vector of a tile.
template <typename acc_t, class F>
static inline void for_each_vector(const Tile& tile, const F& body) {
  for (int64_t run = 0; run < tile.runs; ++run) {
    const int64_t memory = tile.start + run * tile.stride, line = run * tile.line_stride;
    for_each_vector<acc_t>(tile.length, [&](int64_t i, auto n) { body(memory + i, line + i, n); });
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
      : p(problem),
        taps(p.before + p.after + 1),
        pad(max_of(p.before, p.after)),
        step(p.within ? (p.channels_last ? p.maps : 1) : (p.channels_last ? 1 : kPixels)) {}

  void forward(const scalar_t* input, scalar_t* output, int64_t begin, int64_t end) const {
    Buffer<acc_t> squares(line_elements());
    acc_t* line = squares.data() + origin();
    for (int64_t unit = begin; unit < end; ++unit) {
      const Tile tile = tile_of(unit);
      fill_squares(input, line, tile, unit);
      for_each_vector<acc_t>(tile, [&](int64_t i, int64_t at, auto n) {
        const vector_t scale = scale_at(line + at);
        store_n(load_n(input + i, n) / power_of<power>(scale, p.beta), output + i, n);
      });
    }
  }

  void backward(const scalar_t* grad_output, const scalar_t* input, scalar_t* grad_input,
                int64_t begin, int64_t end) const {
    Buffer<acc_t> squares(line_elements()), ratios(line_elements()), direct(line_elements());
    acc_t *line = squares.data() + origin(), *ratio = ratios.data() + origin();
    for (int64_t unit = begin; unit < end; ++unit) {
      const Tile tile = tile_of(unit);
      fill_squares(input, line, tile, unit);
      divide_gradient(grad_output, input, line, direct.data(), ratio, tile);
      subtract_ratios(input, direct.data(), ratio, grad_input, tile);
    }
  }

  // Within a map the ratios are summed over rows too: a ring keeps those of the last `taps` rows.
  void backward_within(const scalar_t* grad_output, const scalar_t* input, scalar_t* grad_input,
                       int64_t begin, int64_t end) const {
    const int64_t row = row_elements();
    Buffer<acc_t> squares(line_elements()), ratios(line_elements());
    Buffer<acc_t> ring_ratio(taps * row), ring_direct(taps * row);
    acc_t *line = squares.data() + origin(), *ratio = ratios.data() + origin();
    int64_t done = 0;  // rows of this map that went through the ring
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t h = unit % p.height;
      const int64_t y0 = max_of(0, h - p.after), y1 = min_of(p.height, h + p.before + 1);
      if (unit == begin || h == 0) done = y0;
      for (; done < y1; ++done) {
        const int64_t ahead = unit + done - h, slot = done % taps * row;
        const Tile tile = tile_of(ahead);
        fill_squares(input, line, tile, ahead);
        divide_gradient(grad_output, input, line, ring_direct.data() + slot,
                        ring_ratio.data() + slot, tile);
      }
      const Tile tile = tile_of(unit);
      for_each_vector<acc_t>(tile, [&](int64_t, int64_t at, auto n) {
        vector_t sum{};
        for (int64_t y = y0; y < y1; ++y) sum += load_n(ring_ratio.data() + y % taps * row + at, n);
        store_n(sum, ratio + at, n);
      });
      subtract_ratios(input, ring_direct.data() + h % taps * row, ratio, grad_input, tile);
    }
  }

 private:
  static constexpr int64_t kPixels = kTilePixels<scalar_t>;
  const ResponseNorm p;
  const int64_t taps, pad;
  const int64_t step;  // from one neighbour along the window's axis to the next, in a line buffer

  int64_t row_elements() const { return p.width * step; }  // within

  // A line buffer: a tile, `pad` zeros on both sides of each stretch along the window's axis, and
  // room for a last vector that hangs over. The tile's first element stands at the origin.
  int64_t origin() const { return pad * step; }
  int64_t line_elements() const {
    const int64_t elements =
        p.within ? row_elements() + 2 * origin() : kPixels * (p.maps + 2 * pad);
    return elements + Vec<acc_t>::kLanes;
  }

  Tile tile_of(int64_t unit) const {
    if (p.within) return {unit * row_elements(), 1, row_elements(), 0, 0};
    if (p.channels_last) {
      const int64_t first = unit * kPixels, rest = p.batch * p.pixels() - first;
      return {first * p.maps, min_of(kPixels, rest), p.maps, p.maps, p.maps + 2 * pad};
    }
    const int64_t tiles = ceil_div(p.pixels(), kPixels);
    const int64_t n = unit / tiles, first = unit % tiles * kPixels;
    const int64_t image = p.maps * p.pixels(), rest = p.pixels() - first;
    return {n * image + first, p.maps, min_of(kPixels, rest), p.pixels(), kPixels};
  }

  // Squares, or (within) squares summed over the rows of the window.
  void fill_squares(const scalar_t* input, acc_t* line, const Tile& tile, int64_t unit) const {
    const int64_t h = unit % p.height;
    const int64_t y0 = p.within ? max_of(-p.before, -h) : 0;
    const int64_t y1 = p.within ? min_of(p.after, p.height - 1 - h) : 0;
    for_each_vector<acc_t>(tile, [&](int64_t i, int64_t at, auto n) {
      vector_t sum{};
      for (int64_t y = y0; y <= y1; ++y) {
        const vector_t x = load_n(input + i + y * tile.length, n);
        sum = multiply_add(x, x, sum);
      }
      store_n(sum, line + at, n);
    });
  }

  vector_t scale_at(const acc_t* squares) const {
    const vector_t sum = window_sum(squares - p.before * step, step, taps);
    return multiply_add(splat(acc_t(p.alpha)), sum, splat(acc_t(p.k)));
  }

  void divide_gradient(const scalar_t* grad_output, const scalar_t* input, const acc_t* line,
                       acc_t* direct, acc_t* ratio, const Tile& tile) const {
    for_each_vector<acc_t>(tile, [&](int64_t i, int64_t at, auto n) {
      const vector_t scale = scale_at(line + at);
      const vector_t quotient = load_n(grad_output + i, n) / power_of<power>(scale, p.beta);
      store_n(quotient, direct + at, n);
      store_n(quotient * load_n(input + i, n) / scale, ratio + at, n);
    });
  }

  // The windows that hold i are those of [i - after, i + before].
  void subtract_ratios(const scalar_t* input, const acc_t* direct, const acc_t* ratio,
                       scalar_t* grad_input, const Tile& tile) const {
    const acc_t factor = acc_t(-2 * p.alpha * p.beta);
    for_each_vector<acc_t>(tile, [&](int64_t i, int64_t at, auto n) {
      const vector_t sum = window_sum(ratio + at - p.after * step, step, taps);
      const vector_t weight = factor * load_n(input + i, n);
      store_n(multiply_add(weight, sum, load_n(direct + at, n)), grad_input + i, n);
    });
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
  with_kernel<scalar_t>(p, [&](const auto& kernel) { kernel.forward(input, output, begin, end); });
}

template <typename scalar_t>
void local_response_norm_backward(const scalar_t* grad_output, const scalar_t* input,
                                  scalar_t* grad_input, const ResponseNorm& p, int64_t begin,
                                  int64_t end) {
  with_kernel<scalar_t>(p, [&](const auto& kernel) {
    if (p.within) return kernel.backward_within(grad_output, input, grad_input, begin, end);
    kernel.backward(grad_output, input, grad_input, begin, end);
  });
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
