#include "cuda/local_response_norm_max_pool2d.cuh"

#include "simt/driver.h"
#include "simt/pool2d.h"

using namespace fastconv;

// ints: the pool's (tests/simt/pool2d.h), then before, after; reals: alpha, beta, k.
static NormPool2d problem_of(const simt::Request& r) {
  const Pool2d pool = simt::pool2d_of(r);
  const ResponseNorm norm{pool.batch,    pool.channels, pool.h.input,      pool.w.input,
                          r.ints.at(15), r.ints.at(16), r.reals.at(0),     r.reals.at(1),
                          r.reals.at(2), false,         pool.channels_last};
  return {norm, pool};
}

int main() {
  return simt::serve([](const simt::Request& r) {
    return simt::with_dtype(r.dtype, [&](auto scalar) {
      using scalar_t = decltype(scalar);
      const NormPool2d p = problem_of(r);
      const auto first = r.pointer<const scalar_t>(0);
      if (r.entry == "forward") {
        return launch_norm_pool(first, r.pointer<scalar_t>(1), r.pointer<uint8_t>(2), p, nullptr);
      }
      if (r.entry == "values") {
        return launch_norm_pool<scalar_t>(first, r.pointer<scalar_t>(1), nullptr, p, nullptr);
      }
      return launch_norm_pool_backward(first, r.pointer<const scalar_t>(1),
                                       r.pointer<const uint8_t>(2), r.pointer<scalar_t>(3), p,
                                       nullptr);
    });
  });
}
