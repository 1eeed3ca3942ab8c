// output[n,c,y,x] = (images[n,top+y,left+x',c] / 255 - mean[top+y,left+x',c] + shifts[n,c]) /
// unit[c] where x' is x, or width-1-x in a mirrored image
//
// images (batch, in_height, in_width, channels) uint8; output (batch, channels, height, width) in
// either memory format.
//
//   block     kPrepareRows rows of a window. It first copies their bytes to shared memory, 16 at a
//             time at aligned addresses whatever the window's place, so that neither the place nor
//             a mirror scatters what is read
//   thread    threadIdx.y is the row, threadIdx.x runs over it: a thread makes kPreparePack
//             neighbouring elements, one store of 16 bytes of float32 or 8 of 16-bit numbers where
//             the rows' length and the address allow, else one element at a time
//
// channels_last: a row of threads makes whole pixels of 1 to 4 channels at a time, so that a
// thread's elements keep their channels from step to step, and shift and unit stay in registers.
//
// Divisions are most of the arithmetic. nvcc's take a reciprocal and a check of the operands each:
// by estimate 30 of the 50 issue slots of an element, where an H100 reads and writes 3 bytes in 26.
// The divisors are the same for all elements, so the reciprocals come with the arguments, and
// multiply-adds give the same bits in 10.
//
// Bytes moved, an element: 1 of the image, 4 or 2 of the result. A mean image's 4 come from the L2
// cache: 256x256 in three channels are 0.8 MB, and all images of the batch read them. AlexNet's
// input, batch 128: 19 MB read and 77 MB (float32) or 39 MB (16 bits) written.
#pragma once

#include "cuda/pack.cuh"
#include "cuda/prepare_images.h"

namespace fastconv {

constexpr int kPreparePack = 4;      // elements that a thread makes at once
constexpr int kPrepareThreads = 96;  // on a row
constexpr int kPrepareStep = kPrepareThreads * kPreparePack;
static_assert(kPrepareStep % 12 == 0, "whole pixels of 1, 2, 3 or 4 channels");
static_assert(kPrepareThreads * kPrepareRows % kWarpSize == 0, "blocks of whole warps");

constexpr int kBytesAtOnce = 16;

// What a row takes in shared memory: before and behind it may stand what shares its first and last
// 16 bytes.
__host__ __device__ constexpr int prepare_pitch(int line) {
  return (line + 2 * kBytesAtOnce - 2) / kBytesAtOnce * kBytesAtOnce;
}

// a / 255 for a whole number a from 0 to 255, correctly rounded (all 256 were tried).
__device__ __forceinline__ float divided_by_255(float a) {
  constexpr float kInverse = 1.0f / 255.0f;
  const float q = a * kInverse;
  return fmaf(fmaf(-q, 255.0f, a), kInverse, q);
}

// a / b, correctly rounded, with `inverse` the correctly rounded 1 / b. After one step the quotient
// is wrong by less than a unit in its last place, and another makes it right (Markstein, IBM
// Journal of Research and Development 34, 1990), unless a is so small that its rest, 2^-48 of it,
// is none. Infinities and NaN pass through.
__device__ __forceinline__ float divided(float a, float b, float inverse) {
  const float first = a * inverse;
  const float q = fmaf(fmaf(-first, b, a), inverse, first);
  const float result = fmaf(fmaf(-q, b, a), inverse, q);
  return result == result ? result : first;
}

// core/prepare_images.h's arithmetic.
__device__ __forceinline__ float prepared_by(float pixel, float mean, float shift, float unit,
                                             float inverse) {
  return divided(divided_by_255(pixel) - mean + shift, unit, inverse);
}

// values[c]: an array among a kernel's arguments that is indexed would be copied to local memory.
__device__ __forceinline__ float of_channel(const float (&values)[kMostImageChannels], int c) {
  const float low = c == 0 ? values[0] : values[1], high = c == 2 ? values[2] : values[3];
  return c < 2 ? low : high;
}

struct PrepareInverses {  // 1 / unit
  float unit[kMostImageChannels];
};

// Where this thread's row of the result comes from.
struct PrepareRow {
  int image, y;
  bool inside, mirrored;  // whether there is such a row
  const uint8_t* pixels;  // of the image
  const float* mean;      // of the mean image, the colour, or null
  int skew;               // bytes before the row in its first 16

  __device__ PrepareRow(const PrepareImagesInputs& in, const PrepareImages32& p) {
    const int tiles = (p.height + kPrepareRows - 1) / kPrepareRows;
    image = int(blockIdx.x) / tiles;
    y = int(blockIdx.x) % tiles * kPrepareRows + int(threadIdx.y);
    inside = y < p.height;
    mirrored = in.flips != nullptr && in.flips[image];
    const WindowPlace<int> at = image_place(in, image, p);
    pixels =
        in.images + image * p.image_stride + (at.top + y) * p.row_stride + at.left * p.channels;
    skew = int(reinterpret_cast<uintptr_t>(pixels) % kBytesAtOnce);
    mean = in.mean;
    if (mean == nullptr || !p.has_mean_image()) return;
    const WindowPlace<int> on_mean = mean_place(in, image, p);
    mean += (on_mean.top + y) * p.mean_row_stride + on_mean.left * p.channels;
  }

  // Copies the row to `slot`, behind `skew` bytes of it.
  __device__ void stage(const PrepareImagesInputs& in, const PrepareImages32& p,
                        uint8_t* slot) const {
    const uint8_t* end = in.images + p.batch * p.image_stride;
    const int bytes = skew + p.width * p.channels;
    for (int i = int(threadIdx.x) * kBytesAtOnce; i < bytes; i += kPrepareThreads * kBytesAtOnce) {
      const uint8_t* from = pixels - skew + i;
      if (from >= in.images && end - from >= kBytesAtOnce) {
        store_pack(slot + i, load_pack<kBytesAtOnce>(from));
        continue;
      }
      for (int k = max_of(0, skew - i); k < min_of(kBytesAtOnce, bytes - i); ++k) {
        slot[i + k] = from[k];
      }
    }
  }
};

template <typename scalar_t>
__device__ __forceinline__ void store_prepared(scalar_t* to, const float (&values)[kPreparePack],
                                               int count, bool packed) {
  Pack<scalar_t, kPreparePack> pack;
#pragma unroll
  for (int i = 0; i < kPreparePack; ++i) from_acc(values[i], pack.lane[i]);
  if (packed) {
    store_pack(to, pack);
    return;
  }
#pragma unroll
  for (int i = 0; i < kPreparePack; ++i) {
    if (i < count) to[i] = pack.lane[i];
  }
}

// packed: every row of the result begins at the address of a pack and is one of packs.
template <typename scalar_t>
__global__ void __launch_bounds__(kPrepareThreads* kPrepareRows, 7)
    prepare_images_last_kernel(PrepareImagesInputs in, scalar_t* output, PrepareImages32 p,
                               PrepareInverses inverses, bool packed) {
  FASTCONV_DYNAMIC_SHARED(tile);
  const PrepareRow row(in, p);
  const int line = p.width * p.channels;
  uint8_t* slot = tile + int(threadIdx.y) * prepare_pitch(line);
  if (row.inside) row.stage(in, p, slot);
  __syncthreads();
  if (!row.inside) return;

  // Element e + i of the row comes from byte at[i] + sign * e; a mean image's likewise.
  const int first = int(threadIdx.x) * kPreparePack, sign = row.mirrored ? -1 : 1;
  const int mean_sign = p.has_mean_image() ? sign : 0;
  int at[kPreparePack], mean_at[kPreparePack];
  float shift[kPreparePack], unit[kPreparePack], inverse[kPreparePack];
#pragma unroll
  for (int i = 0; i < kPreparePack; ++i) {
    const int c = (first + i) % p.channels;
    at[i] = row.mirrored ? (p.width - 1) * p.channels + 2 * c - i : i;
    mean_at[i] = p.has_mean_image() ? at[i] : c;
    shift[i] = in.shifts != nullptr ? in.shifts[row.image * p.channels + c] : 0.0f;
    unit[i] = of_channel(p.unit, c);
    inverse[i] = of_channel(inverses.unit, c);
  }
  scalar_t* to = output + (row.image * p.height + row.y) * line;
  for (int e = first; e < line; e += kPrepareStep) {
    float values[kPreparePack] = {};
#pragma unroll
    for (int i = 0; i < kPreparePack; ++i) {
      if (e + i >= line) continue;
      const float pixel = slot[row.skew + at[i] + sign * e];
      const float mean = row.mean != nullptr ? row.mean[mean_at[i] + mean_sign * e] : 0.0f;
      values[i] = prepared_by(pixel, mean, shift[i], unit[i], inverse[i]);
    }
    store_prepared(to + e, values, line - e, packed);
  }
}

template <typename scalar_t>
__global__ void __launch_bounds__(kPrepareThreads* kPrepareRows, 7)
    prepare_images_planar_kernel(PrepareImagesInputs in, scalar_t* output, PrepareImages32 p,
                                 PrepareInverses inverses, bool packed) {
  FASTCONV_DYNAMIC_SHARED(tile);
  const PrepareRow row(in, p);
  uint8_t* slot = tile + int(threadIdx.y) * prepare_pitch(p.width * p.channels);
  if (row.inside) row.stage(in, p, slot);
  __syncthreads();
  if (!row.inside) return;

  const int packs = (p.width + kPreparePack - 1) / kPreparePack;
  for (int item = int(threadIdx.x); item < packs * p.channels; item += kPrepareThreads) {
    const int c = item / packs, x = item % packs * kPreparePack;
    const float shift = in.shifts != nullptr ? in.shifts[row.image * p.channels + c] : 0.0f;
    const float unit = of_channel(p.unit, c), inverse = of_channel(inverses.unit, c);
    float values[kPreparePack] = {};
#pragma unroll
    for (int i = 0; i < kPreparePack; ++i) {
      if (x + i >= p.width) continue;
      const int at = (row.mirrored ? p.width - 1 - x - i : x + i) * p.channels + c;
      const float mean = row.mean != nullptr ? row.mean[p.has_mean_image() ? at : c] : 0.0f;
      values[i] = prepared_by(slot[row.skew + at], mean, shift, unit, inverse);
    }
    scalar_t* to = output + ((row.image * p.channels + c) * p.height + row.y) * p.width + x;
    store_prepared(to, values, p.width - x, packed);
  }
}

// in.images lies densely, and so does the mean image.
template <typename scalar_t>
cudaError_t launch_prepare_images(const PrepareImagesInputs& in, scalar_t* output,
                                  const PrepareImages& p, cudaStream_t stream) {
  const int64_t line = p.width * p.channels;
  if (line > kMostPrepareRow) return cudaErrorInvalidValue;
  const int64_t out_image = p.height * line;
  const bool packed =
      (p.channels_last ? line : p.width) % kPreparePack == 0 && fits_packs<kPreparePack>(output);
  const auto kernel = p.channels_last ? prepare_images_last_kernel<scalar_t>
                                      : prepare_images_planar_kernel<scalar_t>;
  PrepareInverses inverses{};
  for (int c = 0; c < p.channels; ++c) inverses.unit[c] = 1.0f / p.unit[c];
  const int64_t tiles = ceil_div(p.height, int64_t(kPrepareRows));
  return for_batch_parts(
      p.batch, max_of(p.image_stride, out_image), [&](int64_t first, int64_t count) {
        PrepareImagesInputs part = in;
        part.images += first * p.image_stride;
        if (in.offsets != nullptr) part.offsets += 2 * first;
        if (in.flips != nullptr) part.flips += first;
        if (in.shifts != nullptr) part.shifts += first * p.channels;
        if (in.mean_offsets != nullptr) part.mean_offsets += 2 * first;
        PrepareImages32 q = narrow(p);
        q.batch = int32_t(count);
        return launch(kernel, dim3(unsigned(count * tiles)), dim3(kPrepareThreads, kPrepareRows),
                      kPrepareRows * prepare_pitch(int(line)), stream, part,
                      output + first * out_image, q, inverses, packed);
      });
}

}  // namespace fastconv
