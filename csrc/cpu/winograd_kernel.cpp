// The convolution of csrc/cpu/winograd.h: folding, filters and outputs.
#include "cpu/buffer.h"
#include "cpu/parts.h"
#include "cpu/winograd_stretches.h"
#include "cpu/winograd_tiles.h"

namespace fastconv {
namespace FASTCONV_ISA {

// ---- Folding -----------------------------------------------------------------------------------

// The pixels of one row of the image that fold into column 0, 1, ... of phase `phase`.
struct Run {
  int64_t begin, end;  // columns of the folded image whose pixel is inside the image
  int64_t x;           // of column `begin` in the image
};
static inline Run run_of(const Folding& f, int64_t phase, int64_t cols) {
  const int64_t first = f.origin[1] + phase;
  const int64_t begin = min_of(cols, max_of(0, ceil_div(-first, f.step[1])));
  const int64_t end = max_of(begin, min_of(cols, ceil_div(f.width - first, f.step[1])));
  return {begin, end, first + begin * f.step[1]};
}

template <typename scalar_t>
static void fold_pixels(const Folding& f, const scalar_t* from, int64_t count, int64_t pitch,
                        accumulate_t<scalar_t>* to) {
  using acc_t = accumulate_t<scalar_t>;
  const int64_t next = f.step[1] * f.stride[3];
  if (f.stride[1] == 1) {
    int64_t run = f.channels;
    if (next == run && pitch == run) {  // all of them are one run
      run *= count;
      count = 1;
    }
    for (int64_t i = 0; i < count; ++i, from += next, to += pitch) {
      for_each_vector<acc_t>(run,
                             [&](int64_t c, int n) { store_n(load_n(from + c, n), to + c, n); });
    }
    return;
  }
  constexpr int kLanes = kLanesOf<acc_t>;
  for (int64_t c = 0; c < f.channels; c += kLanes) {
    const int n = int(min_of(kLanes, f.channels - c));
    int64_t i = 0;
    for (; next == 1 && n == kLanes && i + kLanes <= count; i += kLanes) {
      vec_t<acc_t> block[kLanes];
      for (int l = 0; l < kLanes; ++l) block[l] = load(from + (c + l) * f.stride[1] + i);
      transpose<acc_t>(block);
      for (int l = 0; l < kLanes; ++l) store(block[l], to + (i + l) * pitch + c);
    }
    for (; i < count; ++i) {
      for (int l = 0; l < n; ++l) {
        to[i * pitch + c + l] = to_acc(from[i * next + (c + l) * f.stride[1]]);
      }
    }
  }
}

// The same for all phases of a row at once, where pixels lie side by side: what folds into a column
// is one run of memory, cut off where the image ends.
template <typename scalar_t>
static void fold_row(const FoldedImage& image, const scalar_t* from, accumulate_t<scalar_t>* to) {
  using acc_t = accumulate_t<scalar_t>;
  const Folding& f = image.of;
  const int64_t end = f.width * f.channels;
  int64_t run = f.step[1] * f.channels, at = f.origin[1] * f.channels, runs = image.cols;
  if (run == image.depth) {  // the columns' runs are one
    run *= runs;
    runs = 1;
  }
  for (int64_t i = 0; i < runs; ++i, at += run, to += image.depth) {
    const int64_t first = max_of(at, 0), count = min_of(at + run, end) - first;
    if (count <= 0) continue;
    for_parts_apart<acc_t>(count, [&](int64_t i, auto part) {
      store_part(load_part(from + first + i, part), to + (first - at) + i, part);
    });
  }
}

template <typename scalar_t>
void winograd_fold(const FoldedImage& image, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  const Folding& f = image.of;
  const int64_t pitch = image.groups * image.depth;
  for (int64_t row = begin; row < end; ++row) {
    acc_t* to = static_cast<acc_t*>(image.memory) + row * image.cols * pitch;
    memset(to, 0, image.cols * pitch * sizeof(acc_t));
    const int64_t n = row / image.rows, top = f.origin[0] + row % image.rows * f.step[0];
    if (image.groups == 1 && f.stride[1] == 1 && f.stride[3] == f.channels) {
      for (int64_t y = max_of(top, 0); y < min_of(top + f.step[0], f.height); ++y) {
        const scalar_t* from =
            static_cast<const scalar_t*>(f.image) + n * f.stride[0] + y * f.stride[2];
        fold_row(image, from, to + (y - top) * f.step[1] * f.channels);
      }
      continue;
    }
    for (int64_t phase = 0; phase < f.step[0] * f.step[1]; ++phase) {
      const int64_t y = top + phase / f.step[1];
      const Run run = run_of(f, phase % f.step[1], image.cols);
      if (y < 0 || y >= f.height) continue;
      const scalar_t* from = static_cast<const scalar_t*>(f.image) + n * f.stride[0] +
                             y * f.stride[2] + run.x * f.stride[3];
      for (int64_t g = 0; g < image.groups; ++g) {
        fold_pixels(f, from + g * f.channels * f.stride[1], run.end - run.begin, pitch,
                    to + run.begin * pitch + g * image.depth + phase * f.channels);
      }
    }
  }
}

// ---- Filters -----------------------------------------------------------------------------------

// G g, for one row or column of taps.
template <typename vector_t>
static inline void expand(const vector_t* g, int step, vector_t* out, int out_step) {
  const vector_t outer = (g[0] + g[2 * step]) * 0.5f, inner = g[step] * 0.5f;
  out[0] = g[0];
  out[out_step] = outer + inner;
  out[2 * out_step] = outer - inner;
  out[3 * out_step] = g[2 * step];
}

// Columns [j, j + kLanes) of the filters at index k of the sum.
template <typename scalar_t>
static void transform_filters(const Winograd& p, BlockTaps& block, const scalar_t* weight,
                              int64_t d, int64_t j, accumulate_t<scalar_t>* to) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kLanes = kLanesOf<acc_t>;
  const Filter& f = p.filter;
  const bool real = d < (f.turned ? f.maps : f.folded_channels());
  acc_t taps[kWinogradTaps * kWinogradTaps][kLanes] = {};
  const int n = real ? int(min_of(kLanes, p.columns - j)) : 0;
  block.load(weight, f.turned ? d : j, f.turned ? j : d, n, taps);
  vec_t<acc_t> g3[9], half[12], g4[16];
  for (int t = 0; t < 9; ++t) g3[t] = load(taps[t]);
  for (int s = 0; s < 3; ++s) expand(g3 + s, 3, half + s, 3);
  for (int r = 0; r < 4; ++r) expand(half + 3 * r, 1, g4 + 4 * r, 1);
  for (int e = 0; e < kWinogradElements; ++e) store(g4[e], to + e * p.transformed_size());
}

// Within a unit the same lines of the weight are read for one index of the sum after another.
template <typename scalar_t>
void winograd_filters(const Winograd& p, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kLanes = kLanesOf<acc_t>, kCols = Gemm<acc_t>::kCols;
  const Filter& f = p.filter;
  const int64_t depth = p.input.depth, sum = p.sum(), chunks = sum / kWinogradChunk;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit % chunks * kWinogradChunk, panel = unit / chunks % p.panels();
    const int64_t g = unit / chunks / p.panels();
    const scalar_t* weight = static_cast<const scalar_t*>(f.weight) + g * f.maps * f.stride[0];
    acc_t* to = static_cast<acc_t*>(p.transformed) + g * kWinogradElements * p.transformed_size();
    BlockTaps block(f, first / depth);
    const int64_t last = min_of((panel + 1) * kWinogradPanel, p.columns);
    for (int64_t j = panel * kWinogradPanel; j < last; j += kLanes) {
      for (int64_t k = first; k < first + kWinogradChunk; ++k) {
        transform_filters(p, block, weight, k % depth, j,
                          to + (j / kCols * sum + k) * kCols + j % kCols);
      }
    }
  }
}

// ---- Outputs -----------------------------------------------------------------------------------

// At m, for one row or column of a tile.
template <typename vector_t>
static inline void gather(const vector_t* m, int step, vector_t* out, int out_step) {
  out[0] = m[0] + m[step] + m[2 * step];
  out[out_step] = m[step] - m[2 * step] - m[3 * step];
}

template <typename scalar_t>
class OutputKernel {
 public:
  using acc_t = accumulate_t<scalar_t>;
  using G = Gemm<acc_t>;
  using vector_t = vec_t<acc_t>;
  static constexpr int kLanes = kLanesOf<acc_t>;
  static constexpr int64_t kPanelsTogether = kWinogradColumns / G::kCols;

  explicit OutputKernel(const Winograd& winograd)
      : p(winograd),
        pixels(p.input),
        sum(p.sum()),
        panels(ceil_div(p.columns, G::kCols)),
        room(ceil_div(p.together, G::kRows) * G::kRows),
        input_size(sum * room + kWinogradPad),
        product_size(kPanelsTogether * room * G::kCols + kWinogradPad),
        past_caches(is_large_result(p.output_bytes)),
        inputs(kWinogradElements * input_size),
        products(kWinogradElements * product_size),
        places(p.together),
        lists(p),
        last_elements(p.filter.blocks(0) * p.filter.blocks(1)) {
    list_last_elements(p.filter, last_elements.data());
  }

  bool run(int64_t unit) {
    const int64_t group = p.group(unit), part = p.column_part(unit), first = p.first_tile(unit);
    count = min_of(p.together, p.all_tiles() - first);
    for (int64_t i = 0; i < count; ++i) {
      places[i] = place_of(first + i, p.tiles);
      transform_inputs<kWinogradChunk>(pixels, p.filter, places[i], group, input_of(i), input_size,
                                       G::kRows * kWinogradChunk, last_elements.data());
    }
    check = vector_t{};
    for (int64_t block = p.first_block(part); block < p.first_block(part + 1); ++block) {
      const int64_t panel = block * kPanelsTogether, most = min_of(kPanelsTogether, panels - panel);
      for (int e = 0; e < kWinogradElements; ++e) {
        for (int64_t j = 0; j < most; ++j) {
          if (is_panel_and_a_vector(e, panel + j, most - j)) {
            multiply_panel_and_a_vector(group, e, panel + j, j);
            break;
          }
          const int64_t next =
              j + 1 < most ? panel_size() : p.transformed_size() - j * panel_size();
          multiply(group, e, panel + j, j, next);
        }
      }
      const int64_t begin = panel * G::kCols, end = min_of(begin + most * G::kCols, p.columns);
      for (int64_t i = 0; i < count; ++i) store_tile(group, i, begin, end);
    }
    for (int l = 0; l < kLanes; ++l) {
      if (check[l] != 0) return false;
    }
    return true;
  }

 private:
  int64_t panel_size() const { return sum * G::kCols; }
  const acc_t* columns_of(int64_t group, int e, int64_t panel) const {
    return static_cast<const acc_t*>(p.transformed) +
           (group * kWinogradElements + e) * p.transformed_size() + panel * panel_size();
  }
  acc_t* input_of(int64_t tile) {
    return inputs.data() + tile / G::kRows * G::kRows * sum + tile % G::kRows * kWinogradChunk;
  }

  // Panel `panel` of element e, as the j-th of those worked on together. The panel that is `next`
  // elements further in memory comes from the third cache, and is asked for while this one's first
  // rows are multiplied.
  void multiply(int64_t group, int e, int64_t panel, int64_t j, int64_t next) {
    const StretchList list = lists.of(e, panel);
    const acc_t* b = columns_of(group, e, panel);
    const bool narrow = p.columns - panel * G::kCols <= kLanes;
    for (int64_t i = 0; i < count; i += G::kRows) {
      const acc_t* a = input_of(i) + e * input_size;
      const int64_t ahead = i == 0 ? next : 0;
      acc_t* c = products.data() + e * product_size + (j * room + i) * G::kCols;
      if (narrow) {
        multiply_stretches<acc_t, 1>(a, b, list, ahead, c);
      } else {
        multiply_stretches<acc_t, G::kVectors>(a, b, list, ahead, c);
      }
    }
  }

  // Whether the panels `panel` and the next are the last of `most`, three vectors of columns with
  // the same stretches.
  bool is_panel_and_a_vector(int e, int64_t panel, int64_t most) {
    const int64_t columns = p.columns - panel * G::kCols;
    return most == 2 && columns > G::kCols && columns <= G::kCols + kLanes &&
           lists.of(e, panel) == lists.of(e, panel + 1);
  }
  void multiply_panel_and_a_vector(int64_t group, int e, int64_t panel, int64_t j) {
    for (int64_t i = 0; i < count; i += G::kRows) {
      multiply_stretches_of_three(input_of(i) + e * input_size, columns_of(group, e, panel),
                                  panel_size(), lists.of(e, panel),
                                  products.data() + e * product_size + (j * room + i) * G::kCols,
                                  room * G::kCols);
    }
  }

  // Columns [begin, end) of the four outputs of tile i.
  void store_tile(int64_t group, int64_t i, int64_t begin, int64_t end) {
    for (int64_t column = begin; column < end; column += kLanes) {
      const int64_t j = column - begin;
      const acc_t* from = products.data() + (j / G::kCols * room + i) * G::kCols + j % G::kCols;
      vector_t m[kWinogradElements], half[8], y[4];
#pragma GCC unroll 16
      for (int e = 0; e < kWinogradElements; ++e) m[e] = load(from + e * product_size);
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) gather(m + s, 4, half + s, 4);
#pragma GCC unroll 2
      for (int r = 0; r < 2; ++r) gather(half + 4 * r, 1, y + 2 * r, 1);
      const int n = int(min_of(kLanes, end - column));
      if (p.bias != nullptr) {
        const vector_t bias =
            load_n(static_cast<const scalar_t*>(p.bias) + group * p.columns + column, n);
        for (vector_t& value : y) value += bias;
      }
      for (vector_t& value : y) {
        check += value * 0;  // 0, or NaN for a value that is not finite
        if (p.relu) value = value < 0 ? vector_t{} : value;
      }
      store_pixels(y, group, places[i], column, n);
    }
  }

  void store_pixels(const vector_t* y, int64_t group, const TilePlace& tile, int64_t column,
                    int lanes) {
    const Folding& f = p.output;
    scalar_t* image =
        static_cast<scalar_t*>(f.image) + tile.n * f.stride[0] + group * f.channels * f.stride[1];
    for (int begin = 0; begin < lanes;) {  // lanes of one phase
      const int64_t at = column + begin;
      const int64_t phase = at < f.channels ? 0 : at / f.channels, c = at - phase * f.channels;
      const int n = int(min_of(lanes - begin, f.channels - c));
      for (int q = 0; q < 4; ++q) {
        scalar_t* to = pixel(image, 2 * tile.y + q / 2, 2 * tile.x + q % 2, phase);
        if (to == nullptr) continue;
        if (f.stride[1] == 1 && begin == 0) {
          if (past_caches && n == kLanes) {
            store_past_caches(y[q], to + c);
          } else {
            store_n(y[q], to + c, n);
          }
          continue;
        }
        acc_t values[kLanes];
        store(y[q], values);
        for (int l = 0; l < n; ++l) from_acc(values[begin + l], to[(c + l) * f.stride[1]]);
      }
      begin += n;
    }
  }
  scalar_t* pixel(scalar_t* image, int64_t row, int64_t col, int64_t phase) const {
    const Folding& f = p.output;
    const int64_t phase_y = phase == 0 ? 0 : phase / f.step[1];
    const int64_t y = f.origin[0] + row * f.step[0] + phase_y;
    const int64_t x = f.origin[1] + col * f.step[1] + phase - phase_y * f.step[1];
    if (y < 0 || y >= f.height || x < 0 || x >= f.width) return nullptr;
    return image + y * f.stride[2] + x * f.stride[3];
  }

  const Winograd& p;
  const Pixels<acc_t> pixels;
  const int64_t sum, panels, room, input_size, product_size;
  const bool past_caches;
  Buffer<acc_t> inputs;    // (element, kRows tiles, chunk of the sum, tile, kWinogradChunk)
  Buffer<acc_t> products;  // (element, panel, tile, column)
  Buffer<TilePlace> places;
  StretchLists<acc_t> lists;
  Buffer<LastElements> last_elements;
  int64_t count = 0;  // of the unit's tiles
  vector_t check{};
};

template <typename scalar_t>
void winograd_outputs(const Winograd& p, int64_t begin, int64_t end, bool* finite) {
  OutputKernel<scalar_t> kernel(p);
  for (int64_t unit = begin; unit < end; ++unit) {
    if (!kernel.run(unit)) *finite = false;
  }
  if (is_large_result(p.output_bytes)) finish_stores_past_caches();
}

#define INSTANTIATE(scalar_t)                                                  \
  template void winograd_fold<scalar_t>(const FoldedImage&, int64_t, int64_t); \
  template void winograd_filters<scalar_t>(const Winograd&, int64_t, int64_t); \
  template void winograd_outputs<scalar_t>(const Winograd&, int64_t, int64_t, bool*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
