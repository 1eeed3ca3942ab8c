// core/philox.h for several counters at once: the same bits, several times faster.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/philox.h"
#include "cpu/vec.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace fastconv {
namespace FASTCONV_ISA {

typedef uint64_t u64_vec __attribute__((vector_size(kVectorBytes)));

// Products of the low halves of the lanes.
static inline u64_vec multiply_low(u64_vec a, u64_vec b) {
#if defined(__AVX512F__)
  return (u64_vec)_mm512_mul_epu32((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
  return (u64_vec)_mm256_mul_epu32((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
  return (u64_vec)_mm_mul_epu32((__m128i)a, (__m128i)b);
#else
  return (a & 0xffffffffu) * (b & 0xffffffffu);
#endif
}

// The keys of all rounds: computed once for a seed, then read as broadcast operands.
struct PhiloxKeys {
  uint64_t key0[kPhiloxRounds], key1[kPhiloxRounds];
};

static inline PhiloxKeys philox_keys(uint64_t seed) {
  PhiloxKeys keys;
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    keys.key0[round] = key0;
    keys.key1[round] = key1;
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return keys;
}

// A word a lane, with room for a product: only the low half of a lane counts.
struct PhiloxLanes {
  u64_vec word[4];
};

static inline PhiloxLanes philox4x32(const PhiloxKeys& keys, const PhiloxLanes& counter) {
  const u64_vec multiplier0 = u64_vec{} + kPhiloxMultiplier0;
  const u64_vec multiplier1 = u64_vec{} + kPhiloxMultiplier1;
  u64_vec c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
#pragma GCC unroll 10
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const u64_vec product0 = multiply_low(c0, multiplier0);
    const u64_vec product1 = multiply_low(c2, multiplier1);
    c0 = (product1 >> 32) ^ c1 ^ keys.key0[round];
    c2 = (product0 >> 32) ^ c3 ^ keys.key1[round];
    c1 = product1;
    c3 = product0;
  }
  return {{c0, c1, c2, c3}};
}

// words[i] = word 0 of counter first + i * step, for i < kCount, a multiple of the lanes.
template <int kCount>
static inline void philox_first_words(const PhiloxKeys& keys, uint64_t first, uint64_t step,
                                      uint32_t* words) {
  constexpr int kLanes = kVectorBytes / 8;
  typedef uint32_t narrow_vec __attribute__((vector_size(kVectorBytes / 2)));
  static_assert(kCount % kLanes == 0, "whole vectors only");
  u64_vec lane{};
  for (int i = 0; i < kLanes; ++i) lane[i] = uint64_t(i);
  for (int at = 0; at < kCount; at += kLanes) {
    const u64_vec counter = first + (lane + uint64_t(at)) * step;
    const PhiloxLanes drawn = philox4x32(keys, {{counter, counter >> 32, u64_vec{}, u64_vec{}}});
    const narrow_vec result = __builtin_convertvector(drawn.word[0], narrow_vec);
    memcpy(words + at, &result, sizeof result);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
