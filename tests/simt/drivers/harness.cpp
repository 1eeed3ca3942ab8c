// Kernels with planted faults, for test_harness.py: each entry names one.
#include "cuda/pack.cuh"
#include "cuda/ptx.cuh"
#include "simt/driver.h"

using namespace fastconv;

enum Fault {
  kNone,
  kMissingBarrier,
  kSharedOverrun,
  kDynamicSharedOverrun,
  kUnwrittenOutput,
  kTailOffByOne,
  kBarrierInABranch,
  kShuffleInABranch,
  kPartOfAWarp,
  kMissingWait,
  kMisalignedPack,
  kLastWriterWins,
  kOverflow,
  kCount
};
static const char* const kNames[kCount] = {"none",
                                           "missing_barrier",
                                           "shared_overrun",
                                           "dynamic_shared_overrun",
                                           "unwritten",
                                           "tail",
                                           "barrier_in_branch",
                                           "shuffle_in_branch",
                                           "part_of_a_warp",
                                           "missing_wait",
                                           "misaligned_pack",
                                           "last_writer_wins",
                                           "overflow"};

constexpr int kBlock = 64;

// output[i] = the input of the thread opposite in the block, plus the sum of the warp's inputs.
template <int kFault>
__global__ void faulty_kernel(const float* input, float* output, int count) {
  FASTCONV_SHARED(float, tile, kBlock);
  FASTCONV_SHARED(float, copied, kBlock);
  FASTCONV_DYNAMIC_SHARED(raw);
  float* extra = reinterpret_cast<float*>(raw);
  const int t = int(threadIdx.x), i = int(blockIdx.x) * kBlock + t;
  const int end = kFault == kTailOffByOne ? count + 1 : count;
  const float mine = i < end ? input[i] : 0.0f;

  tile[kFault == kSharedOverrun ? t + 1 : t] = mine;
  extra[kFault == kDynamicSharedOverrun ? t + 1 : t] = mine;
  if (kFault == kBarrierInABranch) {
    if (t < 32) __syncthreads();
  } else if (kFault != kMissingBarrier) {
    __syncthreads();
  }
  float opposite = (tile[kBlock - 1 - t] + extra[kBlock - 1 - t]) / 2;

  float sum = mine;
  for (int step = 16; step > 0; step /= 2) {
    if (kFault == kShuffleInABranch) {
      if (t % 2 == 0) sum += __shfl_xor_sync(kWholeWarp, sum, step);
    } else {
      sum += __shfl_xor_sync(kFault == kPartOfAWarp ? 0xffffu : kWholeWarp, sum, step);
    }
  }

  if (t % 4 == 0) ptx::cp_async_16(copied + t, tile + t);
  ptx::cp_async_commit();
  if (kFault != kMissingWait) ptx::cp_async_wait<0>();
  __syncthreads();
  opposite += copied[t] - tile[t];

  if (kFault == kMisalignedPack && t == 0) opposite += load_pack<4>(tile + 1).lane[0];
  if (kFault == kOverflow) opposite += float(INT32_MAX - t + t * 2 > 0);
  if (kFault == kLastWriterWins) {
    __syncthreads();
    tile[0] = float(t);
    __syncthreads();
    opposite += tile[0];
  }
  if (kFault == kUnwrittenOutput && t == kBlock - 1) return;
  if (i < count) output[i] = opposite + sum;
}

template <int kFault>
static cudaError_t launch_named(const simt::Request& r) {
  if (r.entry == kNames[kFault]) {
    const int count = int(r.ints[0]);
    return launch(faulty_kernel<kFault>, blocks_for(count, kBlock), dim3(kBlock),
                  kBlock * sizeof(float), nullptr, r.pointer<const float>(0), r.pointer<float>(1),
                  count);
  }
  if constexpr (kFault + 1 < kCount) return launch_named<kFault + 1>(r);
  simt::fault("no entry " + r.entry);
}

// What for_batch_parts makes of ints: batch, elements of an image; output: (first, count) in turn.
static cudaError_t write_parts(const simt::Request& r) {
  int64_t* out = r.pointer<int64_t>(0);
  return for_batch_parts(r.ints[0], r.ints[1], [&](int64_t first, int64_t count) {
    *out++ = first;
    *out++ = count;
    return cudaSuccess;
  });
}

int main() {
  return simt::serve([](const simt::Request& r) {
    return r.entry == "parts" ? write_parts(r) : launch_named<0>(r);
  });
}
