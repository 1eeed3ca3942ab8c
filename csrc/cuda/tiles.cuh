// Images [rows][columns][lanes] cut into tiles, and what a window reaches around a tile.
//
// threadIdx.x runs over a row of the tile, lanes fastest, so that a warp meets neighbours in memory
// and in shared memory; threadIdx.y runs over rows. The lanes of a tile are a power of two: then a
// position in a row needs no division, and a column further is 1 << lane_bits further.
#pragma once

#include "core/window.h"
#include "cuda/pack.cuh"

namespace fastconv {

constexpr int kTileThreadsX = kWarpSize, kTileThreadsY = kThreads / kWarpSize;
constexpr size_t kTileBytes = 96 << 10;  // of shared memory: what every GPU since sm_80 has

struct TileAxis {
  int size, before, after, tile;  // of the image; what a window reaches; of a tile

  FASTCONV_HOST_DEVICE int reach() const { return before + after; }
  FASTCONV_HOST_DEVICE int taps() const { return before + after + 1; }
  FASTCONV_HOST_DEVICE int tiles() const { return (size + tile - 1) / tile; }
};

// No window sees more than the rest of the image.
inline TileAxis tile_axis(int64_t size, int64_t before, int64_t after) {
  return {int(size), int(min_of(before, size - 1)), int(min_of(after, size - 1)), 1};
}

struct Tiles {
  int images;
  TileAxis rows, columns;
  int lanes, lane_bits;  // of the image; log2 of those of a tile

  FASTCONV_HOST_DEVICE int lane_tiles() const {
    return (lanes + (1 << lane_bits) - 1) >> lane_bits;
  }
  FASTCONV_HOST_DEVICE int image_elements() const { return rows.size * columns.size * lanes; }
  int blocks() const { return images * rows.tiles() * columns.tiles() * lane_tiles(); }

  // A row, and all, of an array that holds the tile and so many more rows and columns.
  FASTCONV_HOST_DEVICE int pitch(int more_columns) const {
    return (columns.tile + more_columns) << lane_bits;
  }
  FASTCONV_HOST_DEVICE int64_t area(int more_rows, int more_columns) const {
    return int64_t(rows.tile + more_rows) * pitch(more_columns);
  }

  // Whether packs of so many lanes lie in the image, and in a tile, one after another.
  bool has_packs(int count) const { return lanes % count == 0 && (1 << lane_bits) % count == 0; }

  // About `elements` in a tile, at most so many columns and lanes.
  void choose(int elements, int most_columns, int most_lanes) {
    lane_bits = 0;
    while (1 << lane_bits < min_of(lanes, most_lanes)) ++lane_bits;
    columns.tile = min_of(columns.size, most_columns);
    rows.tile = min_of(rows.size, max_of(1, (elements / columns.tile) >> lane_bits));
  }

  // Halves the tile until bytes() fit into shared memory; false where they never do.
  template <class F>
  bool shrink_to_fit(const F& bytes) {
    while (bytes() > kTileBytes) {
      if (lane_bits == 0 && rows.tile == 1 && columns.tile == 1) return false;
      if (lane_bits > 0) {
        --lane_bits;
      } else {
        int& longer = rows.tile > columns.tile ? rows.tile : columns.tile;
        longer = (longer + 1) / 2;
      }
    }
    return true;
  }
};

// Where this block's tile begins.
struct TileCorner {
  int image, y, x, lane;

  __device__ explicit TileCorner(const Tiles& t) {
    int rest = int(blockIdx.x);
    lane = rest % t.lane_tiles() << t.lane_bits;
    rest /= t.lane_tiles();
    x = rest % t.columns.tiles() * t.columns.tile;
    rest /= t.columns.tiles();
    y = rest % t.rows.tiles() * t.rows.tile;
    image = rest / t.rows.tiles();
  }

  // The element of the image that is `row` rows below the corner and `run` elements along the
  // tile's row, or -1 outside the image.
  __device__ int element(const Tiles& t, int row, int run) const {
    const int h = y + row, w = x + (run >> t.lane_bits);
    const int l = lane + (run & ((1 << t.lane_bits) - 1));
    const bool inside = h >= 0 && h < t.rows.size && w >= 0 && w < t.columns.size && l < t.lanes;
    return inside ? (h * t.columns.size + w) * t.lanes + l : -1;
  }
};

// body(row, position in the row) for an array of the tile.
template <class F>
__device__ __forceinline__ void for_tile(int rows, int pitch, const F& body) {
  for (int row = int(threadIdx.y); row < rows; row += kTileThreadsY) {
    for (int run = int(threadIdx.x); run < pitch; run += kTileThreadsX) body(row, run);
  }
}

// body(row, first position in the row) for the packs of kCount elements of an array of the tile,
// rows of whole packs one after another.
template <int kCount, class F>
__device__ __forceinline__ void for_tile_packs(int rows, int pitch, const F& body) {
  if constexpr (kCount == 1) return for_tile(rows, pitch, body);
  const int thread = int(threadIdx.y) * kTileThreadsX + int(threadIdx.x), packs = pitch / kCount;
  for (int i = thread; i < rows * packs; i += kThreads) body(i / packs, i % packs * kCount);
}

// kCount neighbours in shared memory, 16 bytes at a time; kCount = 1: the one.
template <int kCount, typename acc_t>
__device__ __forceinline__ void load_neighbours(const acc_t* from, acc_t (&values)[kCount]) {
  constexpr int kStep = kCount < kPack<acc_t> ? kCount : kPack<acc_t>;
#pragma unroll
  for (int i = 0; i < kCount; i += kStep) {
    const auto pack = load_pack<kStep>(from + i);
#pragma unroll
    for (int k = 0; k < kStep; ++k) values[i + k] = pack.lane[k];
  }
}
template <int kCount, typename acc_t>
__device__ __forceinline__ void store_neighbours(acc_t* to, const acc_t (&values)[kCount]) {
  constexpr int kStep = kCount < kPack<acc_t> ? kCount : kPack<acc_t>;
#pragma unroll
  for (int i = 0; i < kCount; i += kStep) {
    Pack<acc_t, kStep> pack;
#pragma unroll
    for (int k = 0; k < kStep; ++k) pack.lane[k] = values[i + k];
    store_pack(to + i, pack);
  }
}

template <typename... Params, typename... Args>
cudaError_t launch_tiles(void (*kernel)(Params...), const Tiles& t, size_t bytes,
                         cudaStream_t stream, Args... args) {
  return launch(kernel, dim3(unsigned(t.blocks())), dim3(kTileThreadsX, kTileThreadsY), bytes,
                stream, args...);
}

}  // namespace fastconv
