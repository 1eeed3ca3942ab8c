// The gradient of the weight of csrc/cpu/winograd.h.
#include "cpu/winograd_tiles.h"

namespace fastconv {
namespace FASTCONV_ISA {

template <typename vector_t>
static inline void spread(const vector_t* y, int step, vector_t* out, int out_step) {
  out[0] = y[0];
  out[out_step] = y[0] + y[step];
  out[2 * out_step] = y[0] - y[step];
  out[3 * out_step] = -y[step];
}

template <typename scalar_t>
void winograd_tiles(const WinogradGradient& p, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  using vector_t = vec_t<acc_t>;
  const FoldedImage& grad = p.grad_output;
  const int64_t next_col = grad.groups * grad.depth, next_row = grad.cols * next_col;
  for (int64_t i = begin; i < end; ++i) {
    const TilePlace tile = place_of(p.first + i, p.tiles);
    transform_inputs<kWinogradPanel>(p.input, p.filter, tile, p.group,
                                     static_cast<acc_t*>(p.inputs) + i * kWinogradPanel,
                                     p.inputs_size(), p.count * kWinogradPanel);
    const acc_t* from = static_cast<const acc_t*>(grad.memory) +
                        (tile.n * grad.rows + tile.y * 2) * next_row + tile.x * 2 * next_col +
                        p.group * grad.depth;
    acc_t* to = static_cast<acc_t*>(p.outputs) + i * p.output_pitch;
    for (int64_t d = 0; d < grad.depth; d += kLanesOf<acc_t>) {
      vector_t y[4], half[8], m[kWinogradElements];
      for (int q = 0; q < 4; ++q) y[q] = load(from + d + q / 2 * next_row + q % 2 * next_col);
      for (int s = 0; s < 2; ++s) spread(y + s, 2, half + s, 2);
      for (int r = 0; r < 4; ++r) spread(half + 2 * r, 1, m + 4 * r, 1);
      for (int e = 0; e < kWinogradElements; ++e) {
        store(m[e], to + e * p.outputs_size() + d);
      }
    }
  }
}

// c += the products of the tiles [first, last), in chains.
template <typename acc_t, int kVectors>
static void multiply_tiles(const WinogradGradient& p, const acc_t* a, const acc_t* b, int64_t first,
                           int64_t last, acc_t* c) {
  constexpr int64_t kChain = Gemm<acc_t>::kChain;
  for (int64_t t = first; t < last; t += kChain) {
    multiply_chain<acc_t, kVectors>(a + t * p.output_pitch, p.output_pitch, b + t * kWinogradPanel,
                                    kWinogradPanel, min_of(kChain, last - t), c);
  }
}

// A group's and element's sums: panels of columns (taps), in each panels of rows (maps).
template <typename scalar_t>
void winograd_products(const WinogradGradient& p, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  using G = Gemm<acc_t>;
  constexpr int64_t kTiles = 3 * G::kChain;  // both panels of so many stay in the first cache
  const Presence present(p.filter);
  const int64_t row_panels = ceil_div(p.filter.maps, G::kRows);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t panel = unit % p.panels(), depth = p.input.depth;
    const int e = int(unit / p.panels());
    bool needed = false;
    for (int64_t k = panel * kWinogradPanel; k < min_of((panel + 1) * kWinogradPanel, p.taps());
         k += kWinogradChunk) {
      needed |= present(e, k / depth, k % depth, k % depth + kWinogradChunk);
    }
    if (!needed) continue;
    const acc_t* outputs = static_cast<const acc_t*>(p.outputs) + e * p.outputs_size();
    const acc_t* inputs = static_cast<const acc_t*>(p.inputs) + e * p.inputs_size() +
                          panel * kWinogradPanel * p.count;
    acc_t* sums = static_cast<acc_t*>(p.sums) + (p.group * kWinogradElements + e) * p.sums_size() +
                  panel * kWinogradPanel * row_panels * G::kRows;
    const int64_t width = min_of(kWinogradPanel, p.taps() - panel * kWinogradPanel);
    for (int64_t first = 0; first < p.count; first += kTiles) {
      const int64_t last = min_of(first + kTiles, p.count);
      for (int64_t i = 0; i < row_panels; ++i) {
        for (int64_t v = 0; v < width; v += G::kCols) {
          const acc_t* a = outputs + i * G::kRows;
          acc_t* c = sums + (v / G::kCols * row_panels + i) * G::kRows * G::kCols;
          if (width - v <= kLanesOf<acc_t>) {
            multiply_tiles<acc_t, 1>(p, a, inputs + v, first, last, c);
          } else {
            multiply_tiles<acc_t, G::kVectors>(p, a, inputs + v, first, last, c);
          }
        }
      }
    }
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
  template void winograd_tiles<scalar_t>(const WinogradGradient&, int64_t, int64_t);    \
  template void winograd_products<scalar_t>(const WinogradGradient&, int64_t, int64_t); \
  template void winograd_weights<scalar_t>(const WinogradGradient&, int64_t, int64_t, bool*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
