#include "cpu/prepare_images.h"

#include <torch/csrc/stable/library.h>

#include "cpu/dispatch.h"
#include "glue/prepare_images.h"

namespace fastconv {

static void check_places(const char* op, const char* name, const int64_t* offsets, int64_t count,
                         const char* where, int64_t in_height, int64_t in_width,
                         const PrepareImages& p) {
  for (int64_t n = 0; offsets != nullptr && n < count; ++n) {
    const int64_t top = offsets[2 * n], left = offsets[2 * n + 1];
    FASTCONV_CHECK(
        op, top >= 0 && top <= in_height - p.height && left >= 0 && left <= in_width - p.width,
        name, " must keep the windows inside the ", where, " (got (", top, ", ", left,
        ") for a window of ", p.height, "x", p.width, " in ", in_height, "x", in_width, ")");
  }
}

static Tensor prepare_images(const Tensor& images, std::optional<Tensor> offsets,
                             std::optional<Tensor> flips, std::optional<Tensor> shifts,
                             std::optional<Tensor> mean, std::optional<Tensor> mean_offsets,
                             std::vector<double> unit, Sizes size, ScalarType dtype,
                             bool channels_last) {
  const char* op = "prepare_images";
  PrepareImages p = prepare_images_of(op, images, offsets, flips, shifts, mean, mean_offsets, unit,
                                      size, dtype, channels_last);
  set_dense_strides(p);

  const PreparedInputs inputs(images, offsets, flips, shifts, mean, mean_offsets);
  const PrepareImagesInputs in = inputs.pointers();
  check_places(op, "offsets", in.offsets, p.batch, "images", p.in_height, p.in_width, p);
  check_places(op, "mean_offsets", in.mean_offsets, p.batch, "mean", p.mean_height, p.mean_width,
               p);
  Tensor output = new_tensor(images, {p.batch, p.channels, p.height, p.width}, dtype,
                             memory_format_of(channels_last));
  FASTCONV_DISPATCH_PREPARED(
      dtype,
      parallel_over(p.batch * p.height, 4 * p.width * p.channels, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(prepare_images(in, mutable_data<scalar_t>(output), p, begin, end));
      }))
  return output;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CPU, m) { FASTCONV_IMPL(m, prepare_images); }

}  // namespace fastconv
