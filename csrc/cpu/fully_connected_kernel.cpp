// The passes of csrc/cpu/fully_connected.h.
//
// Forward, vectors go along the inputs, which are adjacent in both matrices: kRows outputs times a
// few examples are summed lane by lane, and the lanes added up at the end. Backward, a vector goes
// across inputs: the kernels of cpu/gemm.h.
#include "cpu/buffer.h"
#include "cpu/fully_connected.h"
#include "cpu/gemm.h"
#include "cpu/parts.h"

namespace fastconv {
namespace FASTCONV_ISA {

template <typename acc_t>
struct Full {
  using G = Gemm<acc_t>;
  static constexpr int kLanes = Vec<acc_t>::kLanes;
  static constexpr bool kMany = G::kRegisters == 32;
  static constexpr int kRows = kMany ? 6 : 3;          // outputs together, forward
  static constexpr int kExamples = 4;                  // and examples
  static constexpr int kStretch = G::kChain * kLanes;  // of a sum: a chain in each lane
  static constexpr int kExampleRows = kMany ? 8 : 4;   // of a panel of examples
  static_assert(kFullOutputs % kRows == 0 && kFullOutputs % G::kRows == 0);
  static_assert(kFullInputs % G::kCols == 0 && kFullColumns % G::kCols == 0);
  static_assert(kFullExamples % kExampleRows == 0);
};

// totals[r, e] (a vector each) += weight[r, i] * input[e, i] over a stretch of i. Rows of weight
// that are asked for ahead are needed next.
template <typename scalar_t, int kExamples, bool kAhead>
static void add_dots(const scalar_t* const* weight, const scalar_t* input, int64_t pitch,
                     int64_t depth, accumulate_t<scalar_t>* totals) {
  using acc_t = accumulate_t<scalar_t>;
  using F = Full<acc_t>;
  constexpr int kLanes = F::kLanes;
  vec_t<acc_t> sum[F::kRows][kExamples] = {};
  const auto add = [&](int64_t i, auto part) {
    vec_t<acc_t> x[kExamples];
#pragma GCC unroll 4
    for (int e = 0; e < kExamples; ++e) x[e] = load_part(input + e * pitch + i, part);
#pragma GCC unroll 8
    for (int r = 0; r < F::kRows; ++r) {
      const vec_t<acc_t> w = load_part(weight[r] + i, part);
      if (kAhead) __builtin_prefetch(weight[r] + i + F::kStretch);
#pragma GCC unroll 4
      for (int e = 0; e < kExamples; ++e) sum[r][e] += w * x[e];
    }
  };
  int64_t i = 0;
  for (; i + kLanes <= depth; i += kLanes) add(i, Whole{});
  if (i < depth) add(i, Some{int(depth - i)});
#pragma GCC unroll 8
  for (int r = 0; r < F::kRows; ++r) {
#pragma GCC unroll 4
    for (int e = 0; e < kExamples; ++e) {
      acc_t* total = totals + (e * F::kRows + r) * kLanes;
      store(load(total) + sum[r][e], total);
    }
  }
}

template <typename scalar_t, bool kAhead>
static void add_dots(int examples, const scalar_t* const* weight, const scalar_t* input,
                     int64_t pitch, int64_t depth, accumulate_t<scalar_t>* totals) {
  switch (examples) {
    case 1:
      return add_dots<scalar_t, 1, kAhead>(weight, input, pitch, depth, totals);
    case 2:
      return add_dots<scalar_t, 2, kAhead>(weight, input, pitch, depth, totals);
    case 3:
      return add_dots<scalar_t, 3, kAhead>(weight, input, pitch, depth, totals);
    default:
      return add_dots<scalar_t, 4, kAhead>(weight, input, pitch, depth, totals);
  }
}

// Outputs [first, last) of the examples [start, start + examples), whose sums fit into `totals`.
template <typename scalar_t>
static void outputs_of(const FullyConnected& p, int64_t first, int64_t last, int64_t start,
                       int64_t examples, accumulate_t<scalar_t>* totals) {
  using acc_t = accumulate_t<scalar_t>;
  using F = Full<acc_t>;
  constexpr int kLanes = F::kLanes;
  const int64_t sums = examples * F::kRows * kLanes;  // of kRows outputs
  memset(totals, 0, ceil_div(last - first, F::kRows) * sums * sizeof(acc_t));
  for (int64_t i = 0; i < p.inputs; i += F::kStretch) {
    const int64_t depth = min_of(F::kStretch, p.inputs - i);
    for (int64_t o = first; o < last; o += F::kRows) {
      const scalar_t* rows[F::kRows];  // those beyond the last repeat it
      for (int r = 0; r < F::kRows; ++r) {
        rows[r] = static_cast<const scalar_t*>(p.weight) + min_of(o + r, last - 1) * p.inputs + i;
      }
      acc_t* total = totals + (o - first) / F::kRows * sums;
      for (int64_t n = 0; n < examples;
           n += F::kExamples, total += F::kExamples * F::kRows * kLanes) {
        const scalar_t* x = static_cast<const scalar_t*>(p.input) + (start + n) * p.inputs + i;
        const int count = int(min_of(F::kExamples, examples - n));
        if (n == 0) {
          add_dots<scalar_t, true>(count, rows, x, p.inputs, depth, total);
        } else {
          add_dots<scalar_t, false>(count, rows, x, p.inputs, depth, total);
        }
      }
    }
  }
  const scalar_t* bias = static_cast<const scalar_t*>(p.bias);
  for (int64_t n = 0; n < examples; ++n) {
    scalar_t* to = static_cast<scalar_t*>(p.result) + (start + n) * p.outputs;
    for (int64_t o = first; o < last; ++o) {
      const int64_t row = (o - first) % F::kRows;
      acc_t value = sum_of_lanes<acc_t>(
          load(totals + (o - first) / F::kRows * sums + (n * F::kRows + row) * kLanes));
      if (bias != nullptr) value += to_acc(bias[o]);
      if (p.relu) value = value < 0 ? acc_t(0) : value;  // a NaN stays
      from_acc(value, to[o]);
    }
  }
}

template <typename scalar_t>
void fully_connected_outputs(const FullyConnected& p, int64_t begin, int64_t end) {
  using F = Full<accumulate_t<scalar_t>>;
  constexpr int64_t kTogether = 64;  // examples whose sums the second cache holds
  const int64_t together = min_of(p.batch, kTogether);
  // A few examples wait for the weight alone, and whole rows in order are read fastest; many are
  // read again for other outputs.
  const int64_t outputs = p.batch <= F::kExamples ? F::kRows : kFullOutputs;
  Buffer<accumulate_t<scalar_t>> totals(outputs * together * F::kLanes);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t end_of_unit = min_of((unit + 1) * kFullOutputs, p.outputs);
    for (int64_t first = unit * kFullOutputs; first < end_of_unit; first += outputs) {
      const int64_t last = min_of(first + outputs, end_of_unit);
      for (int64_t start = 0; start < p.batch; start += together) {
        outputs_of<scalar_t>(p, first, last, start, min_of(together, p.batch - start),
                             totals.data());
      }
    }
  }
}

template <typename scalar_t>
void fully_connected_pack_examples(const FullyConnected& p, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  constexpr int kRows = Full<acc_t>::kExampleRows;
  const scalar_t* grad = static_cast<const scalar_t*>(p.grad_output);
  for (int64_t first = 0; first < p.batch; first += kRows) {
    acc_t* to = static_cast<acc_t*>(p.packed_grads) + first * p.outputs;
    for (int r = 0; r < kRows; ++r) {
      for (int64_t o = begin; o < end; ++o) {
        to[o * kRows + r] = first + r < p.batch ? to_acc(grad[(first + r) * p.outputs + o]) : 0;
      }
    }
  }
}

template <typename scalar_t>
void fully_connected_input_grad(const FullyConnected& p, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  using G = Gemm<acc_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes, kRows = Full<acc_t>::kExampleRows;
  constexpr int64_t kTogether = 128;  // examples whose sums the second cache holds
  constexpr int64_t kPanel = kRows * G::kCols;
  const int64_t together = ceil_div(min_of(p.batch, kTogether), kRows) * kRows;
  Buffer<acc_t> weights(kFullInputs * G::kChain), sums(together * kFullInputs);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * kFullInputs, columns = min_of(kFullInputs, p.inputs - first);
    const scalar_t* weight = static_cast<const scalar_t*>(p.weight) + first;
    scalar_t* result = static_cast<scalar_t*>(p.result) + first;
    for (int64_t start = 0; start < p.batch; start += together) {
      const int64_t examples = min_of(together, p.batch - start);
      memset(sums.data(), 0, together * kFullInputs * sizeof(acc_t));
      for (int64_t o = 0; o < p.outputs; o += G::kChain) {
        const int64_t depth = min_of(G::kChain, p.outputs - o);
        for (int64_t k = 0; k < depth; ++k) {
          const scalar_t* row = weight + (o + k) * p.inputs;
          for (int64_t i = 0; i < columns; i += kLanes) {
            // Behind the last row may be nothing, and asking for it does no harm.
            __builtin_prefetch(row + G::kChain * p.inputs + i);
            const int64_t n = min_of(kLanes, columns - i);
            store(n == kLanes ? load(row + i) : load_n(row + i, int(n)),
                  weights.data() + (i / G::kCols * G::kChain + k) * G::kCols + i % G::kCols);
          }
        }
        acc_t* sum = sums.data();
        for (int64_t panel = 0; panel * G::kCols < columns; ++panel) {
          const acc_t* w = weights.data() + panel * G::kChain * G::kCols;
          for (int64_t n = 0; n < examples; n += kRows, sum += kPanel) {
            const acc_t* g =
                static_cast<const acc_t*>(p.packed_grads) + (start + n) * p.outputs + o * kRows;
            multiply_chain<acc_t, G::kVectors, kRows>(g, kRows, w, G::kCols, depth, sum);
          }
        }
      }
      const int64_t panels = ceil_div(examples, kRows);
      for (int64_t n = 0; n < examples; ++n) {
        for (int64_t i = 0; i < columns; i += kLanes) {
          const acc_t* sum = sums.data() + (i / G::kCols * panels + n / kRows) * kPanel +
                             n % kRows * G::kCols + i % G::kCols;
          store_n(load(sum), result + (start + n) * p.inputs + i, int(min_of(kLanes, columns - i)));
        }
      }
    }
  }
}

// Panels of kWidth columns of a (rows, columns) matrix: (panel, row, column), 0 beyond the matrix.
template <typename scalar_t, int kWidth>
static void pack_columns(const void* matrix, int64_t rows, int64_t columns, int64_t begin,
                         int64_t end, void* packed) {
  using acc_t = accumulate_t<scalar_t>;
  for (int64_t first = begin; first < min_of(end, columns); first += kWidth) {
    const scalar_t* from = static_cast<const scalar_t*>(matrix) + first;
    acc_t* to = static_cast<acc_t*>(packed) + first * rows;
    const int64_t count = min_of(kWidth, columns - first);
    for (int64_t r = 0; r < rows; ++r, from += columns, to += kWidth) {
      for (int64_t i = 0; i < kWidth; ++i) to[i] = i < count ? to_acc(from[i]) : acc_t(0);
    }
  }
}

template <typename scalar_t>
void fully_connected_pack_columns(const FullyConnected& p, int64_t begin, int64_t end) {
  using G = Gemm<accumulate_t<scalar_t>>;
  for (int64_t unit = begin; unit < end; ++unit) {
    if (unit < p.input_units()) {
      const int64_t first = unit * kFullInputs;
      pack_columns<scalar_t, G::kCols>(p.input, p.batch, p.inputs, first, first + kFullInputs,
                                       p.packed_inputs);
    } else {
      const int64_t first = (unit - p.input_units()) * kFullOutputs;
      pack_columns<scalar_t, G::kRows>(p.grad_output, p.batch, p.outputs, first,
                                       first + kFullOutputs, p.packed_grads);
    }
  }
}

template <typename scalar_t>
void fully_connected_weight_grad(const FullyConnected& p, int64_t begin, int64_t end) {
  using acc_t = accumulate_t<scalar_t>;
  using G = Gemm<acc_t>;
  constexpr int kLanes = Vec<acc_t>::kLanes;
  constexpr int64_t kLarge = int64_t(4) << 20;  // bytes: it would leave the caches by itself
  const bool past_caches = p.outputs * p.inputs * int64_t(sizeof(scalar_t)) > kLarge;
  Buffer<acc_t> sums(G::kRows * G::kCols);
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t first = unit * kFullOutputs, last = min_of(first + kFullOutputs, p.outputs);
    for (int64_t i = 0; i < p.inputs; i += G::kCols) {
      const acc_t* x = static_cast<const acc_t*>(p.packed_inputs) + i * p.batch;
      const int64_t columns = min_of(G::kCols, p.inputs - i);
      for (int64_t o = first; o < last; o += G::kRows) {
        memset(sums.data(), 0, G::kRows * G::kCols * sizeof(acc_t));
        multiply_panels(static_cast<const acc_t*>(p.packed_grads) + o * p.batch, x, p.batch,
                        sums.data());
        for (int64_t r = 0; r < min_of(G::kRows, last - o); ++r) {
          scalar_t* row = static_cast<scalar_t*>(p.result) + (o + r) * p.inputs + i;
          for (int64_t c = 0; c < columns; c += kLanes) {
            const vec_t<acc_t> value = load(sums.data() + r * G::kCols + c);
            if (past_caches && columns - c >= kLanes) {
              store_past_caches(value, row + c);
            } else if (columns - c >= kLanes) {
              store(value, row + c);
            } else {
              store_n(value, row + c, int(columns - c));
            }
          }
        }
      }
    }
  }
  if (past_caches) finish_stores_past_caches();
}

#define INSTANTIATE(scalar_t)                                                                     \
  template void fully_connected_outputs<scalar_t>(const FullyConnected&, int64_t, int64_t);       \
  template void fully_connected_pack_examples<scalar_t>(const FullyConnected&, int64_t, int64_t); \
  template void fully_connected_input_grad<scalar_t>(const FullyConnected&, int64_t, int64_t);    \
  template void fully_connected_pack_columns<scalar_t>(const FullyConnected&, int64_t, int64_t);  \
  template void fully_connected_weight_grad<scalar_t>(const FullyConnected&, int64_t, int64_t);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(half)
INSTANTIATE(bfloat16)

}  // namespace FASTCONV_ISA
}  // namespace fastconv
