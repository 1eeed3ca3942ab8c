// The inner product of packed panels, in registers.
//
// A panel holds kRows rows (or kCols columns) of a matrix, element k of all of them side by side.
#pragma once

#include <cstdint>

#include "cpu/vec.h"

namespace fastconv {
namespace FASTCONV_ISA {

template <typename acc_t>
struct Gemm {
#if defined(__AVX512F__) || defined(__aarch64__)
  static constexpr int kRegisters = 32;
#else
  static constexpr int kRegisters = 16;
#endif
  static constexpr int kVectors = 2;
  static constexpr int kRows = kRegisters == 32 ? 12 : 6;
  static constexpr int kCols = kVectors * Vec<acc_t>::kLanes;
  static constexpr int kDepth = 1024 / sizeof(acc_t);  // a panel of rows stays in the first cache
  // Products are added up in chains of this length, and the chains' sums to the total: rounding
  // errors grow with the length of the chains and with their number, so neither may be large.
  static constexpr int kChain = 32;
  static_assert(kVectors * (kRows + 1) + 1 <= kRegisters);
};

// c[i, j] += sum over k of a[k, i] * b[k, j], for at most kChain elements of the sum.
template <typename acc_t>
static inline void multiply_chain(const acc_t* a, const acc_t* b, int64_t depth, acc_t* c) {
  using G = Gemm<acc_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  vec_t<acc_t> sum[G::kRows][G::kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    vec_t<acc_t> column[G::kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < G::kVectors; ++v) column[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < G::kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < G::kVectors; ++v) sum[i][v] += column[v] * a[i];
    }
    a += G::kRows;
    b += G::kCols;
  }
#pragma GCC unroll 16
  for (int i = 0; i < G::kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < G::kVectors; ++v) {
      acc_t* at = c + i * G::kCols + v * kLanes;
      store(load(at) + sum[i][v], at);
    }
  }
}

// The same for any depth.
template <typename acc_t>
static inline void multiply_panels(const acc_t* a, const acc_t* b, int64_t depth, acc_t* c) {
  using G = Gemm<acc_t>;
  for (int64_t k = 0; k < depth; k += G::kChain) {
    const int64_t chain = depth - k < G::kChain ? depth - k : G::kChain;
    multiply_chain(a + k * G::kRows, b + k * G::kCols, chain, c);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
