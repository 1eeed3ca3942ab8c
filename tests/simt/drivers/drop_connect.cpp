#include "cuda/drop_connect.cuh"

#include "simt/driver.h"

using namespace fastconv;

// ints: batch, outputs, inputs, first_input of the mask; reals: p. The first buffer is the seed.
int main() {
  return simt::serve([](const simt::Request& r) {
    const DropConnect p{r.ints.at(0), r.ints.at(1), r.ints.at(2), 0,
                        drop_probability(r.reals.at(0))};
    const auto seed = r.pointer<const int64_t>(0);
    if (r.entry == "mask") {
      return launch_drop_connect_mask(r.pointer<uint8_t>(1), r.ints.at(3), p, seed, nullptr);
    }
    return simt::with_dtype(r.dtype, [&](auto scalar) {
      using scalar_t = decltype(scalar);
      const auto a = r.pointer<const scalar_t>(1), b = r.pointer<const scalar_t>(2);
      const auto last = r.pointer<scalar_t>(r.buffers.size() - 1);
      if (r.entry == "input_grad")
        return launch_drop_connect_input_grad(a, b, last, p, seed, nullptr);
      if (r.entry == "weight_grad")
        return launch_drop_connect_weight_grad(a, b, last, p, seed, nullptr);
      const auto bias = r.pointer<const scalar_t>(3);
      const int64_t bias_stride = r.entry == "forward_masked_bias" ? p.outputs : 0;
      return launch_drop_connect(a, b, bias, bias_stride, last, p, seed, nullptr);
    });
  });
}
