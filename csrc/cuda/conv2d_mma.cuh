// The products of conv2d_product.cuh on tensor cores: an implicit GEMM in channels_last. Kernels
// are written for any tile; their launches here are those of MmaTile.
//
//                    rows               columns                terms
//   image product    pixels (n, y, x)   outputs                (tap, channel)
//   weight product   outputs            (tap, channel)         pixels (n, y, x)
//
// Channels and outputs of a group are multiples of a pack of 16 bytes, and every address is one of
// 16 bytes; conv2d.cuh sees to it. float32 is rounded to tf32; sums are float32.
#pragma once

#include "cuda/conv2d_tile.cuh"

namespace fastconv {

// Position of a thread's chunks in an operand along or across; there are kCount, kEvery lines (or
// terms) apart.
template <class Tile, int kLines, bool kAcross_>
struct Chunks {
  static constexpr bool kAcross = kAcross_;
  static constexpr int kWidth = kAcross ? kLines / Tile::kChunk : Tile::kDepthChunks;
  static constexpr int kEvery = Tile::kThreads / kWidth;
  static constexpr int kCount = (kAcross ? Tile::kDepth : kLines) / kEvery;
  static_assert(kCount * kEvery == (kAcross ? Tile::kDepth : kLines));

  __device__ static int chunk() { return int(threadIdx.x) % kWidth; }
  __device__ static int index(int i) { return int(threadIdx.x) / kWidth + i * kEvery; }
  __device__ static int offset(int i) {
    return kAcross ? across_offset(Tile{}, index(i), chunk(), kWidth)
                   : along_offset(Tile{}, index(i), chunk());
  }
};

struct TapIndex {
  int r, s, c;
};

template <class Product>
__device__ __forceinline__ TapIndex tap_at(int k, const Product& p) {
  const int tap = k / p.channels;
  return {tap / p.w.taps, tap % p.w.taps, k % p.channels};
}

// What pixel (y, x), the first position that it sees, sees through a tap; null outside.
template <class Product, typename scalar_t>
__device__ __forceinline__ const scalar_t* seen(const Product& p, const scalar_t* image, int y,
                                                int x, const TapIndex& tap) {
  y += tap.r * p.h.step;
  x += tap.s * p.w.step;
  if (unsigned(y) >= unsigned(p.h.size) || unsigned(x) >= unsigned(p.w.size)) return nullptr;
  return image + (y * p.image_steps.h + x * p.image_steps.w + tap.c);
}

// Copies one chunk, or zeros where there is none; `any` is an address that may be read.
template <typename scalar_t>
__device__ __forceinline__ void copy_chunk(unsigned char* to, const scalar_t* from,
                                           const scalar_t* any) {
  ptx::cp_async_16(to, from ? from : any, from != nullptr);
}

// ---- operands of the image product -------------------------------------------------------------

template <class Tile>
struct PixelRows : Chunks<Tile, Tile::kRows, false> {
  using scalar_t = typename Tile::scalar_t;
  using At = Chunks<Tile, Tile::kRows, false>;
  const ImageProduct<scalar_t>& p;
  const scalar_t* image[At::kCount];  // null: no such row
  int y[At::kCount], x[At::kCount];

  __device__ PixelRows(const ImageProduct<scalar_t>& p, int row0, int group) : p(p) {
    for (int i = 0; i < At::kCount; ++i) {
      const int row = row0 + At::index(i);
      image[i] = nullptr;
      if (row >= p.rows()) continue;
      const PixelIndex at = pixel_at(row, p.h, p.w);
      image[i] = p.image + at.n * p.image_steps.n + group * p.channels;
      y[i] = p.h.first(at.y);
      x[i] = p.w.first(at.x);
    }
  }
  __device__ void load(unsigned char* memory, int term0, int end) const {
    const int k = term0 + At::chunk() * Tile::kChunk;
    const TapIndex tap = tap_at(k, p);
    for (int i = 0; i < At::kCount; ++i) {
      const bool inside = k < end && image[i];
      copy_chunk(memory + At::offset(i), inside ? seen(p, image[i], y[i], x[i], tap) : nullptr,
                 p.image);
    }
  }
};

// Filters whose channels are adjacent: the forward pass.
template <class Tile>
struct FiltersAlong : Chunks<Tile, Tile::kColumns, false> {
  using scalar_t = typename Tile::scalar_t;
  using At = Chunks<Tile, Tile::kColumns, false>;
  const ImageProduct<scalar_t>& p;
  int column0, group;

  __device__ FiltersAlong(const ImageProduct<scalar_t>& p, int column0, int group)
      : p(p), column0(column0), group(group) {}
  __device__ void load(unsigned char* memory, int term0, int end) const {
    const int k = term0 + At::chunk() * Tile::kChunk;
    const TapIndex tap = tap_at(k, p);
    const scalar_t* filters = p.weight + group * p.weight_group;
    const int term = tap.r * p.weight_steps.h + tap.s * p.weight_steps.w + tap.c;
    for (int i = 0; i < At::kCount; ++i) {
      const int o = column0 + At::index(i);
      const bool inside = k < end && o < p.outputs;
      copy_chunk(memory + At::offset(i),
                 inside ? filters + (int64_t(o) * p.weight_steps.o + term) : nullptr, p.weight);
    }
  }
};

// Filters whose outputs are adjacent: the input's gradient, in which they are the input's channels.
template <class Tile>
struct FiltersAcross : Chunks<Tile, Tile::kColumns, true> {
  using scalar_t = typename Tile::scalar_t;
  using At = Chunks<Tile, Tile::kColumns, true>;
  const ImageProduct<scalar_t>& p;
  int column0, group;

  __device__ FiltersAcross(const ImageProduct<scalar_t>& p, int column0, int group)
      : p(p), column0(column0), group(group) {}
  __device__ void load(unsigned char* memory, int term0, int end) const {
    const int o = column0 + At::chunk() * Tile::kChunk;
    const scalar_t* filters = p.weight + group * p.weight_group;
    for (int i = 0; i < At::kCount; ++i) {
      const int k = term0 + At::index(i);
      const TapIndex tap = tap_at(k, p);
      const int64_t at = int64_t(tap.c) * p.weight_steps.c + tap.r * p.weight_steps.h +
                         tap.s * p.weight_steps.w + o;
      const bool inside = k < end && o < p.outputs;
      copy_chunk(memory + At::offset(i), inside ? filters + at : nullptr, p.weight);
    }
  }
};

template <class Tile, class Filters, class Products>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    conv2d_image_mma_kernel(Products products, int column_tiles) {
  using scalar_t = typename Tile::scalar_t;
  FASTCONV_DYNAMIC_SHARED_ALIGNED(1024, memory);  // for WgmmaTile's pattern
  // Neighbouring blocks share their rows: pixels are the larger operand.
  const int row0 = int(blockIdx.x) / column_tiles * Tile::kRows;
  const int column0 = int(blockIdx.x) % column_tiles * Tile::kColumns;
  const int group = int(blockIdx.y);
  const auto& p = products.at(int(blockIdx.z));
  if (kIsFamily<Products> && row0 >= p.rows()) return;  // of a member with fewer rows
  PixelRows<Tile> rows(p, row0, group);
  Filters filters(p, column0, group);
  typename Tile::Sums sums = {};
  multiply_tile(Tile{}, sums, rows, filters, memory, 0, p.depth());
  const auto pixel = [&](int row) -> scalar_t* {
    if (row0 + row >= p.rows()) return nullptr;
    const PixelIndex at = pixel_at(row0 + row, p.h, p.w);
    const ImageSteps& s = p.result_steps;
    return p.result + at.n * s.n + (at.y * s.h + at.x * s.w);
  };
  for_results(Tile{}, sums, pixel, [&](scalar_t* result, int column, float first, float second) {
    column += column0;
    if (column >= p.outputs) return;
    const int channel = group * p.outputs + column;
    if (p.bias) {
      first += to_acc(p.bias[channel]);
      second += to_acc(p.bias[channel + 1]);
    }
    if (p.relu) {  // a NaN stays
      first = first < 0 ? 0 : first;
      second = second < 0 ? 0 : second;
    }
    Pack<scalar_t, 2> pair;
    from_acc(first, pair.lane[0]);
    from_acc(second, pair.lane[1]);
    store_pack(result + channel, pair);
  });
}

// ---- operands of the weight product ------------------------------------------------------------

template <class Tile>
struct GradRows : Chunks<Tile, Tile::kRows, true> {
  using scalar_t = typename Tile::scalar_t;
  using At = Chunks<Tile, Tile::kRows, true>;
  const WeightProduct<scalar_t>& p;
  int o, group;

  __device__ GradRows(const WeightProduct<scalar_t>& p, int row0, int group)
      : p(p), o(row0 + At::chunk() * Tile::kChunk), group(group) {}
  __device__ void load(unsigned char* memory, int term0, int end) const {
    for (int i = 0; i < At::kCount; ++i) {
      const int pixel = term0 + At::index(i);
      const scalar_t* from = nullptr;
      if (pixel < end && o < p.outputs) {
        const PixelIndex at = pixel_at(pixel, p.h, p.w);
        const ImageSteps& s = p.grad_steps;
        from = p.grad + at.n * s.n + (at.y * s.h + at.x * s.w + group * p.outputs + o);
      }
      copy_chunk(memory + At::offset(i), from, p.grad);
    }
  }
};

template <class Tile>
struct PixelColumns : Chunks<Tile, Tile::kColumns, true> {
  using scalar_t = typename Tile::scalar_t;
  using At = Chunks<Tile, Tile::kColumns, true>;
  const WeightProduct<scalar_t>& p;
  TapIndex tap;
  int group;
  bool inside;

  __device__ PixelColumns(const WeightProduct<scalar_t>& p, int column0, int group)
      : p(p), group(group) {
    const int k = column0 + At::chunk() * Tile::kChunk;
    tap = tap_at(k, p);
    inside = k < p.columns();
  }
  __device__ void load(unsigned char* memory, int term0, int end) const {
    for (int i = 0; i < At::kCount; ++i) {
      const int pixel = term0 + At::index(i);
      const scalar_t* from = nullptr;
      if (inside && pixel < end) {
        const PixelIndex at = pixel_at(pixel, p.h, p.w);
        const scalar_t* image = p.image + at.n * p.image_steps.n + group * p.channels;
        from = seen(p, image, p.h.first(at.y), p.w.first(at.x), tap);
      }
      copy_chunk(memory + At::offset(i), from, p.image);
    }
  }
};

template <class Tile, class Products>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    conv2d_weight_mma_kernel(Products products, int column_tiles) {
  FASTCONV_DYNAMIC_SHARED_ALIGNED(1024, memory);  // for WgmmaTile's pattern
  const int row0 = int(blockIdx.x) / column_tiles * Tile::kRows;
  const int column0 = int(blockIdx.x) % column_tiles * Tile::kColumns;
  const int group = int(blockIdx.y), split = products.split(int(blockIdx.z));
  const auto& p = products.at(int(blockIdx.z));
  GradRows<Tile> rows(p, row0, group);
  PixelColumns<Tile> columns(p, column0, group);
  const int length = p.split_length(Tile::kDepth);
  const int begin = min_of(split * length, p.depth()), end = min_of(begin + length, p.depth());
  typename Tile::Sums sums = {};
  multiply_tile(Tile{}, sums, rows, columns, memory, begin, end);
  const auto output = [&](int row) -> float* {
    return row0 + row < p.outputs ? p.sums(split, group, row0 + row) : nullptr;
  };
  for_results(Tile{}, sums, output, [&](float* to, int column, float first, float second) {
    column += column0;
    if (column >= p.columns()) return;
    const Pack<float, 2> pair{{first, second}};
    store_pack(to + column, pair);
  });
}

// ---- launches ----------------------------------------------------------------------------------

template <class Tile, template <class> class Filters, class Products>
cudaError_t launch_image_tiles(const Products& products, cudaStream_t stream) {
  const auto& p = products.largest();
  const int64_t row_tiles = ceil_div(p.rows(), Tile::kRows);
  const int column_tiles = int(ceil_div(p.outputs, Tile::kColumns));
  if (row_tiles == 0) return cudaSuccess;
  const dim3 grid(unsigned(row_tiles * column_tiles), unsigned(p.groups),
                  unsigned(products.count()));
  return launch(conv2d_image_mma_kernel<Tile, Filters<Tile>, Products>, grid, dim3(Tile::kThreads),
                Tile::kSharedBytes, stream, products, column_tiles);
}

template <class Tile, class Products>
cudaError_t launch_weight_tiles(const Products& products, cudaStream_t stream) {
  const auto& p = products.largest();
  const int64_t row_tiles = ceil_div(p.outputs, Tile::kRows);
  const int column_tiles = int(ceil_div(p.columns(), Tile::kColumns));
  const dim3 grid(unsigned(row_tiles * column_tiles), unsigned(p.groups),
                  unsigned(p.splits * products.count()));
  return launch(conv2d_weight_mma_kernel<Tile, Products>, grid, dim3(Tile::kThreads),
                Tile::kSharedBytes, stream, products, column_tiles);
}

// Narrow tiles where half a wide one would stay empty.
inline bool narrow_tiles_fit(int64_t columns) { return columns % 128 > 0 && columns % 128 <= 64; }

// Also where wide ones would spill: for operands of 32 bits that lie across, whose fragments take
// more registers, and for families of products, whose members do.
template <typename scalar_t, bool kAlwaysNarrow, class F>
cudaError_t with_tile(int64_t columns, const F& body) {
  if constexpr (kAlwaysNarrow) {
    return body(MmaTile<scalar_t, 64>{});
  } else {
    return narrow_tiles_fit(columns) ? body(MmaTile<scalar_t, 64>{})
                                     : body(MmaTile<scalar_t, 128>{});
  }
}

template <template <class> class Filters, typename scalar_t, class Products>
cudaError_t launch_image_mma(const Products& products, cudaStream_t stream) {
  constexpr bool kAcross = Filters<MmaTile<scalar_t, 64>>::kAcross;
  constexpr bool kNarrow = (kAcross && sizeof(scalar_t) == 4) || kIsFamily<Products>;
  return with_tile<scalar_t, kNarrow>(products.largest().outputs, [&](auto tile) {
    return launch_image_tiles<decltype(tile), Filters>(products, stream);
  });
}

template <typename scalar_t, class Products>
cudaError_t launch_weight_mma(const Products& products, cudaStream_t stream) {
  constexpr bool kNarrow = sizeof(scalar_t) == 4 || kIsFamily<Products>;
  return with_tile<scalar_t, kNarrow>(products.largest().columns(), [&](auto tile) {
    return launch_weight_tiles<decltype(tile)>(products, stream);
  });
}

}  // namespace fastconv
