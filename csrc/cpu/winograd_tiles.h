// Filters and tiles of csrc/cpu/winograd.h, as its kernels see them.
#pragma once

#include "core/window.h"
#include "cpu/buffer.h"
#include "cpu/gemm.h"
#include "cpu/winograd.h"

namespace fastconv {
namespace FASTCONV_ISA {

template <typename acc_t>
constexpr int kLanesOf = Vec<acc_t>::kLanes;

// What stands before an index that is counted in mixed radix.
struct TilePlace {
  int64_t n, y, x;
};
static inline TilePlace place_of(int64_t tile, const int64_t* tiles) {
  return {tile / (tiles[0] * tiles[1]), tile / tiles[1] % tiles[0], tile % tiles[1]};
}

// Position in the filter of a tap of the folded filter, or -1 where there is none.
static inline int64_t folded_tap(const Filter& f, int axis, int64_t tap, int64_t phase) {
  if (f.turned) tap = f.folded_taps(axis) - 1 - tap;
  const int64_t at = tap * f.step[axis] + phase;
  return tap >= 0 && at < f.kernel[axis] ? at : -1;
}

// The taps that exist of one block in one phase of the folding; the folded filter is 0 elsewhere.
class BlockTaps {
 public:
  BlockTaps(const Filter& filter, int64_t block)
      : f(filter), by(block / f.blocks(1)), bx(block % f.blocks(1)) {}

  // body(tap of the block, element of the group's weight), for output channel o and the folded
  // channel d = (row phase, column phase, c).
  template <class F>
  [[gnu::always_inline]] void for_each(int64_t o, int64_t d, const F& body) {
    if (d < first || d >= end) move_to(d / f.channels);
    const int64_t start = o * f.stride[0] + (d - first) * f.stride[1];
    for (int i = 0; i < count; ++i) body(tap[i], start + offset[i]);
  }

  // The taps of n filters: lanes are neighbouring output channels, or neighbouring folded channels
  // where the filter is turned.
  template <typename scalar_t, int kLanes>
  void load(const scalar_t* weight, int64_t o, int64_t d, int n,
            accumulate_t<scalar_t> (*to)[kLanes]) {
    const int64_t step = f.turned ? f.stride[1] : f.stride[0];
    for (int l = 0; l < n;) {
      const int64_t channel = f.turned ? d + l : d;
      if (channel < first || channel >= end) move_to(channel / f.channels);
      const int stop = f.turned ? int(min_of(n, l + end - channel)) : n;
      const scalar_t* from = weight + o * f.stride[0] + (channel - first) * f.stride[1] - l * step;
      for (int i = 0; i < count; ++i) {
        for (int m = l; m < stop; ++m) to[tap[i]][m] = to_acc(from[offset[i] + m * step]);
      }
      l = stop;
    }
  }

 private:
  void move_to(int64_t phase) {
    first = phase * f.channels;
    end = first + f.channels;
    count = 0;
    for (int r = 0; r < kWinogradTaps; ++r) {
      const int64_t y = folded_tap(f, 0, by * kWinogradTaps + r, phase / f.step[1]);
      for (int s = 0; y >= 0 && s < kWinogradTaps; ++s) {
        const int64_t x = folded_tap(f, 1, bx * kWinogradTaps + s, phase % f.step[1]);
        if (x < 0) continue;
        tap[count] = r * int(kWinogradTaps) + s;
        offset[count++] = y * f.stride[2] + x * f.stride[3];
      }
    }
  }

  const Filter& f;
  const int64_t by, bx;
  int64_t first = 0, end = 0;  // folded channels of the phase
  int count = 0;
  int tap[kWinogradTaps * kWinogradTaps] = {};
  int64_t offset[kWinogradTaps * kWinogradTaps] = {};
};

// Element 0 of a transformed row or column of taps depends on tap 0 alone, element 3 on tap 2
// alone. Where a block has no such tap, that element's products are 0 and left out.
class Presence {
 public:
  explicit Presence(const Filter& filter) : f(filter) {}

  // Whether element e may differ from 0 for the folded channels [begin, end) of a block.
  bool operator()(int e, int64_t block, int64_t begin, int64_t end) const {
    const int64_t last = (min_of(end, f.folded_channels()) - 1) / f.channels;
    for (int64_t phase = begin / f.channels; phase <= last; ++phase) {
      if (along(0, e / int(kWinogradTile), block / f.blocks(1), phase / f.step[1]) &&
          along(1, e % int(kWinogradTile), block % f.blocks(1), phase % f.step[1])) {
        return true;
      }
    }
    return false;
  }

 private:
  bool along(int axis, int element, int64_t block, int64_t phase) const {
    if (element == 1 || element == 2) return true;
    return folded_tap(f, axis, block * kWinogradTaps + (element == 0 ? 0 : 2), phase) >= 0;
  }
  const Filter& f;
};

// Row `row` of Bt d, for one column of a tile, or the other way round.
template <typename vector_t>
[[gnu::always_inline]] static inline vector_t difference(const vector_t* d, int step, int row) {
  switch (row) {
    case 0:
      return d[0] - d[2 * step];
    case 1:
      return d[step] + d[2 * step];
    case 2:
      return d[2 * step] - d[step];
    default:
      return d[step] - d[3 * step];
  }
}

// Where the pixels of a folded image lie.
template <typename acc_t>
class Pixels {
 public:
  explicit Pixels(const FoldedImage& folded)
      : image(folded), zeros(image.memory == nullptr ? image.depth : 0) {}

  const acc_t* at(int64_t n, int64_t row, int64_t col, int64_t group) const {
    if (image.memory != nullptr) {
      return static_cast<const acc_t*>(image.memory) +
             (((n * image.rows + row) * image.cols + col) * image.groups + group) * image.depth;
    }
    const Folding& f = image.of;
    const int64_t y = f.origin[0] + row, x = f.origin[1] + col;
    if (y < 0 || y >= f.height || x < 0 || x >= f.width) return zeros.data();
    return static_cast<const acc_t*>(f.image) + n * f.stride[0] + y * f.stride[2] +
           x * f.stride[3] + group * f.channels;
  }

  const FoldedImage& image;

 private:
  Buffer<acc_t> zeros;  // a pixel outside the image
};

// The rows [kTop, kBottom) and columns [0, kRight) of Bt d B, for one tile in one block of taps:
// its element e of index d goes to to[e * e_step + d / kWidth * step + d % kWidth].
template <int64_t kWidth, int kTop, int kBottom, int kRight, typename acc_t>
static void transform_block(const acc_t* const* from, int64_t depth, int64_t first, acc_t* to,
                            int64_t e_step, int64_t step) {
  constexpr int kLanes = kLanesOf<acc_t>;
  for (int64_t d = 0; d < depth; d += kLanes) {
    vec_t<acc_t> v[kWinogradElements], rows[kWinogradElements];
#pragma GCC unroll 16
    for (int q = 0; q < kWinogradElements; ++q) v[q] = load(from[q] + d);
#pragma GCC unroll 4
    for (int r = kTop; r < kBottom; ++r) {
#pragma GCC unroll 4
      for (int s = 0; s < 4; ++s) rows[4 * (r - kTop) + s] = difference(v + s, 4, r);
    }
    const int64_t k = first + d;
    acc_t* at = to + k / kWidth * step + k % kWidth;
#pragma GCC unroll 16
    for (int e = 0; e < 4 * (kBottom - kTop); ++e) {
      if (e % 4 < kRight) store(difference(rows + e / 4 * 4, 1, e % 4), at + e * e_step);
    }
  }
}

// Of each block of taps: whether the last row and column of its elements are in any product.
struct LastElements {
  bool row, column;
};
static inline void list_last_elements(const Filter& f, LastElements* blocks) {
  const Presence present(f);
  for (int64_t block = 0; block < f.blocks(0) * f.blocks(1); ++block) {
    blocks[block] = {present(4 * 3 + 1, block, 0, f.folded_channels()),
                     present(4 * 1 + 3, block, 0, f.folded_channels())};
  }
}

// All blocks of a tile. `last`, for whole tiles: what may be left out.
template <int64_t kWidth, int kTop = 0, int kBottom = kWinogradTile, typename acc_t>
static void transform_inputs(const Pixels<acc_t>& pixels, const Filter& f, const TilePlace& tile,
                             int64_t group, acc_t* to, int64_t e_step, int64_t step,
                             const LastElements* last = nullptr) {
  const int64_t depth = pixels.image.depth;
  int64_t k = 0;
  for (int64_t by = 0; by < f.blocks(0); ++by) {
    for (int64_t bx = 0; bx < f.blocks(1); ++bx, k += depth) {
      const int64_t y = tile.y * kWinogradOutputs + by * kWinogradTaps;
      const int64_t x = tile.x * kWinogradOutputs + bx * kWinogradTaps;
      const acc_t* from[kWinogradElements];
      for (int q = 0; q < kWinogradElements; ++q) {
        from[q] = pixels.at(tile.n, y + q / 4, x + q % 4, group);
      }
      const auto [row, column] =
          last == nullptr ? LastElements{true, true} : last[by * f.blocks(1) + bx];
      if (row && column) {
        transform_block<kWidth, kTop, kBottom, 4>(from, depth, k, to, e_step, step);
      } else if (row) {
        transform_block<kWidth, 0, 4, 3>(from, depth, k, to, e_step, step);
      } else if (column) {
        transform_block<kWidth, 0, 3, 4>(from, depth, k, to, e_step, step);
      } else {
        transform_block<kWidth, 0, 3, 3>(from, depth, k, to, e_step, step);
      }
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
