// The instructions of csrc/cuda/ptx.cuh, as the PTX manual defines them, on the stand-in's warps.
#pragma once

#include "core/numeric.h"
#include "simt/runtime.h"
#include "simt/wgmma.h"

namespace fastconv {
namespace ptx {

inline void check_aligned(const void* p, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(p) % bytes != 0) simt::fault(std::string("misaligned ") + what);
}

inline void start_copy(void* shared, const void* global, size_t bytes, bool valid) {
  check_aligned(shared, bytes, "shared address of cp.async");
  check_aligned(global, bytes, "global address of cp.async");
  simt::machine.running->copies.back().push_back({shared, global, bytes, valid});
}
inline void cp_async_16(void* shared, const void* global, bool valid = true) {
  start_copy(shared, global, 16, valid);
}
inline void cp_async_4(void* shared, const void* global, bool valid = true) {
  start_copy(shared, global, 4, valid);
}
inline void cp_async_commit() { simt::machine.running->copies.push_back({}); }

// Copies arrive as late as they may: here, and only those that are waited for.
template <int kPending>
void cp_async_wait() {
  auto& groups = simt::machine.running->copies;
  while (groups.size() > kPending + 1) {
    simt::perform(groups.front());
    groups.pop_front();
  }
}

inline void load_matrices(uint32_t (&r)[4], const void* row, bool transposed, const char* file,
                          int line) {
  check_aligned(row, 16, "row address of ldmatrix");
  const auto* rows = simt::exchange(simt::Operand<const void*>{row, {}}, "ldmatrix", file, line);
  const int g = simt::lane() / 4, t = simt::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (int e = 0; e < 2; ++e) {
      const int y = transposed ? 2 * t + e : g, x = transposed ? g : 2 * t + e;
      pair[e] = static_cast<const uint16_t*>(rows[8 * i + y].value)[x];
    }
    r[i] = pair[0] | uint32_t(pair[1]) << 16;
  }
  __syncwarp(simt::kWholeWarp, file, -line);  // all have read before anyone writes again
}
inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, FASTCONV_SITE) {
  load_matrices(r, row, false, file, line);
}
inline void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* row, FASTCONV_SITE) {
  load_matrices(r, row, true, file, line);
}

struct Fragments {
  uint32_t a[4], b[2];
};

// One warp's a (16 x depth) and b (depth x 8), gathered from its lanes; element(register, half).
template <int kPerRegister, class F>
void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], const F& element,
              const char* file, int line) {
  simt::Operand<Fragments> mine{{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, {}};
  const auto* warp = simt::exchange(mine, "mma", file, line);
  const int g = simt::lane() / 4, t = simt::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
    float sum = 0;
    for (int half = 0; half < 2; ++half) {    // registers of the lower and the upper half of k
      for (int lane = 0; lane < 4; ++lane) {  // neighbours in k
        for (int e = 0; e < kPerRegister; ++e) {
          const auto& of_row = warp[4 * (row % 8) + lane].value;
          const auto& of_column = warp[4 * column + lane].value;
          sum += element(of_row.a[2 * half + row / 8], e) * element(of_column.b[half], e);
        }
      }
    }
    d[i] += sum;
  }
}

inline void mma_16816_half(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                           FASTCONV_SITE) {
  const auto element = [](uint32_t r, int e) { return to_acc(half{uint16_t(r >> 16 * e)}); };
  multiply<2>(d, a, b, element, file, line);
}
inline void mma_16816_bfloat16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                               FASTCONV_SITE) {
  const auto element = [](uint32_t r, int e) { return to_acc(bfloat16{uint16_t(r >> 16 * e)}); };
  multiply<2>(d, a, b, element, file, line);
}
inline void mma_1688_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                          FASTCONV_SITE) {
  const auto element = [](uint32_t r, int) { return bits_float(r & 0xffffe000u); };
  multiply<1>(d, a, b, element, file, line);
}

inline uint32_t to_tf32(float x) {
  const uint32_t bits = float_bits(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

}  // namespace ptx
}  // namespace fastconv
