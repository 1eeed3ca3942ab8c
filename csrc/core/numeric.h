// The element types of the kernels, and the type that each one accumulates in.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/macros.h"

#if defined(__CUDACC__)  // the GPU converts in one instruction, to the same bits
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace fastconv {

// IEEE binary16 and bfloat16 as bits. Kernels never compute in them: they load to acc_t, compute,
// and round once when they store.
struct half {
  uint16_t bits;
};
struct bfloat16 {
  uint16_t bits;
};

template <typename scalar_t>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename scalar_t>
using accumulate_t = typename Accumulate<scalar_t>::type;

FASTCONV_INLINE uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

FASTCONV_INLINE float bits_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

FASTCONV_INLINE float to_acc(float x) { return x; }
FASTCONV_INLINE double to_acc(double x) { return x; }
FASTCONV_INLINE float to_acc(bfloat16 x) { return bits_float(uint32_t(x.bits) << 16); }

FASTCONV_INLINE float to_acc(half x) {
#if defined(__CUDA_ARCH__)
  return __half2float(__half_raw{x.bits});
#else
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u)  // infinity or NaN
    return bits_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Shifted into place the exponent is 112 too small; the product corrects it, denormals too.
  const float scaled = bits_float(magnitude << 13) * bits_float(0x77800000u);  // 2^112
  return bits_float(sign | float_bits(scaled));
#endif
}

FASTCONV_INLINE void from_acc(float x, float& y) { y = x; }
FASTCONV_INLINE void from_acc(double x, double& y) { y = x; }

FASTCONV_INLINE void from_acc(float x, bfloat16& y) {  // to nearest, ties to even
#if defined(__CUDA_ARCH__)
  y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
  const uint32_t bits = float_bits(x);
  const uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  y.bits = uint16_t(x != x ? 0x7fc0u : rounded >> 16);
#endif
}

FASTCONV_INLINE void from_acc(float x, half& y) {  // to nearest, ties to even
#if defined(__CUDA_ARCH__)
  y.bits = __half_as_ushort(__float2half_rn(x));
#else
  const uint32_t bits = float_bits(x);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  uint32_t result;
  if (magnitude > 0x7f800000u) {
    result = 0x7e00u;
  } else if (magnitude >= 0x47800000u) {  // 65536 and above
    result = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // normal: drop 13 bits, rebias the exponent by 112
    result = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  } else {  // denormal: adding 0.5 aligns the bits to keep at the low end, rounding as it goes
    result = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;
  }
  y.bits = uint16_t(sign | result);
#endif
}

}  // namespace fastconv
