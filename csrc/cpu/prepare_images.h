// The kernel of prepare_images on the CPU; prepare_images_kernel.cpp has its text.
#pragma once

#include "core/numeric.h"
#include "core/prepare_images.h"
#include "cpu/isa.h"

namespace fastconv {

// Units of work: rows of the result, batch * height of them. Each call does the rows [begin, end).
FASTCONV_FOR_EACH_ISA(template <typename scalar_t>
                      void prepare_images(const PrepareImagesInputs& in, scalar_t* output,
                                          const PrepareImages& p, int64_t begin, int64_t end);)

}  // namespace fastconv
