#include "cuda/stochastic_pool2d.cuh"

#include "simt/pool2d.h"

using namespace fastconv;

int main() {
  return simt::serve([](const simt::Request& r) {
    return simt::with_dtype(r.dtype, [&](auto scalar) {
      using scalar_t = decltype(scalar);
      const Pool2d p = simt::pool2d_of(r);
      const auto input = r.pointer<const scalar_t>(0);
      if (r.entry == "draw") {
        return launch_stochastic_pool2d(input, r.pointer<const int64_t>(1), r.pointer<scalar_t>(2),
                                        r.pointer<uint8_t>(3), p, nullptr);
      }
      if (r.entry == "mean") {
        return launch_stochastic_pool2d_mean(input, r.pointer<scalar_t>(1), p, nullptr);
      }
      return launch_stochastic_pool2d_mean_backward(r.pointer<const scalar_t>(1), input,
                                                    r.pointer<scalar_t>(2), p, nullptr);
    });
  });
}
