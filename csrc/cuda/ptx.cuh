// All inline PTX. The host compiler gets the same names from tests/simt/ptx.h.
#pragma once

#include "cuda/platform.cuh"

#if defined(FASTCONV_SIMT)
#include "simt/ptx.h"
#else

namespace fastconv {
namespace ptx {

// Copies 16 bytes from global to shared memory without waiting; where `valid` is false nothing is
// read and zeros are written. Both addresses are multiples of 16.
__device__ __forceinline__ void cp_async_16(void* shared, const void* global, bool valid = true) {
  const uint32_t to = uint32_t(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes)
               : "memory");
}

// The same for 4 bytes.
__device__ __forceinline__ void cp_async_4(void* shared, const void* global, bool valid = true) {
  const uint32_t to = uint32_t(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(global), "r"(bytes)
               : "memory");
}

// Closes a group of copies.
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;"); }

// Waits until at most kPending of this thread's groups are under way.
template <int kPending>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Four 8x8 matrices of 16-bit elements. Lane 8 i + j gives the address of row j of matrix i;
// r[i] gets elements (lane / 4, 2 (lane % 4)) and the next in the row.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  const uint32_t at = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// The same, each matrix transposed: r[i] gets elements (2 (lane % 4), lane / 4) and the one below.
__device__ __forceinline__ void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row) {
  const uint32_t at = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}

// d (16x8, float) += a (16x16) * b (16x8). With g = lane / 4 and t = lane % 4:
//   a: rows g, g + 8 by columns 2t, 2t + 8, each register two columns: (g, 2t), (g + 8, 2t),
//      (g, 2t + 8), (g + 8, 2t + 8)
//   b: rows 2t and 2t + 8, each register two rows, column g
//   d: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
#define FASTCONV_MMA_16816(name, type)                                                  \
  __device__ __forceinline__ void name(float (&d)[4], const uint32_t (&a)[4],           \
                                       const uint32_t (&b)[2]) {                        \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                 \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));   \
  }
FASTCONV_MMA_16816(mma_16816_half, "f16")
FASTCONV_MMA_16816(mma_16816_bfloat16, "bf16")
#undef FASTCONV_MMA_16816

// d (16x8) += a (16x8) * b (8x8) of float32 rounded to tf32:
//   a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)    b: (t, g), (t + 4, g)    d: as above
__device__ __forceinline__ void mma_1688_tf32(float (&d)[4], const uint32_t (&a)[4],
                                              const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// float32 rounded to tf32's 10 bits of fraction, ties away from zero.
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

// ---- warpgroup products, sm_90a alone ----

// The address of shared memory as a matrix descriptor has it.
__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return uint32_t(__cvta_generic_to_shared(shared));
}

// What this thread wrote to shared memory becomes visible to products (to the async proxy); a
// barrier after it makes it so for the products of others. Copies must have been waited for.
__device__ __forceinline__ void fence_shared_for_wgmma() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Before the first product, and after registers of its sums were written.
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

// Closes a group of products.
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits for all closed groups of this warpgroup. The sums pass through, so that the compiler reads
// none of them earlier.
template <int kCount>
__device__ __forceinline__ void wgmma_wait(float (&d)[kCount][4]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(d[j][i])::"memory");
  }
}

// d (64 x columns, float) += a (64 x 16) * b (16 x columns), by the four warps of a warpgroup. Both
// operands lie in shared memory, where a matrix descriptor says (conv2d_wgmma.cuh), the flags
// whether across. Warp w has rows 16 w ... 16 w + 15; d[j] are columns 8 j ... 8 j + 7 of them, as
// mma.sync's d above.
#define FASTCONV_SUMS(j) "+f"(d[j][0]), "+f"(d[j][1]), "+f"(d[j][2]), "+f"(d[j][3])
#define FASTCONV_SUMS_4(j) \
  FASTCONV_SUMS(j), FASTCONV_SUMS(j + 1), FASTCONV_SUMS(j + 2), FASTCONV_SUMS(j + 3)
#define FASTCONV_WGMMA_64(name, type)                                                             \
  template <bool kAcrossA, bool kAcrossB>                                                         \
  __device__ __forceinline__ void name(float (&d)[8][4], uint64_t a, uint64_t b) {                \
    asm volatile(                                                                                 \
        "{.reg .pred p; setp.eq.u32 p, 0, 0; "                                                    \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                               \
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
        "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, "   \
        "%34, %35;}"                                                                              \
        : FASTCONV_SUMS_4(0), FASTCONV_SUMS_4(4)                                                  \
        : "l"(a), "l"(b), "n"(int(kAcrossA)), "n"(int(kAcrossB))                                  \
        : "memory");                                                                              \
  }
#define FASTCONV_WGMMA_128(name, type)                                                            \
  template <bool kAcrossA, bool kAcrossB>                                                         \
  __device__ __forceinline__ void name(float (&d)[16][4], uint64_t a, uint64_t b) {               \
    asm volatile(                                                                                 \
        "{.reg .pred p; setp.eq.u32 p, 0, 0; "                                                    \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                              \
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
        "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "   \
        "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, "   \
        "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1, %66, %67;}"   \
        : FASTCONV_SUMS_4(0), FASTCONV_SUMS_4(4), FASTCONV_SUMS_4(8), FASTCONV_SUMS_4(12)         \
        : "l"(a), "l"(b), "n"(int(kAcrossA)), "n"(int(kAcrossB))                                  \
        : "memory");                                                                              \
  }
FASTCONV_WGMMA_64(wgmma_half, "f16")
FASTCONV_WGMMA_64(wgmma_bfloat16, "bf16")
FASTCONV_WGMMA_128(wgmma_half, "f16")
FASTCONV_WGMMA_128(wgmma_bfloat16, "bf16")
#undef FASTCONV_WGMMA_128
#undef FASTCONV_WGMMA_64
#undef FASTCONV_SUMS_4
#undef FASTCONV_SUMS

}  // namespace ptx
}  // namespace fastconv

#endif
