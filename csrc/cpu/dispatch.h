// From run-time dtype and processor to the kernel that was compiled for them.
#pragma once

#include "core/numeric.h"
#include "cpu/isa.h"
#include "glue/tensor.h"

namespace fastconv {

// Runs the statements with scalar_t standing for the element type of a floating point tensor.
#define FASTCONV_DISPATCH_FLOATING(scalar_type, ...) \
  switch (scalar_type) {                             \
    case ScalarType::Float: {                        \
      using scalar_t = float;                        \
      __VA_ARGS__;                                   \
      break;                                         \
    }                                                \
    case ScalarType::Double: {                       \
      using scalar_t = double;                       \
      __VA_ARGS__;                                   \
      break;                                         \
    }                                                \
    case ScalarType::Half: {                         \
      using scalar_t = ::fastconv::half;             \
      __VA_ARGS__;                                   \
      break;                                         \
    }                                                \
    default: {                                       \
      using scalar_t = ::fastconv::bfloat16;         \
      __VA_ARGS__;                                   \
    }                                                \
  }

// const_data_ptr<T>() of torch knows torch's types only; ours have the same bits.
template <typename scalar_t>
const scalar_t* data(const Tensor& t) {
  return static_cast<const scalar_t*>(t.const_data_ptr());
}
template <typename scalar_t>
scalar_t* mutable_data(const Tensor& t) {
  return static_cast<scalar_t*>(t.mutable_data_ptr());
}

// The number that a random op draws from.
inline uint64_t seed_of(const char* op, const Tensor& seed) {
  FASTCONV_CHECK(op, seed.scalar_type() == ScalarType::Long && seed.numel() == 1,
                 "seed must be one int64 number (got ",
                 torch::headeronly::toString(seed.scalar_type()), " of shape ", shape_text(seed),
                 ")");
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
