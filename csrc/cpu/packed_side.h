// One side of the products of conv2d_kernel.cpp: its elements gathered from a tensor into panels,
// or read where they lie.
#pragma once

#include <limits>

#include "core/window.h"
#include "cpu/buffer.h"
#include "cpu/conv2d.h"
#include "cpu/gemm.h"

namespace fastconv {
namespace FASTCONV_ISA {

// Indices of an axis, seen in a tensor: offsets in memory, positions.
template <typename acc_t>
struct Points {
  using int_t = typename Vec<acc_t>::int_t;

  explicit Points(int64_t most) : offset(most), y(most), x(most) {}

  // Lists the indices [begin, begin + count) of the axis, which may be empty.
  void list(const Axis& axis, const Steps& steps, int64_t begin, int64_t count) {
    if (count == 0) return;
    int64_t i0 = begin / (axis.size[1] * axis.size[2]);
    int64_t i1 = begin / axis.size[2] % axis.size[1], i2 = begin % axis.size[2];
    for (int64_t i = 0; i < count;) {
      const int64_t end = i + min_of(count - i, axis.size[2] - i2);
      const int64_t first = i0 * steps.offset[0] + i1 * steps.offset[1];
      const int64_t first_y = i0 * steps.y[0] + i1 * steps.y[1];
      const int64_t first_x = i0 * steps.x[0] + i1 * steps.x[1];
      for (; i < end; ++i, ++i2) {
        offset[i] = first + i2 * steps.offset[2];
        y[i] = int_t(first_y + i2 * steps.y[2]);
        x[i] = int_t(first_x + i2 * steps.x[2]);
      }
      i2 = 0;
      if (++i1 == axis.size[1]) {
        i1 = 0;
        ++i0;
      }
    }
  }

  // Whether `count` indices from `begin` on are adjacent in memory.
  bool adjacent(int64_t begin, int count) const {
    if (offset[begin + count - 1] != offset[begin] + count - 1) return false;
    for (int i = 1; i < count; ++i) {
      if (offset[begin + i] != offset[begin] + i) return false;
    }
    return true;
  }

  Buffer<int64_t> offset;
  Buffer<int_t> y, x;
};

// The smallest rectangle around some positions.
template <typename int_t>
struct Box {
  int_t top, bottom, left, right;

  static Box around_nothing() {
    constexpr int_t kLeast = std::numeric_limits<int_t>::min();
    constexpr int_t kMost = std::numeric_limits<int_t>::max();
    return {kMost, kLeast, kMost, kLeast};
  }
  void add(int_t y, int_t x) {
    top = y < top ? y : top;
    bottom = y > bottom ? y : bottom;
    left = x < left ? x : left;
    right = x > right ? x : right;
  }
};

// Up to kLanes elements of the sum, packed together.
template <typename int_t>
struct Stretch {
  int64_t begin;
  int count;
  bool adjacent;  // kLanes of them, side by side in memory
  Box<int_t> box;

  // Whether all of it is inside the tensor or none, for each row or column of a panel.
  bool at_one_position() const { return box.top == box.bottom && box.left == box.right; }
};

// kWidth rows or columns of an operand, to be packed side by side. Where they are adjacent in
// memory a vector goes across them; where the sum is, a vector goes along it and blocks of kLanes x
// kLanes are transposed; else element goes after element.
template <typename scalar_t, int kWidth>
class Panel {
 public:
  using acc_t = accumulate_t<scalar_t>;
  using int_t = typename Vec<acc_t>::int_t;
  static constexpr int kLanes = Vec<acc_t>::kLanes;
  static constexpr int kVectors = (kWidth + kLanes - 1) / kLanes;

  // `start` is the offset of element 0. Of the panel's elements `count` exist, from `begin` in
  // `lead` on; the others repeat the last one, and nobody reads what they become.
  void view(const Operand& operand, int64_t start, const Points<acc_t>& lead, int64_t begin,
            int count) {
    p = &operand;
    memory = static_cast<const scalar_t*>(p->memory);
    box = Box<int_t>::around_nothing();
    for (int i = 0; i < kWidth; ++i) {
      const int64_t at = begin + (i < count ? i : count - 1);
      offset[i] = start + lead.offset[at];
      y[i] = int_t(p->y + lead.y[at]);
      x[i] = int_t(p->x + lead.x[at]);
      box.add(y[i], x[i]);
    }
    for (int v = 0; v < kVectors; ++v) {
      const int n = int(min_of(count - v * kLanes, lanes_of(v)));
      adjacent[v] = n > 0 && lead.adjacent(begin + v * kLanes, n);
      mask[v].found = false;
    }
  }

  // Asks for the memory that pack() will read.
  [[gnu::always_inline]] void prefetch(const Points<acc_t>& sum,
                                       const Stretch<int_t>& stretch) const {
    for (int v = 0; v < kVectors; ++v) {
      if (adjacent[v]) {
        for (int i = 0; i < stretch.count; ++i) {
          __builtin_prefetch(memory + offset[v * kLanes] + sum.offset[stretch.begin + i]);
        }
      } else {
        for (int i = 0; i < lanes_of(v); ++i) {
          __builtin_prefetch(memory + offset[v * kLanes + i] + sum.offset[stretch.begin]);
        }
      }
    }
  }

  // Where a stretch of each row lies, for one that can be multiplied in place; what is outside the
  // tensor lies in `zeros`.
  void list_rows(const Points<acc_t>& sum, const Stretch<int_t>& stretch, const scalar_t* zeros,
                 const scalar_t** rows) const {
    const scalar_t* from = memory + sum.offset[stretch.begin];
    if (inside(stretch.box)) {
      for (int i = 0; i < kWidth; ++i) rows[i] = from + offset[i];
      return;
    }
    // Without branches, which nothing could foretell at the borders.
    int_t in[kVectors * kLanes];
    for (int v = 0; v < kVectors; ++v) {
      const auto lanes = inside(load_int(y + v * kLanes) + stretch.box.top,
                                load_int(x + v * kLanes) + stretch.box.left);
      memcpy(in + v * kLanes, &lanes, sizeof lanes);
    }
    const auto outside = reinterpret_cast<intptr_t>(zeros),
               first = reinterpret_cast<intptr_t>(from);
    for (int i = 0; i < kWidth; ++i) {
      const intptr_t apart = first + offset[i] * intptr_t(sizeof(scalar_t)) - outside;
      rows[i] = reinterpret_cast<const scalar_t*>(outside + (apart & intptr_t(in[i])));
    }
  }

  void pack(const Points<acc_t>& sum, const Stretch<int_t>& stretch, acc_t* packed) {
    const bool all = inside(stretch.box);
    packed += stretch.begin * kWidth;
    // The last vector may hold more lanes than the panel has left. What it stores beyond them
    // belongs to the next element's first lanes, which are stored later: so it comes first.
    for (int v = kVectors - 1; v >= 0; --v) {
      acc_t* to = packed + v * kLanes;
      if (adjacent[v]) {
        pack_across(v, sum, stretch, all, to);
      } else if (stretch.adjacent) {
        pack_along(v, sum, stretch.begin, all, to);
      } else {
        for (int i = 0; i < stretch.count; ++i) {
          pack_elements(v, sum, stretch.begin + i, all, to + i * kWidth);
        }
      }
    }
  }

 private:
  static constexpr int lanes_of(int v) {
    return v + 1 < kVectors ? kLanes : kWidth - (kVectors - 1) * kLanes;
  }

  // Whether all of the panel is inside the tensor at these positions of the sum.
  bool inside(const Box<int_t>& at) const {
    return box.top + at.top >= 0 && box.bottom + at.bottom < p->height && box.left + at.left >= 0 &&
           box.right + at.right < p->width;
  }
  bool inside(int lead, int_t at_y, int_t at_x) const {
    const int_t row = y[lead] + at_y, column = x[lead] + at_x;
    return (row >= 0) & (row < p->height) & (column >= 0) & (column < p->width);
  }
  int_vec_t<acc_t> inside(int_vec_t<acc_t> rows, int_vec_t<acc_t> columns) const {
    return (rows >= 0) & (rows < int_t(p->height)) & (columns >= 0) & (columns < int_t(p->width));
  }

  // Whether a vector can be loaded from there, be it inside the padded image or not.
  bool in_memory(int64_t first) const { return first >= 0 && first + kLanes <= p->size; }

  void pack_across(int v, const Points<acc_t>& sum, const Stretch<int_t>& stretch, bool all,
                   acc_t* packed) {
    for (int i = 0; i < stretch.count; ++i, packed += kWidth) {
      const int64_t k = stretch.begin + i, first = offset[v * kLanes] + sum.offset[k];
      if (!in_memory(first)) {
        pack_elements(v, sum, k, all, packed);
        continue;
      }
      vec_t<acc_t> value = load(memory + first);
      if (!all) {
        Mask& m = mask[v];
        if (!m.found || m.y != sum.y[k] || m.x != sum.x[k]) {
          m = {true, sum.y[k], sum.x[k],
               inside(load_int(y + v * kLanes) + sum.y[k], load_int(x + v * kLanes) + sum.x[k])};
        }
        value = m.lanes ? value : vec_t<acc_t>{};
      }
      store(value, packed);
    }
  }

  void pack_along(int v, const Points<acc_t>& sum, int64_t k, bool all, acc_t* packed) const {
    vec_t<acc_t> rows[kLanes] = {};
    for (int i = 0; i < lanes_of(v); ++i) {
      const int lead = v * kLanes + i;
      const int64_t first = offset[lead] + sum.offset[k];
      if (in_memory(first)) {
        rows[i] = load(memory + first);
        if (!all) {
          const auto m =
              inside(load_int(sum.y.data() + k) + y[lead], load_int(sum.x.data() + k) + x[lead]);
          rows[i] = m ? rows[i] : vec_t<acc_t>{};
        }
      } else {
        for (int l = 0; l < kLanes; ++l) {
          if (inside(lead, sum.y[k + l], sum.x[k + l])) rows[i][l] = to_acc(memory[first + l]);
        }
      }
    }
    transpose<acc_t>(rows);
    for (int l = 0; l < kLanes; ++l) store(rows[l], packed + l * kWidth);
  }

  void pack_elements(int v, const Points<acc_t>& sum, int64_t k, bool all, acc_t* packed) const {
    for (int i = 0; i < lanes_of(v); ++i) {
      const int lead = v * kLanes + i;
      packed[i] = all || inside(lead, sum.y[k], sum.x[k])
                      ? to_acc(memory[offset[lead] + sum.offset[k]])
                      : acc_t(0);
    }
  }

  static int_vec_t<acc_t> load_int(const int_t* from) {
    int_vec_t<acc_t> v;
    memcpy(&v, from, sizeof v);
    return v;
  }

  struct Mask {  // of the last position of the sum that needed one
    bool found;
    int_t y, x;
    int_vec_t<acc_t> lanes;
  };

  const Operand* p;
  const scalar_t* memory;
  int64_t offset[kWidth];
  int_t y[kVectors * kLanes], x[kVectors * kLanes];  // as many as vectors are loaded from
  Box<int_t> box;
  bool adjacent[kVectors];
  Mask mask[kVectors];
};

// One side of a tile: its points, and its packed panels for kDepth elements of the sum or less.
template <typename scalar_t, int kWidth>
class PackedSide {
 public:
  using acc_t = accumulate_t<scalar_t>;
  using int_t = typename Vec<acc_t>::int_t;
  static constexpr int kLanes = Vec<acc_t>::kLanes;
  // The room at the end takes the surplus lanes, and keeps panels from starting at multiples of a
  // page, where they would drive each other out of the first cache.
  static constexpr int kPanelSize = kWidth * Gemm<acc_t>::kDepth + 128 / sizeof(acc_t);

  PackedSide(const Side& side, const Axis& sum_axis, int64_t most_depth)
      : s(side),
        sum(sum_axis),
        most_panels(ceil_div(min_of(s.tile, s.axis.count()), kWidth)),
        lead(most_panels * kWidth),
        along(most_depth),
        stretches(most_depth),
        views(most_panels),
        rows(most_depth / kLanes * kWidth),
        packed(most_panels * kPanelSize) {}

  // Chooses the elements [begin, begin + tile) of the side in a group.
  void move_to(int64_t group, int64_t begin) {
    first = begin;
    count = min_of(s.tile, s.axis.count() - begin);
    lead.list(s.axis, s.operand.lead, first, count);
    const int64_t start = s.operand.base + group * s.operand.group_step;
    for (int64_t i = 0; i < panels(); ++i) {
      views[i].view(s.operand, start, lead, i * kWidth, int(min_of(kWidth, count - i * kWidth)));
    }
  }

  // Chooses the elements [begin, begin + depth) of the sum; whether they must be packed, because
  // they do not lie in memory as multiply() reads them.
  bool list(int64_t begin, int64_t depth) {
    along.list(sum, s.operand.sum, begin, depth);
    steps = list_stretches(depth);
    bool in_place = std::is_same_v<scalar_t, acc_t>;
    for (int64_t j = 0; j < steps && in_place; ++j) {
      in_place = stretches[j].adjacent && stretches[j].at_one_position();
    }
    return !in_place;
  }

  // Panel after panel within a stretch: neighbouring panels share pages and often cache lines.
  void pack() {
    for (int64_t j = 0; j < steps; ++j) {
      for (int64_t i = 0; i < panels(); ++i) {
        if (j + 1 < steps) views[i].prefetch(along, stretches[j + 1]);
        views[i].pack(along, stretches[j], packed.data() + i * kPanelSize);
      }
    }
  }

  int64_t panels() const { return ceil_div(count, kWidth); }
  const acc_t* panel(int64_t i) const { return packed.data() + i * kPanelSize; }

  // Where the stretches of a panel's rows lie, for rows that are not packed: stretch after stretch.
  const scalar_t* const* rows_of_panel(int64_t i) {
    for (int64_t j = 0; j < steps; ++j) {
      views[i].list_rows(along, stretches[j], kZeros, rows.data() + j * kWidth);
    }
    return rows.data();
  }

  // Lists where the side's elements lie in the output, in the place of where the operand's lie.
  void list_output() { lead.list(s.axis, s.output, first, count); }
  const Points<acc_t>& points() const { return lead; }

  int64_t first = 0, count = 0;

 private:
  static constexpr scalar_t kZeros[kLanes] = {};  // for rows in place, of accumulate_t's type

  int64_t list_stretches(int64_t depth) {
    const auto adjacent = [&](int64_t k) {
      return k + kLanes <= depth && along.adjacent(k, kLanes);
    };
    int64_t steps = 0;
    for (int64_t k = 0; k < depth; k += stretches[steps++].count) {
      int count = kLanes;
      const bool whole = adjacent(k);
      if (!whole) {
        count = 1;
        while (count < kLanes && k + count < depth && !adjacent(k + count)) ++count;
      }
      Box<int_t> box = Box<int_t>::around_nothing();
      for (int i = 0; i < count; ++i) box.add(along.y[k + i], along.x[k + i]);
      stretches[steps] = {k, count, whole, box};
    }
    return steps;
  }

  const Side& s;
  const Axis& sum;
  const int64_t most_panels;
  int64_t steps = 0;  // stretches of the elements of the sum
  Points<acc_t> lead, along;
  Buffer<Stretch<int_t>> stretches;
  Buffer<Panel<scalar_t, kWidth>> views;
  Buffer<const scalar_t*> rows;
  Buffer<acc_t> packed;
};

}  // namespace FASTCONV_ISA
}  // namespace fastconv
