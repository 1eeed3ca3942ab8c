// Rows over which windows slide, in scratch memory: padded, in acc_t, and split into phases so that
// one tap of neighbouring windows is one vector load whatever the stride.
#pragma once

#include "core/window.h"
#include "cpu/buffer.h"
#include "cpu/vec.h"

namespace fastconv {
namespace FASTCONV_ISA {

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

// body(step) with the common steps as compile-time constants, for which the compiler shuffles whole
// vectors instead of moving element by element.
template <int kStep>
struct Step {
  constexpr operator int64_t() const { return kStep; }
};
template <class F>
static inline void with_step(int64_t step, const F& body) {
  switch (step) {
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

// Some rows of a map, with their padding and what ceil_mode adds. Column x of a line is column
// x - padding of the map; in phases it stands at [x % stride][x / stride]. So tap s of output o is
// tap(row, s)[o], and of the next output it is the next element. What is not written is `padding`;
// vectors may reach over the last output.
template <typename acc_t>
class PhasedRows {
 public:
  PhasedRows(const Window& w, int64_t rows, acc_t padding = 0)
      : padding_(w.padding),
        stride_(w.stride),
        count_(
            ceil_div(max_of(w.padding + w.input, (w.output - 1) * w.stride + w.kernel), w.stride)),
        phase_(count_ + Vec<acc_t>::kLanes),
        line_(stride_ * phase_),
        phases_(rows * stride_ * phase_) {
    if (padding == 0) return;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t i = 0; i < stride_ * phase_; ++i) line(row)[i] = padding;
    }
  }

  // The columns of the map in a row: to be written before split(row), or read after join(row).
  acc_t* columns(int64_t row) { return line(row) + padding_; }
  acc_t* tap(int64_t row, int64_t s) { return block(row) + s % stride_ * phase_ + s / stride_; }
  const acc_t* tap(int64_t row, int64_t s) const {
    return const_cast<PhasedRows*>(this)->tap(row, s);
  }

  void split(int64_t row) {
    if (stride_ == 1) return;  // there a line is its only phase
    const acc_t* __restrict from = line(row);
    acc_t* __restrict to = block(row);
    const int64_t count = count_, phase = phase_;
    with_step(stride_, [=](auto stride) {
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t k = 0; k < stride; ++k) to[k * phase + i] = from[i * stride + k];
      }
    });
  }
  void join(int64_t row) {
    if (stride_ == 1) return;
    const acc_t* __restrict from = block(row);
    acc_t* __restrict to = line(row);
    const int64_t count = count_, phase = phase_;
    with_step(stride_, [=](auto stride) {
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t k = 0; k < stride; ++k) to[i * stride + k] = from[k * phase + i];
      }
    });
  }
  void clear(int64_t row) { memset(block(row), 0, stride_ * phase_ * sizeof(acc_t)); }

 private:
  acc_t* block(int64_t row) { return phases_.data() + row * stride_ * phase_; }
  acc_t* line(int64_t row) { return stride_ == 1 ? block(row) : line_.data(); }

  const int64_t padding_, stride_, count_, phase_;
  Buffer<acc_t> line_, phases_;
};

}  // namespace FASTCONV_ISA
}  // namespace fastconv
