// Vectors as wide as the instruction set that this file is compiled for.
//
// These are the compiler's own vector types: one text becomes SSE, AVX2, AVX-512 or NEON. A kernel
// loads scalar_t, computes in acc_t lanes, and stores scalar_t.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "core/numeric.h"

#if defined(__AVX2__) || defined(__F16C__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define FASTCONV_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define FASTCONV_VECTOR_BYTES 32
#else
#define FASTCONV_VECTOR_BYTES 16
#endif

namespace fastconv {
namespace FASTCONV_ISA {

constexpr int kVectorBytes = FASTCONV_VECTOR_BYTES;

// The integer type as wide as acc_t: comparisons of acc_t lanes give masks of it.
template <typename acc_t>
struct MaskInt {
  using type = int32_t;
};
template <>
struct MaskInt<double> {
  using type = int64_t;
};

template <typename acc_t>
struct Vec {
  using int_t = typename MaskInt<acc_t>::type;
  static constexpr int kLanes = kVectorBytes / sizeof(acc_t);
  typedef acc_t type __attribute__((vector_size(kVectorBytes)));
  typedef int_t int_type __attribute__((vector_size(kVectorBytes)));
  typedef uint8_t byte_type __attribute__((vector_size(kLanes)));
};

template <typename acc_t>
using vec_t = typename Vec<acc_t>::type;
template <typename acc_t>
using int_vec_t = typename Vec<acc_t>::int_type;

template <typename acc_t>
static inline vec_t<acc_t> splat(acc_t x) {
  return vec_t<acc_t>{} + x;
}

// Whether some lane of a comparison's result is true.
template <class mask_t>
static inline bool any_lane(mask_t mask) {
  uint64_t parts[sizeof(mask_t) / 8], any = 0;
  memcpy(parts, &mask, sizeof mask);
  for (uint64_t part : parts) any |= part;
  return any != 0;
}
#if defined(__AVX512F__)  // one instruction each
static inline bool any_lane(Vec<float>::int_type mask) {
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
}
static inline bool any_lane(Vec<double>::int_type mask) {
  return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
}
#elif defined(__AVX2__)
static inline bool any_lane(Vec<float>::int_type mask) {
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
}
static inline bool any_lane(Vec<double>::int_type mask) {
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
}
#endif

// a * b + c in one rounding wherever the instruction set has it. The compiler fuses such an
// expression by itself, but not across a branch: written apart, the same formula may round
// differently in two loops, and the memory formats would differ by a bit.
template <typename vector_t>
static inline vector_t multiply_add(vector_t a, vector_t b, vector_t c) {
  return a * b + c;
}

// load: kLanes elements; load_n: the first n <= kLanes of them, the rest 0. Likewise store.

static inline vec_t<float> load(const float* p) {
  vec_t<float> v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline vec_t<double> load(const double* p) {
  vec_t<double> v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline void store(vec_t<float> v, float* p) { memcpy(p, &v, sizeof v); }
static inline void store(vec_t<double> v, double* p) { memcpy(p, &v, sizeof v); }

typedef uint16_t u16_vec __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t u32_vec __attribute__((vector_size(kVectorBytes)));

static inline vec_t<float> load(const bfloat16* p) {
  u16_vec bits;
  memcpy(&bits, p, sizeof bits);
  const u32_vec wide = __builtin_convertvector(bits, u32_vec) << 16;
  vec_t<float> v;
  memcpy(&v, &wide, sizeof v);
  return v;
}
static inline void store(vec_t<float> v, bfloat16* p) {  // to nearest, ties to even
  u32_vec bits;
  memcpy(&bits, &v, sizeof bits);
  const u32_vec rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  const auto is_nan = v != v;
  const u32_vec chosen = is_nan ? u32_vec{} + 0x7fc0u : rounded;
  const u16_vec narrow = __builtin_convertvector(chosen, u16_vec);
  memcpy(p, &narrow, sizeof narrow);
}

#if defined(__AVX512F__)
static inline vec_t<float> load(const half* p) {
  return (vec_t<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
}
static inline void store(vec_t<float> v, half* p) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
static inline vec_t<float> load(const half* p) {
  return (vec_t<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
}
static inline void store(vec_t<float> v, half* p) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#else
static inline vec_t<float> load(const half* p) {
  vec_t<float> v{};
  for (int i = 0; i < Vec<float>::kLanes; ++i) v[i] = to_acc(p[i]);
  return v;
}
static inline void store(vec_t<float> v, half* p) {
  for (int i = 0; i < Vec<float>::kLanes; ++i) from_acc(float(v[i]), p[i]);
}
#endif

template <typename scalar_t>
static inline vec_t<accumulate_t<scalar_t>> load_n(const scalar_t* p, int n) {
  if (n == Vec<accumulate_t<scalar_t>>::kLanes) return load(p);
  scalar_t lanes[Vec<accumulate_t<scalar_t>>::kLanes] = {};
  memcpy(lanes, p, n * sizeof(scalar_t));
  return load(lanes);
}
template <typename scalar_t>
static inline void store_n(vec_t<accumulate_t<scalar_t>> v, scalar_t* p, int n) {
  if (n == Vec<accumulate_t<scalar_t>>::kLanes) return store(v, p);
  scalar_t lanes[Vec<accumulate_t<scalar_t>>::kLanes];
  store(v, lanes);
  memcpy(p, lanes, n * sizeof(scalar_t));
}

#if defined(__AVX512F__)
static inline vec_t<float> load_n(const float* p, int n) {
  return (vec_t<float>)_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
}
static inline vec_t<double> load_n(const double* p, int n) {
  return (vec_t<double>)_mm512_maskz_loadu_pd(__mmask8((1u << n) - 1), p);
}
static inline void store_n(vec_t<float> v, float* p, int n) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), (__m512)v);
}
static inline void store_n(vec_t<double> v, double* p, int n) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << n) - 1), (__m512d)v);
}
#endif

// Whether a layer's result is so large that it would leave the caches before it is read.
constexpr bool is_large_result(int64_t bytes) { return bytes > (int64_t(1) << 20); }

// store() of a large result: where its address allows, to memory without reading the line first and
// without driving others out of the caches. A thread that has done so ends with
// finish_stores_past_caches(), before others may look.
template <typename scalar_t>
static inline void store_past_caches(vec_t<accumulate_t<scalar_t>> v, scalar_t* p) {
  store(v, p);
}
static inline void finish_stores_past_caches() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}
#if defined(__AVX2__)
static inline void store_past_caches(vec_t<float> v, float* p) {
  if (reinterpret_cast<uintptr_t>(p) % kVectorBytes != 0) return store(v, p);
#if defined(__AVX512F__)
  _mm512_stream_ps(p, (__m512)v);
#else
  _mm256_stream_ps(p, (__m256)v);
#endif
}
#endif

// store_n() of a result, which is large or not; `n`: a constant for a whole vector.
template <typename scalar_t, typename lanes_t>
static inline void store_result_n(vec_t<accumulate_t<scalar_t>> v, scalar_t* p, lanes_t n,
                                  bool is_large) {
  if constexpr (!std::is_same_v<lanes_t, int>) {
    if (is_large) return store_past_caches(v, p);
  }
  store_n(v, p, n);
}

// Lane l of the result is lane l & kStep ? l - kStep of b : l of a (first half of a pair of rows),
// or l & kStep ? l of b : l + kStep of a (second half).
template <int kStep, bool kSecond, typename vector_t, int... kLane>
static inline vector_t interleave(vector_t a, vector_t b, std::integer_sequence<int, kLane...>) {
  constexpr int kLanes = sizeof...(kLane), kShift = kSecond ? kStep : 0;
#if defined(__clang__)
  return __builtin_shufflevector(
      a, b, (kLane & kStep ? kLanes + kLane - kStep + kShift : kLane + kShift)...);
#else
  using acc_t = std::decay_t<decltype(a[0])>;
  return __builtin_shuffle(
      a, b,
      int_vec_t<acc_t>{(kLane & kStep ? kLanes + kLane - kStep + kShift : kLane + kShift)...});
#endif
}

// Lane l of the result is lane l + kBy, counted around.
template <int kBy, typename vector_t, int... kLane>
static inline vector_t rotate(vector_t v, std::integer_sequence<int, kLane...>) {
  constexpr int kLanes = sizeof...(kLane);
#if defined(__clang__)
  return __builtin_shufflevector(v, v, ((kLane + kBy) % kLanes)...);
#else
  using acc_t = std::decay_t<decltype(v[0])>;
  return __builtin_shuffle(v, int_vec_t<acc_t>{((kLane + kBy) % kLanes)...});
#endif
}

// Of the lanes of a and then b every second one, from lane kFirst on.
template <int kFirst, typename vector_t, int... kLane>
static inline vector_t every_second(vector_t a, vector_t b, std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, (2 * kLane + kFirst)...);
#else
  using acc_t = std::decay_t<decltype(a[0])>;
  return __builtin_shuffle(a, b, int_vec_t<acc_t>{(2 * kLane + kFirst)...});
#endif
}

// The lanes of a and b in turn: the first half of both, or the second.
template <int kHalf, typename vector_t, int... kLane>
static inline vector_t zip(vector_t a, vector_t b, std::integer_sequence<int, kLane...>) {
  constexpr int kLanes = sizeof...(kLane);
#if defined(__clang__)
  return __builtin_shufflevector(a, b,
                                 (kHalf * kLanes / 2 + kLane / 2 + (kLane % 2 ? kLanes : 0))...);
#else
  using acc_t = std::decay_t<decltype(a[0])>;
  return __builtin_shuffle(
      a, b, int_vec_t<acc_t>{(kHalf * kLanes / 2 + kLane / 2 + (kLane % 2 ? kLanes : 0))...});
#endif
}

// Swaps rows and lanes of kLanes vectors, the lanes' bits one after the other.
template <typename acc_t, int kStep = 1>
static inline void transpose(vec_t<acc_t>* rows) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  constexpr std::make_integer_sequence<int, kLanes> lanes{};
  if constexpr (kStep < kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & kStep) continue;
      const vec_t<acc_t> a = rows[i], b = rows[i + kStep];
      rows[i] = interleave<kStep, false>(a, b, lanes);
      rows[i + kStep] = interleave<kStep, true>(a, b, lanes);
    }
    transpose<acc_t, 2 * kStep>(rows);
  }
}

// Integer lanes of another width. Doubling or halving at a time, or GCC moves lane after lane.
template <typename to_t, typename from_t>
static inline to_t convert_lanes(from_t v) {
  using lane_t = std::decay_t<decltype(v[0])>;
  constexpr int kLanes = sizeof(from_t) / sizeof(lane_t);
  constexpr size_t kTo = sizeof(to_t) / kLanes, kFrom = sizeof(lane_t);
  if constexpr (kTo > 2 * kFrom || 2 * kTo < kFrom) {
    constexpr size_t kNext = kTo > kFrom ? 2 * kFrom : kFrom / 2;
    using int_t = std::conditional_t<kNext == 4, uint32_t, uint16_t>;
    typedef int_t next_t __attribute__((vector_size(kLanes * kNext)));
    return convert_lanes<to_t>(__builtin_convertvector(v, next_t));
  } else {
    return __builtin_convertvector(v, to_t);
  }
}

// Bytes from and to integer lanes.
template <typename acc_t>
static inline int_vec_t<acc_t> lanes_of_bytes(typename Vec<acc_t>::byte_type bytes) {
#if defined(__AVX512F__)  // one instruction
  if constexpr (std::is_same_v<acc_t, float>) {
    return (int_vec_t<acc_t>)_mm512_cvtepu8_epi32((__m128i)bytes);
  }
#endif
  return convert_lanes<int_vec_t<acc_t>>(bytes);
}
#if defined(__AVX512F__)
static inline Vec<float>::byte_type bytes_of(int_vec_t<float> v) {
  return (Vec<float>::byte_type)_mm512_cvtepi32_epi8((__m512i)v);
}
#endif
template <typename int_vector_t>
static inline auto bytes_of(int_vector_t v) {
  typedef uint8_t byte_type __attribute__((vector_size(sizeof(v) / sizeof(v[0]))));
  return convert_lanes<byte_type>(v);
}

// Switches: bytes in memory, integer lanes in registers.
template <typename acc_t>
static inline int_vec_t<acc_t> load_bytes_n(const uint8_t* p, int n) {
  typename Vec<acc_t>::byte_type bytes{};
  if (n == Vec<acc_t>::kLanes) {
    memcpy(&bytes, p, sizeof bytes);
  } else {
    memcpy(&bytes, p, n);
  }
  return lanes_of_bytes<acc_t>(bytes);
}
template <typename acc_t>
static inline void store_bytes_n(int_vec_t<acc_t> v, uint8_t* p, int n) {
  const auto bytes = bytes_of(v);
  if (n == Vec<acc_t>::kLanes) {
    memcpy(p, &bytes, sizeof bytes);
  } else {
    memcpy(p, &bytes, n);
  }
}

// body(i, n) for each vector of `count` elements, at i with n lanes. Only the last can be partial;
// for the others n is a constant, so that load_n(p, n) is a plain load.
template <typename acc_t, class F>
static inline __attribute__((always_inline)) void for_each_vector(int64_t count, const F& body) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, std::integral_constant<int, kLanes>());
  if (i < count) body(i, int(count - i));
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
