// Rows of numbers: conversion between scalar_t in memory and acc_t in scratch, and rows that are
// read or written with a stride.
#pragma once

#include "core/window.h"
#include "cpu/vec.h"

namespace fastconv {
namespace FASTCONV_ISA {

// Columns of a row with its padding and what ceil_mode adds on the right: tap s of output o is
// column o * stride + s.
static inline int64_t padded_width(const Window& w) {
  return max_of(w.padding + w.input, (w.output - 1) * w.stride + w.kernel);
}

template <typename scalar_t>
static inline void read_row(const scalar_t* from, accumulate_t<scalar_t>* to, int64_t count) {
  constexpr int kLanes = Vec<accumulate_t<scalar_t>>::kLanes;
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = int(min_of(kLanes, count - i));
    store_n(load_n(from + i, n), to + i, n);
  }
}

template <typename scalar_t>
static inline void write_row(const accumulate_t<scalar_t>* from, scalar_t* to, int64_t count) {
  constexpr int kLanes = Vec<accumulate_t<scalar_t>>::kLanes;
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = int(min_of(kLanes, count - i));
    store_n(load_n(from + i, n), to + i, n);
  }
}

// body(step) with the step as a compile-time constant where it is a common one: the compiler then
// shuffles whole vectors instead of fetching element by element.
template <int kStep>
struct Step {
  constexpr operator int64_t() const { return kStep; }
};
template <class F>
static inline void with_step(int64_t step, const F& body) {
  switch (step) {
    case 1:
      return body(Step<1>{});
    case 2:
      return body(Step<2>{});
    case 3:
      return body(Step<3>{});
    case 4:
      return body(Step<4>{});
    default:
      return body(step);
  }
}

// to[i] = from[i * step]
template <typename T>
static inline void take_every(const T* __restrict from, int64_t step, T* __restrict to,
                              int64_t count) {
  with_step(step, [&](auto constant) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i * constant];
  });
}

// to[i] += from[i * step]
template <typename T>
static inline void add_every(const T* __restrict from, int64_t step, T* __restrict to,
                             int64_t count) {
  with_step(step, [&](auto constant) {
    for (int64_t i = 0; i < count; ++i) to[i] += from[i * constant];
  });
}

// to[i * step] += from[i]
template <typename T>
static inline void add_to_every(const T* __restrict from, int64_t step, T* __restrict to,
                                int64_t count) {
  with_step(step, [&](auto constant) {
    for (int64_t i = 0; i < count; ++i) to[i * constant] += from[i];
  });
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
