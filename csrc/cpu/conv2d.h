// A convolution and both of its gradients as one kind of matrix product; conv2d_kernel.cpp has the
// kernel's text, conv2d.cpp the three products.
//
//   output[i, j] = sum over k of rows[i, k] * cols[j, k]
//
// The matrices are never built: each is a view of a tensor. An index is three nested counters, say
// (image, y, x) of a pixel or (tap row, tap column, channel), and every counter moves a fixed
// number of elements through the tensor's memory. Where the tensor is padded, a counter also moves
// a position (y, x), and what lies outside the tensor counts as 0.
#pragma once

#include <cstdint>

#include "core/window.h"
#include "cpu/isa.h"

namespace fastconv {

// i = (i0 * size[1] + i1) * size[2] + i2
struct Axis {
  int64_t size[3];
  int64_t count() const { return size[0] * size[1] * size[2]; }
};

// How far each counter of an axis moves through a tensor: in memory, and in rows and columns.
struct Steps {
  int64_t offset[3];
  int64_t y[3];
  int64_t x[3];
};

// One tensor seen as a matrix.
struct Operand {
  const void* memory;        // of the tensor, elements of the product's scalar_t
  Steps lead, sum;           // along the rows or columns of the output; along the sum
  int64_t base, group_step;  // element 0 of the first group; from one group to the next
  int64_t y, x;              // position of element 0
  int64_t height, width;     // of the tensor
  int64_t size;              // elements from the first to the last in memory
};

// The rows, or the columns, of the output: their operand, and how they lie in the output.
struct Side {
  Axis axis;
  Operand operand;
  Steps output;
  int64_t tile;  // elements of this side in a unit of work
};

struct Product {
  Side rows, cols;
  Axis sum;
  int64_t groups;
  void* output;
  int64_t output_base, output_group_step;
  const void* bias;  // one for every row or column of every group, or null
  bool bias_along_rows, relu;

  int64_t row_tiles() const { return (rows.axis.count() + rows.tile - 1) / rows.tile; }
  int64_t col_tiles() const { return (cols.axis.count() + cols.tile - 1) / cols.tile; }
  int64_t units() const { return groups * row_tiles() * col_tiles(); }
  // Multiplications of the units before one of them.
  int64_t work_before(int64_t unit) const {
    if (units() == 0) return 0;
    const int64_t height = rows.axis.count(), width = cols.axis.count();
    const int64_t row_tile = unit % row_tiles(), col_tile = unit / row_tiles() % col_tiles();
    const int64_t left = col_tile * cols.tile, above = row_tile * rows.tile;
    const int64_t tile_width = min_of(cols.tile, width - left);
    const int64_t elements =
        (unit / row_tiles() / col_tiles() * width + left) * height + above * tile_width;
    return elements * max_of(1, sum.count());
  }
  int64_t work() const { return work_before(units()); }
};

// Does the units [begin, end): tiles of the output. Every element is summed in the same order
// whatever the tiles.
FASTCONV_FOR_EACH_ISA(template <typename scalar_t>
                      void conv2d_product(const Product& p, int64_t begin, int64_t end);)

}  // namespace fastconv
