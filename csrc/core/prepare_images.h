// Preparing images: windows are cut out of uint8 images, mirrored or not, and put into a network's
// units.
//
// Images are (batch, in_height, in_width, channels) bytes. A mean is an image (mean_height,
// mean_width, channels) or a colour (channels); its window moves with the image's.
#pragma once

#include "core/window.h"

namespace fastconv {

constexpr int kMostImageChannels = 4;

template <typename index_t>
struct BasicPrepareImages {
  index_t batch, channels, height, width;  // of the result
  index_t in_height, in_width;             // of the images
  index_t mean_height, mean_width;         // 0: the mean is a colour
  index_t image_stride, row_stride;        // bytes from image to image, from row to row
  index_t mean_row_stride;                 // elements from row to row
  float unit[kMostImageChannels];
  bool channels_last;  // memory of the result

  FASTCONV_HOST_DEVICE bool has_mean_image() const { return mean_height > 0; }
};
using PrepareImages = BasicPrepareImages<int64_t>;
using PrepareImages32 = BasicPrepareImages<int32_t>;

// What is read, for each image of the batch. All but the images may be null: windows at (0, 0), no
// mirroring, nothing added or subtracted.
struct PrepareImagesInputs {
  const uint8_t* images;
  const int64_t* offsets;  // (batch, 2): top and left of the window
  const bool* flips;       // (batch): mirrored left to right
  const float* shifts;     // (batch, channels)
  const float* mean;
  const int64_t* mean_offsets;  // (batch, 2): of the window in the mean image; null: as offsets
};

// Images densely one after another, and so the mean.
FASTCONV_INLINE void set_dense_strides(PrepareImages& p) {
  p.row_stride = p.in_width * p.channels;
  p.image_stride = p.in_height * p.row_stride;
  p.mean_row_stride = p.mean_width * p.channels;
}

FASTCONV_INLINE PrepareImages32 narrow(const PrepareImages& p) {
  PrepareImages32 q{int32_t(p.batch),       int32_t(p.channels),        int32_t(p.height),
                    int32_t(p.width),       int32_t(p.in_height),       int32_t(p.in_width),
                    int32_t(p.mean_height), int32_t(p.mean_width),      int32_t(p.image_stride),
                    int32_t(p.row_stride),  int32_t(p.mean_row_stride), {},
                    p.channels_last};
  for (int c = 0; c < kMostImageChannels; ++c) q.unit[c] = p.unit[c];
  return q;
}

// Where the window of image n begins, in rows and columns. A place outside is moved inside: the
// host refuses it where it can look.
template <typename index_t>
struct WindowPlace {
  index_t top, left;
};
template <typename index_t>
FASTCONV_INLINE WindowPlace<index_t> window_place(const int64_t* offsets, int64_t n,
                                                  index_t last_top, index_t last_left) {
  if (offsets == nullptr) return {0, 0};
  const int64_t top = offsets[2 * n], left = offsets[2 * n + 1];
  return {index_t(max_of(int64_t(0), min_of(top, int64_t(last_top)))),
          index_t(max_of(int64_t(0), min_of(left, int64_t(last_left))))};
}
template <typename index_t>
FASTCONV_INLINE WindowPlace<index_t> image_place(const PrepareImagesInputs& in, int64_t n,
                                                 const BasicPrepareImages<index_t>& p) {
  return window_place<index_t>(in.offsets, n, p.in_height - p.height, p.in_width - p.width);
}
template <typename index_t>
FASTCONV_INLINE WindowPlace<index_t> mean_place(const PrepareImagesInputs& in, int64_t n,
                                                const BasicPrepareImages<index_t>& p) {
  const int64_t* offsets = in.mean_offsets != nullptr ? in.mean_offsets : in.offsets;
  return window_place<index_t>(offsets, n, p.mean_height - p.height, p.mean_width - p.width);
}

// The value of a pixel, in this order of operations, each rounded: divisions, not products with
// reciprocals, so that all processors and NumPy get the same bits. For floats and vectors of them.
template <typename T>
FASTCONV_INLINE T prepared(T pixel, T mean, T shift, T unit) {
  return (pixel / 255.0f - mean + shift) / unit;
}

}  // namespace fastconv
