// When convolutions go the way of csrc/cpu/few_channels.h, and how its steps are run.
#pragma once

#include <optional>

#include "cpu/conv2d_winograd.h"
#include "cpu/few_channels.h"

namespace fastconv {

inline bool has_few_channels(const Conv2d& p) {
  constexpr int64_t kFew = 4, kMaps = 16;
  return p.groups == 1 && steps_are_small(p) && p.h.dilation == 1 && p.w.dilation == 1 &&
         p.in_channels <= kFew && p.out_channels >= kMaps && p.w.output >= 8 && p.batch > 0 &&
         few_channels_step(p.w.stride * p.in_channels);
}

inline FewChannels few_channels_of(const Conv2d& p, const Tensor& input) {
  constexpr int64_t kRows = 12;  // a multiple of every kernel's rows
  FewChannels f{};
  f.maps = p.out_channels;
  const Window* axes[2] = {&p.h, &p.w};
  int64_t size[2];
  for (int i = 0; i < 2; ++i) {
    f.kernel[i] = axes[i]->kernel;
    f.stride[i] = axes[i]->stride;
    f.outputs[i] = axes[i]->output;
    size[i] = (round_up(f.outputs[i], i == 0 ? 1 : kRows) - 1) * f.stride[i] + f.kernel[i];
  }
  f.input = {folding_of(input, p.in_channels), p.batch, 1, size[0], size[1], 0, nullptr};
  f.input.of.origin[0] = -p.h.padding;
  f.input.of.origin[1] = -p.w.padding;
  f.input.pad_depth(1);
  return f;
}

inline bool few_channels_forward(const Conv2d& p, const Tensor& input, const Tensor& weight,
                                 const std::optional<Tensor>& bias, bool relu, Tensor& output) {
  if (!has_few_channels(p)) return false;
  FewChannels f = few_channels_of(p, input);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t images = ImagesInTurn::together(p.batch, f.input.image_size(), threads);
  ImagesInTurn inputs(f.input, input, images);
  const int64_t taps = f.kernel[0] * f.run();
  const Tensor filters = scratch(weight, f.padded_maps() * taps);
  f.filters = filters.mutable_data_ptr();
  f.output = folding_of(output, p.out_channels);
  f.output_bytes = bytes_of(output);
  f.bias = bias ? bias->const_data_ptr() : nullptr;
  f.relu = relu;
  const Filter filter = filter_of(weight, p, false);
  FASTCONV_DISPATCH_FLOATING(
      input.scalar_type(),
      parallel_over(f.padded_maps(), taps,
                    [&](int64_t begin, int64_t end) {
                      FASTCONV_ISA_CALL(few_channels_filters<scalar_t>(f, filter, begin, end));
                    });
      const Folding output = f.output; for (int64_t n = 0; n < p.batch; n += images) {
        inputs.fold(n);
        f.output.image = inputs.at(output, n);
        parallel_over(f.input.batch * p.h.output, p.w.output * taps * f.maps,
                      [&](int64_t begin, int64_t end) {
                        FASTCONV_ISA_CALL(few_channels_outputs<scalar_t>(f, begin, end));
                      });
      })
  return true;
}

inline bool few_channels_weight_grad(const Conv2d& p, const Tensor& grad_output,
                                     const Tensor& input, Tensor& grad_weight) {
  constexpr int64_t kBeyond = 64;
  if (!has_few_channels(p)) return false;
  FewChannels f = few_channels_of(p, input);
  f.grad_output = {
      folding_of(grad_output, p.out_channels), p.batch, 1, p.h.output, p.w.output, 0, nullptr};
  f.grad_output.pad_depth(kWinogradPanel);
  const bool in_place = input.scalar_type() == ScalarType::Float && is_channels_last(grad_output) &&
                        grad_output.stride(3) == p.out_channels &&
                        p.out_channels % kWinogradPanel == 0 &&
                        grad_output.stride(2) == p.w.output * p.out_channels;
  // Whatever the threads: the order of the sums follows from it.
  const int64_t images = ImagesInTurn::together(
      p.batch, f.input.image_size() + (in_place ? 0 : f.grad_output.image_size()));
  ImagesInTurn inputs(f.input, input, images, kBeyond);
  std::optional<ImagesInTurn> outputs;
  const Folding grads = f.grad_output.of;
  if (!in_place) outputs.emplace(f.grad_output, grad_output, images);
  f.parts = images * kFewChannelsParts;
  Tensor sums = scratch(input, f.parts * f.sums_size());
  torch::stable::zero_(sums);
  f.sums = sums.mutable_data_ptr();
  const Filter filter = filter_of(grad_weight, p, false);
  const int64_t taps = f.kernel[0] * f.run();
  FASTCONV_DISPATCH_FLOATING(
      input.scalar_type(), for (int64_t n = 0; n < p.batch; n += images) {
        inputs.fold(n);
        if (in_place) {
          f.grad_output.memory = inputs.at(grads, n);
        } else {
          outputs->fold(n);
        }
        parallel_over(f.input.batch * kFewChannelsParts,
                      p.h.output * p.w.output * taps * f.maps / kFewChannelsParts,
                      [&](int64_t begin, int64_t end) {
                        FASTCONV_ISA_CALL(few_channels_products<scalar_t>(f, begin, end));
                      });
      } parallel_over(taps, f.maps * f.parts, [&](int64_t begin, int64_t end) {
        FASTCONV_ISA_CALL(few_channels_weights<scalar_t>(f, filter, begin, end));
      });)
  return true;
}

}  // namespace fastconv
