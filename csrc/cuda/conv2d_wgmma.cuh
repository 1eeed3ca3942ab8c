// The tile of conv2d_tile.cuh on Hopper's warpgroups: wgmma.mma_async, which reads both operands
// from shared memory and runs beside the threads that issued it. For sm_90a alone, and 16-bit
// types.
//
// A block computes 128 x kColumns results with two warpgroups of four warps, 64 rows each. Terms
// come 64 at a time by cp.async, kStages deep, into the layout that the products read, rows of 128
// bytes whose chunks are permuted:
//
//   along    a line is one such row, of 64 neighbouring terms
//   across   a row is 64 neighbouring lines of one term; 64 rows make a panel, and panels follow
//
// tf32 stays with mma.sync: these products would cut float32 off instead of rounding it, and they
// transpose 16-bit types alone. The bulk copies of the same processors (TMA) are left out: their
// im2col mode wants a descriptor that the host's driver library encodes for each call, and steps of
// at most 8 pixels; what cp.async's addresses cost beside the products is not measured.
#pragma once

#include "cuda/conv2d_mma.cuh"

namespace fastconv {

template <typename scalar_t_, int kColumns_>
struct WgmmaTile {
  using scalar_t = scalar_t_;
  static constexpr int kRows = 128, kColumns = kColumns_, kStages = 3;
  static constexpr int kChunk = kPack<scalar_t>;        // elements that one copy moves
  static constexpr int kDepthChunks = 8;                // of one line and stage
  static constexpr int kDepth = kDepthChunks * kChunk;  // terms
  static constexpr int kStepTerms = 16, kSteps = kDepth / kStepTerms;
  static constexpr int kThreads = 256, kGroupThreads = 128, kGroupRows = 64;
  static constexpr int kRowBytes = kRows * 128;  // of one operand and stage
  static constexpr int kStageBytes = kRowBytes + kColumns * 128;
  static constexpr size_t kSharedBytes = size_t(kStages) * kStageBytes;
  static constexpr int kPatternBytes = 8 * 128;     // after which the permutation repeats
  static constexpr int kPanelBytes = kDepth * 128;  // of an operand that lies across
  static_assert(sizeof(scalar_t) == 2 && kDepth == 64);
  static_assert(kRows == kThreads / kGroupThreads * kGroupRows);
  static_assert(kRowBytes % kPatternBytes == 0 && kStageBytes % kPatternBytes == 0);

  using Sums = float[kColumns / 8][4];  // of a thread
};

template <typename scalar_t, int kColumns>
__device__ __forceinline__ int along_offset(WgmmaTile<scalar_t, kColumns>, int line, int chunk) {
  return line * 128 + (chunk ^ (line & 7)) * 16;
}

template <typename scalar_t, int kColumns>
__device__ __forceinline__ int across_offset(WgmmaTile<scalar_t, kColumns>, int term, int chunk,
                                             int) {
  constexpr int kPanel = WgmmaTile<scalar_t, kColumns>::kPanelBytes;
  return chunk / 8 * kPanel + term * 128 + (chunk % 8 ^ (term & 7)) * 16;
}

template <typename scalar_t>
struct Warpgroup;
template <>
struct Warpgroup<half> {
  template <bool kAcrossA, bool kAcrossB, class Sums>
  __device__ static void multiply(Sums& d, uint64_t a, uint64_t b) {
    ptx::wgmma_half<kAcrossA, kAcrossB>(d, a, b);
  }
};
template <>
struct Warpgroup<bfloat16> {
  template <bool kAcrossA, bool kAcrossB, class Sums>
  __device__ static void multiply(Sums& d, uint64_t a, uint64_t b) {
    ptx::wgmma_bfloat16<kAcrossA, kAcrossB>(d, a, b);
  }
};

// Where products find a matrix in the manual's 128-byte swizzle: the chunk's number, bits 4-6 of an
// address, is XORed with the row's, bits 7-9, so that the pattern repeats every 1024 bytes.
//   along    8 lines are 1024 bytes; the next 8 lie `stride` bytes further. A product takes 32 of
//            each and begins at any multiple of 32. `leading` is not used: 16, says the manual
//   across   8 terms of 64 lines are 1024 bytes; the next 8 terms lie `stride` further, the next 64
//            lines `leading`
__device__ __forceinline__ uint64_t wgmma_matrix(const unsigned char* shared, int leading,
                                                 int stride) {
  constexpr uint64_t kSwizzle128 = 1;
  const auto field = [](uint32_t bytes) { return uint64_t((bytes & 0x3ffff) >> 4); };
  return field(ptx::shared_address(shared)) | field(uint32_t(leading)) << 16 |
         field(uint32_t(stride)) << 32 | kSwizzle128 << 62;
}

// The terms of one step, of an operand's lines from `line` on, a multiple of 64.
template <class Tile, bool kAcross>
__device__ __forceinline__ uint64_t step_matrix(const unsigned char* operand, int line, int step) {
  if constexpr (kAcross) {
    return wgmma_matrix(operand + line / 64 * Tile::kPanelBytes + step * Tile::kStepTerms * 128,
                        Tile::kPanelBytes, Tile::kPatternBytes);
  } else {
    constexpr int kNotUsed = 16;
    return wgmma_matrix(operand + line * 128 + step * Tile::kStepTerms * 2, kNotUsed,
                        Tile::kPatternBytes);
  }
}

// As MmaTile's, but the threads fetch a later stage while the products of this one run.
template <typename scalar_t, int kColumns, class Rows, class Columns>
__device__ __forceinline__ void multiply_tile(WgmmaTile<scalar_t, kColumns>,
                                              typename WgmmaTile<scalar_t, kColumns>::Sums& sums,
                                              Rows& rows, Columns& columns, unsigned char* memory,
                                              int begin, int end) {
  using Tile = WgmmaTile<scalar_t, kColumns>;
  // The same for all lanes of a warp, and said so: the matrices are then computed once a warp.
  const int group = __shfl_sync(kWholeWarp, int(threadIdx.x) / Tile::kGroupThreads, 0);
  const int stages = int(ceil_div(end - begin, Tile::kDepth));

  const auto fetch = [&](int stage) {
    if (stage < stages) {
      unsigned char* at = memory + stage % Tile::kStages * Tile::kStageBytes;
      rows.load(at, begin + stage * Tile::kDepth, end);
      columns.load(at + Tile::kRowBytes, begin + stage * Tile::kDepth, end);
    }
    ptx::cp_async_commit();  // an empty group too, so that the count of groups stays right
  };
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) fetch(stage);
  for (int stage = 0; stage < stages; ++stage) {
    ptx::cp_async_wait<Tile::kStages - 2>();
    ptx::fence_shared_for_wgmma();
    ptx::wgmma_wait(sums);
    __syncthreads();  // the stage is there for all, and all are done with the one fetched over
    const unsigned char* at = memory + stage % Tile::kStages * Tile::kStageBytes;
    ptx::wgmma_fence();
#pragma unroll
    for (int step = 0; step < Tile::kSteps; ++step) {
      Warpgroup<scalar_t>::template multiply<Rows::kAcross, Columns::kAcross>(
          sums, step_matrix<Tile, Rows::kAcross>(at, group * Tile::kGroupRows, step),
          step_matrix<Tile, Columns::kAcross>(at + Tile::kRowBytes, 0, step));
    }
    ptx::wgmma_commit();
    fetch(stage + Tile::kStages - 1);
  }
  ptx::wgmma_wait(sums);
  ptx::cp_async_wait<0>();
}

template <typename scalar_t, int kColumns, class Place, class F>
__device__ __forceinline__ void for_results(
    WgmmaTile<scalar_t, kColumns>, const typename WgmmaTile<scalar_t, kColumns>::Sums& sums,
    const Place& place_of, const F& body) {
  const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const auto place = place_of(16 * warp + lane / 4 + 8 * half);
    if (!place) continue;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      body(place, lane % 4 * 2 + 8 * j, sums[j][2 * half], sums[j][2 * half + 1]);
    }
  }
}

template <typename scalar_t, class F>
cudaError_t with_wgmma_tile(int64_t columns, const F& body) {
  return narrow_tiles_fit(columns) ? body(WgmmaTile<scalar_t, 64>{})
                                   : body(WgmmaTile<scalar_t, 128>{});
}

template <typename scalar_t>
cudaError_t launch_image_wgmma(const ImageProduct<scalar_t>& product, bool filters_across,
                               cudaStream_t stream) {
  return with_wgmma_tile<scalar_t>(product.outputs, [&](auto tile) {
    using Tile = decltype(tile);
    return filters_across ? launch_image_tiles<Tile, FiltersAcross>(one(product), stream)
                          : launch_image_tiles<Tile, FiltersAlong>(one(product), stream);
  });
}

template <typename scalar_t>
cudaError_t launch_weight_wgmma(const WeightProduct<scalar_t>& product, cudaStream_t stream) {
  return with_wgmma_tile<scalar_t>(product.columns(), [&](auto tile) {
    return launch_weight_tiles<decltype(tile)>(one(product), stream);
  });
}

}  // namespace fastconv
