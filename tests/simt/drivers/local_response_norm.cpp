#include "cuda/local_response_norm.cuh"

#include "simt/driver.h"

using namespace fastconv;

// ints: batch, maps, height, width, before, after, within, channels_last; reals: alpha, beta, k.
static ResponseNorm problem_of(const simt::Request& r) {
  const auto& v = r.ints;
  return {v.at(0),       v.at(1),       v.at(2),       v.at(3),      v.at(4),     v.at(5),
          r.reals.at(0), r.reals.at(1), r.reals.at(2), v.at(6) != 0, v.at(7) != 0};
}

int main() {
  return simt::serve([](const simt::Request& r) {
    return simt::with_dtype(r.dtype, [&](auto scalar) {
      using scalar_t = decltype(scalar);
      const ResponseNorm p = problem_of(r);
      const auto first = r.pointer<const scalar_t>(0);
      if (r.entry == "forward") {
        return launch_response_norm(first, r.pointer<scalar_t>(1), p, nullptr);
      }
      return launch_response_norm_backward(first, r.pointer<const scalar_t>(1),
                                           r.pointer<scalar_t>(2), p, nullptr);
    });
  });
}
