// One warpgroup and one product, of a shared memory that test_wgmma.py laid out: ints are the
// descriptors' fields and what to do wrong.
#include "cuda/ptx.cuh"
#include "simt/driver.h"

using namespace fastconv;

enum Fault {
  kNone,
  kNoProxyFence,
  kNoFence,
  kNoCommit,
  kNoWait,
  kEarlyRead,
  kOverwrite,
  kOtherMatrix
};

struct Problem {
  uint64_t a, b;  // descriptors without start addresses
  int start_a, start_b, bytes;
  int fault;
};

template <bool kAcrossA, bool kAcrossB, int kColumns>
__global__ void wgmma_kernel(const unsigned char* memory, float* sums, Problem p) {
  FASTCONV_DYNAMIC_SHARED_ALIGNED(1024, shared);
  const int thread = int(threadIdx.x);
  for (int i = 16 * thread; i < p.bytes; i += 16 * 128) ptx::cp_async_16(shared + i, memory + i);
  ptx::cp_async_commit();
  ptx::cp_async_wait<0>();
  if (p.fault != kNoProxyFence) ptx::fence_shared_for_wgmma();
  __syncthreads();
  const auto start = [&](int offset) {
    return uint64_t(ptx::shared_address(shared + offset)) >> 4;
  };
  float d[kColumns / 8][4];
  for (auto& four : d) {
    for (float& x : four) x = 1;
  }
  if (p.fault != kNoFence) ptx::wgmma_fence();
  const int other = p.fault == kOtherMatrix ? thread / 32 * 16 : 0;
  ptx::wgmma_bfloat16<kAcrossA, kAcrossB>(d, p.a | start(p.start_a + other),
                                          p.b | start(p.start_b));
  if (p.fault == kEarlyRead) sums[thread] = d[0][0];
  if (p.fault == kOverwrite) shared[p.start_a + thread] = 0;
  if (p.fault != kNoCommit) ptx::wgmma_commit();
  if (p.fault != kNoWait) ptx::wgmma_wait(d);
  for (int j = 0; j < kColumns / 8; ++j) {
    for (int i = 0; i < 4; ++i) {
      if (p.fault != kEarlyRead || j + i > 0) sums[(j * 4 + i) * 128 + thread] = d[j][i];
    }
  }
}

template <bool kAcrossA, bool kAcrossB>
static cudaError_t run(const simt::Request& r, int columns, const Problem& p) {
  const auto kernel =
      columns == 64 ? wgmma_kernel<kAcrossA, kAcrossB, 64> : wgmma_kernel<kAcrossA, kAcrossB, 128>;
  return launch(kernel, 1, 128, size_t(p.bytes), nullptr, r.pointer<const unsigned char>(0),
                r.pointer<float>(1), p);
}

int main() {
  return simt::serve([](const simt::Request& r) {
    const auto& v = r.ints;
    // mode, leading and stride in units of 16 bytes, start in bytes
    const auto matrix = [&](size_t i) {
      return uint64_t(v.at(i)) << 62 | uint64_t(v.at(i + 1)) << 16 | uint64_t(v.at(i + 2)) << 32;
    };
    const Problem p{
        matrix(3),    matrix(7), int(v.at(6)), int(v.at(10)), int(r.buffers.at(0).bytes),
        int(v.at(11))};
    const int columns = int(v.at(0));
    if (v.at(1)) return v.at(2) ? run<true, true>(r, columns, p) : run<true, false>(r, columns, p);
    return v.at(2) ? run<false, true>(r, columns, p) : run<false, false>(r, columns, p);
  });
}
