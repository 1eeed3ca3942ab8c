// The problem of local_contrast_norm, shared by host and device.
#pragma once

#include <cstdint>
#include <limits>

#include "core/window.h"

namespace fastconv {

// One image: the maps that share a mean and a deviation at each position.
//
// A statistic is an array [height][width][lanes]. lanes > 1 stands for as many images side by side,
// each of one map (channels_last, maps normalised by themselves). Otherwise the image has `maps`
// planes, one after another or, if interleaved, with the map as fastest axis.
struct ContrastShape {
  int64_t height, width, lanes, maps;
  bool interleaved;

  int64_t row() const { return width * lanes; }
  int64_t plane() const { return height * width * lanes; }
};

struct ContrastProblem {
  ContrastShape shape;
  int64_t images, radius_h, radius_w;
  double sigma, eps;
  bool across_maps, mean_divisor;
};

template <typename acc_t>
static acc_t least_divisor(const ContrastProblem& p) {
  return max_of(acc_t(p.eps), std::numeric_limits<acc_t>::min());
}

}  // namespace fastconv
