// conv2d and its gradients on raw pointers: which kernels run, and with what scratch memory.
//
//   kPlain        conv2d_plain.cuh: everything; both memory formats
//   kTensorCores  conv2d_mma.cuh: channels_last, channels in packs of 16 bytes, aligned addresses
//   kBlocks       the same on blocks (conv2d_blocks.cuh): few input channels, any input format
//
// Tensor cores are fed by warps (mma.sync), or, in 16 bits and where it is asked for, by warpgroups
// (wgmma: conv2d_wgmma.cuh).
//
// Bytes moved, beyond the operands: kBlocks writes and reads the image once more; the weight's
// gradient writes and reads `splits` times its size in float32.
#pragma once

#include <type_traits>

#include "cuda/conv2d.h"
#include "cuda/conv2d_blocks.cuh"
#include "cuda/conv2d_mma.cuh"
#include "cuda/conv2d_plain.cuh"
#include "cuda/conv2d_sm90a.cuh"

namespace fastconv {

template <typename scalar_t>
Conv2dPath conv2d_path(const Conv2d& p, bool allow_tf32) {
  constexpr int64_t kCount = kPack<scalar_t>;
  if (sizeof(scalar_t) == 8 || (sizeof(scalar_t) == 4 && !allow_tf32)) return Conv2dPath::kPlain;
  if (p.out_channels % kCount != 0) return Conv2dPath::kPlain;
  if (p.in_channels % kCount == 0) return Conv2dPath::kTensorCores;
  return fits_blocks(p, kCount) ? Conv2dPath::kBlocks : Conv2dPath::kPlain;
}

template <typename scalar_t>
Conv2dScratch conv2d_scratch(Conv2dPath path, const Conv2d& p) {
  constexpr bool kTensorCores = sizeof(scalar_t) <= 4;
  const Conv2d b = path == Conv2dPath::kBlocks ? blocks_problem(p, kPack<scalar_t>) : p;
  Conv2dScratch s{};
  if (path == Conv2dPath::kBlocks) {
    s.image = b.batch * b.h.input * b.w.input * b.in_channels;
    s.filters = b.out_channels * b.h.kernel * b.w.kernel * b.in_channels;
  }
  const bool plain = path == Conv2dPath::kPlain || !kTensorCores;
  s.splits = plain ? weight_splits(b, PlainTile::kSide, PlainTile::kSide, 32 * PlainTile::kDepth)
                   : weight_splits(b, 128, 128, 512);
  s.partial = s.splits * b.groups * b.out_channels * b.h.kernel * b.w.kernel * b.in_channels;
  return s;
}

template <template <class> class Filters, typename scalar_t>
cudaError_t launch_image(bool warpgroups, const ImageProduct<scalar_t>& product,
                         cudaStream_t stream) {
  if constexpr (sizeof(scalar_t) == 2) {
    constexpr bool kAcross = Filters<MmaTile<scalar_t, 64>>::kAcross;
    if (warpgroups) return launch_image_wgmma(product, kAcross, stream);
  }
  return launch_image_mma<Filters, scalar_t>(one(product), stream);
}

template <typename scalar_t>
cudaError_t launch_weight(bool warpgroups, const WeightProduct<scalar_t>& product,
                          cudaStream_t stream) {
  if constexpr (sizeof(scalar_t) == 2) {
    if (warpgroups) return launch_weight_wgmma(product, stream);
  }
  return launch_weight_mma<scalar_t>(one(product), stream);
}

#define FASTCONV_RETURN_IF_FAILED(call)     \
  do {                                      \
    const cudaError_t error = (call);       \
    if (error != cudaSuccess) return error; \
  } while (false)

template <typename scalar_t>
cudaError_t launch_conv2d(Conv2dPath path, const scalar_t* input, const scalar_t* weight,
                          const scalar_t* bias, scalar_t* output, const Conv2d& p, bool relu,
                          bool last, bool weight_last, scalar_t* image, scalar_t* filters,
                          bool warpgroups, cudaStream_t stream) {
  if (path == Conv2dPath::kPlain) {
    return launch_image_plain<scalar_t>(
        one(PlainImage<scalar_t>(
            forward_product(input, weight, bias, output, p, relu, last, weight_last))),
        stream);
  }
  if constexpr (sizeof(scalar_t) <= 4) {
    if (path == Conv2dPath::kTensorCores) {
      return launch_image<FiltersAlong, scalar_t>(
          warpgroups, forward_product(input, weight, bias, output, p, relu, true, true), stream);
    }
    const Conv2d b = blocks_problem(p, kPack<scalar_t>);
    FASTCONV_RETURN_IF_FAILED(
        conv2d_to_blocks(input, image, p.batch, image_blocks(p, b, last), stream));
    FASTCONV_RETURN_IF_FAILED(conv2d_to_blocks(weight, filters, p.out_channels,
                                               filter_blocks(p, b, weight_last), stream));
    return launch_image<FiltersAlong, scalar_t>(
        warpgroups, forward_product<scalar_t>(image, filters, bias, output, b, relu, true, true),
        stream);
  }
  return cudaErrorInvalidValue;
}

template <typename scalar_t>
cudaError_t launch_conv2d_input_grad(Conv2dPath path, const scalar_t* grad_output,
                                     const scalar_t* weight, scalar_t* grad_input, const Conv2d& p,
                                     bool last, bool weight_last, scalar_t* image,
                                     scalar_t* filters, bool warpgroups, cudaStream_t stream) {
  if (path == Conv2dPath::kPlain) {
    return for_phases(grad_output, weight, grad_input, p, last, weight_last, [&](const auto& m) {
      return launch_image_plain<scalar_t>(one(PlainImage<scalar_t>(m)), stream);
    });
  }
  if constexpr (sizeof(scalar_t) <= 4) {
    const auto product = [&](const auto& m) {
      return launch_image<FiltersAcross, scalar_t>(warpgroups, m, stream);
    };
    if (path == Conv2dPath::kTensorCores) {
      return for_phases(grad_output, weight, grad_input, p, true, true, product);
    }
    const Conv2d b = blocks_problem(p, kPack<scalar_t>);
    FASTCONV_RETURN_IF_FAILED(conv2d_to_blocks(weight, filters, p.out_channels,
                                               filter_blocks(p, b, weight_last), stream));
    FASTCONV_RETURN_IF_FAILED(
        for_phases<scalar_t>(grad_output, filters, image, b, true, true, product));
    return conv2d_from_blocks<scalar_t>(image, grad_input, p.batch, image_blocks(p, b, last),
                                        stream);
  }
  return cudaErrorInvalidValue;
}

template <typename scalar_t>
cudaError_t launch_conv2d_weight_grad(Conv2dPath path, const scalar_t* grad_output,
                                      const scalar_t* input, scalar_t* grad_weight, const Conv2d& p,
                                      bool last, bool weight_last, accumulate_t<scalar_t>* partial,
                                      int splits, scalar_t* image, bool warpgroups,
                                      cudaStream_t stream) {
  const int64_t filters = p.groups * p.out_channels;
  const auto sum = [&](const Blocks& at) {
    return conv2d_sum_splits<scalar_t>(partial, grad_weight, filters, splits, at, stream);
  };
  if (path == Conv2dPath::kPlain) {
    FASTCONV_RETURN_IF_FAILED(launch_weight_plain<scalar_t>(
        one(PlainWeight<scalar_t>(weight_product(grad_output, input, partial, p, splits, last))),
        stream));
    return sum(filter_taps(p, weight_last));
  }
  if constexpr (sizeof(scalar_t) <= 4) {
    if (path == Conv2dPath::kTensorCores) {
      FASTCONV_RETURN_IF_FAILED(launch_weight<scalar_t>(
          warpgroups, weight_product(grad_output, input, partial, p, splits, true), stream));
      return sum(filter_taps(p, weight_last));
    }
    const Conv2d b = blocks_problem(p, kPack<scalar_t>);
    FASTCONV_RETURN_IF_FAILED(
        conv2d_to_blocks(input, image, p.batch, image_blocks(p, b, last), stream));
    FASTCONV_RETURN_IF_FAILED(launch_weight<scalar_t>(
        warpgroups, weight_product<scalar_t>(grad_output, image, partial, b, splits, true),
        stream));
    return sum(filter_blocks(p, b, weight_last));
  }
  return cudaErrorInvalidValue;
}

#undef FASTCONV_RETURN_IF_FAILED

}  // namespace fastconv
