// Convolution of images with few channels, such as a network's first layer: on the CPU.
//
//   output[o, y, x] = bias[o] + sum over r of sum over k of
//                     image[y * stride + r, (x * stride) * C + k] * filter[o, r, k]
//
// Where pixels hold their channels side by side, a row of taps is one run of C * kernel_w elements
// of the padded image, and the next output's run lies C * stride_w elements further. So the rows of
// the matrix product are read in place, without packing.
#pragma once

#include <cstdint>

#include "cpu/isa.h"
#include "cpu/winograd.h"

namespace fastconv {

constexpr int64_t kFewChannelsParts = 4;  // of an image, for the weight's gradient

struct FewChannels {
  FoldedImage input;  // not folded, but padded; its depth is the number of channels
  int64_t kernel[2], stride[2], outputs[2], maps;
  void* filters;         // (panel, tap row, run, column) of acc_t
  Folding output;        // of the convolution
  int64_t output_bytes;  // of the whole batch
  const void* bias;
  bool relu;
  FoldedImage grad_output;  // not folded; its depth is padded to whole panels
  int64_t parts;            // that are summed apart: of the images in memory at a time
  void* sums;               // (part, tap row, panels of the run and of maps) of acc_t, added to

  int64_t run() const { return kernel[1] * input.depth; }
  int64_t row_step() const { return stride[1] * input.depth; }
  int64_t padded_maps() const {
    return (maps + kWinogradPanel - 1) / kWinogradPanel * kWinogradPanel;
  }
  int64_t padded_run() const { return (run() + 11) / 12 * 12; }  // a multiple of all kernels' rows
  int64_t sums_size() const { return kernel[0] * padded_run() * padded_maps(); }  // of a part
};

// Elements from one output's run to the next that there are kernels for.
inline bool few_channels_step(int64_t step) {
  return step == 1 || step == 2 || step == 3 || step == 4 || step == 6 || step == 8 || step == 12;
}

FASTCONV_FOR_EACH_ISA(
    // Packs the weight: padded_maps() units.
    template <typename scalar_t>
    void few_channels_filters(const FewChannels& p, const Filter& f, int64_t begin, int64_t end);
    // Rows of all outputs.
    template <typename scalar_t>
    void few_channels_outputs(const FewChannels& p, int64_t begin, int64_t end);
    // Parts of the images in memory.
    template <typename scalar_t>
    void few_channels_products(const FewChannels& p, int64_t begin, int64_t end);
    // Taps of all rows: the parts' sums, into the weight.
    template <typename scalar_t>
    void few_channels_weights(const FewChannels& p, const Filter& f, int64_t begin, int64_t end);)

}  // namespace fastconv
