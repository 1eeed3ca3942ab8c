// One text, two compilers: nvcc, and the host compiler with tests/simt standing in for CUDA.
//
// Kernels write shared memory, launches and inline PTX (ptx.cuh) as below and everything else as
// plain CUDA C++.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(FASTCONV_SIMT)
#include "simt/runtime.h"
#else

#include <cuda_runtime.h>

// `count` elements of shared memory, one array for each place in the text.
#define FASTCONV_SHARED(type, name, count) __shared__ __align__(16) type name[count]

// A function that is called, for what is rare. (The host's headers use the name __noinline__.)
#define FASTCONV_NOINLINE __noinline__

// The shared memory that the launch asked for, whatever its size.
#define FASTCONV_DYNAMIC_SHARED(name) FASTCONV_DYNAMIC_SHARED_ALIGNED(128, name)
#define FASTCONV_DYNAMIC_SHARED_ALIGNED(bytes, name) \
  extern __shared__ __align__(bytes)                 \
  unsigned char name[]

namespace fastconv {

// kernel<<<grid, block, shared, stream>>>(args...) and what became of the launch; without a block
// there is nothing to do. `shared` counts bytes; above 48 KiB a kernel must be allowed to have
// them.
template <typename... Params, typename... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared,
                   cudaStream_t stream, Args... args) {
  if (grid.x == 0) return cudaSuccess;
  constexpr size_t kAlwaysAllowed = 48 << 10;
  if (shared > kAlwaysAllowed) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared));
    if (error != cudaSuccess) return error;
  }
  // clang-format off: it takes >>> for three brackets
  kernel<<<grid, block, shared, stream>>>(Params(args)...);
  // clang-format on
  return cudaGetLastError();
}

}  // namespace fastconv

#endif

namespace fastconv {

constexpr int kWarpSize = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

// A launch that covers `items` with one thread each.
constexpr int kThreads = 256;
inline dim3 blocks_for(int64_t items, int threads = kThreads) {
  return dim3(unsigned((items + threads - 1) / threads));
}

// Kernels index within 2^31 elements. A larger batch is launched in parts: body(first, count) for
// parts of the batch in which `elements_per_image`, the most that any tensor has, stay below it.
template <class F>
cudaError_t for_batch_parts(int64_t batch, int64_t elements_per_image, const F& body) {
  constexpr int64_t kMost = INT32_MAX - 1024;  // room for the last block's idle threads
  const int64_t part = elements_per_image > 0 ? kMost / elements_per_image : batch;
  if (part < 1) return cudaErrorInvalidValue;
  for (int64_t first = 0; first < batch; first += part) {
    const cudaError_t error = body(first, part < batch - first ? part : batch - first);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace fastconv
