// output[i, j] = bias + sum over k of rows[i, k] * cols[j, k], then optionally max(0, .)
//
// A unit of work is a tile of the output in one group. For each stretch of kDepth of the sum, the
// tile's rows and columns are gathered from the tensors into packed panels, then every panel of
// rows meets every panel of columns in registers, and the result is added to the tile's sums. So a
// sum is one of partial sums of kDepth terms each, whatever the tiles. The last step adds the
// bias, clips, rounds once and scatters the tile into the output.
#include "core/window.h"
#include "cpu/buffer.h"
#include "cpu/conv2d.h"
#include "cpu/gemm.h"

namespace fastconv {
namespace FASTCONV_ISA {

// An index of an axis, seen in a tensor.
struct Point {
  int64_t offset;
  int32_t y, x;
};

// The indices [begin, begin + count) of an axis.
static void list_points(const Axis& axis, const Steps& steps, int64_t begin, int64_t count,
                        Point* points) {
  int64_t i0 = begin / (axis.size[1] * axis.size[2]);
  int64_t i1 = begin / axis.size[2] % axis.size[1], i2 = begin % axis.size[2];
  for (int64_t i = 0; i < count; ++i) {
    points[i].offset = i0 * steps.offset[0] + i1 * steps.offset[1] + i2 * steps.offset[2];
    points[i].y = int32_t(i0 * steps.y[0] + i1 * steps.y[1] + i2 * steps.y[2]);
    points[i].x = int32_t(i0 * steps.x[0] + i1 * steps.x[1] + i2 * steps.x[2]);
    if (++i2 == axis.size[2]) {
      i2 = 0;
      if (++i1 == axis.size[1]) {
        i1 = 0;
        ++i0;
      }
    }
  }
}

// kWidth rows or columns of an operand, to be packed side by side.
template <typename scalar_t, int kWidth>
class Panel {
 public:
  using acc_t = accumulate_t<scalar_t>;
  using int_t = typename Vec<acc_t>::int_t;
  static constexpr int kLanes = Vec<acc_t>::kLanes;
  static constexpr int kVectors = (kWidth + kLanes - 1) / kLanes;
  // The last vector's surplus lanes are overwritten by the next element of the sum.
  static constexpr int kSurplus = kVectors * kLanes - kWidth;

  // `start` is the offset of element 0, and `lead` the panel's points, of which `count` exist; the
  // others repeat the last one, and nobody reads what they become.
  Panel(const Operand& view, int64_t start, const Point* lead, int count)
      : p(view), memory(static_cast<const scalar_t*>(view.memory)) {
    top = left = INT32_MAX;
    bottom = right = INT32_MIN;
    for (int i = 0; i < kVectors * kLanes; ++i) {
      const Point& point = lead[i < count ? i : count - 1];
      offset[i] = start + point.offset;
      y[i] = int_t(p.y + point.y);
      x[i] = int_t(p.x + point.x);
      top = y[i] < top ? y[i] : top;
      bottom = y[i] > bottom ? y[i] : bottom;
      left = x[i] < left ? x[i] : left;
      right = x[i] > right ? x[i] : right;
    }
    for (int v = 0; v < kVectors; ++v) {
      adjacent[v] = true;
      for (int i = 1; i < kLanes && v * kLanes + i < count; ++i) {
        adjacent[v] &= offset[v * kLanes + i] == offset[v * kLanes] + i;
      }
    }
  }

  void pack(const Point* sum, int64_t depth, acc_t* packed) {
    const Point* previous = nullptr;
    for (int64_t k = 0; k < depth; ++k, packed += kWidth) {
      const bool all = inside(sum[k]);
      if (!all && (previous == nullptr || previous->y != sum[k].y || previous->x != sum[k].x)) {
        previous = &sum[k];
        find_mask(sum[k]);
      }
      for (int v = 0; v < kVectors; ++v) {
        const int64_t first = offset[v * kLanes] + sum[k].offset;
        if (adjacent[v] && first >= 0 && first + kLanes <= p.size) {
          const vec_t<acc_t> value = load(memory + first);
          store(all ? value : mask[v] ? value : vec_t<acc_t>{}, packed + v * kLanes);
        } else if (all) {
          copy(sum[k].offset, v, packed + v * kLanes);
        } else {
          copy_masked(sum[k].offset, v, packed + v * kLanes);
        }
      }
    }
  }

 private:
  // Whether the whole panel is inside the tensor at this element of the sum.
  bool inside(const Point& at) const {
    return top + at.y >= 0 && bottom + at.y < p.height && left + at.x >= 0 &&
           right + at.x < p.width;
  }

  void find_mask(const Point& at) {
    for (int v = 0; v < kVectors; ++v) {
      int_vec_t<acc_t> rows, columns;
      memcpy(&rows, y + v * kLanes, sizeof rows);
      memcpy(&columns, x + v * kLanes, sizeof columns);
      rows += int_t(at.y);
      columns += int_t(at.x);
      mask[v] =
          (rows >= 0) & (rows < int_t(p.height)) & (columns >= 0) & (columns < int_t(p.width));
    }
  }

  void copy(int64_t at, int v, acc_t* packed) const {
    for (int i = 0; i < kLanes; ++i) packed[i] = to_acc(memory[offset[v * kLanes + i] + at]);
  }

  void copy_masked(int64_t at, int v, acc_t* packed) const {
    for (int i = 0; i < kLanes; ++i) {
      packed[i] = mask[v][i] ? to_acc(memory[offset[v * kLanes + i] + at]) : acc_t(0);
    }
  }

  const Operand& p;
  const scalar_t* memory;
  int64_t offset[kVectors * kLanes];
  int_t y[kVectors * kLanes], x[kVectors * kLanes];
  int_t top, bottom, left, right;
  bool adjacent[kVectors];
  int_vec_t<acc_t> mask[kVectors];
};

// One side of a tile: its points, and its packed panels for a stretch of the sum.
template <typename scalar_t, int kWidth>
class PackedSide {
 public:
  using acc_t = accumulate_t<scalar_t>;
  using panel_t = Panel<scalar_t, kWidth>;

  PackedSide(const Side& side, const Axis& sum, int64_t depth)
      : s(side),
        sum_axis(sum),
        most_panels(ceil_div(min_of(s.tile, s.axis.count()), kWidth)),
        lead(most_panels * kWidth),
        along(depth),
        packed(most_panels * kWidth * depth + panel_t::kSurplus) {}

  // The elements [begin, begin + tile) of the side in a group.
  void move_to(int64_t group, int64_t begin) {
    start = s.operand.base + group * s.operand.group_step;
    first = begin;
    count = min_of(s.tile, s.axis.count() - begin);
    list_points(s.axis, s.operand.lead, begin, count, lead.data());
  }

  void pack(int64_t begin, int64_t depth) {
    list_points(sum_axis, s.operand.sum, begin, depth, along.data());
    for (int64_t i = 0; i < panels(); ++i) {
      const int n = int(min_of(kWidth, count - i * kWidth));
      panel_t panel(s.operand, start, lead.data() + i * kWidth, n);
      panel.pack(along.data(), depth, packed.data() + i * kWidth * depth);
    }
  }

  int64_t panels() const { return ceil_div(count, kWidth); }
  const acc_t* panel(int64_t i, int64_t depth) { return packed.data() + i * kWidth * depth; }

  // Where the side's elements lie in the output; the list is made over the points of the operand.
  const Point* output_points() {
    list_points(s.axis, s.output, first, count, lead.data());
    return lead.data();
  }

  int64_t first = 0, count = 0;

 private:
  const Side& s;
  const Axis& sum_axis;
  int64_t most_panels, start = 0;
  Buffer<Point> lead, along;
  Buffer<acc_t> packed;
};

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
        sums(most_panels * kPanel) {}

  void run(int64_t unit) {
    const int64_t group = unit / (p.row_tiles() * p.col_tiles());
    const int64_t tile = unit % (p.row_tiles() * p.col_tiles());
    rows.move_to(group, tile % p.row_tiles() * p.rows.tile);
    cols.move_to(group, tile / p.row_tiles() * p.cols.tile);
    memset(sums.data(), 0, rows.panels() * cols.panels() * kPanel * sizeof(acc_t));
    for (int64_t k = 0; k < depth_of_sum; k += most_depth) {
      const int64_t depth = min_of(most_depth, depth_of_sum - k);
      rows.pack(k, depth);
      cols.pack(k, depth);
      for (int64_t i = 0; i < rows.panels(); ++i) {
        for (int64_t j = 0; j < cols.panels(); ++j) {
          multiply_panels(rows.panel(i, depth), cols.panel(j, depth), depth, sums_of(i, j));
        }
      }
    }
    const int64_t biases = p.bias_along_rows ? p.rows.axis.count() : p.cols.axis.count();
    const scalar_t* bias = static_cast<const scalar_t*>(p.bias);
    store_tile(bias == nullptr ? nullptr : bias + group * biases,
               static_cast<scalar_t*>(p.output) + p.output_base + group * p.output_group_step);
  }

 private:
  static constexpr int kPanel = G::kRows * G::kCols;

  acc_t* sums_of(int64_t i, int64_t j) { return sums.data() + (i * cols.panels() + j) * kPanel; }

  void store_tile(const scalar_t* bias, scalar_t* output) {
    const Point* row_points = rows.output_points();
    const Point* col_points = cols.output_points();
    for (int64_t i = 0; i < rows.count; ++i) {
      const acc_t row_bias =
          bias != nullptr && p.bias_along_rows ? to_acc(bias[rows.first + i]) : acc_t(0);
      scalar_t* row = output + row_points[i].offset;
      for (int64_t j = 0; j < cols.count; j += kLanes) {
        const int n = int(min_of(kLanes, cols.count - j));
        vec_t<acc_t> value =
            load(sums_of(i / G::kRows, j / G::kCols) + i % G::kRows * G::kCols + j % G::kCols);
        if (bias != nullptr) {
          value += p.bias_along_rows ? splat(row_bias) : load_n(bias + cols.first + j, n);
        }
        if (p.relu) value = value < 0 ? vec_t<acc_t>{} : value;  // a NaN stays
        const Point* at = col_points + j;
        if (at[n - 1].offset == at[0].offset + n - 1 && adjacent(at, n)) {
          n == kLanes ? store(value, row + at->offset) : store_n(value, row + at->offset, n);
        } else {
          for (int l = 0; l < n; ++l) from_acc(acc_t(value[l]), row[at[l].offset]);
        }
      }
    }
  }

  static bool adjacent(const Point* points, int n) {
    for (int i = 1; i < n; ++i) {
      if (points[i].offset != points[0].offset + i) return false;
    }
    return true;
  }

  const Product& p;
  const int64_t depth_of_sum, most_depth;
  PackedSide<scalar_t, G::kRows> rows;
  PackedSide<scalar_t, G::kCols> cols;
  const int64_t most_panels;
  Buffer<acc_t> sums;
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
