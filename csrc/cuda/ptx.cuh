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

}  // namespace ptx
}  // namespace fastconv

#endif
