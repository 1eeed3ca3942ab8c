// wgmma.mma_async of csrc/cuda/ptx.cuh, as the PTX manual defines it: operands of 16 bits, both
// read from shared memory by way of matrix descriptors ("Asynchronous warpgroup level matrix
// instructions": matrix descriptor format, strides, canonical layouts; m64nNk16).
//
// A product may read its operands at any time until it is waited for. Here it reads them when it is
// issued and again at the wait, and what changed between is a fault. Its sums are NaN until then.
#pragma once

#include "core/numeric.h"
#include "simt/runtime.h"

namespace fastconv {
namespace ptx {

constexpr uint32_t kFirstShared = 1024;  // the system has the addresses below, as on a GPU
constexpr int kProductTerms = 16, kProductRows = 64;

inline uint32_t shared_address(const void* p) {
  const auto offset = static_cast<const char*>(p) - simt::machine.dynamic_shared.get();
  if (offset < 0 || size_t(offset) >= simt::machine.shared_bytes) {
    simt::fault("a matrix lies outside of the dynamic shared memory");
  }
  return kFirstShared + uint32_t(offset);
}

// A matrix descriptor's fields, in bytes.
struct Matrix {
  uint32_t start, leading, stride;
  uint32_t row;  // bytes in which 16-byte chunks are permuted: 128, 64, 32, or 16 for none

  explicit Matrix(uint64_t bits) {
    const auto field = [&](int first) { return uint32_t(bits >> first & 0x3fff) << 4; };
    start = field(0);
    leading = field(16);
    stride = field(32);
    constexpr uint32_t kRows[] = {16, 128, 64, 32};
    row = kRows[bits >> 62];
    constexpr uint64_t kFields = 0x3fffull | 0x3fffull << 16 | 0x3fffull << 32 | 3ull << 62;
    if (bits & ~kFields) simt::fault("a matrix descriptor has a base offset or reserved bits");
  }

  // The address of an element before chunks are permuted. Along, each line is a row; across, each
  // term, of row / 2 lines.
  uint32_t along(int line, int term) const {
    const uint32_t start_of_line = start + line % 8 * row + line / 8 * stride;
    if (row == 16) return start_of_line + term % 8 * 2 + term / 8 * leading;
    return start_of_line + term * 2;
  }
  uint32_t across(int line, int term) const {
    const int lines = int(row) / 2;
    const uint32_t next_lines = row == 16 ? stride : leading;
    const uint32_t next_terms = row == 16 ? leading : stride;
    return start + line % lines * 2 + line / lines * next_lines + term % 8 * row +
           term / 8 * next_terms;
  }

  // The permutation: of the bits that number a row's chunk, each is added to the one that is three
  // places above it in the address.
  uint32_t permuted(uint32_t address) const {
    const uint32_t chunk_bits = row / 16 - 1;
    return address ^ (address >> 7 & chunk_bits) << 4;
  }

  uint16_t element(int line, int term, bool is_across) const {
    const uint32_t at = permuted(is_across ? across(line, term) : along(line, term));
    if (at < kFirstShared || at + 2 > kFirstShared + simt::machine.shared_bytes) {
      simt::fault("a product reads outside of the dynamic shared memory");
    }
    uint16_t value;
    std::memcpy(&value, simt::machine.dynamic_shared.get() + (at - kFirstShared), sizeof(value));
    return value;
  }
};

// Bits of the lines `first` ... `first + count - 1` of a matrix.
inline void read_lines(uint64_t descriptor, bool is_across, int first, int count, uint16_t* bits) {
  const Matrix matrix(descriptor);
  for (int line = first; line < first + count; ++line) {
    for (int k = 0; k < kProductTerms; ++k) *bits++ = matrix.element(line, k, is_across);
  }
}

inline std::shared_ptr<const simt::Operands> read_operands(const simt::Product& p) {
  auto operands = std::make_shared<simt::Operands>();
  operands->bits.resize(size_t(kProductRows + p.columns) * kProductTerms);
  read_lines(p.a, p.across_a, 0, kProductRows, operands->bits.data());
  read_lines(p.b, p.across_b, 0, p.columns, &operands->bits[kProductRows * kProductTerms]);
  for (uint16_t bits : operands->bits) operands->values.push_back(p.value(bits));
  return operands;
}

// Whether what a warp multiplies is still there: its 16 rows and all columns.
inline bool still_there(const simt::Product& p, int warp) {
  std::vector<uint16_t> bits(size_t(std::max(16, p.columns)) * kProductTerms);
  read_lines(p.a, p.across_a, 16 * warp, 16, bits.data());
  const auto& then = p.operands->bits;
  if (!std::equal(bits.begin(), bits.begin() + 16 * kProductTerms,
                  then.begin() + 16 * warp * kProductTerms)) {
    return false;
  }
  read_lines(p.b, p.across_b, 0, p.columns, bits.data());
  return std::equal(then.begin() + kProductRows * kProductTerms, then.end(), bits.begin());
}

inline void issue_product(simt::Product p, const char* file, int line) {
  simt::Fiber& f = *simt::machine.running;
  if (blockDim.x * blockDim.y * blockDim.z % simt::kWarpgroup != 0) {
    simt::fault("a block with warpgroup products must have a multiple of 128 threads");
  }
  simt::Warpgroup& group = simt::machine.warpgroups[simt::thread_index() / simt::kWarpgroup];
  if (group.arrived == 0) {
    group.a = p.a;
    group.b = p.b;
  }
  if (group.a != p.a || group.b != p.b)
    simt::fault("a warpgroup's threads name different matrices");
  if (!f.sums_fenced) simt::fault("a product without wgmma.fence after its sums were written");
  for (const simt::Fiber& other : simt::machine.fibers) {
    if (other.copied) simt::fault("a product without fence.proxy.async after a copy");
  }
  simt::machine.has_products = true;
  simt::arrive(group, simt::kWarpgroup, "wgmma", file, line);
  if (group.read_in != group.generation) {
    group.operands = read_operands(p);
    group.read_in = group.generation;
  }
  p.operands = group.operands;
  auto& sums = f.sums[p.sums];
  if (sums.empty()) sums.assign(p.sums, p.sums + p.columns / 2);
  std::fill(p.sums, p.sums + p.columns / 2, NAN);
  f.products.push_back(std::move(p));
}

// Adds a product to this thread's sums: rows g and g + 8 of its warp's 16, and the columns 2t and
// 2t + 1 of every eight, with g = lane / 4 and t = lane % 4.
inline void perform(const simt::Product& p, int warp) {
  const int g = simt::lane() / 4, t = simt::lane() % 4;
  float* sums = simt::machine.running->sums[p.sums].data();
  const float* values = p.operands->values.data();
  for (int i = 0; i < p.columns / 2; ++i) {
    const int row = 16 * warp + g + 8 * (i / 2 % 2), column = 8 * (i / 4) + 2 * t + i % 2;
    const float* a = values + row * kProductTerms;
    const float* b = values + (kProductRows + column) * kProductTerms;
    float sum = 0;
    for (int k = 0; k < kProductTerms; ++k) sum += a[k] * b[k];
    sums[i] += sum;
  }
}

inline void fence_shared_for_wgmma() { simt::machine.running->copied = false; }
inline void wgmma_fence(FASTCONV_SITE) {
  __syncwarp(simt::kWholeWarp, file, line);
  simt::machine.running->sums_fenced = true;
}
inline void wgmma_commit(FASTCONV_SITE) {
  __syncwarp(simt::kWholeWarp, file, line);
  for (auto& p : simt::machine.running->products) p.committed = true;
}

template <int kCount>
void wgmma_wait(float (&)[kCount][4], FASTCONV_SITE) {
  simt::Fiber& f = *simt::machine.running;
  const int warp = int(simt::thread_index() % simt::kWarpgroup / simt::kWarp);
  for (const auto& p : f.products) {
    if (!p.committed) simt::fault("a wait for products that no wgmma.commit_group closed");
    if (simt::lane() == 0 && !still_there(p, warp)) {
      simt::fault("a product's operands change under it");
    }
    perform(p, warp);
  }
  __syncwarp(simt::kWholeWarp, file, line);
  for (const auto& [at, values] : f.sums) std::copy(values.begin(), values.end(), at);
  f.products.clear();
  f.sums.clear();
  f.sums_fenced = false;
}

template <bool kAcrossA, bool kAcrossB, int kCount>
void wgmma_half(float (&d)[kCount][4], uint64_t a, uint64_t b, FASTCONV_SITE) {
  const auto value = [](uint16_t bits) { return to_acc(half{bits}); };
  issue_product({d[0], 8 * kCount, a, b, kAcrossA, kAcrossB, value, {}, false}, file, line);
}
template <bool kAcrossA, bool kAcrossB, int kCount>
void wgmma_bfloat16(float (&d)[kCount][4], uint64_t a, uint64_t b, FASTCONV_SITE) {
  const auto value = [](uint16_t bits) { return to_acc(bfloat16{bits}); };
  issue_product({d[0], 8 * kCount, a, b, kAcrossA, kAcrossB, value, {}, false}, file, line);
}

}  // namespace ptx
}  // namespace fastconv
