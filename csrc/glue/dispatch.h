// From run-time dtype to the kernel that was compiled for it.
#pragma once

#include "core/numeric.h"
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

}  // namespace fastconv
