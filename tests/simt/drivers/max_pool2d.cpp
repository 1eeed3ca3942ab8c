#include "cuda/max_pool2d.cuh"

#include "simt/driver.h"
#include "simt/pool2d.h"

using namespace fastconv;

int main() {
  return simt::serve([](const simt::Request& r) {
    return simt::with_dtype(r.dtype, [&](auto scalar) {
      using scalar_t = decltype(scalar);
      uint8_t* switches = r.entry == "values" ? nullptr : r.pointer<uint8_t>(2);
      return launch_max_pool2d(r.pointer<const scalar_t>(0), r.pointer<scalar_t>(1), switches,
                               simt::pool2d_of(r), nullptr);
    });
  });
}
