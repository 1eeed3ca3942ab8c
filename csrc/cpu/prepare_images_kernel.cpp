// output[n,c,y,x] = (images[n,top+y,left+x',c] / 255 - mean[top+y,left+x',c] + shifts[n,c]) /
// unit[c] where x' is x, or width-1-x in a mirrored image
//
// images (batch, in_height, in_width, channels) uint8; output (batch, channels, height, width) in
// either memory format. One vector holds kLanes neighbouring bytes of a row, all channels of a
// pixel after another, and what belongs to a channel repeats with them. Rows are computed as they
// lie in the image; mirrored or planar ones go through a buffer in the first-level cache. Bytes
// moved: each pixel of the window and of the mean once, each result once.
#include "cpu/prepare_images.h"
#include "cpu/rows.h"

namespace fastconv {
namespace FASTCONV_ISA {

// One number a channel along a row: element i takes lane i % kLanes of vector i / kLanes %
// kVectors. Three vectors hold whole pixels of 1 to 4 channels, whatever the number of lanes.
struct Repeated {
  static constexpr int kLanes = Vec<float>::kLanes, kVectors = 3;
  vec_t<float> vector[kVectors];

  Repeated(const float* values, int64_t channels) {  // null: 0
    for (int i = 0; i < kVectors * kLanes; ++i) {
      vector[i / kLanes][i % kLanes] = values != nullptr ? values[i % channels] : 0.0f;
    }
  }
};

// A row of `count` elements; `plane` is the mean image's row, or null.
template <typename scalar_t>
static void prepare_row(const uint8_t* pixels, const float* plane, const Repeated& mean,
                        const Repeated& shift, const Repeated& unit, scalar_t* to, int64_t count) {
  constexpr int kLanes = Vec<float>::kLanes, kVectors = Repeated::kVectors;
  const auto vector = [&](int64_t i, int k, auto n) __attribute__((always_inline)) {
    const auto pixel = __builtin_convertvector(load_bytes_n<float>(pixels + i, n), vec_t<float>);
    const vec_t<float> m = plane != nullptr ? load_n(plane + i, n) : mean.vector[k];
    store_n(prepared(pixel, m, shift.vector[k], unit.vector[k]), to + i, n);
  };
  int64_t i = 0;
  for (; i + kVectors * kLanes <= count; i += kVectors * kLanes) {
    for (int k = 0; k < kVectors; ++k) {
      vector(i + k * kLanes, k, std::integral_constant<int, kLanes>());
    }
  }
  for (int k = 0; i < count; i += kLanes, ++k) vector(i, k, int(min_of(kLanes, count - i)));
}

// The pixels of a row, mirrored or not, to where they belong in the result: the channels of pixel x
// at to + x * step, `plane` elements apart.
template <typename scalar_t, class Channels>
static void place_row(const scalar_t* row, bool mirrored, int64_t width, Channels channels,
                      scalar_t* to, int64_t step, int64_t plane) {
  for (int64_t x = 0; x < width; ++x) {
    const scalar_t* pixel = row + (mirrored ? width - 1 - x : x) * channels;
    for (int64_t c = 0; c < channels; ++c) to[x * step + c * plane] = pixel[c];
  }
}

template <typename scalar_t>
void prepare_images(const PrepareImagesInputs& in, scalar_t* output, const PrepareImages& p,
                    int64_t begin, int64_t end) {
  const int64_t line = p.width * p.channels;
  const bool has_colour = in.mean != nullptr && !p.has_mean_image();
  const Repeated unit(p.unit, p.channels), mean(has_colour ? in.mean : nullptr, p.channels);
  Buffer<scalar_t> row(line);
  for (int64_t first = begin; first < end;) {  // the rows of one image
    const int64_t n = first / p.height, last = min_of(end, (n + 1) * p.height);
    const Repeated shift(in.shifts != nullptr ? in.shifts + n * p.channels : nullptr, p.channels);
    const WindowPlace<int64_t> at = image_place(in, n, p);
    const bool mirrored = in.flips != nullptr && in.flips[n];
    const uint8_t* pixels =
        in.images + n * p.image_stride + at.top * p.row_stride + at.left * p.channels;
    const float* plane = nullptr;
    if (in.mean != nullptr && p.has_mean_image()) {
      const WindowPlace<int64_t> on_mean = mean_place(in, n, p);
      plane = in.mean + on_mean.top * p.mean_row_stride + on_mean.left * p.channels;
    }
    scalar_t* image = output + n * p.height * line;
    for (; first < last; ++first) {
      const int64_t y = first % p.height;
      const uint8_t* from = pixels + y * p.row_stride;
      const float* m = plane != nullptr ? plane + y * p.mean_row_stride : nullptr;
      if (!mirrored && (p.channels_last || p.channels == 1)) {
        prepare_row(from, m, mean, shift, unit, image + y * line, line);
        continue;
      }
      prepare_row(from, m, mean, shift, unit, row.data(), line);
      with_step(p.channels, [&](auto channels) {
        if (p.channels_last) {
          place_row(row.data(), mirrored, p.width, channels, image + y * line, channels, 1);
        } else {
          place_row(row.data(), mirrored, p.width, channels, image + y * p.width, 1,
                    p.height * p.width);
        }
      });
    }
  }
}

#define INSTANTIATE(scalar_t)                                                               \
  template void prepare_images(const PrepareImagesInputs&, scalar_t*, const PrepareImages&, \
                               int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
