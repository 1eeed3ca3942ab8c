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

// The registers that hold a panel's sums: (row, vector of columns). A panel's last rows or vectors
// may be left out.
template <typename acc_t, int kVectors = Gemm<acc_t>::kVectors, int kRows = Gemm<acc_t>::kRows>
struct PanelSums {
  using G = Gemm<acc_t>;
  static constexpr int kLanes = Vec<acc_t>::kLanes;
  vec_t<acc_t> sum[kRows][kVectors] = {};

  // sum[i, j] += a[i * kRowStep] * b[j]
  template <int kRowStep>
  [[gnu::always_inline]] void add_products(const acc_t* a, const acc_t* b) {
    vec_t<acc_t> column[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) column[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] += column[v] * a[i * kRowStep];
    }
  }

  // sum[i, j] += a[i][k] * b[j], with a row's elements anywhere in memory
  [[gnu::always_inline]] void add_products_of(const acc_t* const* a, int64_t k, const acc_t* b) {
    vec_t<acc_t> column[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) column[v] = load(b + v * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[i][v] += column[v] * a[i][k];
    }
  }

  // c[i, j] (+)= sum[i, j]
  template <bool kAdd>
  [[gnu::always_inline]] void store_to(acc_t* c) const {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        acc_t* at = c + i * G::kCols + v * kLanes;
        store(kAdd ? load(at) + sum[i][v] : sum[i][v], at);
      }
    }
  }
};

// c[i, j] += sum over k of a[k, i] * b[k, j], for at most kChain elements of the sum. From one
// element to the next are `a_step` and `b_step`.
template <typename acc_t, int kVectors = Gemm<acc_t>::kVectors, int kRows = Gemm<acc_t>::kRows>
static inline void multiply_chain(const acc_t* a, int64_t a_step, const acc_t* b, int64_t b_step,
                                  int64_t depth, acc_t* c) {
  PanelSums<acc_t, kVectors, kRows> sums;
  for (int64_t k = 0; k < depth; ++k) {
    sums.template add_products<1>(a, b);
    a += a_step;
    b += b_step;
  }
  sums.template store_to<true>(c);
}

// body(rows), a constant: how many of a panel's rows to multiply where `left` of them exist.
template <typename acc_t, class F>
static inline void with_rows(int64_t left, const F& body) {
  constexpr int kRows = Gemm<acc_t>::kRows;
  if (left <= kRows / 3) return body(std::integral_constant<int, kRows / 3>());
  if (left <= 2 * kRows / 3) return body(std::integral_constant<int, 2 * kRows / 3>());
  body(std::integral_constant<int, kRows>());
}

// The same for any depth, where `left` of the rows exist.
template <typename acc_t>
static inline void multiply_panels(const acc_t* a, const acc_t* b, int64_t depth, acc_t* c,
                                   int64_t left = Gemm<acc_t>::kRows) {
  using G = Gemm<acc_t>;
  with_rows<acc_t>(left, [&](auto rows) {
    for (int64_t k = 0; k < depth; k += G::kChain) {
      const int64_t chain = depth - k < G::kChain ? depth - k : G::kChain;
      multiply_chain<acc_t, G::kVectors, rows>(a + k * G::kRows, G::kRows, b + k * G::kCols,
                                               G::kCols, chain, c);
    }
  });
}

// The same with rows in place: of each, kLanes elements of the sum lie side by side at rows[i], the
// next kLanes at rows[kRows + i], and so on. Not inlined: the compiler would keep c in registers it
// does not have.
template <typename acc_t>
[[gnu::noinline]] static void multiply_chain_of_rows(const acc_t* const* rows, const acc_t* b,
                                                     int64_t depth, acc_t* c) {
  using G = Gemm<acc_t>;
  constexpr int64_t kLanes = Vec<acc_t>::kLanes;
  PanelSums<acc_t> sums;
  for (int64_t k = 0; k < depth; k += kLanes, rows += G::kRows) {
    for (int64_t l = 0; l < kLanes; ++l, b += G::kCols) sums.add_products_of(rows, l, b);
  }
  sums.template store_to<true>(c);
}

template <typename acc_t>
static inline void multiply_rows(const acc_t* const* rows, const acc_t* b, int64_t depth,
                                 acc_t* c) {
  using G = Gemm<acc_t>;
  for (int64_t k = 0; k < depth; k += G::kChain) {
    const int64_t chain = depth - k < G::kChain ? depth - k : G::kChain;
    multiply_chain_of_rows(rows + k / Vec<acc_t>::kLanes * G::kRows, b + k * G::kCols, chain, c);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
