#include "cuda/conv2d.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <vector>

#include "cuda/device.h"
#include "glue/conv2d.h"
#include "glue/dispatch.h"

namespace fastconv {

static Tensor scratch(const Tensor& like, int64_t count, ScalarType type) {
  return new_tensor(like, {count}, type, MemoryFormat::Contiguous);
}

// Warpgroup products run on the current device, and are in this build.
static void check_warpgroups(const char* op, const CudaCall& call) {
  FASTCONV_CHECK(op, built_for_warpgroups(),
                 "warpgroup products are not in this build: TORCH_CUDA_ARCH_LIST was without 9.0a");
  int device = 0, major = 0, minor = 0;
  call.check(cudaGetDevice(&device));
  call.check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  call.check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device));
  FASTCONV_CHECK(op, major == 9 && minor == 0,
                 "warpgroup products need a GPU of compute capability 9.0 (got ", major, ".", minor,
                 ")");
}

static Tensor conv2d(const Tensor& input, const Tensor& weight, std::optional<Tensor> bias,
                     IntPair stride, std::vector<int64_t> padding, IntPair dilation, int64_t groups,
                     bool allow_tf32, bool relu, bool warpgroups) {
  const char* op = "conv2d";
  check_rank4(op, "input", input);
  check_floating(op, "input", input);
  check_conv2d_tensor(op, "weight", weight, "input", input);
  const Conv2d p =
      conv2d_of(op, sizes_of(input), sizes_of(weight), stride, padding, dilation, groups);
  check_conv2d_bias(op, bias, input, p);
  check_conv2d_extents(op, p);

  const CudaCall call(op, input);
  if (warpgroups) check_warpgroups(op, call);
  const ScalarType type = input.scalar_type();
  const MemoryFormat format = memory_format_of(input);
  if (bias) bias = contiguous_as(*bias, MemoryFormat::Contiguous);
  Tensor output;
  FASTCONV_DISPATCH_FLOATING(type, {
    const Conv2dPath path = conv2d_path<scalar_t>(p, allow_tf32);
    const Conv2dScratch s = conv2d_scratch<scalar_t>(path, p);
    const bool cores = path == Conv2dPath::kTensorCores;
    const Tensor x = aligned_as(input, cores ? MemoryFormat::ChannelsLast : format);
    const Tensor w =
        aligned_as(weight, cores ? MemoryFormat::ChannelsLast : memory_format_of(weight));
    output = new_tensor(x, conv2d_output_sizes(p), type,
                        path == Conv2dPath::kPlain ? format : MemoryFormat::ChannelsLast);
    const Tensor image = scratch(x, s.image, type), filters = scratch(x, s.filters, type);
    call.check(launch_conv2d(
        path, data<scalar_t>(x), data<scalar_t>(w), bias ? data<scalar_t>(*bias) : nullptr,
        mutable_data<scalar_t>(output), p, relu, is_channels_last(x), is_channels_last(w),
        mutable_data<scalar_t>(image), mutable_data<scalar_t>(filters), warpgroups, call.stream()));
  })
  return contiguous_as(output, format);
}

static Tensor conv2d_input_grad(const Tensor& grad_output, const Tensor& weight, Sizes input_size,
                                IntPair stride, std::vector<int64_t> padding, IntPair dilation,
                                int64_t groups, bool allow_tf32, bool channels_last,
                                bool warpgroups) {
  const char* op = "conv2d_input_grad";
  check_rank4(op, "grad_output", grad_output);
  check_floating(op, "grad_output", grad_output);
  check_conv2d_tensor(op, "weight", weight, "grad_output", grad_output);
  const Conv2d p = conv2d_of(op, input_size, sizes_of(weight), stride, padding, dilation, groups);
  check_grad_output(op, grad_output, p);
  check_conv2d_extents(op, p);

  const CudaCall call(op, grad_output);
  if (warpgroups) check_warpgroups(op, call);
  const ScalarType type = grad_output.scalar_type();
  const MemoryFormat format = memory_format_of(channels_last);
  Tensor grad_input;
  FASTCONV_DISPATCH_FLOATING(type, {
    const Conv2dPath path = conv2d_path<scalar_t>(p, allow_tf32);
    const Conv2dScratch s = conv2d_scratch<scalar_t>(path, p);
    const bool cores = path == Conv2dPath::kTensorCores;
    const Tensor dy =
        aligned_as(grad_output, path == Conv2dPath::kPlain ? format : MemoryFormat::ChannelsLast);
    const Tensor w =
        aligned_as(weight, cores ? MemoryFormat::ChannelsLast : memory_format_of(weight));
    grad_input = new_tensor(dy, input_size, type, cores ? MemoryFormat::ChannelsLast : format);
    const Tensor image = scratch(dy, s.image, type), filters = scratch(dy, s.filters, type);
    call.check(launch_conv2d_input_grad(
        path, data<scalar_t>(dy), data<scalar_t>(w), mutable_data<scalar_t>(grad_input), p,
        is_channels_last(grad_input), is_channels_last(w), mutable_data<scalar_t>(image),
        mutable_data<scalar_t>(filters), warpgroups, call.stream()));
  })
  return contiguous_as(grad_input, format);
}

static Tensor conv2d_weight_grad(const Tensor& grad_output, const Tensor& input, Sizes weight_size,
                                 IntPair stride, std::vector<int64_t> padding, IntPair dilation,
                                 int64_t groups, bool allow_tf32, bool channels_last,
                                 bool warpgroups) {
  const char* op = "conv2d_weight_grad";
  check_rank4(op, "grad_output", grad_output);
  check_floating(op, "grad_output", grad_output);
  check_conv2d_tensor(op, "input", input, "grad_output", grad_output);
  const Conv2d p = conv2d_of(op, sizes_of(input), weight_size, stride, padding, dilation, groups);
  check_grad_output(op, grad_output, p);
  check_conv2d_extents(op, p);

  const CudaCall call(op, grad_output);
  if (warpgroups) check_warpgroups(op, call);
  const ScalarType type = grad_output.scalar_type();
  Tensor grad_weight = new_tensor(grad_output, weight_size, type, memory_format_of(channels_last));
  FASTCONV_DISPATCH_FLOATING(type, {
    const Conv2dPath path = conv2d_path<scalar_t>(p, allow_tf32);
    const Conv2dScratch s = conv2d_scratch<scalar_t>(path, p);
    const MemoryFormat format = memory_format_of(input);
    const bool cores = path == Conv2dPath::kTensorCores, plain = path == Conv2dPath::kPlain;
    const Tensor x = aligned_as(input, cores ? MemoryFormat::ChannelsLast : format);
    const Tensor dy = aligned_as(grad_output, plain ? format : MemoryFormat::ChannelsLast);
    const Tensor image = scratch(x, s.image, type);
    const Tensor partial =
        scratch(x, s.partial, sizeof(scalar_t) == 8 ? ScalarType::Double : ScalarType::Float);
    call.check(launch_conv2d_weight_grad(path, data<scalar_t>(dy), data<scalar_t>(x),
                                         mutable_data<scalar_t>(grad_weight), p,
                                         is_channels_last(x), is_channels_last(grad_weight),
                                         mutable_data<accumulate_t<scalar_t>>(partial), s.splits,
                                         mutable_data<scalar_t>(image), warpgroups, call.stream()));
  })
  return grad_weight;
}

STABLE_TORCH_LIBRARY_IMPL(fastconv, CUDA, m) {
  m.impl("conv2d", TORCH_BOX(&conv2d));
  m.impl("conv2d_input_grad", TORCH_BOX(&conv2d_input_grad));
  m.impl("conv2d_weight_grad", TORCH_BOX(&conv2d_weight_grad));
}

}  // namespace fastconv
