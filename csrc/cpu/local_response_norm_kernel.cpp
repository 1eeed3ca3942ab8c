// Local response normalisation by tiles: cpu/response_norm_tiles.h has the formulas and how a tile
// lies in memory.
#include "cpu/local_response_norm.h"
#include "cpu/response_norm_tiles.h"

namespace fastconv {
namespace FASTCONV_ISA {

template <class Tiles>
static void forward(const Tiles& tiles, const typename Tiles::scalar_t* input,
                    typename Tiles::scalar_t* output, int64_t begin, int64_t end) {
  using acc_t = typename Tiles::acc_t;
  Buffer<acc_t> squares(tiles.line_elements());
  acc_t* line = squares.data() + tiles.origin();
  const bool is_large = tiles.has_large_result();
  for (int64_t unit = begin; unit < end; ++unit) {
    const Tile tile = tiles.tile_of(unit);
    tiles.fill_squares(input, line, tile, unit);
    tiles.normalise(input, line, output, tile, {tile.start, tile.stride}, is_large);
  }
}

template <class Tiles>
static void backward_across(const Tiles& tiles, const typename Tiles::scalar_t* grad_output,
                            const typename Tiles::scalar_t* input,
                            typename Tiles::scalar_t* grad_input, int64_t begin, int64_t end) {
  ResponseNormBackward<Tiles> backward(tiles);
  for (int64_t unit = begin; unit < end; ++unit) {
    const Tile tile = tiles.tile_of(unit);
    backward(grad_output, {tile.start, tile.stride}, input, grad_input, tile);
  }
}

// Within a map the ratios are summed over rows too: a ring keeps those of the last `taps` rows.
template <class Tiles>
static void backward_within(const Tiles& tiles, const typename Tiles::scalar_t* grad_output,
                            const typename Tiles::scalar_t* input,
                            typename Tiles::scalar_t* grad_input, int64_t begin, int64_t end) {
  using acc_t = typename Tiles::acc_t;
  const ResponseNorm& p = tiles.p;
  const int64_t row = tiles.row_elements(), taps = tiles.taps;
  Buffer<acc_t> squares(tiles.line_elements()), ratios(tiles.line_elements());
  Buffer<acc_t> ring_ratio(taps * row), ring_direct(taps * row);
  acc_t *line = squares.data() + tiles.origin(), *ratio = ratios.data() + tiles.origin();
  int64_t done = 0;  // rows of this map that went through the ring
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t h = unit % p.height;
    const int64_t y0 = max_of(0, h - p.after), y1 = min_of(p.height, h + p.before + 1);
    if (unit == begin || h == 0) done = y0;
    for (; done < y1; ++done) {
      const int64_t ahead = unit + done - h, slot = done % taps * row;
      const Tile tile = tiles.tile_of(ahead);
      tiles.fill_squares(input, line, tile, ahead);
      tiles.divide_gradient(grad_output, input, line, ring_direct.data() + slot,
                            ring_ratio.data() + slot, tile, {tile.start, tile.stride});
    }
    const Tile tile = tiles.tile_of(unit);
    for_each_vector<acc_t>(tile, [&](int64_t, int64_t at, auto n) {
      vec_t<acc_t> sum{};
      for (int64_t y = y0; y < y1; ++y) sum += load_n(ring_ratio.data() + y % taps * row + at, n);
      store_n(sum, ratio + at, n);
    });
    tiles.subtract_ratios(input, ring_direct.data() + h % taps * row, ratio, grad_input, tile);
  }
}

template <typename scalar_t>
void local_response_norm_forward(const scalar_t* input, scalar_t* output, const ResponseNorm& p,
                                 int64_t begin, int64_t end) {
  with_response_norm<scalar_t>(p, kTilePixels<scalar_t>, [&](const auto& tiles) {
    forward(tiles, input, output, begin, end);
    if (tiles.has_large_result()) finish_stores_past_caches();
  });
}

template <typename scalar_t>
void local_response_norm_backward(const scalar_t* grad_output, const scalar_t* input,
                                  scalar_t* grad_input, const ResponseNorm& p, int64_t begin,
                                  int64_t end) {
  with_response_norm<scalar_t>(p, kTilePixels<scalar_t>, [&](const auto& tiles) {
    if (p.within) {
      backward_within(tiles, grad_output, input, grad_input, begin, end);
    } else {
      backward_across(tiles, grad_output, input, grad_input, begin, end);
    }
    if (tiles.has_large_result()) finish_stores_past_caches();
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
