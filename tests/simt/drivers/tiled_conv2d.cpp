// ints: batch, groups, in_channels, out_channels (of a group), both windows, tiles down and across,
// on tensor cores, last, splits. Scratch memory is made here and begins as NaN.
#include "cuda/tiled_conv2d.cuh"

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
  const TiledConv2d p{
      {v.at(0), v.at(1), v.at(2), v.at(3), window(4), window(10)}, v.at(16), v.at(17)};
  const bool cores = v.at(18), last = v.at(19);
  const auto a = r.pointer<const scalar_t>(0), b = r.pointer<const scalar_t>(1);
  if (r.entry == "forward") {
    return launch_tiled_conv2d(cores, a, b, r.pointer<const scalar_t>(2), r.pointer<scalar_t>(3), p,
                               last, nullptr);
  }
  if (r.entry == "input_grad") {
    const PhaseOrder order = phase_order(p);
    const auto ordered = scratch<scalar_t>(order.phases_h * order.phases_w * order.phase_size());
    return launch_tiled_conv2d_input_grad(cores, a, b, r.pointer<scalar_t>(2), p, last,
                                          ordered.get(), nullptr);
  }
  const int splits = int(v.at(20));
  const auto partial = scratch<accumulate_t<scalar_t>>(splits * p.tiles() * p.tile_weights());
  return launch_tiled_conv2d_weight_grad(cores, a, b, r.pointer<scalar_t>(2), p, last,
                                         partial.get(), splits, nullptr);
}

int main() {
  return simt::serve([](const simt::Request& r) {
    return simt::with_dtype(r.dtype, [&](auto scalar) { return run<decltype(scalar)>(r); });
  });
}
