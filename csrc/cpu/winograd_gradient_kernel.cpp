// The gradient of the weight of csrc/cpu/winograd.h.
#include "cpu/winograd_tiles.h"

namespace fastconv {
namespace FASTCONV_ISA {

// Row `row` of A dy, for one column of a tile of outputs, or the other way round.
template <typename vector_t>
[[gnu::always_inline]] static inline vector_t spread(const vector_t* y, int step, int row) {
  switch (row) {
    case 0:
      return y[0];
    case 1:
      return y[0] + y[step];
    case 2:
      return y[0] - y[step];
    default:
      return -y[step];
  }
}

// The rows [kTop, kBottom) of A dy At, for one tile.
template <int kTop, int kBottom, typename acc_t>
static void transform_outputs(const Pixels<acc_t>& pixels, const TilePlace& tile, int64_t group,
                              acc_t* to, int64_t e_step) {
  const acc_t* from[4];
  for (int q = 0; q < 4; ++q) {
    from[q] = pixels.at(tile.n, tile.y * 2 + q / 2, tile.x * 2 + q % 2, group);
  }
  for (int64_t d = 0; d < pixels.image.depth; d += kLanesOf<acc_t>) {
    vec_t<acc_t> y[4], rows[8];
    for (int q = 0; q < 4; ++q) y[q] = load(from[q] + d);
#pragma GCC unroll 4
    for (int r = kTop; r < kBottom; ++r) {
      for (int s = 0; s < 2; ++s) rows[2 * (r - kTop) + s] = spread(y + s, 2, r);
    }
#pragma GCC unroll 16
    for (int e = 0; e < 4 * (kBottom - kTop); ++e) {
      store(spread(rows + e / 4 * 2, 1, e % 4), to + e * e_step + d);
    }
  }
}

// Transformed tiles of one group, in the rows [top, bottom) of their elements: a thread's own.
template <typename acc_t>
class GradientTiles {
 public:
  GradientTiles(const WinogradGradient& gradient, int64_t group_of, int top_row, int bottom_row)
      : p(gradient),
        group(group_of),
        top(top_row),
        bottom(bottom_row),
        elements((bottom - top) * kWinogradTile),
        input_pitch(p.panels() * kWinogradPanel),
        pitch(round_up(max_of(round_up(p.filter.maps, Gemm<acc_t>::kRows), p.grad_output.depth),
                       kWinogradPanel) +
              kWinogradChunk),  // no power of two, or tiles drive each other out of the first cache
        together(tiles_together()),
        input_pixels(p.input),
        output_pixels(p.grad_output),
        memory(elements * (together * (input_pitch + pitch) + 2 * kWinogradPad)) {}

  // The tiles [first, first + tiles).
  void transform(int64_t first, int64_t tiles) {
    count = tiles;
    for (int64_t i = 0; i < count; ++i) {
      const TilePlace tile = place_of(first + i, p.tiles);
      if (elements == kWinogradElements) {
        transform_rows<0, kWinogradTile>(tile, i);
        continue;
      }
      for (int row = top; row < bottom; ++row) {
        switch (row) {
          case 0:
            transform_rows<0, 1>(tile, i);
            break;
          case 1:
            transform_rows<1, 2>(tile, i);
            break;
          case 2:
            transform_rows<2, 3>(tile, i);
            break;
          default:
            transform_rows<3, 4>(tile, i);
        }
      }
    }
  }

  // (tile, tap) of Bt d B.
  acc_t* inputs(int e, int64_t panel) {
    return memory.data() + (e - top * int(kWinogradTile)) * input_size() +
           panel * kWinogradPanel * count;
  }
  // (tile, map) of A dy At, from one tile to the next `pitch`; what is beyond the maps is finite.
  acc_t* outputs(int e) {
    return inputs(bottom * int(kWinogradTile), 0) + (e - top * int(kWinogradTile)) * output_size();
  }

  const WinogradGradient& p;
  const int64_t group;
  const int top, bottom;
  const int64_t elements, input_pitch, pitch;
  const int64_t together;
  int64_t count = 0;

 private:
  int64_t input_size() const { return input_pitch * count + kWinogradPad; }
  int64_t output_size() const { return pitch * count + kWinogradPad; }

  // A multiple of a chain, so that the chains are the same ones whatever the threads.
  int64_t tiles_together() const {
    constexpr int64_t kBytes = 512 * 1024;  // half a second cache
    constexpr int64_t kChain = Gemm<acc_t>::kChain;
    const int64_t tile = elements * (input_pitch + pitch) * int64_t(sizeof(acc_t));
    return min_of(round_up(p.all_tiles(), kChain), round_up(max_of(1, kBytes / tile), kChain));
  }

  template <int kTop, int kBottom>
  void transform_rows(const TilePlace& tile, int64_t i) {
    constexpr int kFirst = kTop * kWinogradTile;
    transform_inputs<kWinogradPanel, kTop, kBottom>(input_pixels, p.filter, tile, group,
                                                    inputs(kFirst, 0) + i * kWinogradPanel,
                                                    input_size(), count * kWinogradPanel);
    transform_outputs<kTop, kBottom>(output_pixels, tile, group, outputs(kFirst) + i * pitch,
                                     output_size());
  }

  const Pixels<acc_t> input_pixels, output_pixels;
  Buffer<acc_t> memory;
};

// c += the products of the tiles [first, last), in chains.
template <typename acc_t, int kVectors, int kRows>
static void multiply_tiles(const acc_t* a, int64_t a_step, const acc_t* b, int64_t first,
                           int64_t last, acc_t* c) {
  constexpr int64_t kChain = Gemm<acc_t>::kChain;
  for (int64_t t = first; t < last; t += kChain) {
    multiply_chain<acc_t, kVectors, kRows>(a + t * a_step, a_step, b + t * kWinogradPanel,
                                           kWinogradPanel, min_of(kChain, last - t), c);
  }
}

// Element e's products in one panel of taps. Its sums: panels of columns, in each panels of maps.
template <typename acc_t>
static void multiply_panel(GradientTiles<acc_t>& tiles, int e, int64_t panel) {
  using G = Gemm<acc_t>;
  constexpr int64_t kTiles = 3 * G::kChain;  // both panels of so many stay in the first cache
  const WinogradGradient& p = tiles.p;
  const int64_t row_panels = ceil_div(p.filter.maps, G::kRows);
  const int64_t width = min_of(kWinogradPanel, p.taps() - panel * kWinogradPanel);
  const acc_t *inputs = tiles.inputs(e, panel), *outputs = tiles.outputs(e);
  acc_t* sums = static_cast<acc_t*>(p.sums) +
                (tiles.group * kWinogradElements + e) * p.sums_size() +
                panel * kWinogradPanel * row_panels * G::kRows;
  for (int64_t first = 0; first < tiles.count; first += kTiles) {
    const int64_t last = min_of(first + kTiles, tiles.count);
    for (int64_t i = 0; i < row_panels; ++i) {
      for (int64_t v = 0; v < width; v += G::kCols) {
        const acc_t* a = outputs + i * G::kRows;
        acc_t* c = sums + (v / G::kCols * row_panels + i) * G::kRows * G::kCols;
        with_rows<acc_t>(p.filter.maps - i * G::kRows, [&](auto rows) {
          if (width - v <= kLanesOf<acc_t>) {
            multiply_tiles<acc_t, 1, rows>(a, tiles.pitch, inputs + v, first, last, c);
          } else {
            multiply_tiles<acc_t, G::kVectors, rows>(a, tiles.pitch, inputs + v, first, last, c);
          }
        });
      }
    }
  }
}

// A thread multiplies what it has transformed itself, if need be what others transform, too: what
// another core has just written takes long to come where the two share no cache.
template <typename scalar_t>
void winograd_products(const WinogradGradient& p, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const Presence present(p.filter);
  const int64_t panels = p.panels(), depth = p.input.depth;
  Buffer<int64_t> needed(kWinogradElements * panels);  // (element, panel) that are not left out
  int64_t count = 0;
  for (int64_t i = 0; i < kWinogradElements * panels; ++i) {
    const int64_t first = i % panels * kWinogradPanel;
    bool any = false;
    for (int64_t k = first; k < min_of(first + kWinogradPanel, p.taps()); k += kWinogradChunk) {
      any |= present(int(i / panels), k / depth, k % depth, k % depth + kWinogradChunk);
    }
    if (any) needed[count++] = i;
  }
  const int64_t first = begin * count / (kWinogradElements * panels);
  const int64_t last = end * count / (kWinogradElements * panels);
  for (int64_t i = first; i < last;) {
    const int64_t group = i / count, stop = min_of(last, (group + 1) * count);
    const auto row_of = [&](int64_t j) { return int(needed[j % count] / panels / kWinogradTile); };
    GradientTiles<acc_t> tiles(p, group, row_of(i), row_of(stop - 1) + 1);
    for (int64_t tile = 0; tile < p.all_tiles(); tile += tiles.together) {
      tiles.transform(tile, min_of(tiles.together, p.all_tiles() - tile));
      for (int64_t j = i; j < stop; ++j) {
        multiply_panel(tiles, int(needed[j % count] / panels), needed[j % count] % panels);
      }
    }
    i = stop;
  }
}

// Gt m, for one row or column of a tile.
template <typename vector_t>
static inline void contract(const vector_t* m, int step, vector_t* out, int out_step) {
  const vector_t sum = (m[step] + m[2 * step]) * 0.5f;
  out[0] = m[0] + sum;
  out[out_step] = (m[step] - m[2 * step]) * 0.5f;
  out[2 * out_step] = m[3 * step] + sum;
}

template <typename scalar_t>
void winograd_weights(const WinogradGradient& p, int64_t begin, int64_t end, bool* finite) {
  using acc_t = accumulate_t<scalar_t>;
  using G = Gemm<acc_t>;
  using vector_t = vec_t<acc_t>;
  constexpr int kLanes = kLanesOf<acc_t>;
  const Filter& f = p.filter;
  const int64_t row_panels = ceil_div(f.maps, G::kRows);
  vector_t check{};
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t group = unit / f.maps, o = unit % f.maps;
    scalar_t* weight = static_cast<scalar_t*>(f.weight) + group * f.maps * f.stride[0];
    const acc_t* sums = static_cast<const acc_t*>(p.sums) +
                        group * kWinogradElements * p.sums_size() +
                        o / G::kRows * G::kRows * G::kCols + o % G::kRows * G::kCols;
    for (int64_t k = 0; k < p.taps(); k += kLanes) {
      vector_t m[kWinogradElements], half[12], g[9];
      for (int e = 0; e < kWinogradElements; ++e) {
        m[e] = load(sums + e * p.sums_size() + k / G::kCols * row_panels * G::kRows * G::kCols +
                    k % G::kCols);
      }
      for (int s = 0; s < 4; ++s) contract(m + s, 4, half + s, 4);
      for (int r = 0; r < 3; ++r) contract(half + 4 * r, 1, g + 3 * r, 1);
      BlockTaps block(f, k / p.input.depth);
      for (int l = 0; l < kLanes; ++l) {
        const int64_t d = (k + l) % p.input.depth;
        if (d >= f.folded_channels()) continue;
        block.for_each(o, d, [&](int tap, int64_t at) { from_acc(acc_t(g[tap][l]), weight[at]); });
      }
      for (const vector_t& value : g) check += value * 0;
    }
  }
  for (int l = 0; l < kLanes; ++l) {
    if (check[l] != 0) *finite = false;
  }
}

#define INSTANTIATE(scalar_t)                                                           \
  template void winograd_products<scalar_t>(const WinogradGradient&, int64_t, int64_t); \
  template void winograd_weights<scalar_t>(const WinogradGradient&, int64_t, int64_t, bool*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
