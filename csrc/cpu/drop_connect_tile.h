// A tile of drop_connect in the cache: its mask as bits, loads through the mask, and copies of the
// operands in acc_t with zeros up to whole 64-bit words of the mask.
#pragma once

#include "core/window.h"
#include "cpu/drop_connect.h"
#include "cpu/vec.h"
#include "cpu/vec_philox.h"

namespace fastconv {
namespace FASTCONV_ISA {

constexpr int kWordBits = 64;  // neighbours along a row whose bits share a word

// The mask of outputs x columns weights for one example after the other.
class KeepBits {
 public:
  // Columns count from a multiple of kDropGroup.
  KeepBits(const DropConnect& p, int64_t first_output, int outputs, int64_t first_column,
           int columns)
      : probability(p.p),
        keys(philox_keys(p.seed)),
        groups(int(ceil_div(columns, kDropGroup))),
        calls(outputs * groups) {
    for (int call = 0; call < calls; ++call) {
      group_of[call] = uint64_t(first_column / kDropGroup + call % groups);
      output_of[call] = uint64_t(first_output + call / groups);
    }
  }

  void draw(int64_t example) {
    for (int at = 0; at < calls; at += kLanes) {
      u64_vec group, output;
      memcpy(&group, group_of + at, sizeof group);
      memcpy(&output, output_of + at, sizeof output);
      u64_vec dropped[2] = {}, undecided[2] = {~u64_vec{}, ~u64_vec{}};
      int digit = 0;
      for (uint64_t digits = probability.digits; digits != 0; digits <<= 1, ++digit) {
        const PhiloxLanes drawn = philox4x32(
            keys, {{group, output, u64_vec{} + uint64_t(example), u64_vec{} + uint64_t(digit)}});
        for (int half = 0; half < 2; ++half) {
          const u64_vec u_digit = (drawn.word[2 * half] & 0xffffffffu) | drawn.word[2 * half + 1]
                                                                             << 32;
          compare_digit(u_digit, bool(digits >> 63), dropped[half], undecided[half]);
        }
        if (digit >= kDigitsBeforeAsking && !any_lane(undecided[0] | undecided[1])) break;
      }
      for (int half = 0; half < 2; ++half) {
        const u64_vec kept = probability.always ? u64_vec{} : ~dropped[half];
        memcpy(bits[half] + at, &kept, sizeof kept);
      }
    }
  }

  // Bit b of the word: whether column 64 * w + b of this output is kept.
  const uint64_t* word(int output, int w) const { return bits[w % 2] + output * groups + w / 2; }

 private:
  static constexpr int kLanes = kVectorBytes / 8;
  static constexpr int kMostCalls = kDropTileOutputs * (kDropTileInputs / kDropGroup);
  static_assert(kMostCalls % kLanes == 0 && kDropGroup == 2 * kWordBits, "whole vectors only");
  static constexpr int kDigitsBeforeAsking = 6;  // too early for so many weights to be decided

  const DropProbability probability;
  const PhiloxKeys keys;
  const int groups, calls;
  uint64_t group_of[kMostCalls] = {}, output_of[kMostCalls] = {};
  uint64_t bits[2][kMostCalls] = {};
};

// The lanes of p[] whose bits in the word, from bit `at` on, are 1; the others are 0, whatever
// stands there. With constant `at` a load and a comparison are left, or on AVX-512 a load of the
// mask.
#if defined(__AVX512F__)
static inline vec_t<float> load_where(const float* p, const uint64_t* word, int at) {
  __mmask16 mask;
  memcpy(&mask, reinterpret_cast<const char*>(word) + at / 8, sizeof mask);
  return (vec_t<float>)_mm512_maskz_loadu_ps(mask, p);
}
static inline vec_t<double> load_where(const double* p, const uint64_t* word, int at) {
  __mmask8 mask;
  memcpy(&mask, reinterpret_cast<const char*>(word) + at / 8, sizeof mask);
  return (vec_t<double>)_mm512_maskz_loadu_pd(mask, p);
}
#else
template <typename acc_t>
static inline vec_t<acc_t> load_where(const acc_t* p, const uint64_t* word, int at) {
  using int_t = typename MaskInt<acc_t>::type;
  int_vec_t<acc_t> lane_bit{};
  for (int i = 0; i < Vec<acc_t>::kLanes; ++i) lane_bit[i] = int_t(uint32_t(1) << (at % 32 + i));
  const int_vec_t<acc_t> bits = int_vec_t<acc_t>{} + int_t(uint32_t(*word >> (at & 32)));
  return (bits & lane_bit) != 0 ? load(p) : vec_t<acc_t>{};
}
#endif

static inline int words_of(int columns) { return int(ceil_div(columns, kWordBits)); }

// rows x columns of a matrix with rows `stride` apart, as acc_t in rows kDropTileInputs apart.
template <typename scalar_t>
static void pack_tile(const scalar_t* from, int64_t stride, int rows, int columns,
                      accumulate_t<scalar_t>* to) {
  constexpr int kLanes = Vec<accumulate_t<scalar_t>>::kLanes;
  const int padded = words_of(columns) * kWordBits;
  for (int row = 0; row < rows; ++row, from += stride, to += kDropTileInputs) {
    int column = 0;
    for (; column + kLanes <= columns; column += kLanes) store(load(from + column), to + column);
    if (column < columns) {
      store(load_n(from + column, columns - column), to + column);
      column += kLanes;
    }
    for (; column < padded; column += kLanes) store(vec_t<accumulate_t<scalar_t>>{}, to + column);
  }
}

// The other way round, without the padding.
template <typename scalar_t>
static void unpack_tile(const accumulate_t<scalar_t>* from, int rows, int columns, scalar_t* to,
                        int64_t stride) {
  constexpr int kLanes = Vec<accumulate_t<scalar_t>>::kLanes;
  for (int row = 0; row < rows; ++row, from += kDropTileInputs, to += stride) {
    for (int column = 0; column < columns; column += kLanes) {
      store_n(load(from + column), to + column, int(min_of(kLanes, columns - column)));
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
