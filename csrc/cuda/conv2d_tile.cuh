// A tile of a product on tensor cores: shared memory's layout, the lanes' fragments, the main loop.
//
// A kernel takes what it needs of a tile from its constants and four functions, which tell tiles
// apart by their first argument: along_offset, across_offset, multiply_tile and for_results.
// conv2d_wgmma.cuh has a second tile.
//
// A block computes kRows x kColumns results with 8 warps, 2 x 4 of them. Terms come kDepth at a
// time, in chunks of 16 bytes by cp.async, kStages deep. An operand lies in shared memory either
//
//   along    a line (a row or a column of the result) is 64 bytes of neighbouring terms, or
//   across   a term is a row of all lines,
//
// as its chunks run in global memory. Chunks are permuted so that the eight that ldmatrix reads at
// once lie in different banks.
#pragma once

#include "cuda/conv2d_product.cuh"
#include "cuda/pack.cuh"
#include "cuda/ptx.cuh"

namespace fastconv {

template <typename scalar_t_, int kColumns_>
struct MmaTile {
  using scalar_t = scalar_t_;
  static constexpr int kRows = 128, kColumns = kColumns_, kStages = 4;
  static constexpr int kChunk = kPack<scalar_t>;        // elements that one copy moves
  static constexpr int kDepthChunks = 4;                // of one line and stage
  static constexpr int kDepth = kDepthChunks * kChunk;  // terms
  static constexpr int kSteps = kDepthChunks / 2;       // an mma takes two chunks of terms
  static constexpr int kThreads = 256, kWarpsDown = 2, kWarpsAcross = 4;
  static constexpr int kWarpRows = kRows / kWarpsDown, kWarpColumns = kColumns / kWarpsAcross;
  static constexpr int kFragmentsDown = kWarpRows / 16, kFragmentsAcross = kWarpColumns / 8;
  static constexpr int kRowBytes = kRows * kDepthChunks * 16;  // of one operand and stage
  static constexpr int kStageBytes = kRowBytes + kColumns * kDepthChunks * 16;
  static constexpr size_t kSharedBytes = size_t(kStages) * kStageBytes;
  static_assert(kWarpsDown * kWarpsAcross * kWarpSize == kThreads);
  static_assert(kFragmentsAcross % 2 == 0, "fragments of columns are loaded in pairs");

  using Sums = float[kFragmentsDown][kFragmentsAcross][4];  // of a thread
};

// Where chunk `chunk` of a line's terms lies.
template <typename scalar_t, int kColumns>
__device__ __forceinline__ int along_offset(MmaTile<scalar_t, kColumns>, int line, int chunk) {
  return (line * 4 + (chunk ^ (line >> 1 & 3))) * 16;
}

// Where chunk `chunk` of a term's lines lies, of which there are `chunks`. 32-bit elements are read
// one by one, by lanes four terms deep and eight lines wide.
template <typename scalar_t, int kColumns>
__device__ __forceinline__ int across_offset(MmaTile<scalar_t, kColumns>, int term, int chunk,
                                             int chunks) {
  const int turn = sizeof(scalar_t) == 2 ? term & 7 : (term & 3) * 2;
  return (term * chunks + (chunk ^ turn)) * 16;
}

template <typename scalar_t>
struct TensorCore;
template <>
struct TensorCore<half> {
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_16816_half(d, a, b);
  }
};
template <>
struct TensorCore<bfloat16> {
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_16816_bfloat16(d, a, b);
  }
};
template <>
struct TensorCore<float> {
  __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_1688_tf32(d, a, b);
  }
};

// float32 is rounded to tf32 on its way to the tensor core, not cut off.
template <typename scalar_t, int kCount>
__device__ __forceinline__ void round_fragment(uint32_t (&r)[kCount]) {
  if constexpr (sizeof(scalar_t) == 4) {
    for (int i = 0; i < kCount; ++i) r[i] = ptx::to_tf32(bits_float(r[i]));
  }
}

// One element of an operand that lies across, for types that ldmatrix cannot transpose.
template <class Tile, int kLines>
__device__ __forceinline__ uint32_t element_across(const unsigned char* operand, int term,
                                                   int line) {
  constexpr int kChunk = Tile::kChunk;
  const int chunk = across_offset(Tile{}, term, line / kChunk, kLines / kChunk);
  return reinterpret_cast<const uint32_t*>(operand + chunk)[line % kChunk];
}

// Rows line ... line + 15 and the terms of mma step `step`, as ptx.cuh lays out fragment a.
template <class Tile, bool kAcross>
__device__ __forceinline__ void load_rows(uint32_t (&r)[4], const unsigned char* operand, int line,
                                          int step, int lane) {
  using scalar_t = typename Tile::scalar_t;
  constexpr int kChunks = Tile::kRows / Tile::kChunk;
  const int low = lane % 8, middle = lane / 8 % 2, high = lane / 16;
  if constexpr (!kAcross) {
    ptx::ldmatrix_x4(r, operand + along_offset(Tile{}, line + low + 8 * middle, 2 * step + high));
  } else if constexpr (sizeof(scalar_t) == 2) {
    const int term = 16 * step + low + 8 * high;
    ptx::ldmatrix_x4_transposed(
        r, operand + across_offset(Tile{}, term, line / Tile::kChunk + middle, kChunks));
  } else {
    for (int i = 0; i < 4; ++i) {
      r[i] = element_across<Tile, Tile::kRows>(operand, 8 * step + lane % 4 + 4 * (i / 2),
                                               line + lane / 4 + 8 * (i % 2));
    }
  }
  round_fragment<scalar_t>(r);
}

// Columns line ... line + 15: two fragments b, one after the other.
template <class Tile, bool kAcross>
__device__ __forceinline__ void load_columns(uint32_t (&r)[4], const unsigned char* operand,
                                             int line, int step, int lane) {
  using scalar_t = typename Tile::scalar_t;
  constexpr int kChunks = Tile::kColumns / Tile::kChunk;
  const int low = lane % 8, middle = lane / 8 % 2, high = lane / 16;
  if constexpr (!kAcross) {
    ptx::ldmatrix_x4(r, operand + along_offset(Tile{}, line + low + 8 * high, 2 * step + middle));
  } else if constexpr (sizeof(scalar_t) == 2) {
    const int term = 16 * step + low + 8 * middle;
    ptx::ldmatrix_x4_transposed(
        r, operand + across_offset(Tile{}, term, line / Tile::kChunk + high, kChunks));
  } else {
    for (int i = 0; i < 4; ++i) {
      r[i] = element_across<Tile, Tile::kColumns>(operand, 8 * step + lane % 4 + 4 * (i % 2),
                                                  line + lane / 4 + 8 * (i / 2));
    }
  }
  round_fragment<scalar_t>(r);
}

// The sums of this thread over the terms [begin, end). Rows and Columns fetch their operand's
// chunks of the kDepth terms from one on: load(shared memory, first term, end).
template <typename scalar_t, int kColumns, class Rows, class Columns>
__device__ __forceinline__ void multiply_tile(MmaTile<scalar_t, kColumns>,
                                              typename MmaTile<scalar_t, kColumns>::Sums& sums,
                                              Rows& rows, Columns& columns, unsigned char* memory,
                                              int begin, int end) {
  using Tile = MmaTile<scalar_t, kColumns>;
  const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
  const int first_row = warp / Tile::kWarpsAcross * Tile::kWarpRows;
  const int first_column = warp % Tile::kWarpsAcross * Tile::kWarpColumns;
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
    __syncthreads();  // the stage is there for all, and all are done with the one fetched over
    fetch(stage + Tile::kStages - 1);
    const unsigned char* at = memory + stage % Tile::kStages * Tile::kStageBytes;
#pragma unroll
    for (int step = 0; step < Tile::kSteps; ++step) {
      uint32_t a[Tile::kFragmentsDown][4], b[Tile::kFragmentsAcross / 2][4];
#pragma unroll
      for (int i = 0; i < Tile::kFragmentsDown; ++i) {
        load_rows<Tile, Rows::kAcross>(a[i], at, first_row + 16 * i, step, lane);
      }
#pragma unroll
      for (int j = 0; j < Tile::kFragmentsAcross / 2; ++j) {
        load_columns<Tile, Columns::kAcross>(b[j], at + Tile::kRowBytes, first_column + 16 * j,
                                             step, lane);
      }
#pragma unroll
      for (int i = 0; i < Tile::kFragmentsDown; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::kFragmentsAcross; ++j) {
          const uint32_t (&pair)[4] = b[j / 2];
          const uint32_t column[2] = {pair[j % 2 * 2], pair[j % 2 * 2 + 1]};
          TensorCore<scalar_t>::multiply(sums[i][j], a[i], column);
        }
      }
    }
  }
  ptx::cp_async_wait<0>();
}

// body(place, column, value, value of the next column) for the pairs of results of this thread,
// with the place that place_of(row) gave; where that is null, the row is left out.
template <typename scalar_t, int kColumns, class Place, class F>
__device__ __forceinline__ void for_results(MmaTile<scalar_t, kColumns>,
                                            const typename MmaTile<scalar_t, kColumns>::Sums& sums,
                                            const Place& place_of, const F& body) {
  using Tile = MmaTile<scalar_t, kColumns>;
  const int lane = int(threadIdx.x) % kWarpSize, warp = int(threadIdx.x) / kWarpSize;
  const int first_row = warp / Tile::kWarpsAcross * Tile::kWarpRows + lane / 4;
  const int first_column = warp % Tile::kWarpsAcross * Tile::kWarpColumns + lane % 4 * 2;
#pragma unroll
  for (int i = 0; i < Tile::kFragmentsDown; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const auto place = place_of(first_row + 16 * i + 8 * half);
      if (!place) continue;
#pragma unroll
      for (int j = 0; j < Tile::kFragmentsAcross; ++j) {
        body(place, first_column + 8 * j, sums[i][j][2 * half], sums[i][j][2 * half + 1]);
      }
    }
  }
}

}  // namespace fastconv
