// Which weights drop_connect drops: a pure function of the seed and the logical index.
//
// Weight (o, i) of example n is dropped iff u(n, o, i) < p, for u uniform in [0, 1). The binary
// digits of u are drawn one after the other, and only as far as the comparison with p needs:
//
//   digit d of u(n, o, i) = bit i % 32 of word i / 32 % 4 of
//                           philox4x32(seed, counter words i / 128, o, n, d)
//
// The comparison is over at the first digit in which u and p differ, or where p has no digit 1
// left. So p = 1/2 takes one call for 128 weights and p = k / 256 takes at most eight; any other p
// takes as many as the slowest weight in hand, about 11 for 1,024 weights, since a digit decides
// half of what is left. Nothing is rounded on the way: the probability is p itself, except that p
// below 2^-11 is rounded down to a multiple of 2^-64.
//
// A bias that is masked counts as column in_features, the weight of an input that is always 1.
//
// The layout suits vectors and GPUs alike. Bits 0..31 of a word are neighbours along a row of the
// weights, as a lane mask wants them; the four words of a call cover the 128 columns that a warp
// reads with one float4 a thread; calls differ in one counter word each, so that a lane needs no
// division to find its own, whatever the tile; and neither thread counts nor shapes enter.
#pragma once

#include <cstdint>

#include "core/macros.h"

namespace fastconv {

constexpr int64_t kDropGroup = 128;  // weights of a row that share a Philox call

struct DropProbability {
  uint64_t digits;  // p = digits / 2^64
  bool always;      // p = 1
};

FASTCONV_INLINE DropProbability drop_probability(double p) {  // p in [0, 1]
  const double kTwo64 = 18446744073709551616.0;
  return p < 1 ? DropProbability{uint64_t(p * kTwo64), false} : DropProbability{0, true};
}

// One more digit of many u at once, a bit each, against the same digit of p. At the start nothing
// is dropped and everything is undecided.
template <typename bits_t>
FASTCONV_INLINE void compare_digit(bits_t u_digit, bool p_digit, bits_t& dropped,
                                   bits_t& undecided) {
  if (p_digit) {
    dropped |= undecided & ~u_digit;
    undecided &= u_digit;
  } else {
    undecided &= ~u_digit;
  }
}

// Inputs (batch, inputs), weights (outputs, inputs), outputs (batch, outputs), all contiguous.
struct DropConnect {
  int64_t batch, outputs, inputs;
  uint64_t seed;
  DropProbability p;
};

}  // namespace fastconv
