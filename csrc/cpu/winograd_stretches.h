// The products of csrc/cpu/winograd.h: what of the sum is multiplied, and how.
#pragma once

#include <algorithm>

#include "cpu/winograd_tiles.h"

namespace fastconv {
namespace FASTCONV_ISA {

// Elements [begin, end) of a chunk of the sum. Products are added up in chains of stretches, as
// long as Gemm::kChain or a short sum's whole length.
struct Stretch {
  int32_t chunk;
  int16_t begin, end;
  bool ends_chain;

  bool is_whole() const { return begin == 0 && end == kWinogradChunk; }
  bool operator==(const Stretch& other) const {
    return chunk == other.chunk && begin == other.begin && end == other.end;
  }
};

struct StretchList {
  const Stretch* begin;
  int64_t count;

  bool operator==(const StretchList& other) const {
    return std::equal(begin, begin + count, other.begin, other.begin + other.count);
  }
};

// Where in the sum the elements of a panel's filters are not 0. A list is made when it is asked for
// first; only where the filter is turned do they differ from panel to panel.
template <typename acc_t>
class StretchLists {
 public:
  using G = Gemm<acc_t>;

  explicit StretchLists(const Winograd& winograd)
      : p(winograd),
        sum(p.sum()),
        lists(p.filter.turned ? ceil_div(p.columns, G::kCols) : 1),
        most(sum / kWinogradChunk + (p.filter.turned ? 0 : 2 * sum / p.filter.channels)),
        stretches(kWinogradElements * lists * most),
        listed(kWinogradElements * lists) {}

  StretchList of(int e, int64_t panel) {
    const int64_t list = e * lists + (p.filter.turned ? panel : 0);
    Stretch* begin = stretches.data() + list * most;
    if (listed[list] == 0) {
      const int64_t count = p.filter.turned ? list_chunks(e, panel, begin) : list_phases(e, begin);
      end_chains(begin, count);
      listed[list] = 1 + count;
    }
    return {begin, listed[list] - 1};
  }

 private:
  int64_t list_chunks(int e, int64_t panel, Stretch* list) const {
    const Presence present(p.filter);
    const int64_t begin = panel * G::kCols, end = begin + G::kCols;
    int64_t count = 0;
    for (int64_t k = 0; k < sum; k += kWinogradChunk) {
      if (!present(e, k / p.input.depth, begin, end)) continue;
      list[count++] = {int32_t(k / kWinogradChunk), 0, int16_t(kWinogradChunk), false};
    }
    return count;
  }

  // Phases of the folding begin and end within chunks where there are few channels.
  int64_t list_phases(int e, Stretch* list) const {
    const Presence present(p.filter);
    const int64_t depth = p.input.depth, channels = p.filter.channels;
    int64_t count = 0;
    for (int64_t k = 0; k < sum; k += kWinogradChunk) {
      const int32_t chunk = int32_t(k / kWinogradChunk);
      const int64_t first = k % depth;
      const int64_t end = min_of(first + kWinogradChunk, p.filter.folded_channels());
      int64_t next;
      for (int64_t d = first; d < end; d = next) {
        next = min_of(end, (d / channels + 1) * channels);
        if (!present(e, k / depth, d, next)) continue;
        const bool goes_on =
            count > 0 && list[count - 1].chunk == chunk && list[count - 1].end == d - first;
        if (!goes_on) list[count++] = {chunk, int16_t(d - first), 0, false};
        list[count - 1].end = int16_t(next - first);
      }
    }
    return count;
  }

  static void end_chains(Stretch* list, int64_t count) {
    constexpr int32_t kShort = 3;  // chunks
    const bool is_short = count == 0 || list[count - 1].chunk < kShort;
    int64_t length = 0;
    for (int64_t j = 0; j < count; ++j) {
      length += list[j].end - list[j].begin;
      const int64_t next = j + 1 < count ? list[j + 1].end - list[j + 1].begin : 0;
      list[j].ends_chain = j + 1 == count || (!is_short && length + next > G::kChain);
      if (list[j].ends_chain) length = 0;
    }
  }

  const Winograd& p;
  const int64_t sum, lists, most;  // most: stretches of a list
  Buffer<Stretch> stretches;       // (element, panel or all of them, stretch)
  Buffer<int64_t> listed;          // of each list 1 + its length, or 0
};

// Asks the second cache for a chunk of a panel's columns.
template <typename acc_t>
static inline void prefetch_chunk(const acc_t* columns) {
  constexpr int kLine = 64 / sizeof(acc_t);
#pragma GCC unroll 32
  for (int i = 0; i < kWinogradChunk * Gemm<acc_t>::kCols; i += kLine) {
    __builtin_prefetch(columns + i, 0, 2);
  }
}

// c[i, j] = sum over the listed stretches of the sum. a holds chunks of kWinogradChunk elements of
// kRows rows; b a panel's columns, of which as many elements `ahead` are asked for on the way.
template <typename acc_t, int kVectors>
static void multiply_stretches(const acc_t* a, const acc_t* b, StretchList list, int64_t ahead,
                               acc_t* c) {
  using G = Gemm<acc_t>;
  for (int64_t j = 0, first = 0; first == 0 || j < list.count; first = j) {
    PanelSums<acc_t, kVectors> sums;
    for (bool ends = list.count == 0; !ends; ++j) {
      const Stretch s = list.begin[j];
      ends = s.ends_chain;
      const acc_t* row = a + s.chunk * G::kRows * kWinogradChunk;
      const acc_t* column = b + s.chunk * kWinogradChunk * G::kCols;
      if (ahead != 0 && s.end == kWinogradChunk) prefetch_chunk(column + ahead);
      if (s.is_whole()) {
        for (int k = 0; k < kWinogradChunk; ++k, column += G::kCols) {
          sums.template add_products<kWinogradChunk>(row + k, column);
        }
        continue;
      }
      column += s.begin * G::kCols;
      for (int k = s.begin; k < s.end; ++k, column += G::kCols) {
        sums.template add_products<kWinogradChunk>(row + k, column);
      }
    }
    if (first == 0) {
      sums.template store_to<false>(c);
    } else {
      sums.template store_to<true>(c);
    }
    if (list.count == 0) return;
  }
}

// The same for a panel's two vectors of columns and the first of the next panel, `b_next` and
// `c_next` elements further: one vector alone would wait for the loads of its rows. Half of the
// rows at a time, whose sums fit into the registers.
template <typename acc_t>
static void multiply_stretches_of_three(const acc_t* a, const acc_t* b, int64_t b_next,
                                        StretchList list, acc_t* c, int64_t c_next) {
  using G = Gemm<acc_t>;
  constexpr int kHalf = G::kRows / 2, kLanes = kLanesOf<acc_t>;
  static_assert(G::kVectors == 2);
  for (int half = 0; half < 2; ++half) {
    acc_t* to = c + half * kHalf * G::kCols;
    for (int64_t j = 0, first = 0; first == 0 || j < list.count; first = j) {
      vec_t<acc_t> sum[kHalf][3] = {};
      for (bool ends = list.count == 0; !ends; ++j) {
        const Stretch s = list.begin[j];
        ends = s.ends_chain;
        const acc_t* row = a + (s.chunk * G::kRows + half * kHalf) * kWinogradChunk + s.begin;
        const acc_t* column = b + (s.chunk * kWinogradChunk + s.begin) * G::kCols;
        for (int k = s.begin; k < s.end; ++k, ++row, column += G::kCols) {
          const vec_t<acc_t> columns[3] = {load(column), load(column + kLanes),
                                           load(column + b_next)};
#pragma GCC unroll 6
          for (int r = 0; r < kHalf; ++r) {
#pragma GCC unroll 3
            for (int v = 0; v < 3; ++v) sum[r][v] += columns[v] * row[r * kWinogradChunk];
          }
        }
      }
#pragma GCC unroll 6
      for (int r = 0; r < kHalf; ++r) {
#pragma GCC unroll 3
        for (int v = 0; v < 3; ++v) {
          acc_t* at = to + r * G::kCols + (v < 2 ? v * kLanes : c_next);
          store(first == 0 ? sum[r][v] : load(at) + sum[r][v], at);
        }
      }
      if (list.count == 0) break;
    }
  }
}

}  // namespace FASTCONV_ISA
}  // namespace fastconv
