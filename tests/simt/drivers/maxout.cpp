// ints: batch, pixels, maps, groups, pool_size, stride, maps_last
#include "cuda/maxout.cuh"

#include "simt/driver.h"

using namespace fastconv;

int main() {
  return simt::serve([](const simt::Request& r) {
    return simt::with_dtype(r.dtype, [&](auto scalar) {
      using scalar_t = decltype(scalar);
      const auto& v = r.ints;
      const Maxout p{v.at(0), v.at(1), {v.at(2), v.at(3), v.at(4), v.at(5), 0, 1}, v.at(6) != 0};
      if (r.entry == "forward") {
        return launch_maxout(r.pointer<const scalar_t>(0), r.pointer<scalar_t>(1),
                             r.pointer<uint8_t>(2), p, nullptr);
      }
      return launch_maxout_backward(r.pointer<const scalar_t>(0), r.pointer<const uint8_t>(1),
                                    r.pointer<scalar_t>(2), p, nullptr);
    });
  });
}
