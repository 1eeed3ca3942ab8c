// The arithmetic of local_response_norm, a tile at a time.
//
// scale[i]  = k + alpha * sum of x[j]^2 over the window of i, [i - before, i + after]
// output[i] = x[i] / scale[i]^beta
// grad_input[i] = g[i] / scale[i]^beta
//                 - 2 alpha beta x[i] * sum over j, i in the window of j, of ratio[j],
// ratio[j]      = g[j] x[j] / scale[j]^(beta + 1)
//
// Memory is read and written once: the backward computes the scale again. A tile fills a line
// buffer with squares, zeros on both sides, and sums windows over it whose taps are `step` apart;
// sums are formed anew for each element, because subtracting what leaves a sliding window would
// cancel. A vector runs along contiguous memory in every case:
//
//                          run of contiguous elements     step           line buffer holds
//   across, channels_last  the maps of one pixel          1              squares
//   across, contiguous     `pixels` of one map            `pixels`       squares
//   within, channels_last  one row of an image            maps           squares summed over rows
//   within, contiguous     one row of a map               1              squares summed over rows
#pragma once

#include "core/response_norm.h"
#include "cpu/buffer.h"
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

// What divides by a scale and by scale^beta.
//
// kQuick: two roots and two quotients of 16 lanes take the processor several times as long as the
// rest of the op. So the inverses, from an estimate of 1 / sqrt(scale) that Newton's method mends,
// wherever that neither overflows nor vanishes.
template <Power power, typename vector_t>
class Divisors {
 public:
  __attribute__((always_inline)) Divisors(vector_t scale, double beta) {
    if constexpr (kQuick) {
      const vector_t root = inverse_root_of(scale);  // 1 / sqrt(scale)
      power_ = power == Power::half ? root : root * inverse_root_of(scale * root);
      scale_ = root * root;
      const auto usual = lanes_between(1e-30f, scale, 1e30f);
      if (__builtin_expect(!are_all(usual), false)) {
        power_ = blend(usual, 1 / power_of<power>(scale, beta), power_);
        scale_ = blend(usual, 1 / scale, scale_);
      }
    } else {
      power_ = power_of<power>(scale, beta);
      scale_ = scale;
    }
  }
  vector_t over_power(vector_t x) const { return kQuick ? x * power_ : x / power_; }
  vector_t over_scale(vector_t x) const { return kQuick ? x * scale_ : x / scale_; }

 private:
  static constexpr bool kQuick =
      kHasInverseRoot<vector_t> && (power == Power::half || power == Power::three_quarters);
  vector_t scale_, power_;  // kQuick: their inverses
};

// The elements of a unit of work: `runs` stretches of `length` contiguous elements, the first at
// `start`, `stride` apart in memory and `line_stride` apart in a line buffer.
struct Tile {
  int64_t start, runs, length, stride, line_stride;
};

// Where another array holds the elements of a tile: the first stretch, and the step to the next.
struct Stretches {
  int64_t start, stride;
};

// body(offset in memory, offset in the other array, offset in the line buffer, number of lanes) for
// each vector of a tile.
template <typename acc_t, class F>
static inline void for_each_vector(const Tile& tile, const Stretches& other, const F& body) {
  for (int64_t run = 0; run < tile.runs; ++run) {
    const int64_t memory = tile.start + run * tile.stride, line = run * tile.line_stride;
    const int64_t there = other.start + run * other.stride;
    for_each_vector<acc_t>(tile.length,
                           [&](int64_t i, auto n) { body(memory + i, there + i, line + i, n); });
  }
}
// The same without another array: body(offset in memory, offset in the line buffer, lanes).
template <typename acc_t, class F>
static inline void for_each_vector(const Tile& tile, const F& body) {
  for_each_vector<acc_t>(tile, Stretches{},
                         [&](int64_t i, int64_t, int64_t at, auto n) { body(i, at, n); });
}

// `taps`: a constant for the usual window.
template <typename acc_t, typename taps_t>
static inline vec_t<acc_t> window_sum(const acc_t* first, int64_t step, taps_t taps) {
  vec_t<acc_t> sum = load(first);
  for (int64_t tap = 1; tap < taps; ++tap) sum += load(first + tap * step);
  return sum;
}

template <typename scalar, Power power>
class ResponseNormTiles {
 public:
  using scalar_t = scalar;
  using acc_t = accumulate_t<scalar_t>;
  using vector_t = vec_t<acc_t>;

  const ResponseNorm p;
  const int64_t pixels;  // of a tile, across maps
  const int64_t taps, pad;
  const int64_t step;  // from one neighbour along the window's axis to the next, in a line buffer

  ResponseNormTiles(const ResponseNorm& problem, int64_t tile_pixels)
      : p(problem),
        pixels(tile_pixels),
        taps(p.before + p.after + 1),
        pad(max_of(p.before, p.after)),
        step(p.within ? (p.channels_last ? p.maps : 1) : (p.channels_last ? 1 : pixels)) {}

  int64_t row_elements() const { return p.width * step; }  // within

  // A line buffer: a tile, `pad` zeros on both sides of each stretch along the window's axis, and
  // room for a last vector that hangs over. The tile's first element stands at the origin.
  int64_t origin() const { return pad * step; }
  int64_t line_elements() const {
    const int64_t elements = p.within ? row_elements() + 2 * origin() : pixels * (p.maps + 2 * pad);
    return elements + Vec<acc_t>::kLanes;
  }

  // Whether outputs and gradients are; see store_past_caches().
  bool has_large_result() const {
    return is_large_result(p.batch * p.maps * p.pixels() * int64_t(sizeof(scalar_t)));
  }

  // Across maps: `count` <= `pixels` neighbouring pixels of an image, with all their maps.
  Tile tile_at(int64_t image, int64_t pixel, int64_t count) const {
    if (p.channels_last) {
      const int64_t start = (image * p.pixels() + pixel) * p.maps;
      return {start, count, p.maps, p.maps, p.maps + 2 * pad};
    }
    return {image * p.maps * p.pixels() + pixel, p.maps, count, p.pixels(), pixels};
  }

  Tile tile_of(int64_t unit) const {
    if (p.within) return {unit * row_elements(), 1, row_elements(), 0, 0};
    if (p.channels_last) {  // images follow each other without a gap
      const int64_t first = unit * pixels;
      return tile_at(0, first, min_of(pixels, p.batch * p.pixels() - first));
    }
    const int64_t tiles = ceil_div(p.pixels(), pixels), first = unit % tiles * pixels;
    return tile_at(unit / tiles, first, min_of(pixels, p.pixels() - first));
  }

  // Squares, or (within) squares summed over the rows of the window.
  void fill_squares(const scalar_t* input, acc_t* line, const Tile& tile, int64_t unit) const {
    if (!p.within) {
      return for_each_vector<acc_t>(tile, [&](int64_t i, int64_t at, auto n) {
        const vector_t x = load_n(input + i, n);
        store_n(x * x, line + at, n);
      });
    }
    const int64_t h = unit % p.height;
    const int64_t y0 = max_of(-p.before, -h), y1 = min_of(p.after, p.height - 1 - h);
    for_each_vector<acc_t>(tile, [&](int64_t i, int64_t at, auto n) {
      vector_t sum{};
      for (int64_t y = y0; y <= y1; ++y) {
        const vector_t x = load_n(input + i + y * tile.length, n);
        sum = multiply_add(x, x, sum);
      }
      store_n(sum, line + at, n);
    });
  }

  // body(scale_at), a function of where an element's square stands.
  template <class F>
  void with_scale(const F& body) const {
    with_taps([&](auto taps) {
      const vector_t alpha = splat(acc_t(p.alpha)), k = splat(acc_t(p.k));
      const int64_t step = this->step, before = p.before * step;
      body([=](const acc_t* squares) {
        return multiply_add(alpha, window_sum(squares - before, step, taps), k);
      });
    });
  }

  // The normalised tile, to where `to` says; `is_large`: the result that it is part of.
  void normalise(const scalar_t* input, const acc_t* line, scalar_t* output, const Tile& tile,
                 const Stretches& to, bool is_large) const {
    const int64_t next = to_next(tile);
    with_scale([&](auto scale_at) {
      for_each_vector<acc_t>(tile, to, [&](int64_t i, int64_t o, int64_t at, auto n) {
        __builtin_prefetch(input + i + next);
        const Divisors<power, vector_t> divisors(scale_at(line + at), p.beta);
        store_result_n(divisors.over_power(load_n(input + i, n)), output + o, n, is_large);
      });
    });
  }

  // The gradient's quotients and ratios; the gradient stands where `from` says.
  void divide_gradient(const scalar_t* grad_output, const scalar_t* input, const acc_t* line,
                       acc_t* direct, acc_t* ratio, const Tile& tile, const Stretches& from) const {
    const int64_t next = to_next(tile);
    with_scale([&](auto scale_at) {
      for_each_vector<acc_t>(tile, from, [&](int64_t i, int64_t g, int64_t at, auto n) {
        __builtin_prefetch(input + i + next);
        __builtin_prefetch(grad_output + g + next);
        const Divisors<power, vector_t> divisors(scale_at(line + at), p.beta);
        const vector_t quotient = divisors.over_power(load_n(grad_output + g, n));
        store_n(quotient, direct + at, n);
        store_n(divisors.over_scale(quotient * load_n(input + i, n)), ratio + at, n);
      });
    });
  }

  // The windows that hold i are those of [i - after, i + before].
  void subtract_ratios(const scalar_t* input, const acc_t* direct, const acc_t* ratio,
                       scalar_t* grad_input, const Tile& tile) const {
    const acc_t factor = acc_t(-2 * p.alpha * p.beta);
    const bool is_large = has_large_result();
    with_taps([&](auto taps) {
      const int64_t step = this->step, after = p.after * step;
      for_each_vector<acc_t>(tile, [&](int64_t i, int64_t at, auto n) {
        const vector_t sum = window_sum(ratio + at - after, step, taps);
        const vector_t weight = factor * load_n(input + i, n);
        const vector_t gradient = multiply_add(weight, sum, load_n(direct + at, n));
        store_result_n(gradient, grad_input + i, n, is_large);
      });
    });
  }

 private:
  // From an element to the one that stands there in the next tile. A tile goes through the caches
  // several times, and meanwhile the memory would have nothing to do.
  int64_t to_next(const Tile& tile) const {
    return p.channels_last ? tile.runs * tile.stride : tile.length;
  }

  template <class F>
  void with_taps(const F& body) const {
    constexpr int64_t kUsual = 5;
    if (taps == kUsual) return body(std::integral_constant<int64_t, kUsual>());
    body(taps);
  }
};

// The line buffers of a backward pass, and the pass over one tile.
template <class Tiles>
class ResponseNormBackward {
 public:
  using scalar_t = typename Tiles::scalar_t;
  using acc_t = typename Tiles::acc_t;

  explicit ResponseNormBackward(const Tiles& tiles)
      : tiles_(tiles),
        squares_(tiles.line_elements()),
        ratios_(tiles.line_elements()),
        direct_(tiles.line_elements()) {}

  void operator()(const scalar_t* grad_output, const Stretches& from, const scalar_t* input,
                  scalar_t* grad_input, const Tile& tile) {
    acc_t *line = squares_.data() + tiles_.origin(), *ratio = ratios_.data() + tiles_.origin();
    tiles_.fill_squares(input, line, tile, 0);
    tiles_.divide_gradient(grad_output, input, line, direct_.data(), ratio, tile, from);
    tiles_.subtract_ratios(input, direct_.data(), ratio, grad_input, tile);
  }

 private:
  const Tiles& tiles_;
  Buffer<acc_t> squares_, ratios_, direct_;
};

// Calls body(ResponseNormTiles) for the power that the problem asks for.
template <typename scalar_t, class F>
static void with_response_norm(const ResponseNorm& p, int64_t tile_pixels, const F& body) {
  if (p.beta == 0.75) {
    return body(ResponseNormTiles<scalar_t, Power::three_quarters>(p, tile_pixels));
  }
  if (p.beta == 0.5) return body(ResponseNormTiles<scalar_t, Power::half>(p, tile_pixels));
  if (p.beta == 1.0) return body(ResponseNormTiles<scalar_t, Power::one>(p, tile_pixels));
  body(ResponseNormTiles<scalar_t, Power::any>(p, tile_pixels));
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
