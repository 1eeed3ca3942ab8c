// Philox4x32-10: a counter-based random number generator, the same bits on CPU and GPU.
//
// Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Each
// (seed, counter) gives four independent 32-bit words; there is no state. An op uses the logical
// index of an element as counter, so that a draw depends on neither memory format nor threads,
// and a backward draws again instead of storing.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fastconv {

constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53u, kPhiloxMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxWeyl0 = 0x9E3779B9u, kPhiloxWeyl1 = 0xBB67AE85u;
constexpr int kPhiloxRounds = 10;

struct Philox4 {
  uint32_t word[4];
};

FASTCONV_INLINE Philox4 philox4x32(uint64_t seed, uint64_t counter, uint64_t counter_high = 0) {
  uint32_t key0 = uint32_t(seed), key1 = uint32_t(seed >> 32);
  uint32_t c0 = uint32_t(counter), c1 = uint32_t(counter >> 32);
  uint32_t c2 = uint32_t(counter_high), c3 = uint32_t(counter_high >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = uint64_t(kPhiloxMultiplier0) * c0,
                   product1 = uint64_t(kPhiloxMultiplier1) * c2;
    const uint32_t n0 = uint32_t(product1 >> 32) ^ c1 ^ key0;
    const uint32_t n2 = uint32_t(product0 >> 32) ^ c3 ^ key1;
    c0 = n0;
    c1 = uint32_t(product1);
    c2 = n2;
    c3 = uint32_t(product0);
    key0 += kPhiloxWeyl0;
    key1 += kPhiloxWeyl1;
  }
  return {{c0, c1, c2, c3}};
}

// Uniform in [0, 1) with 24 bits: every value is exact in float32, and 1 is never drawn.
FASTCONV_INLINE float uniform01(uint32_t word) { return float(word >> 8) * (1.0f / 16777216.0f); }

}  // namespace fastconv
