// prepare_images for one image in NumPy arrays: what a process that loads images calls for each.
#pragma once

#include <pybind11/numpy.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "cpu/prepare_images.h"

namespace fastconv {

using FloatArray = pybind11::array_t<float, 0>;

inline void check_array(bool fine, const char* name, const char* rule,
                        const pybind11::array& array) {
  if (fine) return;
  std::ostringstream text;
  text << "prepare_image: " << name << " must be " << rule << " (got "
       << std::string(pybind11::str(array.dtype())) << " (";
  for (pybind11::ssize_t d = 0; d < array.ndim(); ++d) text << (d ? ", " : "") << array.shape(d);
  text << "))";
  throw std::invalid_argument(text.str());
}

// Whether the elements of each row (W, C) are neighbours; the rows may lie apart.
inline bool has_dense_rows(const pybind11::array& a) {
  return a.ndim() == 3 && (a.shape(2) == 1 || a.strides(2) == a.itemsize()) &&
         (a.shape(1) == 1 || a.strides(1) == a.shape(2) * a.itemsize()) && a.strides(0) >= 0;
}

inline bool is_one_each(const FloatArray& a, pybind11::ssize_t channels) {
  return a.ndim() == 1 && a.shape(0) == channels && a.strides(0) == a.itemsize();
}

// pixels are the window itself, and so is a mean image: views of larger arrays cost nothing.
inline pybind11::array_t<float> prepare_image(const pybind11::array_t<uint8_t, 0>& pixels,
                                              const std::optional<FloatArray>& mean,
                                              const std::optional<FloatArray>& shift,
                                              const FloatArray& unit, bool mirrored) {
  const bool fits =
      has_dense_rows(pixels) && pixels.shape(2) >= 1 && pixels.shape(2) <= kMostImageChannels;
  check_array(fits, "pixels", "(H, W, C) with 1 to 4 channels, its rows dense", pixels);
  PrepareImages p{};
  p.batch = 1, p.channels = pixels.shape(2), p.channels_last = true;
  p.height = p.in_height = pixels.shape(0), p.width = p.in_width = pixels.shape(1);
  p.row_stride = pixels.strides(0);
  check_array(is_one_each(unit, p.channels), "unit", "(C,)", unit);
  for (int64_t c = 0; c < p.channels; ++c) p.unit[c] = unit.data()[c];
  PrepareImagesInputs in{};
  in.images = pixels.data(), in.flips = &mirrored;
  if (shift) {
    check_array(is_one_each(*shift, p.channels), "shift", "(C,)", *shift);
    in.shifts = shift->data();
  }
  if (mean && mean->ndim() == 3) {
    const bool covers = has_dense_rows(*mean) && mean->shape(0) == p.height &&
                        mean->shape(1) == p.width && mean->shape(2) == p.channels;
    check_array(covers, "mean", "(C,), or (H, W, C) as pixels, its rows dense", *mean);
    p.mean_height = p.height, p.mean_width = p.width;
    p.mean_row_stride = mean->strides(0) / mean->itemsize();
  } else if (mean) {
    check_array(is_one_each(*mean, p.channels), "mean", "(C,), or (H, W, C) as pixels", *mean);
  }
  in.mean = mean ? mean->data() : nullptr;
  pybind11::array_t<float> output({p.height, p.width, p.channels});
  float* to = output.mutable_data();
  {
    const pybind11::gil_scoped_release released;
    FASTCONV_ISA_CALL(prepare_images(in, to, p, 0, p.height));
  }
  return output;
}

}  // namespace fastconv
