// What the host side of the CPU ops shares.
#pragma once

#include "cpu/isa.h"
#include "glue/dispatch.h"
#include "glue/random.h"

namespace fastconv {

// The number that a random op draws from.
inline uint64_t seed_of(const char* op, const Tensor& seed) {
  check_seed(op, seed);
  return uint64_t(*data<int64_t>(seed));
}

// Splits [0, count) over torch's threads; a unit costs about `cost` element operations.
template <class F>
void parallel_over(int64_t count, int64_t cost, const F& body) {
  constexpr int64_t kCostWorthAThread = 32768;
  const int64_t grain = cost >= kCostWorthAThread ? 1 : kCostWorthAThread / (cost > 0 ? cost : 1);
  torch::stable::parallel_for(0, count, grain, body);
}

}  // namespace fastconv
