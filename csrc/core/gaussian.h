// Gaussian weights of a separable blur, as two banded matrices.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "core/window.h"

namespace fastconv {

// A square matrix that is zero but for the diagonals -radius ... radius, diagonal after diagonal:
// weights[k * size + i] multiplies element i + k - radius in result i. With lanes > 1 the matrix
// acts on `lanes` interleaved vectors at once, and each weight stands `lanes` times in a row.
// The results [even_begin, even_end) have the same weights: those far enough from the borders.
template <typename acc_t>
struct Band {
  int64_t size, radius;  // size: of the vector, times lanes
  const acc_t* weights;
  int64_t even_begin, even_end;
};

template <typename acc_t>
static Band<acc_t> band_of(int64_t size, int64_t radius, const acc_t* weights) {
  const auto like_middle = [&](int64_t i) {
    for (int64_t k = 0; k <= 2 * radius; ++k) {
      if (weights[k * size + i] != weights[k * size + size / 2]) return false;
    }
    return true;
  };
  int64_t begin = size / 2, end = begin + 1;
  while (begin > 0 && like_middle(begin - 1)) --begin;
  while (end < size && like_middle(end)) ++end;
  return {size, radius, weights, begin, end};
}

// The radius that a window of `kernel_size` (odd) needs on an axis of `size` elements.
FASTCONV_INLINE int64_t band_radius(int64_t kernel_size, int64_t size) {
  return min_of(kernel_size / 2, size - 1);
}

// The window's weight at distance d from its middle, before it is divided by their sum.
FASTCONV_INLINE double gaussian_at(int64_t d, double sigma) {
  const double z = double(d) / sigma;
  return std::exp(-0.5 * z * z);
}

// The weights of a Band. Row i of the matrix holds exp(-d^2 / (2 sigma^2)) at distance d from i,
// divided by the row's sum: a window cut off by the border counts the part inside as the whole.
// `transposed` gives the adjoint.
template <typename acc_t>
static std::vector<acc_t> gaussian_band(int64_t size, int64_t radius, int64_t lanes, double sigma,
                                        bool transposed) {
  std::vector<double> gaussian(radius + 1);
  for (int64_t d = 0; d <= radius; ++d) gaussian[d] = gaussian_at(d, sigma);
  std::vector<acc_t> weights((2 * radius + 1) * size * lanes);
  for (int64_t i = 0; i < size; ++i) {
    const int64_t first = max_of(0, i - radius), last = min_of(size - 1, i + radius);
    double sum = 0;
    for (int64_t j = first; j <= last; ++j) sum += gaussian[std::abs(j - i)];
    for (int64_t j = first; j <= last; ++j) {
      const int64_t at = transposed ? (i - j + radius) * size + j : (j - i + radius) * size + i;
      std::fill_n(&weights[at * lanes], lanes, acc_t(gaussian[std::abs(j - i)] / sum));
    }
  }
  return weights;
}

}  // namespace fastconv
