// What the declarations of launchers need: CUDA's streams and errors, or those of tests/simt.
#pragma once

#include <cstdint>

#if defined(FASTCONV_SIMT)
#include "simt/runtime.h"
#else
#include <cuda_runtime_api.h>
#endif

// In a .cu: compiles a launcher for every element type.
#define FASTCONV_FOR_EACH_DTYPE(launcher)                                   \
  template decltype(launcher<float>) launcher<float>;                       \
  template decltype(launcher<double>) launcher<double>;                     \
  template decltype(launcher<::fastconv::half>) launcher<::fastconv::half>; \
  template decltype(launcher<::fastconv::bfloat16>) launcher<::fastconv::bfloat16>;
