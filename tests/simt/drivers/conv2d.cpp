// ints: batch, groups, in_channels, out_channels (of a group), both windows, path, relu, last,
// weight_last, splits, warpgroups. Scratch memory is made here and begins as NaN.
#include "cuda/conv2d.cuh"

#include <vector>

#include "cuda/conv2d_wgmma.cuh"
#include "simt/driver.h"

using namespace fastconv;

template <typename T>
static std::unique_ptr<T[]> scratch(int64_t count) {
  std::unique_ptr<T[]> memory(new T[size_t(count)]);
  std::memset(static_cast<void*>(memory.get()), 0xff, size_t(count) * sizeof(T));
  return memory;
}

template <typename scalar_t>
static cudaError_t run(const simt::Request& r) {
  const auto& v = r.ints;
  const auto window = [&](size_t i) {
    return Window{v.at(i), v.at(i + 1), v.at(i + 2), v.at(i + 3), v.at(i + 4), v.at(i + 5)};
  };
  const Conv2d p{v.at(0), v.at(1), v.at(2), v.at(3), window(4), window(10)};
  const auto path = Conv2dPath(v.at(16));
  const bool relu = v.at(17), last = v.at(18), weight_last = v.at(19), warpgroups = v.at(21);
  const Conv2dScratch s = conv2d_scratch<scalar_t>(path, p);
  const auto image = scratch<scalar_t>(s.image), filters = scratch<scalar_t>(s.filters);
  const auto a = r.pointer<const scalar_t>(0), b = r.pointer<const scalar_t>(1);
  if (r.entry == "forward") {
    return launch_conv2d(path, a, b, r.pointer<const scalar_t>(2), r.pointer<scalar_t>(3), p, relu,
                         last, weight_last, image.get(), filters.get(), warpgroups, nullptr);
  }
  if (r.entry == "input_grad") {
    return launch_conv2d_input_grad(path, a, b, r.pointer<scalar_t>(2), p, last, weight_last,
                                    image.get(), filters.get(), warpgroups, nullptr);
  }
  const int splits = v.at(20) ? int(v.at(20)) : s.splits;
  const auto partial = scratch<accumulate_t<scalar_t>>(s.partial / s.splits * splits);
  return launch_conv2d_weight_grad(path, a, b, r.pointer<scalar_t>(2), p, last, weight_last,
                                   partial.get(), splits, image.get(), warpgroups, nullptr);
}

int main() {
  return simt::serve([](const simt::Request& r) {
    return simt::with_dtype(r.dtype, [&](auto scalar) { return run<decltype(scalar)>(r); });
  });
}
