// Maps and statistics of local_contrast_norm_kernel.cpp, in either arrangement: loops over
// elements, positions and rows.
#pragma once

#include "core/contrast_norm.h"
#include "core/window.h"
#include "cpu/parts.h"

namespace fastconv {
namespace FASTCONV_ISA {

constexpr int64_t kBlock = 1024;  // positions; their sums stay in the L1 cache

// Where a loop stands: some elements of one map, and the statistics at their positions.
template <class Part>
struct InPlanes {
  int64_t position, offset;  // offset: of the map's plane

  template <typename T>
  auto element(const T* maps) const {
    return load_part(maps + offset + position, Part{});
  }
  template <typename T>
  void prefetch(const T* maps) const {
    __builtin_prefetch(maps + offset + position);
  }
  template <typename T>
  auto first_map(const T* maps) const {
    return load_part(maps + position, Part{});
  }
  template <typename T>
  auto statistic(const T* p) const {
    return load_part(p + position, Part{});
  }
  template <typename T>
  auto of_lane(const T* p, int64_t lanes) const {
    return load_part(p + position % lanes, Part{});
  }
  template <typename V, typename T>
  void put_element(V v, T* maps, bool is_large) const {
    store_result_part(v, maps + offset + position, Part{}, is_large);
  }
  template <typename V, typename T>
  void put_statistic(V v, T* p) const {
    store_part(v, p + position, Part{});
  }
};

template <class Part>
struct Interleaved {
  int64_t position, first, offset;  // first: the element of map 0, offset: the map

  template <typename T>
  auto element(const T* maps) const {
    return load_part(maps + first + offset, Part{});
  }
  template <typename T>
  void prefetch(const T* maps) const {
    __builtin_prefetch(maps + first + offset);
  }
  template <typename T>
  auto first_map(const T* maps) const {
    return to_acc(maps[first]);
  }
  template <typename T>
  auto statistic(const T* p) const {
    return p[position];
  }
  template <typename T>
  auto of_lane(const T* p, int64_t) const {
    return *p;
  }
  template <typename V, typename T>
  void put_element(V v, T* maps, bool is_large) const {
    store_result_part(v, maps + first + offset, Part{}, is_large);
  }
  template <typename V, typename T>
  void put_statistic(V v, T* p) const {
    p[position] = v;
  }
};

// body(at) for all elements of all maps at the positions [begin, end).
template <typename acc_t, class F>
static void for_elements(const ContrastShape& shape, int64_t begin, int64_t end, const F& body) {
  if (shape.interleaved) {
    for (int64_t i = begin; i < end; ++i) {
      for_parts<acc_t>(0, shape.maps, [&](int64_t m, auto part) {
        body(Interleaved<decltype(part)>{i, i * shape.maps, m});
      });
    }
    return;
  }
  for (int64_t i0 = begin; i0 < end; i0 += kBlock) {
    for (int64_t m = 0; m < shape.maps; ++m) {
      for_parts<acc_t>(i0, min_of(end, i0 + kBlock), [&](int64_t i, auto part) {
        body(InPlanes<decltype(part)>{i, m * shape.plane()});
      });
    }
  }
}

// body(i, lane of i, part) over the elements [begin, end) of a statistic, whole rows.
template <typename acc_t, class F>
static void for_lanes(const ContrastShape& shape, int64_t begin, int64_t end, const F& body) {
  if (shape.lanes == 1) {
    for_parts<acc_t>(begin, end, [&](int64_t i, auto part) { body(i, 0, part); });
    return;
  }
  for (int64_t first = begin; first < end; first += shape.lanes) {
    for_parts<acc_t>(0, shape.lanes, [&](int64_t l, auto part) { body(first + l, l, part); });
  }
}

// At each position in [begin, end): add(at, sums) for each map, then finish(at, sums).
template <int kSums, typename acc_t, class Add, class Finish>
static void sum_over_maps(const ContrastShape& shape, int64_t begin, int64_t end, const Add& add,
                          const Finish& finish) {
  if (shape.interleaved) {
    constexpr int kLanes = Vec<acc_t>::kLanes;
    for (int64_t i = begin; i < end; ++i) {
      // Two, because a sum waits for the one before.
      vec_t<acc_t> even[kSums] = {}, odd[kSums] = {};
      int64_t m = 0;
      for (; m + 2 * kLanes <= shape.maps; m += 2 * kLanes) {
        add(Interleaved<Whole>{i, i * shape.maps, m}, even);
        add(Interleaved<Whole>{i, i * shape.maps, m + kLanes}, odd);
      }
      if (m + kLanes <= shape.maps) {
        add(Interleaved<Whole>{i, i * shape.maps, m}, even);
        m += kLanes;
      }
      acc_t sums[kSums];
      for (int k = 0; k < kSums; ++k) sums[k] = sum_of_lanes<acc_t>(even[k] + odd[k]);
      for (; m < shape.maps; ++m) add(Interleaved<One>{i, i * shape.maps, m}, sums);
      finish(Interleaved<One>{i, i * shape.maps, 0}, sums);
    }
    return;
  }
  for (int64_t i0 = begin; i0 < end; i0 += kBlock) {
    const int64_t i1 = min_of(end, i0 + kBlock);
    acc_t block[kSums][kBlock] = {};
    for (int64_t m = 0; m < shape.maps; ++m) {
      for_parts<acc_t>(i0, i1, [&](int64_t i, auto part) {
        decltype(load_part(block[0], part)) sums[kSums];
        for (int k = 0; k < kSums; ++k) sums[k] = load_part(block[k] + i - i0, part);
        add(InPlanes<decltype(part)>{i, m * shape.plane()}, sums);
        for (int k = 0; k < kSums; ++k) store_part(sums[k], block[k] + i - i0, part);
      });
    }
    for_parts<acc_t>(i0, i1, [&](int64_t i, auto part) {
      decltype(load_part(block[0], part)) sums[kSums];
      for (int k = 0; k < kSums; ++k) sums[k] = load_part(block[k] + i - i0, part);
      finish(InPlanes<decltype(part)>{i, 0}, sums);
    });
  }
}

// The sum over a row, of each lane.
template <typename acc_t>
static void sum_row(const acc_t* row, acc_t* sums, int64_t width, int64_t lanes) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  if (lanes == 1) {
    vec_t<acc_t> sum{};
    int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes) sum += load(row + i);
    sums[0] = sum_of_lanes<acc_t>(sum);
    for (; i < width; ++i) sums[0] += row[i];
    return;
  }
  for_parts<acc_t>(0, lanes, [&](int64_t l, auto part) {
    auto sum = load_part(row + l, part);
    for (int64_t x = 1; x < width; ++x) sum += load_part(row + x * lanes + l, part);
    store_part(sum, sums + l, part);
  });
}

// body(first, last) over the positions [begin, end), so few together that the elements of all maps
// there are near when they are read a second time.
static inline int64_t near_positions(const ContrastShape& shape) {
  return shape.interleaved ? 32 : kBlock;
}
template <class F>
static void for_near_positions(const ContrastShape& shape, int64_t begin, int64_t end,
                               const F& body) {
  const int64_t together = near_positions(shape);
  for (int64_t i = begin; i < end; i += together) body(i, min_of(end, i + together));
}

// body(first, last) over the rows [begin, end): one row after another, so that what a step has
// written is near when it reads it; many together where a vector runs along a row, whose end would
// cut it off.
template <class F>
static void for_rows_in_turn(const ContrastShape& shape, int64_t begin, int64_t end,
                             const F& body) {
  const int64_t together = shape.interleaved || shape.lanes > 1 ? 1 : end - begin;
  for (int64_t y = begin; y < end; y += together) body(y, y + together);
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
