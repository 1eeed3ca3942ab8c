// Functions of whole vectors.
#pragma once

#include <cmath>
#include <limits>

#include "cpu/vec.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace fastconv {
namespace FASTCONV_ISA {

#if defined(__AVX512F__)
static inline vec_t<float> sqrt_of(vec_t<float> v) {
  return (vec_t<float>)_mm512_sqrt_ps((__m512)v);
}
static inline vec_t<double> sqrt_of(vec_t<double> v) {
  return (vec_t<double>)_mm512_sqrt_pd((__m512d)v);
}
#elif defined(__AVX2__)
static inline vec_t<float> sqrt_of(vec_t<float> v) {
  return (vec_t<float>)_mm256_sqrt_ps((__m256)v);
}
static inline vec_t<double> sqrt_of(vec_t<double> v) {
  return (vec_t<double>)_mm256_sqrt_pd((__m256d)v);
}
#else
template <typename vector_t>
static inline vector_t sqrt_of(vector_t v) {
  for (unsigned i = 0; i < sizeof(v) / sizeof(v[0]); ++i) v[i] = std::sqrt(v[i]);
  return v;
}
#endif

// Whether inverse_root_of(), lanes_between(), are_all() and blend() are there for a vector.
template <typename vector_t>
constexpr bool kHasInverseRoot = false;
#if defined(__AVX512F__)
template <>
constexpr bool kHasInverseRoot<vec_t<float>> = true;

// 1 / sqrt(v), from an estimate of 14 bits: to about half a unit in the last place.
static inline vec_t<float> inverse_root_of(vec_t<float> v) {
  const vec_t<float> r = (vec_t<float>)_mm512_rsqrt14_ps((__m512)v);
  const vec_t<float> missing = multiply_add(-(v * r), r, splat(1.0f));
  return multiply_add(0.5f * r, missing, r);
}
// GCC makes vectors of such masks where it meets them as comparisons of its own vector types.
static inline __mmask16 lanes_between(float least, vec_t<float> v, float most) {
  return _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(least), _CMP_GT_OQ) &
         _mm512_cmp_ps_mask((__m512)v, _mm512_set1_ps(most), _CMP_LT_OQ);
}
static inline bool are_all(__mmask16 lanes) { return lanes == 0xffff; }
static inline vec_t<float> blend(__mmask16 lanes, vec_t<float> others, vec_t<float> these) {
  return (vec_t<float>)_mm512_mask_blend_ps(lanes, (__m512)others, (__m512)these);
}
#endif

typedef uint64_t u64_vec __attribute__((vector_size(kVectorBytes)));

static inline u64_vec bits_of(vec_t<double> v) { return (u64_vec)v; }
static inline vec_t<double> from_bits(u64_vec bits) { return (vec_t<double>)bits; }

// base^exponent for positive normal bases, to about 1e-11: 2^(exponent * log2(base)), where
// log2(m) = 2/ln2 * (z + z^3/3 + z^5/5 + ...), z = (m-1)/(m+1), for m within [1/sqrt2, sqrt2], and
// 2^f is Taylor's series for |f| <= 1/2. The exponent is kept within +-300: beyond what a float
// holds, and enough for the result to round to 0 or infinity there.
static inline vec_t<double> pow_positive(vec_t<double> base, double exponent) {
  const u64_vec bits = bits_of(base);
  // A whole number n < 2^52 in the low bits of 2^52's pattern is the double 2^52 + n.
  const double kTwo52 = 4503599627370496.0;
  vec_t<double> e = from_bits((bits >> 52) | 0x4330000000000000u) - (kTwo52 + 1023.0);
  vec_t<double> m = from_bits((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
  const auto high = m > 1.4142135623730951;
  m = high ? 0.5 * m : m;
  e = high ? e + 1.0 : e;
  const vec_t<double> z = (m - 1.0) / (m + 1.0), z2 = z * z;
  vec_t<double> series = splat(1.0 / 13);
  for (int n = 11; n >= 1; n -= 2) series = series * z2 + 1.0 / n;
  const double kTwoOverLn2 = 2.885390081777926814719849362;
  vec_t<double> y = exponent * (e + kTwoOverLn2 * (z * series));
  y = y > 300.0 ? splat(300.0) : y < -300.0 ? splat(-300.0) : y;

  // Adding 1.5 * 2^52 leaves the nearest whole number in the low bits.
  const double kRound = 1.5 * kTwo52;
  const vec_t<double> shifted = y + kRound;
  const vec_t<double> f = 0.6931471805599453094 * (y - (shifted - kRound));
  vec_t<double> power = splat(1.0);
  for (int n = 10; n >= 1; --n) power = power * f * (1.0 / n) + 1.0;
  return from_bits(bits_of(power) + (bits_of(shifted) << 52));
}

template <typename vector_t>
static inline vector_t pow_each(vector_t base, double exponent) {
  for (unsigned i = 0; i < sizeof(base) / sizeof(base[0]); ++i) {
    base[i] = std::pow(double(base[i]), exponent);
  }
  return base;
}

static inline vec_t<double> pow_of(vec_t<double> base, double exponent) {
  return pow_each(base, exponent);
}

// The float nearest to base^exponent, or its neighbour.
static inline vec_t<float> pow_of(vec_t<float> base, double exponent) {
  const auto ordinary = (base > 0.0f) & (base <= std::numeric_limits<float>::max());
  bool all = true;
  for (int i = 0; i < Vec<float>::kLanes; ++i) all &= ordinary[i] != 0;
  if (!all) return pow_each(base, exponent);  // 0, infinity, NaN, negative
  typedef float half_vec __attribute__((vector_size(kVectorBytes / 2)));
  half_vec parts[2];
  memcpy(parts, &base, sizeof parts);
  for (half_vec& part : parts) {
    const vec_t<double> wide = __builtin_convertvector(part, vec_t<double>);
    part = __builtin_convertvector(pow_positive(wide, exponent), half_vec);
  }
  memcpy(&base, parts, sizeof parts);
  return base;
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
