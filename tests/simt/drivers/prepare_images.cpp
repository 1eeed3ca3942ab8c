// ints: batch, channels, height, width, in_height, in_width, mean_height, mean_width, channels_last
// reals: a unit for each channel. Buffers: images, offsets, flips, shifts, mean, mean_offsets,
// output.
//
// Entry "divide": buffers a, b, a / b, and all bytes / 255.
#include "cuda/prepare_images.cuh"

#include "simt/driver.h"

using namespace fastconv;

__global__ static void divide_kernel(const float* a, const float* b, float* quotients, float* bytes,
                                     int count) {
  const int i = int(blockIdx.x) * kThreads + int(threadIdx.x);
  if (i < 256) bytes[i] = divided_by_255(float(i));
  if (i < count) quotients[i] = divided(a[i], b[i], 1.0f / b[i]);
}

int main() {
  return simt::serve([](const simt::Request& r) {
    const auto& v = r.ints;
    if (r.entry == "divide") {
      return launch(divide_kernel, blocks_for(v.at(0)), dim3(kThreads), 0, nullptr,
                    r.pointer<const float>(0), r.pointer<const float>(1), r.pointer<float>(2),
                    r.pointer<float>(3), int(v.at(0)));
    }
    PrepareImages p{};
    p.batch = v.at(0), p.channels = v.at(1), p.height = v.at(2), p.width = v.at(3);
    p.in_height = v.at(4), p.in_width = v.at(5), p.mean_height = v.at(6), p.mean_width = v.at(7);
    p.channels_last = v.at(8) != 0;
    for (int64_t c = 0; c < p.channels; ++c) p.unit[c] = float(r.reals.at(c));
    set_dense_strides(p);
    const PrepareImagesInputs in{r.pointer<const uint8_t>(0), r.pointer<const int64_t>(1),
                                 r.pointer<const bool>(2),    r.pointer<const float>(3),
                                 r.pointer<const float>(4),   r.pointer<const int64_t>(5)};
    if (r.dtype == "float16") return launch_prepare_images(in, r.pointer<half>(6), p, nullptr);
    if (r.dtype == "bfloat16") return launch_prepare_images(in, r.pointer<bfloat16>(6), p, nullptr);
    return launch_prepare_images(in, r.pointer<float>(6), p, nullptr);
  });
}
