#include "cuda/prepare_images.h"

#include <torch/csrc/stable/library.h>

#include "cuda/device.h"
#include "glue/prepare_images.h"

namespace fastconv {

// Places outside the images are moved inside by the kernel: to refuse them, the host would have to
// wait for the device.
static Tensor prepare_images(const Tensor& images, std::optional<Tensor> offsets,
                             std::optional<Tensor> flips, std::optional<Tensor> shifts,
                             std::optional<Tensor> mean, std::optional<Tensor> mean_offsets,
                             std::vector<double> unit, Sizes size, ScalarType dtype,
                             bool channels_last) {
  const char* op = "prepare_images";
  PrepareImages p = prepare_images_of(op, images, offsets, flips, shifts, mean, mean_offsets, unit,
                                      size, dtype, channels_last);
  set_dense_strides(p);
  check_image_size(op, "images", p.image_stride);
  check_image_size(op, "mean", p.mean_height * p.mean_row_stride);
  FASTCONV_CHECK(op, p.width * p.channels <= kMostPrepareRow,
                 "a row of a window must have at most ", kMostPrepareRow, " bytes on a GPU (got ",
                 p.width * p.channels, ")");

  const CudaCall call(op, images);
  const PreparedInputs inputs(images, offsets, flips, shifts, mean, mean_offsets);
  Tensor output = new_tensor(images, {p.batch, p.channels, p.height, p.width}, dtype,
                             memory_format_of(channels_last));
  FASTCONV_DISPATCH_PREPARED(
      dtype, call.check(launch_prepare_images(inputs.pointers(), mutable_data<scalar_t>(output), p,
                                              call.stream())))
  return output;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("prepare_images", TORCH_BOX(&prepare_images));
}

}  // namespace fastconv
