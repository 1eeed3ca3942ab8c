// conv2d_product.cuh's Divisor: one thread for each pair of a number and what it is divided by.
#include "cuda/conv2d_product.cuh"
#include "simt/driver.h"

using namespace fastconv;

__global__ void divisor_kernel(const int32_t* pairs, int32_t* results, int count) {
  const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (i >= count) return;
  const Divisor divisor(pairs[2 * i + 1]);
  results[2 * i] = pairs[2 * i] / divisor;
  results[2 * i + 1] = pairs[2 * i] % divisor;
}

int main() {
  return simt::serve([](const simt::Request& r) {
    const int count = int(r.ints.at(0));
    return launch(divisor_kernel, blocks_for(count), kThreads, 0, nullptr,
                  r.pointer<const int32_t>(0), r.pointer<int32_t>(1), count);
  });
}
