// The arguments of local_contrast_norm, checked once, in one place.
#pragma once

#include <limits>

#include "core/contrast_norm.h"
#include "core/gaussian.h"
#include "glue/tensor.h"

namespace fastconv {

inline void check_sizes(const char* op, const char* name, const Tensor& t, const Sizes& sizes) {
  check_rank4(op, name, t);
  for (int d = 0; d < 4; ++d) {
    FASTCONV_CHECK(op, t.size(d) == sizes[d], name, " must have size ", sizes[d], " in dimension ",
                   d, " (got shape ", shape_text(t), ")");
  }
}

inline ScalarType statistics_type(const Tensor& input) {
  return input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline ContrastProblem contrast_problem(const char* op, const Tensor& input, int64_t kernel_size,
                                        double sigma, bool across_maps, bool mean_divisor,
                                        double eps) {
  check_rank4(op, "input", input);
  check_floating(op, "input", input);
  const int64_t n = input.size(0), c = input.size(1), h = input.size(2), w = input.size(3);
  FASTCONV_CHECK(op, c > 0 && h > 0 && w > 0,
                 "input must have no empty dimension but the batch (got shape ", shape_text(input),
                 ")");
  FASTCONV_CHECK(op, kernel_size >= 1 && kernel_size % 2 == 1,
                 "kernel_size must be odd and positive (got kernel_size=", kernel_size, ")");
  constexpr double kMost = std::numeric_limits<double>::max();
  FASTCONV_CHECK(op, sigma > 0 && sigma <= kMost,
                 "sigma must be positive and finite (got sigma=", sigma, ")");
  FASTCONV_CHECK(op, eps > 0 && eps <= kMost, "eps must be positive and finite (got eps=", eps,
                 ")");
  const bool channels_last = is_channels_last(input);
  ContrastProblem p{};
  p.shape.height = h;
  p.shape.width = w;
  p.shape.lanes = channels_last && !across_maps ? c : 1;
  p.shape.maps = across_maps ? c : 1;
  p.shape.interleaved = channels_last && across_maps;
  p.images = across_maps || channels_last ? n : n * c;
  p.radius_h = band_radius(kernel_size, h);
  p.radius_w = band_radius(kernel_size, w);
  p.sigma = sigma;
  p.across_maps = across_maps;
  p.eps = eps;
  p.mean_divisor = mean_divisor;
  return p;
}

// Maps that share a mean and a deviation are few statistics for many maps: the forward hands them
// on, (N, 2, H, W). Where each map has its own, the backward computes them again: (N, 0, H, W).
inline Sizes statistics_sizes(const ContrastProblem& p, const Tensor& input) {
  return {input.size(0), p.across_maps ? 2 : 0, p.shape.height, p.shape.width};
}

inline void check_contrast_grad(const char* op, const ContrastProblem& p, const Tensor& grad_output,
                                const Tensor& input, const Tensor& statistics) {
  check_sizes(op, "grad_output", grad_output, sizes_of(input));
  check_same_dtype(op, "grad_output", grad_output, "input", input);
  check_same_device(op, "grad_output", grad_output, "input", input);
  check_sizes(op, "statistics", statistics, statistics_sizes(p, input));
  FASTCONV_CHECK(op, statistics.scalar_type() == statistics_type(input),
                 "statistics must be those that local_contrast_norm returned (got dtype ",
                 torch::headeronly::toString(statistics.scalar_type()), ")");
  check_same_device(op, "statistics", statistics, "input", input);
}

}  // namespace fastconv
