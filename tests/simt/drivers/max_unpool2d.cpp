#include "cuda/max_unpool2d.cuh"

#include "simt/pool2d.h"

using namespace fastconv;

int main() {
  return simt::serve([](const simt::Request& r) {
    return simt::with_dtype(r.dtype, [&](auto scalar) {
      using scalar_t = decltype(scalar);
      const Pool2d p = simt::pool2d_of(r);
      const bool overwrite = r.ints.at(15) != 0;
      const auto run = r.entry == "forward" ? launch_max_unpool2d<scalar_t>
                                            : launch_max_unpool2d_backward<scalar_t>;
      return run(r.pointer<const scalar_t>(0), r.pointer<const uint8_t>(1), r.pointer<scalar_t>(2),
                 p, overwrite, nullptr);
    });
  });
}
