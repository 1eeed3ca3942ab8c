// The arguments of prepare_images, checked once, in one place.
#pragma once

#include <optional>

#include "core/prepare_images.h"
#include "glue/dispatch.h"

namespace fastconv {

inline void check_one_each(const char* op, const char* name, const Tensor& t, const Tensor& images,
                           ScalarType type, const Sizes& shape, const char* words) {
  FASTCONV_CHECK(op, t.scalar_type() == type, name, " must be ", torch::headeronly::toString(type),
                 " (got ", torch::headeronly::toString(t.scalar_type()), ")");
  Sizes got;
  for (int64_t d = 0; d < t.dim(); ++d) got.push_back(t.size(d));
  FASTCONV_CHECK(op, got == shape, name, " must have shape ", words, " (got ", shape_text(t),
                 " for images of shape ", shape_text(images), ")");
  check_same_device(op, name, t, "images", images);
}

inline void check_mean(const char* op, const Tensor& mean, const Tensor& images) {
  FASTCONV_CHECK(op, mean.scalar_type() == ScalarType::Float, "mean must be Float (got ",
                 torch::headeronly::toString(mean.scalar_type()), ")");
  FASTCONV_CHECK(op, (mean.dim() == 1 || mean.dim() == 3) && mean.size(0) == images.size(1),
                 "mean must be a colour (C,) or an image (C, H, W) of the images' channels (got ",
                 shape_text(mean), " for images of shape ", shape_text(images), ")");
  check_same_device(op, "mean", mean, "images", images);
}

// The problem without its strides.
inline PrepareImages prepare_images_of(
    const char* op, const Tensor& images, const std::optional<Tensor>& offsets,
    const std::optional<Tensor>& flips, const std::optional<Tensor>& shifts,
    const std::optional<Tensor>& mean, const std::optional<Tensor>& mean_offsets,
    const std::vector<double>& unit, const Sizes& size, ScalarType dtype, bool channels_last) {
  check_rank4(op, "images", images);
  FASTCONV_CHECK(op, images.scalar_type() == ScalarType::Byte, "images must be uint8 (got ",
                 torch::headeronly::toString(images.scalar_type()), ")");
  const int64_t n = images.size(0), channels = images.size(1);
  FASTCONV_CHECK(op, channels >= 1 && channels <= kMostImageChannels,
                 "images must have 1 to 4 channels (got shape ", shape_text(images), ")");
  FASTCONV_CHECK(op, size.size() == 2, "size must be (height, width) (got ", size.size(),
                 " numbers)");
  PrepareImages p{};
  p.batch = n, p.channels = channels, p.height = size[0], p.width = size[1];
  p.in_height = images.size(2), p.in_width = images.size(3);
  p.channels_last = channels_last;
  FASTCONV_CHECK(op,
                 p.height >= 1 && p.height <= p.in_height && p.width >= 1 && p.width <= p.in_width,
                 "size must be from 1 to the images' (got ", p.height, "x", p.width, " for ",
                 p.in_height, "x", p.in_width, ")");
  if (offsets) check_one_each(op, "offsets", *offsets, images, ScalarType::Long, {n, 2}, "(N, 2)");
  if (flips) check_one_each(op, "flips", *flips, images, ScalarType::Bool, {n}, "(N,)");
  if (shifts) {
    check_one_each(op, "shifts", *shifts, images, ScalarType::Float, {n, channels}, "(N, C)");
  }
  if (mean) check_mean(op, *mean, images);
  if (mean && mean->dim() == 3) p.mean_height = mean->size(1), p.mean_width = mean->size(2);
  if (mean_offsets) {
    FASTCONV_CHECK(op, p.has_mean_image(), "mean_offsets needs a mean image (C, H, W)");
    check_one_each(op, "mean_offsets", *mean_offsets, images, ScalarType::Long, {n, 2}, "(N, 2)");
    FASTCONV_CHECK(op, p.height <= p.mean_height && p.width <= p.mean_width,
                   "mean must be at least of size (got ", p.mean_height, "x", p.mean_width,
                   " for a size of ", p.height, "x", p.width, ")");
  } else if (p.has_mean_image()) {
    FASTCONV_CHECK(op, p.mean_height == p.in_height && p.mean_width == p.in_width,
                   "mean must have the images' size, or mean_offsets tell where in it the windows "
                   "lie (got ",
                   p.mean_height, "x", p.mean_width, " for images of ", p.in_height, "x",
                   p.in_width, ")");
  }
  FASTCONV_CHECK(op, unit.size() == 1 || int64_t(unit.size()) == channels,
                 "unit must be one number, or one a channel (got ", unit.size(), " for ", channels,
                 " channels)");
  for (int64_t c = 0; c < channels; ++c) {
    p.unit[c] = float(unit[unit.size() == 1 ? 0 : c]);
    FASTCONV_CHECK(op, p.unit[c] > 0, "unit must be positive (got ", unit[unit.size() == 1 ? 0 : c],
                   ")");
  }
  FASTCONV_CHECK(
      op, dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
      "dtype must be float32, float16 or bfloat16 (got ", torch::headeronly::toString(dtype), ")");
  return p;
}

// The tensors in the memory that the kernels read, and where it is.
struct PreparedInputs {
  Tensor images;
  std::optional<Tensor> offsets, flips, shifts, mean, mean_offsets;

  PreparedInputs(const Tensor& images, const std::optional<Tensor>& offsets,
                 const std::optional<Tensor>& flips, const std::optional<Tensor>& shifts,
                 const std::optional<Tensor>& mean, const std::optional<Tensor>& mean_offsets)
      : images(contiguous_as(images, MemoryFormat::ChannelsLast)),
        offsets(dense(offsets)),
        flips(dense(flips)),
        shifts(dense(shifts)),
        mean(pixels_last(mean)),
        mean_offsets(dense(mean_offsets)) {}

  PrepareImagesInputs pointers() const {
    return {data<uint8_t>(images),  pointer<int64_t>(offsets), pointer<bool>(flips),
            pointer<float>(shifts), pointer<float>(mean),      pointer<int64_t>(mean_offsets)};
  }

 private:
  static std::optional<Tensor> dense(const std::optional<Tensor>& t) {
    return t ? std::optional(contiguous_as(*t, MemoryFormat::Contiguous)) : std::nullopt;
  }
  static std::optional<Tensor> pixels_last(const std::optional<Tensor>& mean) {
    if (!mean || mean->dim() == 1) return dense(mean);
    return contiguous_as(torch::stable::unsqueeze(*mean, 0), MemoryFormat::ChannelsLast);
  }
  template <typename T>
  static const T* pointer(const std::optional<Tensor>& t) {
    return t ? data<T>(*t) : nullptr;
  }
};

// Runs the statements with scalar_t standing for the result's element type.
#define FASTCONV_DISPATCH_PREPARED(scalar_type, ...) \
  switch (scalar_type) {                             \
    case ScalarType::Float: {                        \
      using scalar_t = float;                        \
      __VA_ARGS__;                                   \
      break;                                         \
    }                                                \
    case ScalarType::Half: {                         \
      using scalar_t = ::fastconv::half;             \
      __VA_ARGS__;                                   \
      break;                                         \
    }                                                \
    default: {                                       \
      using scalar_t = ::fastconv::bfloat16;         \
      __VA_ARGS__;                                   \
    }                                                \
  }

}  // namespace fastconv
