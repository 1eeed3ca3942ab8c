// Loops whose body is written once, for a whole vector and for one element of the rest.
#pragma once

#include "cpu/vec.h"

namespace fastconv {
namespace FASTCONV_ISA {

struct Whole {};
struct One {};
struct Some {  // the first n lanes of a vector
  int n;
};
template <typename acc_t>
static inline int lanes_of(Whole) {
  return Vec<acc_t>::kLanes;
}
template <typename acc_t>
static inline int lanes_of(Some part) {
  return part.n;
}
template <typename scalar_t>
static inline auto load_part(const scalar_t* p, Whole) {
  return load(p);
}
template <typename scalar_t>
static inline auto load_part(const scalar_t* p, One) {
  return to_acc(*p);
}
template <typename scalar_t>
static inline auto load_part(const scalar_t* p, Some part) {
  return load_n(p, part.n);
}
template <typename scalar_t>
static inline void store_part(vec_t<accumulate_t<scalar_t>> v, scalar_t* p, Some part) {
  store_n(v, p, part.n);
}
template <typename scalar_t>
static inline void store_part(vec_t<accumulate_t<scalar_t>> v, scalar_t* p, Whole) {
  store(v, p);
}
template <typename scalar_t>
static inline void store_part(accumulate_t<scalar_t> v, scalar_t* p, One) {
  from_acc(v, *p);
}

// store_part() of a result, which is large or not.
template <typename V, typename scalar_t, class Part>
static inline void store_result_part(V v, scalar_t* p, Part part, bool is_large) {
  if constexpr (std::is_same_v<Part, Whole>) {
    if (is_large) return store_past_caches(v, p);
  }
  store_part(v, p, part);
}

// body(i, Whole{}) or body(i, One{}) over [begin, end).
template <typename acc_t, class F>
static inline void for_parts(int64_t begin, int64_t end, const F& body) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes) body(i, Whole{});
  for (; i < end; ++i) body(i, One{});
}

// The same where results are not operands: the last vector may overlap the one before.
template <typename acc_t, class F>
static inline void for_parts_apart(int64_t n, const F& body) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  if (n < kLanes) return body(0, Some{int(n)});
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, Whole{});
  if (i < n) body(n - kLanes, Whole{});
}

// The same, four vectors at a time where there are as many: body(i, block), where vector k of the
// block, k < block.kVectors, is load_part(p + i + k * kLanes, block.part).
struct FourVectors {
  static constexpr int kVectors = 4;
  Whole part;
};
template <class Part>
struct OneVector {
  static constexpr int kVectors = 1;
  Part part;
};
template <typename acc_t, class F>
static inline void for_blocks_apart(int64_t n, const F& body) {
  constexpr int kLanes = Vec<acc_t>::kLanes;
  int64_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) body(i, FourVectors{});
  if (n < kLanes) return body(0, OneVector<Some>{{int(n)}});
  for (; i + kLanes <= n; i += kLanes) body(i, OneVector<Whole>{});
  if (i < n) body(n - kLanes, OneVector<Whole>{});
}

// Halves upon halves.
template <typename acc_t, int kHalf = Vec<acc_t>::kLanes / 2>
static inline acc_t sum_of_lanes(vec_t<acc_t> v) {
  if constexpr (kHalf == 0) {
    return v[0];
  } else {
    v += rotate<kHalf>(v, std::make_integer_sequence<int, Vec<acc_t>::kLanes>());
    return sum_of_lanes<acc_t, kHalf / 2>(v);
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
