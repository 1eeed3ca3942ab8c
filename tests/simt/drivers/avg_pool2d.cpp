#include "cuda/avg_pool2d.cuh"

#include "simt/pool2d.h"

using namespace fastconv;

int main() {
  return simt::serve([](const simt::Request& r) {
    return simt::with_dtype(r.dtype, [&](auto scalar) {
      using scalar_t = decltype(scalar);
      const AvgPool2d p{simt::pool2d_of(r), r.ints.at(15) != 0, r.ints.at(16)};
      const auto run =
          r.entry == "forward" ? launch_avg_pool2d<scalar_t> : launch_avg_pool2d_backward<scalar_t>;
      return run(r.pointer<const scalar_t>(0), r.pointer<scalar_t>(1), p, nullptr);
    });
  });
}
