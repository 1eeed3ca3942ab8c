// normalised = input / scale^beta                        (cpu/response_norm_tiles.h)
// output, switches = the maxima of its windows, and where they stood    (cpu/pool_rows.h); switches
//                    may be null
// grad_input = the gradient of the normalisation at the unpooled grad_output
//
// The normalised image never exists: a ring of rows, rounded to scalar_t, keeps what the windows of
// one row of outputs see. Each row is normalised once, but for those that the windows of two
// threads see. Backward, the unpooled gradient of a few rows, rounded likewise, stands in a buffer.
// The arithmetic and its order are those of the two ops, so the results are the same to the bit.
//
// channels_last: rows as in memory. contiguous: the ring holds each row of each map in phases
// (cpu/rows.h), so that one tap of neighbouring windows is one load.
#include "cpu/local_response_norm_max_pool2d.h"
#include "cpu/pool_rows.h"
#include "cpu/response_norm_tiles.h"
#include "cpu/rows.h"

namespace fastconv {
namespace FASTCONV_ISA {

// Pixels of a tile. In channels_last, where a tile of any size fills vectors, half of what
// local_response_norm takes leaves the first-level cache room for the unpooled gradient.
template <typename scalar_t>
static int64_t tile_pixels(const ResponseNorm& p) {
  return p.channels_last ? kTilePixels<scalar_t> / 2 : kTilePixels<scalar_t>;
}

// A window without dilation that spans what `w` does.
static Window spanning(const Window& w) {
  return {w.input, w.output, w.dilation * (w.kernel - 1) + 1, w.stride, w.padding, 1};
}

static int64_t rows_in_sight(const Window& h) { return min_of(h.input, spanning(h).kernel); }

// The rows of normalised images that the windows of one row of outputs see.
template <class Tiles>
class NormalisedRows {
 public:
  using scalar_t = typename Tiles::scalar_t;
  using acc_t = typename Tiles::acc_t;

  NormalisedRows(const Tiles& tiles, const Pool2d& pool)
      : tiles_(tiles), pool_(pool), squares_(tiles.line_elements()) {}

 protected:
  // Normalises `count` pixels of an image; pixel i, map 0 goes to output[to.start + i * pixel].
  void normalise(const scalar_t* input, int64_t image, int64_t first, int64_t count,
                 scalar_t* output, Stretches to, int64_t pixel) {
    acc_t* line = squares_.data() + tiles_.origin();
    for (int64_t i = 0; i < count; i += tiles_.pixels) {
      const Tile tile = tiles_.tile_at(image, first + i, min_of(tiles_.pixels, count - i));
      tiles_.fill_squares(input, line, tile, 0);
      tiles_.normalise(input, line, output, tile, {to.start + i * pixel, to.stride}, false);
    }
  }

  const Tiles& tiles_;
  const Pool2d& pool_;

 private:
  Buffer<acc_t> squares_;
};

template <class Tiles>
class RowsChannelsLast : public NormalisedRows<Tiles> {
 public:
  using Base = NormalisedRows<Tiles>;
  using scalar_t = typename Tiles::scalar_t;

  RowsChannelsLast(const Tiles& tiles, const Pool2d& pool)
      : Base(tiles, pool),
        slots_(rows_in_sight(pool.h)),
        row_(pool.w.input * pool.channels),
        ring_(slots_ * row_) {}

  void fill(const scalar_t* input, int64_t image, int64_t begin, int64_t end) {
    const int64_t width = this->pool_.w.input, maps = this->pool_.channels;
    for (int64_t y = begin; y < end; ++y) {
      this->normalise(input, image, y * width, width, ring_.data(), {y % slots_ * row_, maps},
                      maps);
    }
  }

  void pool(int64_t image, int64_t ph, scalar_t* output, uint8_t* switches) {
    const Pool2d& p = this->pool_;
    const scalar_t* rows[256];
    for (int64_t r = p.h.first_tap(ph); r < p.h.end_tap(ph); ++r) {
      rows[r] = ring_.data() + (p.h.start(ph) + r * p.h.dilation) % slots_ * row_;
    }
    const int64_t o = (image * p.h.output + ph) * p.w.output * p.channels;
    max_pool_row_channels_last(rows, output + o, switches ? switches + o : nullptr, p, ph, 0);
  }

 private:
  const int64_t slots_, row_;
  Buffer<scalar_t> ring_;
};

template <class Tiles>
class RowsContiguous : public NormalisedRows<Tiles> {
 public:
  using Base = NormalisedRows<Tiles>;
  using scalar_t = typename Tiles::scalar_t;
  using acc_t = typename Tiles::acc_t;
  using int_t = typename Vec<acc_t>::int_t;
  static constexpr int kLanes = Vec<acc_t>::kLanes;

  RowsContiguous(const Tiles& tiles, const Pool2d& pool)
      : Base(tiles, pool),
        slots_(rows_in_sight(pool.h)),
        most_(min_of(slots_, ceil_div(2 * tiles.pixels, pool.w.input))),
        some_(most_ * pool.w.input * pool.channels),
        ring_(spanning(pool.w), slots_ * pool.channels, -std::numeric_limits<acc_t>::infinity()),
        first_(pool.w.output + kLanes) {
    for (int64_t pw = 0; pw < pool.w.output; ++pw) first_[pw] = int_t(pool.w.first_tap(pw));
  }

  void fill(const scalar_t* input, int64_t image, int64_t begin, int64_t end) {
    const int64_t width = this->pool_.w.input, maps = this->pool_.channels;
    for (int64_t y = begin; y < end; y += most_) {
      const int64_t rows = min_of(most_, end - y), pixels = rows * width;
      this->normalise(input, image, y * width, pixels, some_.data(), {0, pixels}, 1);
      for (int64_t c = 0; c < maps; ++c) {
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t row = (y + i) % slots_ * maps + c;
          read_row(some_.data() + c * pixels + i * width, ring_.columns(row), width);
          ring_.split(row);
        }
      }
    }
  }

  void pool(int64_t image, int64_t ph, scalar_t* output, uint8_t* switches) {
    const Pool2d& p = this->pool_;
    const int64_t r0 = p.h.first_tap(ph), r1 = p.h.end_tap(ph);
    for (int64_t c = 0; c < p.channels; ++c) {
      const int64_t o = ((image * p.channels + c) * p.h.output + ph) * p.w.output;
      for (int64_t pw = 0; pw < p.w.output; pw += kLanes) {
        vec_t<acc_t> best = splat(-std::numeric_limits<acc_t>::infinity());
        int_vec_t<acc_t> which;
        memcpy(&which, first_.data() + pw, sizeof which);
        which += int_t(r0 * p.w.kernel);
        for (int64_t r = r0; r < r1; ++r) {
          const int64_t y = p.h.start(ph) + r * p.h.dilation, row = y % slots_ * p.channels + c;
          for (int64_t s = 0; s < p.w.kernel; ++s) {
            const vec_t<acc_t> value = load(ring_.tap(row, s * p.w.dilation) + pw);
            const auto better = (value > best) | (value != value);
            best = better ? value : best;
            which = better ? int_vec_t<acc_t>{} + int(r * p.w.kernel + s) : which;
          }
        }
        const int n = int(min_of(kLanes, p.w.output - pw));
        store_n(best, output + o + pw, n);
        if (switches) store_bytes_n<acc_t>(which, switches + o + pw, n);
      }
    }
  }

 private:
  const int64_t slots_, most_;
  Buffer<scalar_t> some_;  // rows of all maps as they were normalised
  PhasedRows<acc_t> ring_;
  Buffer<int_t> first_;  // tap of each window in its row
};

template <class Rows, class Tiles>
static void forward(const Tiles& tiles, const typename Tiles::scalar_t* input,
                    typename Tiles::scalar_t* output, uint8_t* switches, const Pool2d& p,
                    int64_t begin, int64_t end) {
  Rows rows(tiles, p);
  int64_t done = 0;  // rows of this image that were normalised
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t image = unit / p.h.output, ph = unit % p.h.output;
    const int64_t r0 = p.h.first_tap(ph), r1 = p.h.end_tap(ph), y0 = p.h.start(ph);
    if (unit == begin || ph == 0) done = 0;
    if (r0 < r1) {
      // From the window's start, not its first tap in the map: the next window's may lie higher.
      done = max_of(done, y0);
      const int64_t y1 = y0 + (r1 - 1) * p.h.dilation + 1;
      rows.fill(input, image, done, y1);
      done = max_of(done, y1);
    }
    rows.pool(image, ph, output, switches);
  }
}

// Rows [y0, y1) of the unpooled gradient of one map, in the contiguous format: the windows that see
// them are scattered one after the other, in row order.
template <typename scalar_t>
static void scatter_rows(const scalar_t* pooled, const uint8_t* switches,
                         accumulate_t<scalar_t>* sums, const Pool2d& p,
                         const SwitchOffsets& offsets, int64_t y0, int64_t y1) {
  const int64_t width = p.w.input, rows = y1 - y0;
  memset(sums, 0, rows * width * sizeof(sums[0]));
  for (int64_t ph = p.h.first_output(y0); ph < p.h.end_output(y1 - 1); ++ph) {
    const scalar_t* values = pooled + ph * p.w.output;
    const uint8_t* which = switches + ph * p.w.output;
    for (int64_t pw = 0; pw < p.w.output; ++pw) {
      const int64_t row = p.h.start(ph) - y0 + offsets.h[which[pw]];
      const int64_t column = p.w.start(pw) + offsets.w[which[pw]];
      if (row < 0 || row >= rows || column < 0 || column >= width) continue;
      sums[row * width + column] += to_acc(values[pw]);
    }
  }
}

template <class Tiles>
static void backward_channels_last(const Tiles& tiles, const typename Tiles::scalar_t* grad_output,
                                   const typename Tiles::scalar_t* input, const uint8_t* switches,
                                   typename Tiles::scalar_t* grad_input, const Pool2d& p,
                                   int64_t begin, int64_t end) {
  const int64_t width = p.w.input, maps = p.channels;
  ResponseNormBackward<Tiles> backward(tiles);
  Buffer<typename Tiles::scalar_t> unpooled(tiles.pixels * maps);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t image = unit / p.h.input, y = unit % p.h.input;
    const int64_t o = image * p.h.output * p.w.output * maps;
    for (int64_t x = 0; x < width; x += tiles.pixels) {
      const int64_t count = min_of(tiles.pixels, width - x);
      unpool_row_channels_last<false>(grad_output + o, switches + o, unpooled.data(), p, y, x,
                                      x + count, false);
      backward(unpooled.data(), {0, maps}, input, grad_input,
               tiles.tile_at(image, y * width + x, count));
    }
  }
}

template <class Tiles>
static void backward_contiguous(const Tiles& tiles, const typename Tiles::scalar_t* grad_output,
                                const typename Tiles::scalar_t* input, const uint8_t* switches,
                                typename Tiles::scalar_t* grad_input, const Pool2d& p,
                                int64_t most_rows, int64_t begin, int64_t end) {
  using scalar_t = typename Tiles::scalar_t;
  const int64_t width = p.w.input, maps = p.channels, windows = p.h.output * p.w.output;
  const int64_t parts = ceil_div(p.h.input, most_rows);
  ResponseNormBackward<Tiles> backward(tiles);
  const SwitchOffsets offsets(p);
  Buffer<accumulate_t<scalar_t>> sums(most_rows * width);
  Buffer<scalar_t> unpooled(most_rows * width * maps);  // map after map
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t image = unit / parts, y0 = unit % parts * most_rows;
    const int64_t y1 = min_of(p.h.input, y0 + most_rows), pixels = (y1 - y0) * width;
    for (int64_t c = 0; c < maps; ++c) {
      const int64_t o = (image * maps + c) * windows;
      scatter_rows(grad_output + o, switches + o, sums.data(), p, offsets, y0, y1);
      write_row(sums.data(), unpooled.data() + c * pixels, pixels);
    }
    for (int64_t i = 0; i < pixels; i += tiles.pixels) {
      const Tile tile = tiles.tile_at(image, y0 * width + i, min_of(tiles.pixels, pixels - i));
      backward(unpooled.data(), {i, pixels}, input, grad_input, tile);
    }
  }
}

template <typename scalar_t>
void local_response_norm_max_pool2d_forward(const scalar_t* input, scalar_t* output,
                                            uint8_t* switches, const NormPool2d& p, int64_t begin,
                                            int64_t end) {
  with_response_norm<scalar_t>(p.norm, tile_pixels<scalar_t>(p.norm), [&](const auto& tiles) {
    using Tiles = std::decay_t<decltype(tiles)>;
    if (p.pool.channels_last) {
      return forward<RowsChannelsLast<Tiles>>(tiles, input, output, switches, p.pool, begin, end);
    }
    forward<RowsContiguous<Tiles>>(tiles, input, output, switches, p.pool, begin, end);
  });
}

template <typename scalar_t>
void local_response_norm_max_pool2d_backward(const scalar_t* grad_output, const scalar_t* input,
                                             const uint8_t* switches, scalar_t* grad_input,
                                             const NormPool2d& p, int64_t begin, int64_t end) {
  with_response_norm<scalar_t>(p.norm, tile_pixels<scalar_t>(p.norm), [&](const auto& tiles) {
    if (p.pool.channels_last) {
      backward_channels_last(tiles, grad_output, input, switches, grad_input, p.pool, begin, end);
    } else {
      backward_contiguous(tiles, grad_output, input, switches, grad_input, p.pool,
                          norm_pool_rows<scalar_t>(p), begin, end);
    }
    if (tiles.has_large_result()) finish_stores_past_caches();
  });
}

#define INSTANTIATE(scalar_t)                                                                \
  template void local_response_norm_max_pool2d_forward(const scalar_t*, scalar_t*, uint8_t*, \
                                                       const NormPool2d&, int64_t, int64_t); \
  template void local_response_norm_max_pool2d_backward(const scalar_t*, const scalar_t*,    \
                                                        const uint8_t*, scalar_t*,           \
                                                        const NormPool2d&, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
