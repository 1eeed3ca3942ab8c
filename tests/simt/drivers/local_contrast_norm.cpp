#include <vector>

#include "cuda/local_contrast_norm_launch.cuh"
#include "simt/driver.h"

using namespace fastconv;

// ints: batch, maps, height, width, kernel_size, across_maps, mean_divisor, channels_last;
// reals: sigma, eps.
static ContrastProblem problem_of(const simt::Request& r) {
  const auto& v = r.ints;
  const int64_t maps = v.at(1), height = v.at(2), width = v.at(3);
  const bool across = v.at(5) != 0, last = v.at(7) != 0;
  return {{height, width, last && !across ? maps : 1, across ? maps : 1, last && across},
          across || last ? v.at(0) : v.at(0) * maps,
          band_radius(v.at(4), height),
          band_radius(v.at(4), width),
          r.reals.at(0),
          r.reals.at(1),
          across,
          v.at(6) != 0};
}

// Buffers: input, output, statistics, or grad_output, input, statistics, grad_input.
int main() {
  return simt::serve([](const simt::Request& r) {
    return simt::with_dtype(r.dtype, [&](auto scalar) {
      using scalar_t = decltype(scalar);
      using acc_t = accumulate_t<scalar_t>;
      const ContrastProblem p = problem_of(r);
      const bool backward = r.entry == "backward";
      std::vector<acc_t> scratch(size_t(contrast_norm_scratch<scalar_t>(p, backward)));
      std::memset(scratch.data(), 0xff, scratch.size() * sizeof(acc_t));
      if (backward) {
        return launch_contrast_norm_backward(
            r.pointer<const scalar_t>(0), r.pointer<const scalar_t>(1), r.pointer<const acc_t>(2),
            r.pointer<scalar_t>(3), scratch.data(), p, nullptr);
      }
      return launch_contrast_norm(r.pointer<const scalar_t>(0), r.pointer<scalar_t>(1),
                                  r.pointer<acc_t>(2), scratch.data(), p, nullptr);
    });
  });
}
