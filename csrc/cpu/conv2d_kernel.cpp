// output[i, j] = bias + sum over k of rows[i, k] * cols[j, k], then optionally max(0, .)
//
// A unit of work is a tile of the output in one group. For each stretch of kDepth of the sum, the
// tile's rows and columns are gathered from the tensors into packed panels, then every panel of
// rows meets every panel of columns in registers, and the result is added to the tile's sums. Rows
// whose elements are adjacent along the sum, such as pixels in channels_last, stay in place. So a
// sum is one of partial sums of kDepth terms each, whatever the tiles. The last step adds the
// bias, clips, rounds once and scatters the tile into the output.
#include "cpu/packed_side.h"

namespace fastconv {
namespace FASTCONV_ISA {

template <typename scalar_t>
class ProductKernel {
 public:
  using acc_t = accumulate_t<scalar_t>;
  using G = Gemm<acc_t>;
  static constexpr int kLanes = Vec<acc_t>::kLanes;

  explicit ProductKernel(const Product& product)
      : p(product),
        depth_of_sum(p.sum.count()),
        most_depth(max_of(1, min_of(G::kDepth, depth_of_sum))),
        rows(p.rows, p.sum, most_depth),
        cols(p.cols, p.sum, most_depth),
        most_panels(ceil_div(min_of(p.rows.tile, p.rows.axis.count()), G::kRows) *
                    ceil_div(min_of(p.cols.tile, p.cols.axis.count()), G::kCols)),
        sums(most_panels * kPanel),
        adjacent(ceil_div(min_of(p.cols.tile, p.cols.axis.count()), kLanes)) {}

  void run(int64_t unit) {
    const int64_t group = unit / (p.row_tiles() * p.col_tiles());
    const int64_t tile = unit % (p.row_tiles() * p.col_tiles());
    rows.move_to(group, tile % p.row_tiles() * p.rows.tile);
    cols.move_to(group, tile / p.row_tiles() * p.cols.tile);
    memset(sums.data(), 0, rows.panels() * cols.panels() * kPanel * sizeof(acc_t));
    int64_t k = 0;
    do {
      const int64_t depth = min_of(most_depth, depth_of_sum - k);
      const bool packed = rows.list(k, depth);
      if (packed) rows.pack();
      cols.list(k, depth);
      cols.pack();
      k += depth;
      if (k == depth_of_sum) list_output(group);
      for (int64_t i = 0; i < rows.panels(); ++i) {
        const auto rows_in_place = packed ? nullptr : rows.rows_of_panel(i);
        for (int64_t j = 0; j < cols.panels(); ++j) {
          acc_t* c = sums.data() + (i * cols.panels() + j) * kPanel;
          if (packed) {
            multiply_panels(rows.panel(i), cols.panel(j), depth, c, rows.count - i * G::kRows);
          } else if constexpr (std::is_same_v<scalar_t, acc_t>) {
            multiply_rows(rows_in_place, cols.panel(j), depth, c);
          }
          if (k == depth_of_sum) store_panel(i * G::kRows, j * G::kCols, c);
        }
      }
    } while (k < depth_of_sum);  // an empty sum is stored, too
  }

 private:
  static constexpr int kPanel = G::kRows * G::kCols;

  // Finds where the tile lies in the output. The operands' panels are packed or viewed by then.
  void list_output(int64_t group) {
    output = static_cast<scalar_t*>(p.output) + p.output_base + group * p.output_group_step;
    const int64_t biases = p.bias_along_rows ? p.rows.axis.count() : p.cols.axis.count();
    bias = p.bias == nullptr ? nullptr : static_cast<const scalar_t*>(p.bias) + group * biases;
    rows.list_output();
    cols.list_output();
    for (int64_t j = 0; j < cols.count; j += kLanes) {
      adjacent[j / kLanes] = cols.points().adjacent(j, int(min_of(kLanes, cols.count - j)));
    }
  }

  // Stores the panel whose first element is (row, col) of the tile.
  void store_panel(int64_t row, int64_t col, const acc_t* c) {
    for (int64_t i = row; i < min_of(row + G::kRows, rows.count); ++i, c += G::kCols) {
      scalar_t* out = output + rows.points().offset[i];
      for (int64_t j = col; j < min_of(col + G::kCols, cols.count); j += kLanes) {
        const int n = int(min_of(kLanes, cols.count - j));
        vec_t<acc_t> value = load(c + (j - col));
        if (bias != nullptr) {
          value += p.bias_along_rows ? splat(to_acc(bias[rows.first + i]))
                                     : load_n(bias + cols.first + j, n);
        }
        if (p.relu) value = value < 0 ? vec_t<acc_t>{} : value;  // a NaN stays
        if (!adjacent[j / kLanes]) {
          for (int l = 0; l < n; ++l) from_acc(acc_t(value[l]), out[cols.points().offset[j + l]]);
        } else if (n == kLanes) {
          store(value, out + cols.points().offset[j]);
        } else {
          store_n(value, out + cols.points().offset[j], n);
        }
      }
    }
  }

  const Product& p;
  const int64_t depth_of_sum, most_depth;
  PackedSide<scalar_t, G::kRows> rows;
  PackedSide<scalar_t, G::kCols> cols;
  const int64_t most_panels;
  Buffer<acc_t> sums;
  scalar_t* output;
  const scalar_t* bias;
  Buffer<bool> adjacent;  // each vector of columns, in the output
};

template <typename scalar_t>
void conv2d_product(const Product& p, int64_t begin, int64_t end) {
  ProductKernel<scalar_t> kernel(p);
  for (int64_t unit = begin; unit < end; ++unit) kernel.run(unit);
}

#define INSTANTIATE(scalar_t) \
  template void conv2d_product<scalar_t>(const Product&, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
