// One warp and one instruction: what test_ptx.py compares with matrices multiplied plainly.
#include "cuda/ptx.cuh"

#include "simt/driver.h"

using namespace fastconv;

// input: four 8x8 matrices of 16-bit elements; output[lane][i]: the register pair r[i].
template <bool kTransposed>
__global__ void ldmatrix_kernel(const uint16_t* input, uint32_t* output) {
  FASTCONV_SHARED(uint16_t, matrices, 4 * 64);
  const int lane = int(threadIdx.x);
  for (int i = lane; i < 4 * 64; i += 32) matrices[i] = input[i];
  __syncthreads();
  uint32_t r[4];
  if (kTransposed) {
    ptx::ldmatrix_x4_transposed(r, matrices + lane * 8);
  } else {
    ptx::ldmatrix_x4(r, matrices + lane * 8);
  }
  for (int i = 0; i < 4; ++i) output[lane * 4 + i] = r[i];
}

// The manual's fragments, spelled out: a (16 x 2k), b (2k x 8), c (16 x 8), row by row; k is what
// one half of the registers covers.
template <typename F>
__global__ void mma_kernel(const uint32_t* a, const uint32_t* b, const float* c, float* d, F mma) {
  const int lane = int(threadIdx.x), g = lane / 4, t = lane % 4;
  // A register holds one tf32, or two neighbours in k of 16 bits: either way row g has 8 registers.
  const uint32_t fragment_a[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4],
                                  a[(g + 8) * 8 + t + 4]};
  const uint32_t fragment_b[2] = {b[g * 8 + t], b[g * 8 + t + 4]};  // b is given transposed
  float sum[4];
  for (int i = 0; i < 4; ++i) sum[i] = c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
  mma(sum, fragment_a, fragment_b);
  for (int i = 0; i < 4; ++i) d[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sum[i];
}

// Copies 16 bytes a lane, every other lane's not valid.
__global__ void cp_async_kernel(const float* input, float* output) {
  FASTCONV_SHARED(float, tile, 32 * 4 + 32);
  const int lane = int(threadIdx.x);
  ptx::cp_async_16(tile + lane * 4, input + lane * 4, lane % 2 == 0);
  ptx::cp_async_commit();
  ptx::cp_async_4(tile + 128 + lane, input + lane, lane % 3 != 0);
  ptx::cp_async_commit();
  ptx::cp_async_wait<1>();  // the first group alone
  for (int i = 0; i < 4; ++i) output[lane * 4 + i] = tile[lane * 4 + i];
  output[128 + lane] = tile[128 + lane];
  ptx::cp_async_wait<0>();
  output[160 + lane] = tile[128 + lane];
}

template <typename F>
static cudaError_t run_mma(const simt::Request& r, F mma) {
  return launch(mma_kernel<F>, 1, 32, 0, nullptr, r.pointer<const uint32_t>(0),
                r.pointer<const uint32_t>(1), r.pointer<const float>(2), r.pointer<float>(3), mma);
}

int main() {
  return simt::serve([](const simt::Request& r) {
    using D = float (&)[4];
    using A = const uint32_t (&)[4];
    using B = const uint32_t (&)[2];
    if (r.entry == "half") return run_mma(r, [](D d, A a, B b) { ptx::mma_16816_half(d, a, b); });
    if (r.entry == "bfloat16")
      return run_mma(r, [](D d, A a, B b) { ptx::mma_16816_bfloat16(d, a, b); });
    if (r.entry == "tf32") return run_mma(r, [](D d, A a, B b) { ptx::mma_1688_tf32(d, a, b); });
    if (r.entry == "cp_async")
      return launch(cp_async_kernel, 1, 32, 0, nullptr, r.pointer<const float>(0),
                    r.pointer<float>(1));
    const auto kernel = r.entry == "transposed" ? ldmatrix_kernel<true> : ldmatrix_kernel<false>;
    return launch(kernel, 1, 32, 0, nullptr, r.pointer<const uint16_t>(0), r.pointer<uint32_t>(1));
  });
}
