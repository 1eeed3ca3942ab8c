// Kernels of local_contrast_norm on the CPU; local_contrast_norm_kernel.cpp has their text.
#pragma once

#include "core/contrast_norm.h"
#include "core/gaussian.h"
#include "core/numeric.h"
#include "cpu/isa.h"

namespace fastconv {

// Values of the lanes, repeated so that a vector may start at any lane: lanes + kSlack elements.
constexpr int64_t kSlack = 16;

template <typename scalar_t>
struct ContrastForward {
  using acc_t = accumulate_t<scalar_t>;
  const ContrastShape* shape;
  Band<acc_t> vertical, horizontal;
  const scalar_t* input;
  scalar_t* output;
  int64_t output_bytes;     // of all images
  acc_t *mean, *deviation;  // statistics
  acc_t* work;              // a statistic's room, of several maps
  acc_t* row_sums;          // [height][lanes]: of the deviation
  acc_t* floor;             // of the lanes: the least divisor
};

template <typename scalar_t>
struct ContrastBackward {
  using acc_t = accumulate_t<scalar_t>;
  const ContrastShape* shape;
  Band<acc_t> vertical, horizontal;  // transposed
  const scalar_t *input, *grad_output;
  scalar_t* grad_input;
  int64_t output_bytes;  // of all images
  const acc_t *mean, *deviation;
  acc_t *inverse, *direct, *spread, *change;  // a statistic's room each
  acc_t* row_sums;                            // [height][lanes]: what reaches the floor
  const acc_t* floor;
  acc_t* floor_share;  // of the lanes: the gradient of each deviation through the floor
  acc_t* inverse_floor;
};

// Each step needs the one before finished for all rows; a call does the rows [begin, end). Forward,
// one map alone takes the first, several maps the three after it; backward, one map the first two,
// several maps the others. `line` begins with room for a padded row, all 0; for `sweep` it goes on
// with sweep_room() or sweep_back_room().
enum class ContrastForwardStep { sweep, average_maps, subtract_mean, deviate, sum_rows, divide };
enum class ContrastBackwardStep {
  sum_floor,
  sweep,
  gather,
  through_deviation,
  through_mean,
  add_up
};

// Elements of a padded row.
template <typename acc_t>
static int64_t padded_row(const ContrastShape& shape, const Band<acc_t>& horizontal) {
  return shape.row() + 2 * horizontal.radius * shape.lanes;
}
// Rows that a window may cover: those of a ring buffer.
template <typename acc_t>
static int64_t ring_rows(const Band<acc_t>& vertical) {
  return min_of(2 * vertical.radius + 1, vertical.size);
}
// Elements of what `sweep` works in: two ring buffers and one row.
template <typename acc_t>
static int64_t sweep_room(const ContrastShape& shape, const Band<acc_t>& vertical) {
  return (2 * ring_rows(vertical) + 1) * shape.row();
}

// Backward, three.
template <typename acc_t>
static int64_t sweep_back_room(const ContrastShape& shape, const Band<acc_t>& vertical) {
  return 3 * ring_rows(vertical) * shape.row();
}

FASTCONV_FOR_EACH_ISA(
    template <typename scalar_t>
    void local_contrast_norm_forward(ContrastForwardStep step, const ContrastForward<scalar_t>& f,
                                     accumulate_t<scalar_t>* line, int64_t begin, int64_t end);
    template <typename scalar_t>
    void local_contrast_norm_backward(ContrastBackwardStep step,
                                      const ContrastBackward<scalar_t>& b,
                                      accumulate_t<scalar_t>* line, int64_t begin, int64_t end);)

}  // namespace fastconv
